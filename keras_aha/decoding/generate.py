"""`generate`, the segment loop: prompts in, completions and log-probs out. It knows ids, neither text nor rewards.

prefill ───── each prompt once; its cache is repeated for the rows of its group, or shared if prompts are long
   │
segment ──┬── rows have stopped, and are answered: they go on, each at its own place in its completion
   │      ├── many rows have died: the others move to a smaller bucket
   │      ├── the cache is full: it grows
   │      └── prompts are waiting: they take the places of the dead
completions
"""

import functools
import math

from keras_aha.decoding.answers import Answers
from keras_aha.decoding.batch import Batch
from keras_aha.decoding.completions import Completions, empty_completions
from keras_aha.decoding.decoder import Decoder
from keras_aha.decoding.jitted_steps import Settings
from keras_aha.decoding.placement import Placement
from keras_aha.decoding.sampling import FULL_SOFTMAX, Sampling
from keras_aha.decoding.warm_up import warm_up as compile_programs

import numpy as np


def generate(
    decoder: Decoder,
    weights,
    token_ids,
    padding_mask,
    keys,
    *,
    group_size: int,
    max_completion_length: int,
    stop_table,
    temperature: float = 1.0,
    sampling: Sampling = FULL_SOFTMAX,
    max_rows: int | None = None,
    on_segment=None,
    warm_up: bool = False,
    answers: Answers | None = None,
) -> Completions:
    """Samples `group_size` completions of each prompt; row p·G + g is completion g of prompt p.

    Args:
        decoder: of the model.
        weights: the values of `decoder.backbone.variables`, in that order, adapters merged. Rows are split over the
            mesh that they lie on, see `Placement`.
        token_ids, padding_mask: `(P, L)` left-padded prompts.
        keys: `(B,)` from `row_keys`.
        group_size: G.
        max_completion_length: C.
        stop_table: `(S, V)` integers: `stop_table[state, token]` is a row's next state. A row begins at state 0; at
            S − 1 this token ends its completion.
        temperature: 0 is greedy.
        sampling: which tokens may be drawn.
        max_rows: rows decoded at a time, though one for each part of a mesh at least; if there are more, their prompts
            wait for free places. A group that is larger is decoded in shares. `None` takes all.
        on_segment: called as `on_segment(rows, tokens)` every 64 tokens or sooner, with the rows that are alive or
            waiting and the tokens sampled so far.
        warm_up: first compile what completions of any lengths will need, so that nothing is compiled later.
        answers: whom a row asks that has stopped; if it is answered it goes on, and what it is told takes no step of
            another row. C is of all its turns and observations. `None` ends rows where they stop.

    Raises:
        ValueError: if a prompt is empty or not left-padded.
    """
    if not len(token_ids):
        return empty_completions(0, max_completion_length)
    placement = Placement(weights)
    shares = shares_of_a_group(len(token_ids), group_size, placement.parts, max_rows)
    new_batch = functools.partial(
        Batch,
        decoder,
        weights,
        token_ids=np.repeat(np.asarray(token_ids, "int32"), shares, axis=0),
        starts=np.repeat(prompt_starts(padding_mask), shares),
        keys=keys,
        group_size=group_size // shares,
        max_completion_length=max_completion_length,
        max_rows=max_rows,
        placement=placement,
        answers=answers,
    )
    settings = Settings(placement.everywhere(stop_table), temperature, max_completion_length, until=0, floor=0)
    if warm_up:
        compile_programs(new_batch, settings, sampling)
    batch = new_batch()
    while batch.unfinished:
        if batch.alive.any():  # else all wait for answers
            batch.decode(settings, sampling)
        if on_segment is not None:
            on_segment(batch.unfinished, int(batch.completions.lengths.sum()))
        batch.answer()
        batch.admit()
        batch.rearrange()
    return batch.completions


def shares_of_a_group(prompts: int, group_size: int, parts: int, max_rows: int | None) -> int:
    """Into how many shares, each with a prompt of its own, to split a group.

    All parts get as many prompts, if that can be had, and shares of which each part can hold one within `max_rows`.
    """
    shares = parts // math.gcd(prompts, parts)
    shares = shares if group_size % shares == 0 else 1
    if max_rows is None or max_rows >= prompts * group_size:
        return shares
    most = max(1, max_rows // parts)
    choices = (n for n in range(shares, group_size + 1, shares) if group_size % n == 0)
    return next(n for n in choices if group_size // n <= most)


def prompt_starts(padding_mask):
    """The column of each prompt's first token, `(P,)` int32; raises ValueError for a prompt that is not left-padded."""
    padding_mask = np.asarray(padding_mask)
    tokens = padding_mask > 0
    if not tokens[:, -1].all() or (tokens[:, :-1] & ~tokens[:, 1:]).any():
        raise ValueError(f"Prompts must be left-padded, with one token at least. Received: padding_mask={padding_mask}")
    return np.argmax(tokens, axis=1).astype("int32")
