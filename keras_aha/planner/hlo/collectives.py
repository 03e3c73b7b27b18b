"""What the devices of a compiled program tell each other, by its text."""

import collections
import functools
from typing import NamedTuple

from keras_aha.planner.hlo.program_text import Instruction, parse, size, trips

COLLECTIVES = ("all-to-all", "all-gather", "all-reduce", "reduce-scatter", "collective-permute")


class Collectives(NamedTuple):
    """How often a kind of collective stands in the program, how often it runs, and the bytes of all these runs.

    Bytes are those of one device: of what it gives or of what it gets, whichever is more.
    """

    instructions: int
    executions: int
    bytes: int


def collectives(text: str, turns: int = 1) -> dict[str, Collectives]:
    """The collectives of a program by kind, in all branches of a conditional; of an asynchronous one its start counts.

    Args:
        turns: of each loop that runs as often as data say.
    """
    computations, entry = parse(text)

    @functools.cache
    def count(name: str) -> tuple[collections.Counter, collections.Counter, collections.Counter]:
        instructions, executions, moved = collections.Counter(), collections.Counter(), collections.Counter()
        for x in computations[name].values():
            kind = x.op.removesuffix("-start")
            if kind in COLLECTIVES:
                instructions[kind] += 1
                executions[kind] += 1
                moved[kind] += _bytes(x, computations[name])
            runs = trips(x, computations)
            runs = turns if runs is None else runs
            conditions = [x.condition] if x.op == "while" else []
            for called in [*x.called, *x.branches, *conditions]:
                inside = count(called)
                instructions.update(inside[0])
                executions.update({kind: n * runs for kind, n in inside[1].items()})
                moved.update({kind: n * runs for kind, n in inside[2].items()})
        return instructions, executions, moved

    counts = count(entry)
    return {kind: Collectives(*(counted[kind] for counted in counts)) for kind in COLLECTIVES}


def _bytes(x: Instruction, computation) -> int:
    given = sum(size(computation[name].type) for name in x.operands)
    got = size(x.type)
    if x.op == "all-gather-start":  # its type: (what is given, what is got)
        got -= given
    elif x.op == "collective-permute-start":  # (what is given, what is got, …)
        got = given
    return max(given, got)
