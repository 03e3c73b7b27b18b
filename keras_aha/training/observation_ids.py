"""`ObservationIds`: observations as token ids. What an environment answers is hostile: no mark in it is a token."""

import functools
import re

from keras_aha.models.special_tokens import stop_token_ids, token_id
from keras_aha.names import unicode
from keras_aha.tasks.chat import MARK
from keras_aha.tasks.turn import Observation

import keras_hub
import numpy as np
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

_CHARACTERS = 32  # a token, at most, of what is tokenized at all
_MARK = re.compile(r"<[^<>]{1,99}>|\[[^\[\]]{1,99}\]")  # of pieces that SentencePiece has by definition, most are none
_NAME = 100  # characters of a tool's name


class ObservationIds:
    """Tokenizes observations: `before` and `after` as they are, and between them a text in which marks are letters.

    Without marks in the text all three are tokenized as one, as if a prompt held them. Else they are tokenized apart,
    and so is each character of what looks like a mark; what only a mark or a stop token could write is left out.

    Args:
        tokenizer: the policy's.
        stop_tokens: those of the rollouts, see `PolicySampler.generate`.
        max_length: in tokens; the text of a longer observation is cut.
    """

    def __init__(self, tokenizer, stop_tokens: tuple[str, ...], max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length
        stops = {number: tokenizer.id_to_token(number) for number in stop_token_ids(tokenizer, stop_tokens)}
        self._forbidden = stops | marks(tokenizer)
        words = {text.replace("▁", " ") for text in self._forbidden.values() if len(text) > 1}
        others = sorted((word for word in words if not _MARK.fullmatch(word.strip())), key=len, reverse=True)
        self._marks = re.compile("|".join([_MARK.pattern, *map(re.escape, others)]))

    def __call__(self, observation: Observation) -> tuple[np.ndarray, Observation]:
        """Returns the ids, and the observation as it is read: cut, and with valid text.

        It raises ValueError if `before` and `after` alone have more tokens than there may be.
        """
        before, after, text = (self._cut(x) for x in (observation.before, observation.after, observation.text))
        outer, joint = self._tokenize([before, after]), self._tokenize([before + text + after])[0]
        room = self.max_length - sum(map(len, outer))
        if room < 0 or len(before) < len(observation.before) or len(after) < len(observation.after):
            raise ValueError(
                f"`before` and `after` of an observation must have {self.max_length} tokens at most, "
                "max_observation_length. Received: more than that"
            )
        if self._marks_in(joint) != self._marks_in(outer[0] + outer[1]) or len(joint) > self.max_length:
            ids = [number for number in self._apart(text) if number not in self._forbidden]
            text = text if len(ids) <= room else self.tokenizer.detokenize([ids[:room]])[0] if room else ""
            joint = outer[0] + ids[:room] + outer[1]
        done, name, is_error = bool(observation.done), unicode(observation.tool[:_NAME]), bool(observation.is_error)
        return np.array(joint, "int32"), Observation(text, before, after, done, name, is_error)

    def _cut(self, text):
        return unicode(text[: _CHARACTERS * self.max_length])

    def _tokenize(self, texts):
        return [[int(number) for number in row if number >= 0] for row in self.tokenizer(texts)]

    def _marks_in(self, ids):
        return [number for number in ids if number in self._forbidden]

    def _apart(self, text):
        """The ids of a text, of each character of its marks alone."""
        parts, end = [], 0
        for found in self._marks.finditer(text):
            parts += [text[end : found.start()], *found.group()]
            end = found.end()
        rows = self._tokenize([part for part in (*parts, text[end:]) if part] or [""])
        return [number for row in rows for number in row]


@functools.lru_cache(maxsize=4)  # it takes a moment for a large vocabulary
def marks(tokenizer) -> dict[int, str]:
    """Id → text of the tokens that are more than their letters: control tokens, and marks such as a turn's."""
    if isinstance(tokenizer, keras_hub.tokenizers.SentencePieceTokenizer):
        pieces = sentencepiece_model.ModelProto.FromString(tokenizer.proto).pieces
        rules = [_MARK if x.type == x.USER_DEFINED else MARK for x in pieces]
        found = [x.type == x.CONTROL or rule.fullmatch(x.piece.strip()) for x, rule in zip(pieces, rules, strict=True)]
        return {i: x.piece for i, x in enumerate(pieces) if found[i]}
    known = {*(tokenizer.unsplittable_tokens or ()), *filter(MARK.fullmatch, tokenizer.vocabulary)}
    numbers = {piece: token_id(tokenizer, piece) for piece in known}
    return {number: piece for piece, number in numbers.items() if number is not None}
