"""`Judge`: a model's opinion of completions, as a reward."""

import hashlib
import itertools
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from keras_aha.tasks.chat import MARK
from keras_aha.tasks.task import Task
from keras_aha.training.ask import ask, ask_prompt, problem_text

import scipy.stats

FIELDS = ("problem", "prompt", "completion", "reference", "other")


class Judge(ABC):
    """Gives completions numbers by a rubric; a reward for `RolloutCallback(rewards={"polite": (judge, 0.5)})`.

    The rubric is a format string with some of these fields:

    | field | what stands there |
    |---|---|
    | `{problem}` | the problem in words, without a template |
    | `{prompt}` | what the policy reads |
    | `{completion}` | what the policy wrote; marks of turns in it are spelled with a blank, so that they are no tokens |
    | `{reference}` | the task's `reference`, the answer that is expected |
    | `{other}` | another completion of the same prompt, for a judge that compares |

    With `{other}` each completion is compared with the next `opponents` of its group, in a ring, both being first once,
    as judges prefer the first or the second. Its number is then the mean share of its comparisons that it wins.

    What is judged once has the same number as long as the judge lives. A completion that cannot be judged costs itself
    alone, as any reward that fails, see `Grader`.

    Args:
        task: whose completions are judged; it writes prompts and knows references.
        rubric: see above.
        ranks: whether the numbers become ranks within the completions of a prompt: 0 is the worst, 1 the best, equal
            ones share the mean of their ranks. A scale that a judge does not keep from prompt to prompt counts no more.
        opponents: how many others of its group a completion is compared with on its right, and as many on its left.

    Raises:
        ValueError: for a rubric without `{completion}`, with another field, or with `{reference}` of a task that has
            none.
    """

    def __init__(self, task: Task, rubric: str, *, ranks: bool = False, opponents: int = 2):
        self.task = task
        self.rubric = rubric
        self.fields = _fields(rubric)
        self.ranks = ranks
        self.opponents = opponents
        self._known = {}  # digest of a text → its number
        if opponents < 1:
            raise ValueError(f"`opponents` must be 1 or more. Received: opponents={opponents}")
        if "reference" in self.fields and self._reference(task.problem(0)) is None:
            raise ValueError(
                f"The task's problems have no reference answer: leave {{reference}} out. Received: rubric={rubric!r}"
            )

    @abstractmethod
    def judge(self, texts: list[str]) -> Sequence[float | Exception]:
        """Returns a number for each of some distinct texts, the filled rubrics; an exception tells why it has none."""

    def __call__(self, problems: Sequence[Any], completions: Sequence[str]) -> list[float | Exception]:
        """Returns B numbers for B completions, those of a prompt in adjacent rows; exceptions for those without one."""
        rows = itertools.groupby(zip(problems, completions, strict=True), key=lambda row: id(row[0]))
        groups = [(group[0][0], [completion for _, completion in group]) for group in (list(rows) for _, rows in rows)]
        numbers = self._compared(groups) if "other" in self.fields else self._alone(groups)
        return list(itertools.chain.from_iterable(map(_as_ranks, numbers) if self.ranks else numbers))

    def _alone(self, groups) -> list[list]:
        texts = [[self._text(problem, completion) for completion in group] for problem, group in groups]
        known = self._judged(itertools.chain.from_iterable(texts))
        return [[known[text] for text in group] for group in texts]

    def _compared(self, groups) -> list[list]:
        """The mean of what a completion wins of each comparison; one that is alone, or the same text, wins half."""
        games = []  # of each group: (row, other row, text, text the other way round), texts None if both are the same
        for problem, group in groups:
            steps = range(1, min(self.opponents, len(group) - 1) + 1)
            pairs = {tuple(sorted((i, (i + step) % len(group)))) for i in range(len(group)) for step in steps}
            both = [(i, j, (group[i], group[j])) for i, j in sorted(pairs)]
            texts = [
                (i, j, *(() if x == y else (self._text(problem, x, y), self._text(problem, y, x))))
                for i, j, (x, y) in both
            ]
            games.append(texts)
        known = self._judged(text for group in games for _, _, *texts in group for text in texts)
        return [self._won(len(group), played, known) for (_, group), played in zip(groups, games, strict=True)]

    def _won(self, size, played, known) -> list:
        won = [[] for _ in range(size)]
        for i, j, *texts in played:
            numbers = [known[text] for text in texts]
            failures = [number for number in numbers if isinstance(number, Exception)]
            share = failures[0] if failures else (numbers[0] + 1 - numbers[1]) / 2 if numbers else 0.5
            won[i].append(share)
            won[j].append(share if failures else 1 - share)
        return [_mean_of_known(shares) for shares in won]

    def _judged(self, texts) -> dict[str, float | Exception]:
        """Text → its number, or why it has none, which is asked again the next time."""
        digests = {text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts}
        new = [text for text, digest in digests.items() if digest not in self._known]
        numbers = dict(zip(new, self.judge(new), strict=True)) if new else {}
        self._known |= {digests[text]: number for text, number in numbers.items() if not isinstance(number, Exception)}
        return {text: numbers[text] if text in numbers else self._known[digest] for text, digest in digests.items()}

    def _text(self, problem, completion: str, other: str = "") -> str:
        values = {"completion": without_marks(completion), "other": without_marks(other)}
        if "prompt" in self.fields or "problem" in self.fields:
            values["prompt"] = ask_prompt(self.task, problem)
            values["problem"] = problem_text(problem, values["prompt"])
        if "reference" in self.fields:
            values["reference"] = self._reference(problem)
        return self.rubric.format(**values)

    def _reference(self, problem) -> str | None:
        return ask(self.task, "reference", problem, "a text, or None", str | None)


def without_marks(text: str) -> str:
    """A policy's text, in which no mark of any family's turns is left that a tokenizer would read as one token."""
    return MARK.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)


def _fields(rubric: str) -> set[str]:
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(rubric) if field is not None}
    except ValueError:
        fields = set()
    if "completion" not in fields or not fields <= {*FIELDS}:
        raise ValueError(
            "`rubric` must be a format string with the field {completion}, and of others only "
            f"{', '.join(f'{{{field}}}' for field in FIELDS if field != 'completion')}; other braces are doubled. "
            f"Received: rubric={rubric!r}"
        )
    return fields


def _as_ranks(numbers: list) -> list:
    """0 for the lowest to 1 for the highest number, equal ones share; exceptions stay, and one alone is in the middle."""
    known = [number for number in numbers if not isinstance(number, Exception)]
    if len(known) < 2:
        return [number if isinstance(number, Exception) else 0.5 for number in numbers]
    ranks = iter((scipy.stats.rankdata(known) - 1) / (len(known) - 1))
    return [number if isinstance(number, Exception) else float(next(ranks)) for number in numbers]


def _mean_of_known(shares: list) -> float | Exception:
    known = [share for share in shares if not isinstance(share, Exception)]
    return sum(known) / len(known) if known else shares[0] if shares else 0.5


def check_answers(answers: Mapping[str, float]) -> None:
    """Raises ValueError unless two answers or more have each a finite number."""
    numbers = list(answers.values()) if isinstance(answers, Mapping) else []
    if len(numbers) < 2 or not all(isinstance(x, int | float) and abs(x) < float("inf") for x in numbers):
        raise ValueError(
            "`answers` must be a table of two answers or more, each with its number, such as {Yes = 1, No = 0}. "
            f"Received: answers={answers!r}"
        )
