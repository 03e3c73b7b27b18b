"""`Answers`: what a row that has stopped reads before it goes on. Decoding asks for token ids; it knows no text."""

import abc

import numpy as np


class Answers(abc.ABC):
    """Answers the turns of rows.

    Attributes:
        max_length: the most tokens of an answer.
        max_turn_length: tokens after which a turn that has not stopped ends its completion; `None` is no limit but the
            completion's own.
    """

    max_length: int
    max_turn_length: int | None = None

    @abc.abstractmethod
    def ask(self, row: int, token_ids: np.ndarray) -> None:
        """Takes the turn of a row that has stopped: its tokens, the one that ended it included; it must not wait."""

    @abc.abstractmethod
    def take(self, wait: bool) -> dict[int, np.ndarray | None]:
        """Returns the answers that are there, each once: a row → the ids that it reads, or `None`, which ends it.

        Args:
            wait: until there is one at least, as no row can go on without; there is one that was asked for.
        """
