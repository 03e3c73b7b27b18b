"""Counts what a completion's thinking does: tries, checks, turns back, corrects itself, slips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean as mean

from keras_aha.evaluation.equations import Equation, find_equations, rewritten

MAX_LENGTH = 16_384  # characters of a completion that are looked at: 4,000 tokens, and at most 50 ms

_LET_ME = r"(?:let me|let's|let us|i'll|i will|i should|i need to)"
_THE_TARGET = r"(?:exactly )?(?:the|our|my|your) (?:target|goal|(?:target |desired |required )?(?:number|value|result))"
_WORDS = {
    # These take back or doubt what stands before. A turn ends an attempt; a denial is its outcome.
    "turn": r"(?<!can )(?<!to )wait(?! (?:for|until|and see)\b)|hold on|actually|oops|whoops|sorry|scratch that"
    r"|on second thoughts?|mistake|instead|alternatively|start(?:ing)? over|(?:try|start) again|rethink|reconsider"
    rf"|{_LET_ME} (?:re-?(?:try|think|do|consider|start)|think again|go back|step back)",
    "recheck": rf"{_LET_ME} (?:re-?(?:check|calculate|compute)|double[- ]check)",
    "try": rf"{_LET_ME} try(?: again)?",  # corrects nothing where nothing was tried
    "denial": r"(?:that|this|it|which)(?:'s not| (?:is|was|does|did|will) not| ?(?:isn't|wasn't|doesn't|didn't|won't))"
    r"|(?:that|this|it|which)(?:'s| is| was) (?:wrong|incorrect)",
    "failed": r"no(?! (?:other|more|need|one|number|matter|longer|solution|way)\b)|nope|nah|none|wrong|incorrect"
    r"|not(?! (?:used|yet|allowed|sure|only|all|have)\b)|isn't|doesn't|didn't|won't|fail(?:s|ed)?|miss(?:es|ed)?"
    r"|too (?:big|small|large|high|low|much|little|far|many|few)|off by|[0-9]+ off|short of|far from|close|almost"
    r"|nearly|(?:more|less|greater|larger|bigger|smaller|higher|lower) than|above|below|exceeds|overshoots?"
    r"|(?:over|under|near) [0-9]+|need(?:ed)? [0-9]+ more|but the target"
    r"|(?:we|i)(?: are|'re|'m| am)? (?:need|want|after|looking for)(?:ed)? [0-9]+(?! from\b)",
    "passed": r"yes|yep|correct|(?<!all )right(?! (?:now|side|hand)\b)|works|found|solved|perfect|bingo|success"
    r"|exactly(?! once\b)|match(?:es)?|reached|there we go|eureka|(?:hits?|equals?|got) [0-9]+"
    rf"|(?:is|'s|was|hits?|equals?|got|gives(?: us)?) (?:{_THE_TARGET}"
    r"|what (?:we|i)(?:'re|'m| are| am)? (?:want|need|looking))",
    # What goes over an attempt once more, and what goes on with it.
    "recap": r"check(?:ing)?|make sure|verify(?:ing)?|confirm|therefore|the (?:final )?(?:answer|solution|expression)",
    "step": r"then|next|finally|step [2-9]",
}
_REMARK = re.compile(
    r"\b(?:" + "|".join(f"(?P<{name}>{words})" for name, words in _WORDS.items()) + r")\b"
    r"|(?P<failed_mark>[\u2717\u2718\u274c])|(?P<passed_mark>[\u2713\u2714\u2705])|(?P<line>\n++)"
)
_CORRECTIONS = {"turn", "recheck", "try", "denial"}
_TURNS = {"turn", "try"}  # after which the next equation is of another attempt, unless it goes over this one
_RECAPS = {"recheck", "recap"}


@dataclass(frozen=True)
class Behaviours:
    """How often a completion did what searching takes.

    Attributes:
        attempts: ways of reaching the target that were worked out, each in one equation (`9-1=8`) at least. Equations
            of one line are one attempt, and so is one on a later line that goes on with the result before it, until an
            outcome is stated or the text turns away. Going over what was just found, or putting a slip right, is no
            further attempt.
        verifications: attempts whose result is said to be, or not to be, the target: `yes`, `too big`, `not 10`,
            `≠ 10`.
        backtracks: attempts given up in words, by such an outcome or by turning away (`wait`, `instead`), and followed
            by another.
        self_corrections: phrases that take back or doubt what stands before, such as `wait`, `actually`, `that is
            not`, and `let me try` once something was tried. The bare `no` of a search in shorthand is none.
        slips: equations that are not true (see `equations.Equation.holds`).
    """

    attempts: int
    verifications: int
    backtracks: int
    self_corrections: int
    slips: int


def count_behaviours(text: str) -> Behaviours:
    """Counts the behaviours in the thinking of a completion: all that precedes `</think>` or the first `<answer>`.

    At most `MAX_LENGTH` characters are read; no text takes longer than 50 ms. An outcome belongs to the attempt before
    it; if several are stated, the first one counts. Words are English. On completions that it was not written for, this
    finds two thirds of the verifications and backtracks, and hardly any that is none (`benchmarks/behaviour_table.py`,
    on `tests/labelled_completions.toml`).
    """
    search = _Search(rewritten(text[:MAX_LENGTH].partition("</think>")[0].partition("<answer>")[0]))
    for equation in find_equations(search.text):
        search.read_remarks(equation.start)
        search.read_equation(equation)
    search.read_remarks(len(search.text))
    search.end_attempt(followed=False)
    return Behaviours(**search.counts)


def mean_behaviours(texts: Sequence[str]) -> dict[str, float]:
    """How often a completion did each of `Behaviours`, on average over `texts`, one or more."""
    counts = [asdict(count_behaviours(text)) for text in texts]
    return {name: mean(count[name] for count in counts) for name in counts[0]}


class _Search:
    """A search, read from its beginning up to `place`."""

    def __init__(self, text: str):
        self.text = text
        self.place = 0
        self.counts = dict.fromkeys((field.name for field in fields(Behaviours)), 0)
        self.last: Equation | None = None
        self.outcome: str | None = None  # of the attempt that is worked on: "failed" or "passed"
        self.remarks: set[str] = set()  # kinds of the phrases since the last equation

    def read_remarks(self, end: int) -> None:
        """Reads what is said up to `end`, where the next equation begins."""
        self.remarks.clear()
        for remark in _REMARK.finditer(self.text, self.place, end):
            kind = remark.lastgroup.removesuffix("_mark")
            if kind == "try" and self.last is None:
                continue
            self.remarks.add(kind)
            self.counts["self_corrections"] += kind in _CORRECTIONS
            if self.last is not None and self.outcome is None and kind in ("denial", "failed", "passed"):
                self.outcome = "passed" if kind == "passed" else "failed"

    def read_equation(self, equation: Equation) -> None:
        if self.last is not None and self._puts_right(equation):
            self.outcome = None
        elif self.last is None or not self._goes_on(equation):
            self.end_attempt(followed=True)
            self.counts["attempts"] += 1
            self.outcome = None
        if equation.unequal and self.outcome is None:
            self.outcome = "failed"
        self.counts["slips"] += equation.holds is False
        self.last, self.place = equation, equation.end

    def _puts_right(self, equation: Equation) -> bool:
        """Whether the equation is the last one with another result, and the text said that it would be."""
        again = equation.left == self.last.left and equation.result != self.last.result
        return again and bool(self.remarks & _CORRECTIONS)

    def _goes_on(self, equation: Equation) -> bool:
        """Whether the equation belongs to the attempt of the last one."""
        if self.outcome is not None:
            return self.outcome == "passed" and bool(self.remarks & _RECAPS)
        if self.remarks & _RECAPS:
            return True
        if self.remarks & _TURNS:
            return False
        is_next = "line" not in self.remarks or "step" in self.remarks
        return is_next or self.last.result.lstrip("-") in equation.numbers

    def end_attempt(self, followed: bool) -> None:
        """Counts what came of the attempt that was worked on, if there was one."""
        if self.last is None:
            return
        given_up = self.outcome == "failed" or (self.outcome is None and bool(self.remarks & _TURNS))
        self.counts["verifications"] += self.outcome is not None
        self.counts["backtracks"] += followed and given_up
