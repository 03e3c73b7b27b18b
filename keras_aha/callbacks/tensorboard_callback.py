"""`TensorBoardCallback`: Keras's, whose events reach the files at the end of each epoch."""

import keras


class TensorBoardCallback(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` for runs that may be killed: no event waits in memory for others.

    Keras's own lets two minutes of events pass before they are written.
    """

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        for writer in self._writers.values():
            writer.flush()
