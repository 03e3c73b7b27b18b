"""Batches of examples: a pure function of the seed and the step, with texts of like length in each."""

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from keras_aha.models.special_tokens import TURN_ENDS, turn_end_id
from keras_aha.tasks.chat import Piece
from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.tasks.task import Task
from keras_aha.training.examples import Example, make_examples
from keras_aha.training.rollout import split_texts

import numpy as np

_LENGTH_STEPS = 32, 64  # prompts and completions are padded to multiples of these, so that few programs are compiled,
# to half of one if they are as short as that, and to an eighth to a quarter of a long one.
_POOL = 16  # batches drawn together and sorted by length, so that little padding is trained on

Read = Callable[[Sequence[int]], list[Example]]


def endless_batches(read: Read, batch_size: int, seed: int, first: int = 0) -> Iterator[tuple]:
    """Batches of `(inputs, learned)` from step `first` on, the texts left-padded to where completions begin.

    Args:
        read: the examples at some places of an endless row of them, see `solutions` and `shuffled`.
        batch_size: examples of a batch.
        seed: of the order of batches.
        first: the first step's number, from 0.
    """
    for pool in itertools.count(first // _POOL):
        rows = read(range(pool * _POOL * batch_size, (pool + 1) * _POOL * batch_size))
        batches = by_length(rows, batch_size)
        random.Random(stable_hash("batches", seed, pool)).shuffle(batches)
        yield from map(padded, batches[max(0, first - pool * _POOL) :])


def by_length(rows: Sequence[Example], batch_size: int) -> list[list[Example]]:
    """All rows, shortest first, so many in a batch; the last may have fewer."""
    rows = sorted(rows, key=lambda row: row.length)
    return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]


def solutions(task: Task, tokenizer, stop_token: str | None, seed: int, habits: dict) -> Read:
    """Reads the worked solutions of a task's training problems, in order."""

    end = tokenizer.id_to_token(turn_end_id(tokenizer, stop_token))
    ends = *task.turn_ends, *TURN_ENDS

    def text(index):
        problem, rng = task.problem(index), random.Random(stable_hash("worked solution", seed, index))
        pieces = [Piece(task.prompt(problem), False)]
        for turn in task.worked_turns(problem, rng, **habits):
            pieces.append(Piece(turn.text, True))
            if turn.observation is not None:  # before it the policy ends the turn as it ends a completion
                pieces.append(Piece("" if turn.text.endswith(ends) else end, True))
                pieces.append(Piece(turn.observation.written, False))
        return pieces

    return lambda places: make_examples(tokenizer, map(text, places), stop_token)


def shuffled(examples: Sequence[Example], seed: int) -> Read:
    """Reads examples again and again, each time in another order."""

    @functools.lru_cache(maxsize=2)
    def order(turn):
        rows = list(range(len(examples)))
        random.Random(stable_hash("examples", seed, turn)).shuffle(rows)
        return rows

    return lambda places: [examples[order(i // len(examples))[i % len(examples)]] for i in places]


def padded(rows: Sequence[Example]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The batch of some examples."""
    longest = (max(map(len, part)) for part in ([row.prompt_ids for row in rows], [row.completion_ids for row in rows]))
    start, length = (_rounded_up(n, step) for n, step in zip(longest, _LENGTH_STEPS, strict=True))
    token_ids = np.zeros((len(rows), start + length), "int32")
    padding_mask, learned = np.zeros_like(token_ids), np.zeros((len(rows), length), "float32")
    for i, row in enumerate(rows):
        text = slice(start - len(row.prompt_ids), start + len(row.completion_ids))
        token_ids[i, text] = [*row.prompt_ids, *row.completion_ids]
        padding_mask[i, text] = 1
        learned[i, : len(row.learned)] = row.learned
    return split_texts(token_ids, padding_mask, length), learned


def _rounded_up(n: int, step: int) -> int:
    step = max(step, 2 ** (n.bit_length() - 3))
    return step // 2 if n <= step // 2 else -(-n // step) * step
