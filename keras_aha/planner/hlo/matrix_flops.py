"""Floating-point operations of a compiled program, by its text: a loop's body times the loop's trips.

`cost_analysis()` counts the body of a loop once. Here only matrix products count, as XLA counts them: two operations a
multiplication, and of a convolution, which is what the TPU compiler makes of many products, those that meet no padding.
"""

import math
import re

from keras_aha.planner.hlo.program_text import Instruction, ProgramText, dims, total

import numpy as np


def matrix_flops(text: str, turns: int = 1) -> int:
    """Operations of all matrix products of a program, `compiled.as_text()`, on one device; of what may run, the most.

    Of kernels of Pallas only those of Splash attention count, the pairs of tokens that see each other.

    Args:
        turns: of loops that run as often as data say, see `ProgramText.runs`.
    """
    program = ProgramText(text)
    return total(program.runs(program.entry, _flops, turns))


_KERNELS = {"splash_mqa_fwd": 2, "splash_mqa_dq": 3, "splash_mqa_dkv": 4}  # matrix products of a pair of tokens


def _flops(x: Instruction, computation) -> int:
    if x.op == "custom-call":
        return sum(products * _of_pairs(x, computation) for name, products in _KERNELS.items() if name in x.name)
    if x.op not in ("dot", "convolution"):
        return 0
    left, right = (dims(computation[name].type) for name in x.operands)
    if x.op == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.line)
        contracted = [left[int(axis)] for axis in axes[1].split(",") if axis] if axes else []
        return 2 * math.prod(dims(x.type)) * math.prod(contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.line)
    inputs, kernel, output = (
        dict(zip(names, shape, strict=True))
        for names, shape in zip(labels.groups(), (left, right, dims(x.type)), strict=True)
    )
    spatial = [_products(axis, inputs, kernel, output, x.line) for axis in sorted(set(output) - {"b", "f"})]
    return 2 * output["b"] * output["f"] * kernel["i"] * math.prod(spatial)


def _of_pairs(x: Instruction, computation) -> int:
    """Of one product, of queries `(…, t, H)` and keys `(…, S, H)`; `self_attention` names the window."""
    types = [computation[name].type for name in x.operands]
    queries, keys = [dims(kind) for kind in types if kind.startswith(("bf16", "f16", "f32"))][:2]
    window = re.search(r"window=(\d+)", x.line)
    seen = np.arange(keys[-2] - queries[-2], keys[-2]) + 1
    pairs = int(np.minimum(seen, int(window[1]) if window else keys[-2]).sum())
    return 2 * math.prod(queries[:-2]) * pairs * queries[-1]


def _products(axis: str, inputs, kernel, output, line: str) -> int:
    """Pairs of an output's and a kernel's position on a spatial axis that meet an element of the input."""

    def setting(name, default):
        match = re.search(rf"window=\{{[^}}]*\b{name}=([\d_x\-]+)", line)
        return match[1].split("x")[int(axis)] if match else default

    stride, dilation = int(setting("stride", 1)), int(setting("rhs_dilate", 1))
    spread = int(setting("lhs_dilate", 1))
    begin = int(setting("pad", "0_0").split("_")[0])
    positions = np.arange(output[axis])[:, None] * stride + np.arange(kernel[axis]) * dilation - begin
    inside = (positions >= 0) & (positions <= (inputs[axis] - 1) * spread) & (positions % spread == 0)
    return int(np.count_nonzero(inside))
