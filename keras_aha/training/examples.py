"""`Examples`: texts to imitate as token ids, with what of them is learned."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from keras_aha.models.special_tokens import prompt_ids, turn_end_id
from keras_aha.tasks.chat import Piece
from keras_aha.tasks.held_out_split import stable_hash

import numpy as np

_CHUNK = 1000  # texts that are tokenized at a time


class Example(NamedTuple):
    """One text: the token ids before what is learned, those from there on, and which of these are learned."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    learned: Sequence[bool]

    @property
    def length(self) -> int:
        """Its tokens, all of them."""
        return len(self.prompt_ids) + len(self.completion_ids)


class Examples(Sequence[Example]):
    """Texts as token ids, in about four bytes a token; what the assistant wrote is learned.

        Examples(tokenizer, [[Piece("2+2=", False), Piece("4", True)], write_chat(messages, "gemma")])

    Args:
        tokenizer: the policy's.
        texts: each a sequence of `Piece`, the last of them the assistant's.
        stop_token: what follows the last piece, unless it ends so; `None` takes what ends a turn in the vocabulary.

    Raises:
        ValueError: if the vocabulary lacks the `stop_token`.
    """

    def __init__(self, tokenizer, texts: Iterable[Sequence[Piece]], stop_token: str | None = None):
        stop_id, texts, parts = turn_end_id(tokenizer, stop_token), iter(texts), []
        while chunk := list(itertools.islice(texts, _CHUNK)):
            found = tokenize(tokenizer, chunk, stop_id)
            ids = [token_id for example in found for token_id in (*example.prompt_ids, *example.completion_ids)]
            learned = [mark for example in found for mark in (*[False] * len(example.prompt_ids), *example.learned)]
            sizes = [(len(example.prompt_ids), example.length) for example in found]
            parts.append((np.array(ids, "int32"), np.array(learned), np.array(sizes)))
        empty = np.zeros(0, "int32"), np.zeros(0, bool), np.zeros((0, 2), "int64")
        self._ids, self._learned, sizes = map(np.concatenate, zip(empty, *parts, strict=True))
        self._prompts, self._lengths = sizes.T
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._rows = np.arange(len(sizes))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        start, end = self._starts[row], self._starts[row] + self._lengths[row]
        middle = start + self._prompts[row]
        return Example(self._ids[start:middle], self._ids[middle:end], self._learned[middle:end])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each."""
        return self._lengths[self._rows]

    def select(self, rows: Sequence[int]) -> "Examples":
        """Those of some places, in that order; their tokens are not copied."""
        chosen = object.__new__(Examples)
        vars(chosen).update(vars(self), _rows=self._rows[np.asarray(rows, int)])
        return chosen

    def prompts(self) -> list[bytes]:
        """What tells the prompt of each example from others."""
        return [self[i].prompt_ids.tobytes() for i in range(len(self))]

    def checksum(self) -> str:
        """Of all tokens that there are, and of what is learned."""
        return hashlib.sha256(self._ids.tobytes() + self._learned.tobytes() + self._rows.tobytes()).hexdigest()


def hold_out(examples: Examples, share: float) -> tuple[Examples, Examples]:
    """Parts examples by a hash of their prompts: those to train on, and about that share, which is held out."""
    held_out = np.array([stable_hash("held-out", prompt) < share * 2**64 for prompt in examples.prompts()], bool)
    return examples.select(np.flatnonzero(~held_out)), examples.select(np.flatnonzero(held_out))


def tokenize(tokenizer, texts: Sequence[Sequence[Piece]], stop_id: int) -> list[Example]:
    """The example of each text, begin-token first if there is one; see `Examples`.

    Adjacent pieces of one side are tokenized together, as a prompt is before a completion is sampled.
    """
    sides = [
        [(side, list(pieces)) for side, pieces in itertools.groupby(text, lambda p: p.by_assistant)] for text in texts
    ]
    parts = iter(tokenizer(["".join(piece.text for piece in pieces) for text in sides for _, pieces in text]))
    (begin,) = prompt_ids(tokenizer, [""])
    examples = []
    for text in sides:
        ids, learned = [*begin], [False] * len(begin)
        for side, _ in text:
            part = next(parts)
            ids += part
            learned += [side] * len(part)
        if not learned[-1:] == [True] or ids[-1] != stop_id:
            ids.append(stop_id)
            learned.append(True)
        start = max(1, learned.index(True))  # nothing comes before the first token of all to tell it by
        examples.append(Example(ids[:start], ids[start:], learned[start:]))
    return examples
