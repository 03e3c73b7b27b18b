"""`GuardCallback` in a real `fit`, in which a callback before it says what was skipped."""

import keras_aha  # noqa: F401  chooses the JAX backend
from keras_aha.callbacks.guard_callback import GuardCallback

import keras
import numpy as np
import pytest


@pytest.fixture(scope="module")
def fit():
    """A function: trains with these shares of skipped updates, an epoch each, and returns the epochs that ran."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")

    def run(shares, guard):
        tell = keras.callbacks.LambdaCallback(on_epoch_end=lambda i, logs: logs.update(skipped_updates=shares[i]))
        data = np.zeros((2, 1)), np.zeros((2, 1))
        return model.fit(*data, epochs=len(shares), callbacks=[tell, guard], verbose=0).epoch

    return run


@pytest.mark.parametrize("shares, patience", [([0.25, 0.99, 0.99, 0.99], 3), ([1.0, 0.5, 1.0, 0.0, 1.0], 2)])
def test_few_skipped_updates_are_no_end(fit, recwarn, shares, patience):
    assert fit(shares, GuardCallback(patience)) == list(range(len(shares)))
    assert not [warning for warning in recwarn if "skipped" in str(warning.message)]


def test_skipped_epochs_in_a_row_stop_training(fit):
    """In one `fit`: the next one starts the count again."""
    guard = GuardCallback(patience=3)
    assert fit([1.0, 1.0], guard) == [0, 1]
    with pytest.warns(UserWarning) as warned:
        assert fit([0.0, 1.0, 1.0, 1.0, 0.0], guard) == [0, 1, 2, 3]
    (warning,) = (str(warning.message) for warning in warned)
    assert warning.startswith("Training stops after epoch 4: every update of the last 3 epochs was skipped")


def test_a_run_that_goes_on_where_it_was_stopped_stops_again(fit):
    before, guard = GuardCallback(patience=2), GuardCallback(patience=2)
    with pytest.warns(UserWarning):
        before.on_train_end = lambda logs=None: None  # `fit` forgets; a checkpoint was saved before that
        assert fit([1.0, 1.0], before) == [0, 1] and before.reached
        guard.set_state(before.get_state())
        assert not guard.reached
        assert fit([1.0, 1.0], guard) == [0] and guard.reached
    with pytest.raises(ValueError, match="`patience` must be 1 or more. Received: patience=0"):
        GuardCallback(patience=0)
