"""`Told`: answers to the turns of rows, that a row and its turn decide."""

from keras_aha.decoding import Answers

import numpy as np


class Told(Answers):
    """Answers each turn by 1 to 5 ids that the row and its turn decide, up to three turns; some rows only `late`r."""

    max_length = 5

    def __init__(self, late=0, turns=3, max_turn_length=None):
        self.late, self.most, self.max_turn_length = late, turns, max_turn_length
        self.clock, self.due, self.turns = 0, [], {}

    def ask(self, row, token_ids):
        self.turns.setdefault(row, []).append(token_ids.tolist())
        self.due.append((self.clock + self.late * (row % 3 == 0), row))

    def take(self, wait):
        self.clock = min(when for when, _ in self.due) if wait and self.due else self.clock + 1
        rows = [row for when, row in self.due if when <= self.clock]
        self.due = [(when, row) for when, row in self.due if when > self.clock]
        return {row: self.words(row, len(self.turns[row])) for row in rows}

    def words(self, row, turn):
        return None if turn == self.most else 40 + (np.arange(1 + (row + turn) % 5, dtype="int32") * 7 + row) % 90
