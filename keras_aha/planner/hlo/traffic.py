"""Bytes to and from HBM in a program compiled for TPU, by its text.

`cost_analysis()` takes no notice of where an array lies: a weight that is prefetched into the chip's scratchpad memory
counts when the copy starts, when it is done and when it is used. Here only HBM counts (in scratchpad, an array's layout
says S(1)); of what is sliced or gathered the slice counts, and of an array updated in place the update. Whether it is
updated in place the compiler says itself, in `aliasing_operands`.
"""

import math

from keras_aha.planner.hlo.program_text import Instruction, arrays, parse, size, total

_SLICES = ("slice", "dynamic-slice", "gather")
_CONTROL = ("while", "conditional", "call")
_NOTHING = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", *_CONTROL)


def hbm_bytes(text: str, turns: int = 1) -> int:
    """Bytes read and written by all of a program, a loop's body as often as it runs; of branches that with the most.

    Args:
        turns: of loops that run as often as data say, see `program_text.total`.
    """
    computations, entry = parse(text)
    return _total(computations, entry, turns)


def loop_bytes(text: str) -> int:
    """The same of one turn of a program's loop; of several that it has, of the one with the most.

    Raises:
        ValueError: if there is none.
    """
    computations, entry = parse(text)
    loops = [x.called[0] for x in computations[entry].values() if x.op == "while"]
    if not loops:
        raise ValueError(f"The program has no loop. Received: text={text[:80]!r}…")
    return max(_total(computations, name) for name in loops)


def hbm_traffic(text: str) -> list[tuple[int, int, Instruction]]:
    """`(read, written, instruction)` in bytes, of a loop's body if the program has a loop, otherwise of all of it.

    Raises:
        ValueError: if there is more than one loop, or one within another.
    """
    computations, entry = parse(text)
    body = computations[entry]
    loops = [x for x in body.values() if x.op in _CONTROL]
    if loops:
        body = computations[loops[0].called[0]]
        loops = loops[1:] + [x for x in body.values() if x.op in _CONTROL]
    if loops:
        raise ValueError(f"Only one loop can be counted. Received: {[str(x) for x in loops]}")
    return [(*_moved(x, body, computations), x) for x in body.values() if _moves(x)]


def _total(computations, name: str, turns: int = 1) -> int:
    def own(x, computation):
        return sum(_moved(x, computation, computations)) if _moves(x) else 0

    return total(computations, name, own, lambda x: x.op in _CONTROL, turns)


def _moves(x: Instruction) -> bool:
    return x.op not in _NOTHING and not x.op.endswith("-done")


def _in_hbm(text: str) -> int:
    return size(text, everywhere=False)


def _moved(x: Instruction, body, computations) -> tuple[int, int]:
    """Bytes that an instruction reads from HBM, and writes there."""
    sources = [body[name] for name in x.operands]
    if x.op in ("copy-start", "slice-start"):  # types: (target, source, …) and ((source), target, …)
        found = arrays(x.type)
        source, target = found[:2] if x.op == "slice-start" else found[1::-1]
        return size(target) if _in_hbm(source) else 0, _in_hbm(target)
    if x.op == "dynamic-update-slice" and x.in_place:
        update = sources[1].type
        return _in_hbm(update), size(update) if _in_hbm(x.type) else 0
    if x.op in _SLICES:
        return size(x.type) if _in_hbm(sources[0].type) else 0, _in_hbm(x.type)
    if x.op != "fusion":
        return sum(_in_hbm(source.type) for source in sources), _in_hbm(x.type)
    read = sum(min(_in_hbm(y.type), _read(x.called[0], i, computations)) for i, y in enumerate(sources))
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
