"""`FlushedTensorBoard`: Keras's, whose events reach the files at each epoch's end."""

import keras
import tensorflow as tf


class FlushedTensorBoard(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` for a run that may be killed: Keras's own events wait in memory for two minutes."""

    def on_epoch_end(self, epoch, logs=None):
        """Raises OSError if events cannot be written."""
        try:
            self.write_events(epoch, logs)
            for writer in self._writers.values():
                writer.flush()
        except tf.errors.OpError as error:  # TensorFlow's own, of a full disk and the like
            reason = " ".join(error.message.split())[-300:]
            raise OSError(f"TensorBoard's events cannot be written in {self.log_dir}: {reason}") from error

    def write_events(self, epoch: int, logs: dict | None) -> None:
        """Writes those of an epoch, which then reach the files."""
        super().on_epoch_end(epoch, logs)
