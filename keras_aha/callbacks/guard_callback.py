"""`GuardCallback`: stops a run that skips all its updates."""

import warnings

from keras_aha.callbacks.stateful_callback import StatefulCallback


class GuardCallback(StatefulCallback):
    """Stops training if every update was skipped for some epochs.

    `GRPOModel.train_step` skips an update whose loss or gradient is not finite: weights and optimizer stay as they are.
    So the policy that a stopped run ends with is the one before those epochs, and worth saving.

    Args:
        patience: epochs in a row with every update skipped, after which training stops.

    Attributes:
        reached: whether it has stopped training.

    Raises:
        ValueError: if `patience` is less than 1.
    """

    def __init__(self, patience: int = 3):
        super().__init__()
        if patience < 1:
            raise ValueError(f"`patience` must be 1 or more. Received: patience={patience}")
        self.patience = patience
        self.reached = False
        self._epochs = 0  # in a row, with every update skipped

    def on_train_begin(self, logs=None):
        self.reached = False

    def on_train_end(self, logs=None):
        self._epochs = 0

    def get_state(self) -> dict:
        return {"epochs": self._epochs}

    def set_state(self, state: dict):
        self._epochs = state["epochs"]

    def on_epoch_end(self, epoch, logs=None):
        self._epochs = self._epochs + 1 if logs["skipped_updates"] == 1 else 0
        if self._epochs >= self.patience:
            self.reached = self.model.stop_training = True
            warnings.warn(
                f"Training stops after epoch {epoch + 1}: every update of the last {self._epochs} epochs was skipped, "
                "because the loss or a gradient was not finite. The policy is the one from before them.",
                stacklevel=2,
            )
