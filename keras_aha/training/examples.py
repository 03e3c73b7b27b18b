"""Examples: texts to imitate as token ids, with what of them is learned."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from keras_aha.models.special_tokens import prompt_ids, turn_end_id
from keras_aha.tasks.chat import Piece

import numpy as np

_CHUNK = 1000  # texts that are tokenized at a time


class Example(NamedTuple):
    """One text: the token ids before what is learned, those from there on, and which of these are learned."""

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    learned: np.ndarray

    @property
    def length(self) -> int:
        """Its tokens, all of them."""
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def prompt(self) -> bytes:
        """What tells its prompt from others."""
        return self.prompt_ids.tobytes()


def make_examples(tokenizer, texts: Iterable[Iterable[Piece]], stop_token: str | None = None) -> list[Example]:
    """The example of each text, begin-token first if there is one; what the assistant wrote is learned.

        make_examples(tokenizer, [[Piece("2+2=", False), Piece("4", True)], write_chat(messages, "gemma")])

    Adjacent pieces of one side are tokenized together, as a prompt is before a completion is sampled.

    Args:
        tokenizer: the policy's.
        texts: the pieces of each, the last of them the assistant's.
        stop_token: what follows the last piece, unless it ends so; `None` takes what ends a turn in the vocabulary.

    Raises:
        ValueError: if the vocabulary lacks the `stop_token`.
    """
    stop_id, texts, examples = turn_end_id(tokenizer, stop_token), iter(texts), []
    (begin,) = prompt_ids(tokenizer, [""])
    while chunk := list(itertools.islice(texts, _CHUNK)):
        sides = [[(side, "".join(p.text for p in own)) for side, own in itertools.groupby(x, _side)] for x in chunk]
        parts = iter(tokenizer([part for text in sides for _, part in text]))
        for text in sides:
            ids, learned = [*begin], [False] * len(begin)
            for (side, _), part in zip(text, parts, strict=False):  # as many as the text has
                ids += part
                learned += [side] * len(part)
            if not learned[-1:] == [True] or ids[-1] != stop_id:
                ids, learned = [*ids, stop_id], [*learned, True]
            start = max(1, learned.index(True))  # nothing comes before the first token of all to tell it by
            before, after = np.array(ids[:start], "int32"), np.array(ids[start:], "int32")
            examples.append(Example(before, after, np.array(learned[start:])))
    return examples


def _side(piece: Piece) -> bool:
    return piece.by_assistant
