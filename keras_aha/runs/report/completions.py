"""Completions as a page shows them: turn by turn, step by step, and which one does first what is new."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.evaluation.equations import find_equations, rewritten
from keras_aha.evaluation.tables import BEHAVIOURS
from keras_aha.evaluation.transcript import split_transcript
from keras_aha.names import printable
from keras_aha.runs.report.run_record import RunRecord

import pandas as pd

_LONGEST = 20_000  # characters that are shown of a completion
_KINDS = {True: "right", False: "wrong", None: ""}  # of what an equation `holds`
_printable = functools.partial(printable, keep="\n\t")


def pieces(record: dict) -> list[tuple[str, bool]]:
    """A completion of a table, or of `completions.jsonl`, → `(words, whether they are an observation)`, in order."""
    if isinstance(turns := record.get("turns"), list):  # in a table it is a number
        words = [(turn[key], key == "observation") for turn in turns for key in ("text", "observation")]
        return [(text.strip("\n") if observed else text, observed) for text, observed in words if text is not None]
    text = record.get("transcript")  # not a text of tasks that give no answers
    return split_transcript(text) if isinstance(text, str) else [(record["text"], False)]


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Cuts a text into `(piece, kind)`s, which put together are the text: is its arithmetic `"right"` or `"wrong"`?

    The kind is `""` if there is no equation or none that can be read. Where reading a line changes its length, as LaTeX
    does, the line is one piece. What a terminal or a browser would obey, and letters cannot be seen, becomes a question
    mark; a text that is very long is cut.
    """
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    for line in shown.splitlines(keepends=True):
        equations = list(find_equations(rewritten(line)))
        if len(rewritten(line)) != len(line):
            holds = {equation.holds for equation in equations}
            yield _printable(line), next((_KINDS[x] for x in (False, True) if x in holds), "")
            continue
        place = 0
        for equation in equations:
            start = max(equation.start, place)  # 8-4=4=4 is two that share a number
            yield _printable(line[place:start]), ""
            yield _printable(line[start : equation.end]), _KINDS[equation.holds]
            place = equation.end
        yield _printable(line[place:]), ""


@dataclasses.dataclass(frozen=True)
class FirstCompletion:
    """The first right completion that does more of a behaviour than any held-out completion before training did."""

    behaviour: str  # the one of `BEHAVIOURS`, slips aside, that has grown most by factor, with an interval above 0
    most_before: int  # how often a completion did it before, at most
    count: int | None = None  # how often this one did
    completion: dict | None = None  # what `completions.jsonl` has of it; `None` if no kept one does more


def find_first(record: RunRecord) -> FirstCompletion | None:
    """`None` if the run has not finished, or no behaviour has grown."""
    if record.rates is None:
        return None
    rates = record.rates[record.rates["completions"] == "all"].set_index("behaviour")
    rates = rates.loc[[name for name in BEHAVIOURS if name != "slips"]]
    grown = rates[rates["change_low"] > 0]
    if grown.empty:
        return None
    # Of several as new the one that stands later in the search: turning back presupposes an attempt.
    behaviour = (grown["after"] / grown["before"].clip(lower=1e-9)).sort_values(kind="stable").index[-1]
    most_before = int(record.before[behaviour].max())
    for completion in record.completions:  # in the order of epochs
        count = dataclasses.asdict(count_behaviours(completion["text"]))[behaviour]
        if completion["correct"] and count > most_before:
            return FirstCompletion(behaviour, most_before, count, completion)
    return FirstCompletion(behaviour, most_before)


def pairs(record: RunRecord, prompts: dict[str, str], count: int = 3) -> list[tuple[str, dict, dict]]:
    """The first sample of each of the first held-out problems, before and after, whatever came of it.

    `prompts` is problem → prompt, if it is known: it says more than a problem of a task of one's own, `(6, 1, 2)`.
    """
    first = [table[table["sample"] == 0].set_index("puzzle").head(count) for table in (record.before, record.after)]
    rows = [(first[0].loc[puzzle].to_dict(), first[1].loc[puzzle].to_dict()) for puzzle in first[0].index]
    return [(_printable(prompts.get(then["problem"], then["problem"])).strip(), then, now) for then, now in rows]


def behaviour_table(rates: pd.DataFrame) -> list[dict]:
    """`behaviours.csv` as rows of text: values and their intervals, for all, right and wrong completions."""
    rows = []
    for behaviour, group in rates.groupby("behaviour", sort=False):
        if not group[["before", "after"]].fillna(0).any(axis=None):
            continue
        group = group.set_index("completions")
        kinds = itertools.product(("all", "correct", "wrong"), ("before", "after"))
        cells = [_with_interval(group.loc[kind], when) for kind, when in kinds]
        change = _with_interval(group.loc["all"], "change")
        name = "tokens" if behaviour == "completion_length" else behaviour.replace("_", "-")
        rows.append({"name": name, "cells": [*cells, change]})
    return rows


def _with_interval(row: pd.Series, when: str) -> tuple[str, str]:
    if not row[f"{when}_puzzles"]:
        return "none", ""
    digits = 0 if abs(row[when]) >= 20 else 2
    low, high = (f"{row[f'{when}_{end}']:.{digits}f}" for end in ("low", "high"))
    return f"{row[when]:.{digits}f}", f"{low} to {high}"
