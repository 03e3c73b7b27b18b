"""`RolloutDataset`: what `fit` is fed."""

import keras


class RolloutDataset(keras.utils.PyDataset):
    """The latest rollout as a batch, once for each update: constant length, static shapes.

    Args:
        updates_per_rollout: its length.

    Attributes:
        batch: name → array, see `Rollout.batch`.
    """

    def __init__(self, updates_per_rollout: int):
        super().__init__()
        self.updates_per_rollout = updates_per_rollout
        self.batch = None

    def __len__(self):
        return self.updates_per_rollout

    def __getitem__(self, index):
        return self.batch
