"""`StatefulCallback`: a callback that remembers something from epoch to epoch, which a checkpoint saves."""

import keras


class StatefulCallback(keras.callbacks.Callback):
    """The base of callbacks whose state a `CheckpointCallback` in the same `fit` saves and restores.

    Keras's callbacks do not see each other. They see the model, so each callback with a state is listed there.
    """

    def get_state(self) -> dict:
        """Returns what a resumed run must know, as JSON can hold it."""
        raise NotImplementedError

    def set_state(self, state: dict) -> None:
        """Takes what `get_state` returned, when training begins."""
        raise NotImplementedError

    def set_model(self, model):
        """Lists this callback on the model."""
        super().set_model(model)
        listed = vars(model).setdefault("stateful_callbacks", [])  # by `vars`, as Keras would copy a list
        if self not in listed:
            listed.append(self)


def stateful_callbacks(callback: keras.callbacks.Callback) -> list[StatefulCallback]:
    """The callbacks with a state in the `fit` of `callback`: Keras gives all of them one dictionary as `params`."""
    return [other for other in vars(callback.model).get("stateful_callbacks", []) if other.params is callback.params]
