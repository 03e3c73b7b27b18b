"""`Completions`: what was sampled."""

from typing import NamedTuple

import numpy as np


class Completions(NamedTuple):
    """What was sampled, as NumPy arrays.

    Attributes:
        token_ids: `(B, C)` int32, 0 after the end of a completion.
        log_probs: `(B, C)` float32, of the full softmax at the sampling temperature; 0 after the end.
        lengths: `(B,)` int32, tokens of each completion, its last one included.
        stopped: `(B,)` bool, true if a stop token or stop string ended it, false if the limit did.
        observed: `(B, C)` bool, true at the tokens of observations, which the policy has read and not drawn; their
            log-probs are 0.
    """

    token_ids: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray
    stopped: np.ndarray
    observed: np.ndarray


def empty_completions(rows: int, max_completion_length: int) -> Completions:
    """`Completions` without a token, to be filled in; 0 rows are the share of a process that has no prompts."""
    token_ids = np.zeros((rows, max_completion_length), "int32")
    lengths, observed = np.zeros(rows, "int32"), np.zeros(token_ids.shape, bool)
    return Completions(token_ids, token_ids.astype("float32"), lengths, np.zeros(rows, bool), observed)
