"""`PaddedPrompts`: the token ids of problems' prompts, padded to one length for all epochs."""

import itertools
from collections.abc import Iterable

from keras_aha.tasks.task import Task
from keras_aha.training.rollout import PROMPT_MULTIPLE

import numpy as np

_AHEAD = 2000  # prompts of each kind whose lengths are looked at before training


class PaddedPrompts:
    """Tokenizes the prompts of a task's problems. The length only grows, so that programs need not be compiled again.

    Args:
        task: a `Task`.
        limit: tokens of the longest prompt that is allowed.

    Attributes:
        length: L, a multiple of 16 tokens.
    """

    def __init__(self, task: Task, limit: int):
        self.task = task
        self.limit = limit
        self.length = 0

    def tokenize(self, model, problems: list) -> tuple[np.ndarray, np.ndarray]:
        """`(token_ids, padding_mask)`, each `(len(problems), L)` int32.

        Raises:
            ValueError: if a prompt is longer than the limit.
        """
        token_ids, padding_mask = model.tokenize([self.task.prompt(x) for x in problems], multiple=PROMPT_MULTIPLE)
        longest = padding_mask.sum(axis=1).max()
        if longest > self.limit:
            raise ValueError(
                f"A prompt is longer than max_prompt_length={self.limit} tokens. Received: {longest} tokens"
            )
        self.length = max(self.length, token_ids.shape[1])
        pad = [(0, 0), (self.length - token_ids.shape[1], 0)]
        return np.pad(token_ids, pad), np.pad(padding_mask, pad)

    def look_ahead(self, model, *sources: Iterable[list]) -> None:
        """Finds the length that the first 2,000 problems of each source need; a source gives lists of problems."""
        flat = map(itertools.chain.from_iterable, sources)
        self.tokenize(model, [problem for source in flat for problem in itertools.islice(source, _AHEAD)])
