"""Floating-point operations and collectives of a compiled program, by its text: a loop's body times the loop's trips.

`cost_analysis()` counts the body of a loop once. Here only matrix products count, as XLA counts them: two operations a
multiplication, and of a convolution, which is what the TPU compiler makes of many products, those that meet no padding.
"""

import collections
import functools
import math
import re
from typing import NamedTuple

import numpy as np
from hlo_traffic import Instruction, parse

COLLECTIVES = ("all-to-all", "all-gather", "all-reduce", "reduce-scatter", "collective-permute")
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=(%[\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{|(?:true|false)_computation=)([^},]*(?:, %[^},]*)*)")


class Collectives(NamedTuple):
    """How often a kind of collective stands in the program, and how often it runs."""

    instructions: int
    executions: int


def matrix_flops(text: str, turns: int = 1) -> int:
    """Operations of all matrix products of a program, `compiled.as_text()`, on one device; of what may run, the most.

    Of a conditional's branches the one with most of them counts. Loops that run as often as data say, such as those of
    `keras_aha.trimming`, take turns: those of a computation count as if the one with the most took them all.

    Args:
        turns: how many there are.
    """
    computations, entry = parse(text)

    @functools.cache
    def flops(name: str) -> int:
        total, by_data = 0, [0]
        for x in computations[name].values():
            inside = sum(flops(called) for called in _CALLED.findall(x.line))
            trips = _trips(x, computations)
            if trips is None:
                by_data.append(inside * turns)
            else:
                total += inside * trips
            total += _flops(x, computations[name]) + max((flops(branch) for branch in _branches(x)), default=0)
        return total + max(by_data)

    return flops(entry)


def collectives(text: str, turns: int = 1) -> dict[str, Collectives]:
    """The collectives of a program by kind, in all branches of a conditional; of an asynchronous one its start counts.

    Args:
        turns: of each loop that runs as often as data say.
    """
    computations, entry = parse(text)

    @functools.cache
    def count(name: str) -> tuple[collections.Counter, collections.Counter]:
        instructions, executions = collections.Counter(), collections.Counter()
        for x in computations[name].values():
            kind = x.op.removesuffix("-start")
            if kind in COLLECTIVES:
                instructions[kind] += 1
                executions[kind] += 1
            for called in [*_CALLED.findall(x.line), *_branches(x)]:
                inside = count(called)
                instructions.update(inside[0])
                trips = _trips(x, computations)
                trips = turns if trips is None else trips
                executions.update({kind: n * trips for kind, n in inside[1].items()})
        return instructions, executions

    instructions, executions = count(entry)
    return {kind: Collectives(instructions[kind], executions[kind]) for kind in COLLECTIVES}


def _branches(x: Instruction) -> list[str]:
    return [name for names in _BRANCHES.findall(x.line) for name in names.split(", ")]


def _trips(x: Instruction, computations) -> int | None:
    """How often `x` runs what it calls: as the compiler says, or the limit of JAX's count from 0; None if data say."""
    if x.op != "while":
        return 1
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', x.line)
    if known:
        return int(known[1])
    condition = computations.get(re.search(r"condition=(%[\w.\-]+)", x.line)[1], {})
    compared = [y for y in condition.values() if y.root and y.op == "compare" and "direction=LT" in y.line]
    limits = [condition[name] for y in compared for name in y.operands if condition[name].op == "constant"]
    return int(limits[0].arguments.strip("()")) if len(limits) == 1 else None


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
