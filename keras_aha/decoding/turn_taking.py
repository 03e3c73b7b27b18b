"""`TurnTaking`: rows that have stopped ask, and go on with what they are answered."""

from keras_aha.decoding.answers import Answers
from keras_aha.decoding.completions import Completions
from keras_aha.decoding.jitted_steps import Turns

import numpy as np


class TurnTaking:
    """The turns of B rows, on the host.

    A row's cache stays where it is while the row waits. What it is answered is put into its completion at once, and
    read by decode steps like those of other rows, in which it draws nothing; so no program is needed for it.

    Args:
        answers: who answers.
        completions: of all rows; observations are written into them.

    Attributes:
        asked: `(B,)` bool, rows that wait for an answer.
    """

    def __init__(self, answers: Answers, completions: Completions):
        self.answers, self.completions = answers, completions
        rows, self._longest = completions.token_ids.shape
        self.asked = np.zeros(rows, bool)
        self._begins = np.zeros(rows, "int32")  # place of the turn's first token
        self._observations = np.full((rows, answers.max_length), -1, "int32")
        self._firsts = np.zeros(rows, "int32")
        self._limits = np.full(rows, self._limit(0), "int32")

    def of(self, rows) -> Turns:
        """What a program takes for these rows."""
        return Turns(self._observations[rows], self._firsts[rows], self._limits[rows])

    def ask(self, rows) -> None:
        """Asks for rows that have stopped."""
        for row in rows.tolist():
            self.asked[row] = True
            turn = self.completions.token_ids[row, self._begins[row] : self.completions.lengths[row]]
            self.answers.ask(row, turn.copy())

    def take(self, wait: bool) -> list[int]:
        """The rows that go on, of those whose answers are there; an answer for which there is no room ends its row."""
        rows = []
        for row, token_ids in self.answers.take(wait).items() if self.asked.any() else ():
            self.asked[row] = False
            begin = int(self.completions.lengths[row])
            if token_ids is None:
                continue
            end = begin + len(token_ids)
            if end >= self._longest:  # not one token could be said after it
                self.completions.stopped[row] = False
                continue
            self.completions.token_ids[row, begin:end] = token_ids
            self.completions.observed[row, begin:end] = True
            self.completions.lengths[row] = self._begins[row] = end
            self._observations[row] = -1
            self._observations[row, : len(token_ids)] = token_ids
            self._firsts[row], self._limits[row] = begin, self._limit(end)
            rows.append(row)
        return rows

    def _limit(self, begin: int) -> int:
        """The length of a completion at which a turn that begins there is cut."""
        return min(self._longest, begin + (self.answers.max_turn_length or self._longest))
