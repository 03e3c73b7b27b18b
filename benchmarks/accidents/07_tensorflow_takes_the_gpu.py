"""TensorFlow reads text here and writes TensorBoard's files: it sees no accelerator, whose memory it would take.

github.com/google/flax/issues/445, github.com/keras-team/keras-core/pull/473
"""

import subprocess
import sys

from commands import CAPTURED, ROOT

PROGRAM = """
import keras_aha, tensorflow as tf
print("all", tf.config.list_physical_devices())
print("left", [device.device_type for device in tf.config.get_visible_devices()])
try:
    tf.config.set_visible_devices([], "GPU")
except RuntimeError as error:
    print(error)
"""


def check(folder):
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, **CAPTURED)
    assert result.returncode == 0 and "left ['CPU']" in result.stdout, result.stdout
    return "it is left the CPU alone"
