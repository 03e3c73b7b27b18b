"""Checks of arguments, and float32."""

from keras import ops


def float32(x):
    """`x` as a float32 tensor."""
    return ops.convert_to_tensor(x, dtype="float32")


def keep(x, mask):
    """`x` in float32 if `mask`, else 0: what it holds there (NaN included) changes neither values nor gradients."""
    return ops.where(mask, float32(x), 0.0)


def is_number(x):
    """Whether `x` is a Python number, which a bool is not."""
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def check_choice(name, value, choices):
    """Raises ValueError, with the choices, if `value` is none of them."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {name}={value!r}")
