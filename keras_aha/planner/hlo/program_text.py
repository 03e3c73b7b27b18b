"""The text of a compiled program, `compiled.as_text()`, as instructions; and what runs in it how often."""

import functools
import math
import re
from collections.abc import Callable

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "s16": 16}
_BITS |= {"u16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}
_ARRAY = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=(%[\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{|(?:true|false)_computation=)([^},]*(?:, %[^},]*)*)")


class Instruction:
    """One line of a program: `name = type op(arguments), attributes`.

    Attributes:
        line, name, type, op, arguments: as they stand there.
        root: whether it is what its computation returns.
        operands: names of the instructions whose results it takes.
        in_place: whether its result takes the memory of operand 0.
    """

    def __init__(self, line: str):
        self.line = line.strip()
        self.root = self.line.startswith("ROOT ")
        self.name, rest = self.line.removeprefix("ROOT ").split(" = ", 1)
        self.type, rest = _split(rest) if rest.startswith("(") else rest.split(" ", 1)
        self.op, rest = rest.strip().split("(", 1)
        self.arguments, attributes = _split("(" + rest)
        self.operands = re.findall(r"%[\w.\-]+", self.arguments)
        # The compiler's own word for it: the result, which it numbers behind the operands, shares operand 0's buffer.
        self.in_place = f'{{"indices":["0","{len(self.operands)}"]}}' in attributes  # of `aliasing_operands`

    @property
    def called(self) -> list[str]:
        """The computations that it runs, but for a loop's condition and the branches of a conditional."""
        return _CALLED.findall(self.line)

    @property
    def condition(self) -> str:
        """The computation that ends a loop."""
        return re.search(r"\bcondition=(%[\w.\-]+)", self.line)[1]

    @property
    def branches(self) -> list[str]:
        """The computations of which it runs one."""
        return [name for names in _BRANCHES.findall(self.line) for name in names.split(", ")]

    def __str__(self):
        return re.sub(r", (metadata|backend_config|calls)=.*", "", self.line)


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


def trips(x: Instruction, computations) -> int | None:
    """How often `x` runs what it calls: as the compiler says, or the limit of JAX's count from 0; None if data say."""
    if x.op != "while":
        return 1
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', x.line)
    if known:
        return int(known[1])
    condition = computations[x.condition]
    compared = [y for y in condition.values() if y.root and y.op == "compare" and "direction=LT" in y.line]
    limits = [condition[name] for y in compared for name in y.operands if condition[name].op == "constant"]
    return int(limits[0].arguments.strip("()")) if len(limits) == 1 else None


def total(computations, name: str, own: Callable, inside: Callable, turns: int = 1) -> int:
    """A sum over all that the computation `name` runs, as often as it runs; of what may run, the most.

    Of a conditional's branches the one with most counts. Loops that run as often as data say, such as those of
    `keras_aha.training.micro_batches`, take turns: those of a computation count as if the one with the most took them
    all.

    Args:
        computations: of `parse`.
        own: `(instruction, computation)` → what it adds once.
        inside: instruction → whether what it calls is added too.
        turns: how many there are.
    """

    @functools.cache
    def once(name: str) -> int:
        result, by_data = 0, [0]
        for x in computations[name].values():
            result += own(x, computations[name])
            if not inside(x):
                continue
            called = sum(map(once, x.called))
            runs = trips(x, computations)
            if runs is None:
                by_data.append(called * turns)
            else:
                result += called * runs
            result += max(map(once, x.branches), default=0)
        return result + max(by_data)

    return once(name)


def dims(text: str) -> list[int]:
    """The shape in a type such as `f32[8,128]{1,0}`."""
    return [int(dim) for dim in re.search(r"\[([\d,]*)\]", text)[1].split(",") if dim]


def arrays(text: str) -> list[str]:
    """The types of the arrays in a type, which may be a tuple's."""
    return [match[0] for match in _ARRAY.finditer(text)]


def size(text: str, everywhere: bool = True) -> int:
    """Bytes of the arrays in a type; with `everywhere` false of those in the device's main memory only."""
    found = [(dtype, shape) for dtype, shape, layout in _ARRAY.findall(text) if everywhere or "S(" not in layout]
    return sum(_BITS[dtype] * math.prod(int(n) for n in shape.split(",") if n) // 8 for dtype, shape in found)


def _split(text: str) -> tuple[str, str]:
    """`(…)` at the beginning of a text, and the rest."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    raise ValueError(f"A bracket is not closed. Received: text={text}")
