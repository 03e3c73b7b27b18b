import random

from keras_aha.callbacks import order
from keras_aha.callbacks.order import in_order

import keras

KINDS = [*order._FIRST, keras.callbacks.LambdaCallback, keras.callbacks.CSVLogger, *order._LAST]


def test_any_order_becomes_the_same():
    """Of callbacks that are not ours, the order stays."""
    callbacks = [kind.__new__(kind) for kind in KINDS]
    for seed in range(20):
        shuffled = callbacks.copy()
        random.Random(seed).shuffle(shuffled)
        foreign = [callback for callback in shuffled if callback in callbacks[5:7]]
        assert in_order(shuffled) == callbacks[:5] + foreign + callbacks[7:]
