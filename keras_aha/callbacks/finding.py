"""`Finding`: something that is wrong with a run, and what makes one of epochs that are ill."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Callable

PATIENCE = 3  # epochs in a row that must look ill, unless a finding says otherwise


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is wrong with a run.

    Attributes:
        name: one for each kind of finding.
        seen: what the logs show, with the numbers.
        meaning: what that says about the run.
        remedy: what to do.
    """

    name: str
    seen: str
    meaning: str
    remedy: str

    def __str__(self):
        return f"{self.seen} {self.meaning} {self.remedy}"


def lasting(seen: str, meaning: str, remedy: str, epochs: int = PATIENCE, unless: Callable | None = None) -> Callable:
    """Makes a finding of what is true of an epoch that is ill: it is there if the last `epochs` are,
    unless `unless` holds of twice as many.

    `seen` has means over them in braces. What an epoch lacks is NaN, for which no comparison holds.
    """

    def finding_of(ill: Callable[[dict], bool]) -> Callable[[list[dict]], Finding | None]:
        def finding(history: list[dict]) -> Finding | None:
            recent = [collections.defaultdict(lambda: math.nan, e) for e in history[-epochs:]]
            if len(recent) < epochs or not all(map(ill, recent)) or (unless and unless(history[-2 * epochs :])):
                return None
            numbers = [name for name, value in recent[-1].items() if not isinstance(value, list)]
            means = {name: statistics.fmean(e[name] for e in recent) for name in numbers}
            when = f"In the last {epochs} epochs" if epochs > 1 else "In the last epoch"
            return Finding(ill.__name__, f"{when} {seen.format(**means)}", meaning, remedy)

        finding.__name__, finding.__doc__ = ill.__name__, ill.__doc__
        return finding

    return finding_of
