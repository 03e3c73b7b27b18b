"""Bytes to and from HBM in a program compiled for TPU, by its text.

`cost_analysis()` takes no notice of where an array lies: a weight that is prefetched into the chip's scratchpad memory
counts when the copy starts, when it is done and when it is used. Here only HBM counts (in scratchpad, an array's layout
says S(1)); of what is sliced or gathered the slice counts, and of an array updated in place the update. Whether it is
updated in place the compiler says itself, in `aliasing_operands`.
"""

import math
import re

_BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s32": 32, "u32": 32, "f32": 32}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
_SLICES = ("slice", "dynamic-slice", "gather")
_NOTHING = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "after-all")


class Instruction:
    """One line of a program: `name = type op(arguments), attributes`."""

    def __init__(self, line: str):
        self.line = line.strip()
        self.root = self.line.startswith("ROOT ")
        self.name, rest = self.line.removeprefix("ROOT ").split(" = ", 1)
        self.type, rest = _split(rest) if rest.startswith("(") else rest.split(" ", 1)
        self.op, rest = rest.strip().split("(", 1)
        self.arguments, attributes = _split("(" + rest)
        self.operands = re.findall(r"%[\w.\-]+", self.arguments)
        called = re.search(r"(?:calls|body)=(%[\w.\-]+)", attributes)
        self.called = called[1] if called else None
        # The compiler's own word for it: the result, which it numbers behind the operands, shares operand 0's buffer.
        self.in_place = f'{{"indices":["0","{len(self.operands)}"]}}' in attributes  # of `aliasing_operands`

    def __str__(self):
        return re.sub(r", (metadata|backend_config|calls)=.*", "", self.line)


def hbm_traffic(text: str) -> list[tuple[int, int, Instruction]]:
    """`(read, written, instruction)` in bytes, of a loop's body if the program has a loop, otherwise of all of it.

    Raises:
        ValueError: if there is more than one loop, or one within another.
    """
    computations, entry = parse(text)
    body = computations[entry]
    loops = [x for x in body.values() if x.op in ("while", "conditional", "call")]
    if loops:
        body = computations[loops[0].called]
        loops = loops[1:] + [x for x in body.values() if x.op in ("while", "conditional", "call")]
    if loops:
        raise ValueError(f"Only one loop can be counted. Received: {[str(x) for x in loops]}")
    moves = [x for x in body.values() if x.op not in _NOTHING and not x.op.endswith("-done")]
    return [(*_moved(x, body, computations), x) for x in moves]


def _moved(x, body, computations) -> tuple[int, int]:
    """Bytes that an instruction reads from HBM, and writes there."""
    sources = [body[name] for name in x.operands]
    if x.op.endswith("-start"):  # its type: (target, source, …) of a copy, ((source), target, …) of a slice
        arrays = [match[0] for match in _ARRAY.finditer(x.type)]
        source, target = arrays[:2] if x.op == "slice-start" else arrays[1::-1]
        return _size(target, everywhere=True) if _size(source) else 0, _size(target)
    if x.op == "dynamic-update-slice" and x.in_place:
        update = sources[1].type
        return _size(update), _size(update, everywhere=True) if _size(x.type) else 0
    if x.op in _SLICES:
        return _size(x.type, everywhere=True) if _size(sources[0].type) else 0, _size(x.type)
    if x.op != "fusion":
        return sum(_size(source.type) for source in sources), _size(x.type)
    read = sum(min(_size(y.type), _read(x.called, i, computations)) for i, y in enumerate(sources))
    return read, _size(x.type)


def _read(name: str, position: int, computations) -> float:
    """Bytes that a fused computation reads of a parameter; infinity if all of it."""
    inner, total = computations[name], 0
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
                total += _size(user.type, everywhere=True)
            elif user.op == "fusion":
                total += _read(user.called, user.operands.index(source.name), computations)
            else:
                return math.inf
    return total


def _size(text: str, everywhere: bool = False) -> int:
    """Bytes of the arrays in a type; those in HBM, unless `everywhere`."""
    arrays = [(dtype, dims) for dtype, dims, layout in _ARRAY.findall(text) if everywhere or "S(" not in layout]
    return sum(_BITS[dtype] // 8 * math.prod(int(dim) for dim in dims.split(",") if dim) for dtype, dims in arrays)


def _split(text: str) -> tuple[str, str]:
    """`(…)` at the beginning of a text, and the rest."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    raise ValueError(f"A bracket is not closed. Received: text={text}")


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """The instructions of each computation by name, and the name of the computation that is the program."""
    computations, entry, current = {}, "", {}
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?(%[\w.\-]+) \(.*\{$", line):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif re.match(r"\s+(ROOT )?%[\w.\-]+ = ", line):
            instruction = Instruction(line)
            current[instruction.name] = instruction
    return computations, entry
