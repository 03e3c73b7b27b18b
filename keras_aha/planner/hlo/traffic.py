"""Bytes to and from HBM in a program compiled for TPU, by its text.

`cost_analysis()` takes no notice of where an array lies: a weight that is prefetched into the chip's scratchpad memory
counts when the copy starts, when it is done and when it is used. Here only HBM counts (in scratchpad, an array's layout
says S(1)); of what is sliced or gathered the slice counts, and of an array updated in place the update. Whether it is
updated in place the compiler says itself, in `aliasing_operands`.
"""

import math

from keras_aha.planner.hlo.program_text import Instruction, ProgramText, arrays, most, size, total

_SLICES = ("slice", "dynamic-slice", "gather")
_CONTROL = ("while", "conditional", "call")
_NOTHING = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", *_CONTROL)


def hbm_bytes(text: str, turns: int = 1) -> int:
    """Bytes read and written by all of a program, what is in loops as often as it runs.

    Args:
        turns: of loops that run as often as data say, see `ProgramText.runs`.
    """
    program = ProgramText(text)
    return total(_runs(program, program.entry, turns))


def hbm_traffic(text: str) -> list[tuple[int, int, Instruction]]:
    """`(read, written, instruction)` in bytes, of one turn of a program's loop; without a loop of all of it.

    If there are several loops, the one that moves the most counts.
    """
    program = ProgramText(text)
    bodies = [x.called[1] for x in program.computations[program.entry].values() if x.op == "while"]
    runs = most(_runs(program, body) for body in bodies or [program.entry])
    moved = [(run, *_moved(run.instruction, run.computation, program)) for run in runs if _moves(run.instruction)]
    return [(run.times * read, run.times * written, run.instruction) for run, read, written in moved]


def _runs(program: ProgramText, name: str, turns: int = 1):
    def moved(x, computation):
        return sum(_moved(x, computation, program)) if _moves(x) else 0

    return program.runs(name, moved, turns, into=lambda x: x.op in _CONTROL)


def _moves(x: Instruction) -> bool:
    return x.op not in _NOTHING and not x.op.endswith("-done")


def _in_hbm(text: str) -> int:
    return size(text, everywhere=False)


def _moved(x: Instruction, body, program: ProgramText) -> tuple[int, int]:
    """Bytes that an instruction reads from HBM, and writes there."""
    sources = [body[name] for name in x.operands]
    if x.op in ("copy-start", "slice-start"):  # types: (target, source, …) and ((source), target, …)
        types = arrays(x.type)
        source, target = types[:2] if x.op == "slice-start" else types[1::-1]
        return size(target) if _in_hbm(source) else 0, _in_hbm(target)
    if x.op == "dynamic-update-slice" and x.in_place:
        update = sources[1].type
        return _in_hbm(update), size(update) if _in_hbm(x.type) else 0
    if x.op in _SLICES:
        return size(x.type) if _in_hbm(sources[0].type) else 0, _in_hbm(x.type)
    if x.op != "fusion":
        return sum(_in_hbm(source.type) for source in sources), _in_hbm(x.type)
    read = sum(min(_in_hbm(y.type), _read(x.called[0], i, program.computations)) for i, y in enumerate(sources))
    return read, _in_hbm(x.type)


def _read(name: str, position: int, computations) -> float:
    """Bytes that a fused computation reads of a parameter; infinity if all of it."""
    inner, read = computations[name], 0
    pending = [next(x for x in inner.values() if x.op == "parameter" and x.arguments == f"({position})")]
    while pending:
        source = pending.pop()
        if source.root:
            return math.inf
        for user in inner.values():
            if source.name not in user.operands:
                continue
            if user.op in ("bitcast", "reshape", "transpose"):
                pending.append(user)
            elif user.op in _SLICES:
                read += size(user.type)
            elif user.op == "fusion":
                read += _read(user.called[0], user.operands.index(source.name), computations)
            else:
                return math.inf
    return read
