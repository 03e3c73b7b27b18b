"""The text of a compiled program, `compiled.as_text()`, as instructions; and what runs in it how often."""

import math
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "s16": 16}
_BITS |= {"u16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}
_ARRAY = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\](\{[^}]*\})?")
_KERNEL_METADATA = re.compile(r"\n\"xprof_metadata\".*\n")  # of kernels of Pallas, in the middle of an instruction
_CALLED = re.compile(r"\b(?:calls|condition|body|to_apply)=(%[\w.\-]+)")
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
        """What it runs, but for the branches of a conditional; of a loop the condition and the body."""
        return _CALLED.findall(self.line)

    @property
    def branches(self) -> list[str]:
        """The computations of which it runs one."""
        return [name for names in _BRANCHES.findall(self.line) for name in names.split(", ")]

    def __str__(self):
        return re.sub(r", (metadata|backend_config|calls)=.*", "", self.line)


class Run(NamedTuple):
    """An instruction that is run: how often, and what it adds each time to what is measured."""

    instruction: Instruction
    computation: dict[str, Instruction]  # that it stands in
    times: int
    amount: int


class ProgramText:
    """A program's instructions.

    Args:
        text: `compiled.as_text()`.

    Attributes:
        computations: name → instructions by name.
        entry: the name of the computation that is the program.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, current = "", {}
        for line in _KERNEL_METADATA.sub("", text).splitlines():
            if match := re.match(r"(ENTRY )?(%[\w.\-]+) \(.*\{$", line):
                current = self.computations[match[2]] = {}
                self.entry = match[2] if match[1] else self.entry
            elif re.match(r"\s+(ROOT )?%[\w.\-]+ = ", line):
                instruction = Instruction(line)
                current[instruction.name] = instruction

    def runs(self, name: str, measure: Callable, turns: int = 1, into: Callable = lambda x: True) -> list[Run]:
        """All instructions that a computation runs, those of the computations that it calls included.

        A conditional runs the branch in which `measure` finds most. Loops that run as often as data say, such as those
        of `keras_aha.training.micro_batches`, share their turns: those of a computation count as if the one with the
        most took them all.

        Args:
            name: of the computation.
            measure: `(instruction, its computation)` → what it adds each time that it runs.
            turns: how many turns such loops take.
            into: instruction → whether what it calls counts.
        """
        computation = self.computations[name]
        runs, by_data = [], []
        for x in computation.values():
            runs.append(Run(x, computation, 1, measure(x, computation)))
            if not into(x):
                continue
            inside = [run for called in x.called for run in self.runs(called, measure, turns, into)]
            times = self._turns(x)
            if times is None:
                by_data.append(inside)
            else:
                runs += _repeated(inside, times)
            runs += most(self.runs(branch, measure, turns, into) for branch in x.branches)
        return runs + _repeated(most(by_data), turns)

    def _turns(self, x: Instruction) -> int | None:
        """How often `x` runs what it calls: as the compiler says, or JAX's count up to a limit; None if data say."""
        if x.op != "while":
            return 1
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', x.line):
            return int(known[1])
        condition = self.computations[x.called[0]]
        compared = [y for y in condition.values() if y.root and y.op == "compare" and "direction=LT" in y.line]
        limits = [condition[name] for y in compared for name in y.operands if condition[name].op == "constant"]
        return int(limits[0].arguments.strip("()")) if len(limits) == 1 else None


def total(runs: list[Run]) -> int:
    """What they add up to."""
    return sum(run.times * run.amount for run in runs)


def most(choices: Iterable[list[Run]]) -> list[Run]:
    """The one that adds up to most; an empty one if there is none."""
    return max(choices, key=total, default=[])


def _repeated(runs: list[Run], times: int) -> list[Run]:
    return [run._replace(times=run.times * times) for run in runs]


def dims(text: str) -> list[int]:
    """The shape in a type such as `f32[8,128]{1,0}`."""
    return [int(dim) for dim in re.search(r"\[([\d,]*)\]", text)[1].split(",") if dim]


def arrays(text: str) -> list[str]:
    """The types of the arrays in a type, which may be a tuple's."""
    return [match[0] for match in _ARRAY.finditer(text)]


def size(text: str, everywhere: bool = True) -> int:
    """Bytes of the arrays in a type; with `everywhere` false of those in the device's main memory only."""
    parts = [(dtype, shape) for dtype, shape, layout in _ARRAY.findall(text) if everywhere or "S(" not in layout]
    return sum(_BITS[dtype] * math.prod(int(n) for n in shape.split(",") if n) // 8 for dtype, shape in parts)


def _split(text: str) -> tuple[str, str]:
    """`(…)` at the beginning of a text, and the rest."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    raise ValueError(f"A bracket is not closed. Received: text={text}")
