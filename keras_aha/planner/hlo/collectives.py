"""What the devices of a compiled program send to each other, by its text."""

from keras_aha.planner.hlo.program_text import Instruction, ProgramText, size

_KINDS = ("all-to-all", "all-gather", "all-reduce", "reduce-scatter", "collective-permute")


def collectives(text: str, turns: int = 1) -> dict[str, dict[str, int]]:
    """Kind → `{"count", "bytes"}`: how often the program runs collectives of that kind, and the bytes of all of them.

    Bytes are those of one device: of what it gives or of what it gets, whichever is more.

    Args:
        turns: of loops that run as often as data say, see `ProgramText.runs`.
    """
    program, counted = ProgramText(text), {}
    for run in program.runs(program.entry, _bytes, turns):
        if run.amount:
            sums = counted.setdefault(_kind(run.instruction), {"count": 0, "bytes": 0})
            sums["count"] += run.times
            sums["bytes"] += run.times * run.amount
    return counted


def _kind(x: Instruction) -> str:
    return x.op.removesuffix("-start")  # of an asynchronous one its start counts


def _bytes(x: Instruction, computation) -> int:
    if _kind(x) not in _KINDS:
        return 0
    given = sum(size(computation[name].type) for name in x.operands)
    got = size(x.type)
    if x.op == "all-gather-start":  # its type: (what is given, what is got)
        got -= given
    elif x.op == "collective-permute-start":  # (what is given, what is got, …)
        got = given
    return max(given, got)
