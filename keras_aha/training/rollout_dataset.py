"""`RolloutDataset`: the data of `fit`."""

import keras


class RolloutDataset(keras.utils.PyDataset):
    """The latest rollout as a batch, `updates_per_rollout` times: constant length, static shapes.

    Attributes:
        batch: name → array, see `Rollout.batch`; it must be set anew at the beginning of each epoch.
    """

    def __init__(self, updates_per_rollout: int):
        super().__init__()
        self.updates_per_rollout = updates_per_rollout
        self.batch = None

    def __len__(self):
        return self.updates_per_rollout

    def __getitem__(self, index):
        return self.batch

    def on_epoch_begin(self):
        """Raises ValueError if nobody has set the batch of this epoch."""
        if self.batch is None:
            raise ValueError(
                "An epoch began without a rollout: the callback that makes them must be among the callbacks too, "
                "`fit(rollouts.dataset, callbacks=[rollouts])`."
            )

    def on_epoch_end(self):
        self.batch = None  # or a `fit` without the callback would train on an old one
