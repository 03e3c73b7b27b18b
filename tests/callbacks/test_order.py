import random

from keras_aha.callbacks import order
from keras_aha.callbacks.order import in_order

import keras

FOREIGN = order._ORDER.index(None)
OTHERS = [keras.callbacks.LambdaCallback, keras.callbacks.CSVLogger]
KINDS = [*order._ORDER[:FOREIGN], *OTHERS, *order._ORDER[FOREIGN + 1 :]]


def test_any_order_becomes_the_same():
    """Of callbacks that are not ours, the order stays."""
    callbacks = [kind.__new__(kind) for kind in KINDS]
    for seed in range(20):
        shuffled = callbacks.copy()
        random.Random(seed).shuffle(shuffled)
        foreign = [callback for callback in shuffled if callback in callbacks[FOREIGN : FOREIGN + 2]]
        assert in_order(shuffled) == callbacks[:FOREIGN] + foreign + callbacks[FOREIGN + 2 :]
