"""`speak`: completions as texts, in as many turns as the task has."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from keras_aha.decoding.completions import Completions
from keras_aha.tasks.task import Task
from keras_aha.tasks.turn import Turn, said
from keras_aha.training.conversations import Conversations
from keras_aha.training.turn_limits import TurnLimits

import numpy as np


class Spoken(NamedTuple):
    """B completions.

    Attributes:
        completions: as ids.
        texts: the policy's own words, without stop tokens.
        turns: of each; none of a task that does not answer.
        failed: rows to which a response failed.
    """

    completions: Completions
    texts: Sequence[str]
    turns: Sequence[tuple[Turn, ...]] = ()
    failed: Collection[int] = ()


def speak(
    model,
    task: Task,
    problems: list[Any],
    prompts: Sequence[np.ndarray],
    *,
    limits: TurnLimits,
    reported: dict[str, str],
    on_error: str = "skip",
    stop_tokens: tuple[str, ...],
    stop_strings: tuple[str, ...],
    **sampling,
) -> Spoken:
    """Samples completions of prompts; of a task of several turns each ends a turn also at its `turn_ends`.

    Args:
        model: a `PolicyModel`.
        task: whose problems they are.
        problems: one a completion.
        prompts: `(token_ids, padding_mask)`.
        limits, reported, on_error: see `Conversations`.
        stop_tokens, stop_strings, **sampling: see `PolicySampler.generate`.
    """
    sampling |= dict(stop_tokens=stop_tokens, stop_strings=stop_strings)
    if task.max_turns == 1:
        completions = model.generate(*prompts, **sampling)
        return Spoken(completions, model.detokenize(completions, stop_tokens))
    sampling["stop_strings"] = tuple(dict.fromkeys((*stop_strings, *task.turn_ends)))
    settings = dict(stop_tokens=stop_tokens, limits=limits, reported=reported, on_error=on_error)
    with contextlib.closing(Conversations(task, problems, model.tokenizer, **settings)) as conversations:
        completions = model.generate(*prompts, answers=conversations, **sampling)
    turns = conversations.turns(completions)
    return Spoken(completions, [said(own) for own in turns], turns, conversations.failed)


def turn_counts(turns: Sequence[Turn]) -> dict[str, int]:
    """Of a completion `turns`, `tool_calls`, and `tool_errors`, which are observations that say of one."""
    answers = [turn.observation for turn in turns if turn.observation is not None]
    calls, errors = (sum(map(bool, flags)) for flags in ([x.tool for x in answers], [x.is_error for x in answers]))
    return {"turns": len(turns), "tool_calls": calls, "tool_errors": errors}
