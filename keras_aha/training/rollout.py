"""The `Rollout` record, and the glossary of shapes.

B rows in an optimizer step (B = P·G), P prompts, G completions of one prompt (a group, in adjacent rows), L prompt
length, C completion length, T = L + C, V vocabulary, N query heads, K key-value heads, H head dim, D hidden.
"""

import dataclasses
from typing import Any

from keras_aha.tasks.turn import Turn

import numpy as np

PROMPT_MULTIPLE = 16  # prompt lengths are rounded up to multiples of it, so that few programs are compiled
_TRAINED_ON = "completion_mask old_log_probs sampler_log_probs advantages temperature".split()
_OPTIONAL = ("has_signal", "teacher_prompt_ids", "teacher_prompt_mask")


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Prompts, completions, log-probs and rewards of one policy snapshot.

    Attributes:
        token_ids: `(B, T)` int32, left-padded prompts followed by completions exactly as they were sampled.
        padding_mask: `(B, T)` int32, 1 at prompt and completion tokens.
        completion_mask: `(B, C)` float32, 1 at the completion tokens that are trained on, end-of-turn included; all 0
            in rows in which nothing counts, not even a KL.
        old_log_probs: `(B, C)` float32, of the policy before the first update, at the sampling temperature: computed
            by the trainer if the loss has an `importance_cap`, otherwise the sampler's.
        sampler_log_probs: `(B, C)` float32, as sampled. With quantized weights, or a cache of another dtype, they are
            close to the trainer's, and no more.
        advantages: `(B,)` float32.
        temperature: `(B,)` float32, what logits are divided by.
        rewards: `(B,)` float32, NaN if one could not be computed.
        truncated: `(B,)` bool, completions that ran into the length limit.
        problems, texts, scores: B puzzles, completions as text, and their graded records.
        has_signal: `(B,)` float32, 1 in rows that the surrogate of the loss is a mean over: those of a group whose
            rewards differ, with a reward of their own. `None` takes rows whose advantage is not 0.
        parts: B dicts, name → number, of what `rewards` add up, see `Grader.grade`; none if that is the task's reward.
        teacher_prompt_ids, teacher_prompt_mask: `(B, L′)` int32, left-padded, what a teacher with a hint reads in the
            prompt's place; `None` without.
        turns: B tuples of `Turn`s, each a completion of a task that answers; none if the task has one turn.
    """

    token_ids: np.ndarray
    padding_mask: np.ndarray
    completion_mask: np.ndarray
    old_log_probs: np.ndarray
    sampler_log_probs: np.ndarray
    advantages: np.ndarray
    temperature: np.ndarray
    rewards: np.ndarray
    truncated: np.ndarray
    problems: tuple[Any, ...]
    texts: tuple[str, ...]
    scores: tuple[Any, ...]
    has_signal: np.ndarray | None = None
    parts: tuple[dict[str, float], ...] = ()
    teacher_prompt_ids: np.ndarray | None = None
    teacher_prompt_mask: np.ndarray | None = None
    turns: tuple[tuple[Turn, ...], ...] = ()

    @property
    def lengths(self) -> np.ndarray:
        """`(B,)` int, tokens of each completion, its last one included."""
        return self.padding_mask[:, -self.completion_mask.shape[1] :].sum(axis=1)

    def batch(self) -> dict[str, np.ndarray]:
        """The arrays that `GRPOModel.train_step` takes, each with the leading axis B; its texts are `split_texts`."""
        batch = split_texts(self.token_ids, self.padding_mask, self.completion_mask.shape[1])
        batch |= {name: getattr(self, name) for name in _TRAINED_ON}
        return batch | {name: x for name in _OPTIONAL if (x := getattr(self, name)) is not None}

    def with_rows(self, rows, other: "Rollout", other_rows) -> "Rollout":
        """A copy whose `rows` are `other_rows`, `(R,)` integers too, of another rollout of the same T and C."""
        changed = {}
        for field in dataclasses.fields(self):
            values, others = getattr(self, field.name), getattr(other, field.name)
            if values is None or not len(values):
                continue
            mixed = list(values) if isinstance(values, tuple) else values.copy()
            for row, other_row in zip(rows, other_rows, strict=True):
                mixed[row] = others[other_row]
            changed[field.name] = tuple(mixed) if isinstance(values, tuple) else mixed
        return dataclasses.replace(self, **changed)


def split_texts(token_ids, padding_mask, completion_length: int) -> dict[str, np.ndarray]:
    """`(B, T)` arrays → `prompt_ids` and `prompt_mask`, `(B, L)`, and `completion_ids`, `(B, C)`."""
    return {
        "prompt_ids": token_ids[:, :-completion_length],
        "prompt_mask": padding_mask[:, :-completion_length],
        "completion_ids": token_ids[:, -completion_length:],
    }


def empty_batch(rows, prompt_length, completion_length, rows_per_prompt=1, teacher_prompt_length=0) -> dict:
    """Zeros of the shapes of `Rollout.batch()`, with a prompt for so many rows, to compile with; 0 is no hint."""
    prompts, completions = (rows // rows_per_prompt, prompt_length), (rows, completion_length)
    kinds = {name: (prompts, "int32") for name in ("prompt_ids", "prompt_mask")}
    if teacher_prompt_length:
        hinted = rows // rows_per_prompt, teacher_prompt_length
        kinds |= {name: (hinted, "int32") for name in ("teacher_prompt_ids", "teacher_prompt_mask")}
    kinds["completion_ids"] = completions, "int32"
    kinds |= {name: (completions, "float32") for name in ("completion_mask", "old_log_probs", "sampler_log_probs")}
    kinds |= {name: ((rows,), "float32") for name in ("advantages", "has_signal", "temperature")}
    return {name: np.zeros(*kind) for name, kind in kinds.items()}
