from keras_aha.callbacks.profile_callback import ProfileCallback

import jax
import jax.numpy as jnp
import keras
from jax.profiler import ProfileData


class Work(keras.callbacks.Callback):
    """Something to be seen in a trace, in each part of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        with jax.profiler.TraceAnnotation(f"rollout {epoch}"):
            jnp.ones(3).block_until_ready()

    def on_epoch_end(self, epoch, logs=None):
        with jax.profiler.TraceAnnotation(f"evaluation {epoch}"):
            jnp.ones(3).block_until_ready()


def test_the_second_epoch_of_a_fit_is_traced_from_its_rollout_to_its_update(one_batch, tmp_path):
    first = 5
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    dataset = one_batch((jnp.ones((4, 2)), jnp.ones((4, 1))))
    callbacks = [ProfileCallback(tmp_path), Work()]
    model.fit(dataset, callbacks=callbacks, verbose=0)
    assert not list(tmp_path.iterdir())  # an only epoch, which compiles, is not
    model.fit(dataset, epochs=first + 3, initial_epoch=first, callbacks=callbacks, verbose=0)
    (path,) = tmp_path.glob("profile/plugins/profile/*/*.xplane.pb")
    lines = [line for plane in ProfileData.from_file(str(path)).planes for line in plane.lines]
    names = {event.name for line in lines for event in line.events}
    assert {name for name in names if name.startswith(("rollout ", "evaluation "))} == {f"rollout {first + 1}"}
