"""The slow path in turns: a row that is answered is read again from its prompt on, with all that was said since."""

from keras_aha.decoding.answers import Answers
from keras_aha.decoding.buckets import next_rows
from keras_aha.decoding.completions import Completions, empty_completions
from keras_aha.decoding.slow_path import generate_with_cache
from keras_aha.decoding.turn_taking import TurnTaking

import numpy as np

_WIDTHS = 4  # lengths of what is read again, for each of which a program is compiled


def generate_turns_with_cache(
    policy, weights, token_ids, padding_mask, keys, *, group_size: int, answers: Answers, **settings
) -> Completions:
    """Does what `generate` does with `answers`, by `generate_with_cache`, whose other arguments it takes.

    All rows that go on are decoded together; those that still wait for an answer wait for these as well. Some rows are
    repeated, whose copies say one token that nobody hears, so that programs are compiled for few numbers of rows.
    """
    token_ids, padding_mask = (np.repeat(x, group_size, axis=0) for x in (token_ids, padding_mask))
    longest = settings["max_completion_length"]
    completions = empty_completions(len(token_ids), longest)
    turns, rows = TurnTaking(answers, completions), np.arange(len(token_ids))
    while len(rows):
        going, rows = len(rows), np.resize(rows, _rows_of_a_program(len(rows), len(token_ids)))
        lengths = completions.lengths[rows]
        width = token_ids.shape[1] + next(w for w in _widths(longest) if w >= lengths.max())
        prompts, masks = np.zeros((2, len(rows), width), "int32")
        for prompt, mask, row, length in zip(prompts, masks, rows, lengths, strict=True):
            own = token_ids[row][padding_mask[row] > 0]
            read = np.concatenate([own, completions.token_ids[row, :length]])
            prompt[-len(read) :], mask[-len(read) :] = read, 1
        limits = np.where(np.arange(len(rows)) < going, turns.of(rows).limits - lengths, 1).astype("int32")
        places = dict(offsets=lengths, limits=limits)
        more = generate_with_cache(policy, weights, prompts, masks, keys[rows], group_size=1, **places, **settings)
        rows, more = rows[:going], Completions(*(x[:going] for x in more))
        for i, row in enumerate(rows):
            own = slice(lengths[i], lengths[i] + more.lengths[i])
            completions.token_ids[row, own] = more.token_ids[i, : more.lengths[i]]
            completions.log_probs[row, own] = more.log_probs[i, : more.lengths[i]]
        completions.lengths[rows] += more.lengths
        completions.stopped[rows] = more.stopped
        turns.ask(rows[more.stopped])
        rows = np.arange(0)
        while turns.asked.any() and not len(rows):
            rows = np.array(sorted(turns.take(wait=True)), int)
    return completions


def _rows_of_a_program(going: int, rows: int) -> int:
    """The smallest number of rows, of those that a `Batch` would have, that holds so many."""
    while next_rows(rows) >= going:
        rows = next_rows(rows)
    return rows


def _widths(longest: int) -> list[int]:
    return [0, *(-(-longest * part // _WIDTHS) for part in range(1, _WIDTHS + 1))]
