"""`Completions`: what was sampled."""

from typing import NamedTuple

import numpy as np


class Completions(NamedTuple):
    """What was sampled, as NumPy arrays.

    Attributes:
        token_ids: `(B, C)` int32, 0 after the end of a completion.
        log_probs: `(B, C)` float32, of the full softmax at the sampling temperature; 0 after the end.
        lengths: `(B,)` int32, tokens of each completion, its last one included.
        stopped: `(B,)` bool, whether a stop token or stop string ended it; otherwise it ran into the limit.
        entropy: `(B, C)` float32, in nats, of the softmax that each token was drawn from, 0 after the end; `None` if
            it was not asked for.
    """

    token_ids: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray
    stopped: np.ndarray
    entropy: np.ndarray | None = None

    @property
    def finish_reasons(self) -> np.ndarray:
        """`(B,)` strings: "stop", or "length" where the limit cut a completion off."""
        return np.where(self.stopped, "stop", "length")


def no_completions(max_completion_length: int, entropy: bool) -> Completions:
    """`Completions` of no prompts, which a process may have as its share of a few."""
    numbers = np.zeros((0, max_completion_length), "float32")
    lengths = np.zeros(0, "int32")
    return Completions(numbers.astype("int32"), numbers, lengths, lengths > 0, numbers if entropy else None)
