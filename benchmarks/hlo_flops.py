"""Floating-point operations and collectives of a compiled program, by its text: a loop's body times the loop's trips.

`cost_analysis()` counts the body of a loop once. Here only matrix products count, as XLA counts them: two operations a
multiplication, and of a convolution, which is what the TPU compiler makes of many products, those that meet no padding.
"""

import collections
import math
import re
from typing import NamedTuple

import numpy as np
from hlo_traffic import Instruction, parse

COLLECTIVES = ("all-to-all", "all-gather", "all-reduce", "reduce-scatter", "collective-permute")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation)=(%[\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


class Collectives(NamedTuple):
    """How often a kind of collective stands in the program, and how often it runs."""

    instructions: int
    executions: int


def matrix_flops(text: str) -> int:
    """Operations of all matrix products of a program, `compiled.as_text()`, on one device.

    Raises:
        ValueError: if the compiler does not say how often a loop with products in it runs.
    """
    computations, entry = parse(text)
    return sum(times * _flops(x, computations[name]) for times, name, x in _executed(computations, entry))


def collectives(text: str) -> dict[str, Collectives]:
    """The collectives of a program by kind; of an asynchronous one its start counts."""
    computations, entry = parse(text)
    instructions, executions = collections.Counter(), collections.Counter()
    for times, _, x in _executed(computations, entry):
        kind = x.op.removesuffix("-start")
        if kind in COLLECTIVES:
            instructions[kind] += 1
            executions[kind] += times
    return {kind: Collectives(instructions[kind], executions[kind]) for kind in COLLECTIVES}


def _executed(computations, name: str, times: int = 1):
    """`(times, computation, instruction)` of all that a computation runs; of branches every one."""
    for x in computations[name].values():
        yield times, name, x
        called = _CALLED.findall(x.line) + [y for names in _BRANCHES.findall(x.line) for y in names.split(", ")]
        trips = _trips(x) if x.op == "while" else 1
        for computation in called:
            yield from _executed(computations, computation, times * trips)


def _trips(loop: Instruction) -> int:
    count = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.line)
    if not count:
        raise ValueError(f"The compiler does not say how often a loop runs. Received: {loop}")
    return int(count[1])


def _flops(x: Instruction, computation) -> int:
    if x.op not in ("dot", "convolution"):
        return 0
    left, right = (_dims(computation[name].type) for name in x.operands)
    if x.op == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.line)
        contracted = [left[int(axis)] for axis in axes[1].split(",") if axis] if axes else []
        return 2 * math.prod(_dims(x.type)) * math.prod(contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.line)
    inputs, kernel, output = (
        dict(zip(names, dims, strict=True))
        for names, dims in zip(labels.groups(), (left, right, _dims(x.type)), strict=True)
    )
    spatial = [_products(axis, inputs, kernel, output, x.line) for axis in sorted(set(output) - {"b", "f"})]
    return 2 * output["b"] * output["f"] * kernel["i"] * math.prod(spatial)


def _products(axis: str, inputs, kernel, output, line: str) -> int:
    """Pairs of an output's and a kernel's position on a spatial axis that meet an element of the input."""

    def setting(name, default):
        found = re.search(rf"window=\{{[^}}]*\b{name}=([\d_x\-]+)", line)
        return found[1].split("x")[int(axis)] if found else default

    stride, dilation = int(setting("stride", 1)), int(setting("rhs_dilate", 1))
    spread = int(setting("lhs_dilate", 1))
    begin = int(setting("pad", "0_0").split("_")[0])
    positions = np.arange(output[axis])[:, None] * stride + np.arange(kernel[axis]) * dilation - begin
    inside = (positions >= 0) & (positions <= (inputs[axis] - 1) * spread) & (positions % spread == 0)
    return int(np.count_nonzero(inside))


def _dims(text: str) -> list[int]:
    """The shape in a type such as `f32[8,128]{1,0}`."""
    return [int(dim) for dim in re.search(r"\[([\d,]*)\]", text)[1].split(",") if dim]
