"""Number game: guess a number of which each answer says whether it is higher or lower, in several turns."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from keras_aha.tasks.chat import CHAT_FORMS, write_chat
from keras_aha.tasks.drawn_task import DrawnTask
from keras_aha.tasks.held_out_split import is_held_out
from keras_aha.tasks.task import Score
from keras_aha.tasks.template import resolve_template
from keras_aha.tasks.turn import Observation, Turn

_RULE = (
    "I think of a whole number from {low} to {high}. Guess it in as few guesses as you can. After each guess I say "
    "whether my number is higher or lower. Write your guess alone on the last line, for example 42."
)
_CHATS = {name: write_chat([{"role": "user", "content": _RULE}], name) for name in CHAT_FORMS}
TEMPLATES = {name: "".join(piece.text for piece in pieces) for name, pieces in _CHATS.items()}
TEMPLATES |= {"plain": _RULE + "\nGuess: ", "compact": "{low}-{high}?\n"}


@dataclass(frozen=True)
class NumberGameProblem:
    """A hidden number, and the range that the prompt says it is in."""

    low: int
    high: int
    number: int

    def __str__(self) -> str:
        return f"{self.number} in {self.low}-{self.high}"


class NumberGame(DrawnTask):
    """Guess a number; each answer says "higher" or "lower". A turn is a guess: halving the range finds it soonest.

    A range is at least half as wide as the widest. A quarter of all ranges is held out, with all their numbers.

    Args:
        max_number: numbers and ranges lie between 1 and this, which is at least 8.
        max_turns: guesses after which the game is lost.
        turn_cost: what each guess after the first takes from the reward, which begins at 1.
        seed: any integer; it changes the order of the problems, never which ranges are held out.
        template: how prompts and answers are written: `"plain"`, `"compact"` (`>` is higher, `<` lower, `?` no guess),
            a chat form, whose answers are turns of the user, or a format string with the fields `{low}` and `{high}`,
            whose answers are as in `"plain"`.

    Raises:
        ValueError: if an argument is out of range or the template unknown.
    """

    def __init__(
        self, max_number: int = 64, max_turns: int = 10, turn_cost: float = 0.05, seed: int = 0, template: str = "plain"
    ):
        for name, value, least in (("max_number", max_number, 8), ("max_turns", max_turns, 1)):
            if not isinstance(value, int) or not least <= value <= 10**6:
                raise ValueError(f"`{name}` must be an integer from {least} to a million. Received: {name}={value!r}")
        if not 0 <= turn_cost * (max_turns - 1) <= 1:
            rule = "`turn_cost` must be from 0 to 1 / (max_turns - 1), as no reward may be below 0"
            raise ValueError(f"{rule}. Received: turn_cost={turn_cost!r}, max_turns={max_turns}")
        super().__init__(seed)
        self.max_number, self.turn_cost, self.template = max_number, turn_cost, template
        self._max_turns = max_turns
        self._format_string = resolve_template(template, TEMPLATES, {"low": 1, "high": 64})
        self._before, self._after, self._end = "", "\n" if template == "compact" else "\nGuess: ", "\n"
        if chat := CHAT_FORMS.get(template):
            self._before = chat.after + chat.before.format("user")
            self._after, self._end = chat.end + chat.after + chat.before.format(chat.assistant), ""

    @property
    def max_turns(self) -> int:
        return self._max_turns

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """A line break; none in a chat form, in which a token ends the policy's turn."""
        return (self._end,) if self._end else ()

    def draw(self, rng: random.Random) -> NumberGameProblem:
        width = rng.randint((self.max_number + 1) // 2, self.max_number)
        low = rng.randint(1, self.max_number - width + 1)
        return NumberGameProblem(low, low + width - 1, rng.randrange(low, low + width))

    def is_held_out(self, problem: NumberGameProblem) -> bool:
        """Returns whether the range, which is all that the prompt shows, is in the quarter that is never trained on."""
        return is_held_out("number_game", problem.low, problem.high)

    def prompt(self, problem: NumberGameProblem) -> str:
        return self._format_string.format(low=problem.low, high=problem.high)

    def respond(self, problem: NumberGameProblem, turns: Sequence[Turn]) -> Observation | None:
        """Returns where the number is, or what a guess must be, which costs a turn, too; `None` if it is found."""
        guess = _read_guess(problem, turns[-1].text)
        if guess == problem.number:
            return None
        sign = "?" if guess is None else ">" if guess < problem.number else "<"
        words = {"?": f"A guess is a number from {problem.low} to {problem.high}.", ">": "Higher.", "<": "Lower."}
        text = sign if self.template == "compact" else words[sign]
        return Observation(text, self._before, self._after, is_error=guess is None)

    def score_turns(self, problem: NumberGameProblem, turns: Sequence[Turn]) -> Score:
        """Scores guesses, the last line of each turn: 1.0 less `turn_cost` for each before the number, 0.0 without it.

        Verdicts: `no_answer` if no turn is a number in the range, `not_found`, `found`.
        """
        guesses = [_read_guess(problem, turn.text) for turn in turns[: self.max_turns]]
        if problem.number in guesses:
            return Score(1.0 - self.turn_cost * guesses.index(problem.number), True, "found")
        return Score(0.0, False, "no_answer" if set(guesses) <= {None} else "not_found")

    def score(self, problem: NumberGameProblem, completion: str) -> Score:
        """Scores a text in which each line that is not blank is a turn."""
        return self.score_turns(problem, [Turn(line) for line in completion.split("\n") if line.strip()])

    def reference(self, problem: NumberGameProblem) -> str:
        return str(problem.number)

    def worked_turns(
        self, problem: NumberGameProblem, rng: random.Random, *, guess_rate: float = 0.0, middle_rate: float = 1.0
    ) -> list[Turn]:
        """Returns a game that halves what is left of the range at each guess.

        Args:
            guess_rate: probability that all guesses of a game are any numbers of the range, whatever is answered.
            middle_rate: probability, in other games, that a guess is the middle of what is left; else it is any number
                of that.
        """
        turns, low, high, heeds = [], problem.low, problem.high, rng.random() >= guess_rate
        while True:
            guess = (low + high) // 2 if heeds and rng.random() < middle_rate else rng.randint(low, high)
            turns.append(Turn(f"{guess}{self._end}"))
            observation = self.respond(problem, turns)
            if observation is None or len(turns) == self.max_turns:
                return turns
            turns[-1] = Turn(turns[-1].text, observation)
            if heeds:
                low, high = (guess + 1, high) if guess < problem.number else (low, guess - 1)


def _read_guess(problem: NumberGameProblem, text: str) -> int | None:
    """The number on the last line, if it is in the range."""
    line = text.rstrip().rpartition("\n")[2].strip()
    guess = int(line) if re.fullmatch("[0-9]{1,7}", line) else None
    return guess if guess is not None and problem.low <= guess <= problem.high else None
