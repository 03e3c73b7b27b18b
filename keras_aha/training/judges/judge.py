"""`Judge`: a model's opinion of completions, as a reward."""

import hashlib
import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from keras_aha.tasks.chat import MARK
from keras_aha.tasks.task import Task
from keras_aha.tasks.template import format_fields
from keras_aha.training.ask import TaskError, ask, ask_problem, ask_prompt, problem_text, shown

import scipy.stats

FIELDS = ("problem", "prompt", "completion", "reference", "other")
# Tokens of chat forms, others of Gemma's, and at the end of a text what may be the beginning of one.
_MARKS = (MARK.pattern, r"<\w+_\w+>", r"<(?:pad|unk|mask|2mass|unused\d+)>", r"\[(?:multimodal|@BOS@)\]")
_MARK = re.compile("|".join([*_MARKS, r"[<\[][^\s<>\[\]]*\Z"]))


class Judge(ABC):
    """Gives completions numbers by a rubric; a reward for `RolloutCallback(rewards={"polite": (judge, 0.5)})`.

    The rubric is a format string with some of these fields:

    | field | what stands there |
    |---|---|
    | `{problem}` | the problem in words, without a template |
    | `{prompt}` | what the policy reads |
    | `{completion}` | what the policy wrote; marks of turns in it get a blank, so that they are read as no tokens |
    | `{reference}` | the task's `reference`, the answer that is expected |
    | `{other}` | another completion of the same prompt, for a judge that compares |

    With `{other}` each completion is compared with the next `opponents` of its group, in a ring, both being first once,
    as judges prefer the first or the second. Its number is then the mean share of its comparisons that it wins.

    What is judged once has the same number as long as the judge lives. A completion that cannot be judged, or whose
    number is not finite, costs itself alone, as any reward that fails, see `Grader`.

    Args:
        task: whose completions are judged; it writes prompts and knows references.
        rubric: see above.
        ranks: whether the numbers become ranks within the completions of a prompt: 0 is the worst, 1 the best, equal
            ones share the mean of their ranks. A scale that a judge does not keep from prompt to prompt counts no more.
        opponents: how many others of its group a completion is compared with on its right, and as many on its left.

    Raises:
        ValueError: for a rubric of other fields, or with the `{reference}` of a task that has none.
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
        if "reference" in self.fields:
            self._reference(ask_problem(task, 0))

    @abstractmethod
    def judge(self, texts: list[str]) -> Sequence[float | Exception]:
        """Returns a number for each of some distinct texts, the filled rubrics; an exception tells why it has none."""

    def __call__(self, problems: Sequence[Any], completions: Sequence[str]) -> list[float | Exception]:
        """Returns B numbers for B completions, those of a prompt in adjacent rows; exceptions for those without one."""
        groups = []
        for _, rows in itertools.groupby(zip(problems, completions, strict=True), key=lambda row: id(row[0])):
            of_problem, of_completions = zip(*rows, strict=True)
            groups.append((of_problem[0], of_completions))
        numbers = self._compared(groups) if "other" in self.fields else self._alone(groups)
        return list(itertools.chain.from_iterable(map(_as_ranks, numbers) if self.ranks else numbers))

    def _alone(self, groups) -> list[list]:
        texts = [[self._text(problem, completion) for completion in group] for problem, group in groups]
        known = self._judged(itertools.chain.from_iterable(texts))
        return [[known[text] for text in group] for group in texts]

    def _compared(self, groups) -> list[list]:
        """The mean of what a completion wins of each comparison; one that is alone, or the same text, wins half."""
        games = [
            [(i, j, self._both_ways(problem, group[i], group[j])) for i, j in _ring(len(group), self.opponents)]
            for problem, group in groups
        ]
        known = self._judged(text for played in games for _, _, texts in played for text in texts)
        return [_shares(len(group), played, known) for (_, group), played in zip(groups, games, strict=True)]

    def _both_ways(self, problem, one: str, other: str) -> tuple:
        return () if one == other else (self._text(problem, one, other), self._text(problem, other, one))

    def _judged(self, texts) -> dict:
        """Text → its number, or why it has none, which is asked again the next time; an exception is why itself."""
        texts = dict.fromkeys(texts)
        digests = {x: hashlib.sha256(x.encode("utf-8", "surrogatepass")).digest() for x in texts if isinstance(x, str)}
        new = [text for text, digest in digests.items() if digest not in self._known]
        numbers = dict(zip(new, map(_finite, self.judge(new)), strict=True)) if new else {}
        self._known |= {digests[text]: number for text, number in numbers.items() if not isinstance(number, Exception)}
        known = {text: self._known[digest] for text, digest in digests.items() if text not in numbers}
        return {error: error for error in texts if not isinstance(error, str)} | known | numbers

    def _text(self, problem, completion: str, other: str = "") -> str | TaskError:
        """The filled rubric, or why the task cannot fill it."""
        values = {"completion": without_marks(completion), "other": without_marks(other)}
        try:
            if "prompt" in self.fields or "problem" in self.fields:
                values["prompt"] = ask_prompt(self.task, problem)
                values["problem"] = problem_text(problem, values["prompt"])
            if "reference" in self.fields:
                values["reference"] = self._reference(problem)
        except TaskError as error:
            return error
        return self.rubric.format(**values)

    def _reference(self, problem) -> str:
        answer = ask(self.task, "reference", problem, "a text, or None", str | None)
        if answer is None:
            sentence = "The problem has no reference answer: leave {reference} out of the rubric"
            raise TaskError(f"{sentence}. Received: problem={shown(problem)}")
        return answer


def without_marks(text: str) -> str:
    """A policy's text, in which no mark of any family's turns is left that a tokenizer would read as one token."""
    return _MARK.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)


def check_answers(answers: Mapping[str, float], compares: bool = False) -> None:
    """Raises ValueError unless two answers or more have each a finite number, in [0, 1] if the judge `compares`."""
    numbers = list(answers.values()) if isinstance(answers, Mapping) else []
    are_numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in numbers)
    if len(numbers) < 2 or not are_numbers or {*map(type, answers)} != {str}:
        raise ValueError(
            "`answers` must be a table of two texts or more, each with its number, such as {Yes = 1, No = 0}. "
            f"Received: answers={answers!r}"
        )
    if compares and not all(0 <= x <= 1 for x in numbers):
        raise ValueError(
            "`answers` of a judge that compares, by {other} in its rubric, must have numbers in [0, 1], what the first "
            f"completion wins. Received: answers={answers!r}"
        )


def _fields(rubric: str) -> set[str]:
    fields = format_fields(rubric) or set()
    if "completion" not in fields or not fields <= {*FIELDS}:
        raise ValueError(
            "`rubric` must be a format string with the field {completion}, and of others only "
            f"{', '.join(f'{{{field}}}' for field in FIELDS if field != 'completion')}; other braces are doubled. "
            f"Received: rubric={rubric!r}"
        )
    return fields


def _ring(count: int, opponents: int) -> list[tuple[int, int]]:
    """The pairs of a group in which each meets the next `opponents`, the first after the last; each pair once."""
    steps = range(1, min(opponents, count - 1) + 1)
    return sorted({tuple(sorted((i, (i + step) % count))) for i in range(count) for step in steps})


def _shares(count: int, played, known) -> list:
    """What each of a group has won, of pairs with the two texts in which one or the other is first."""
    won = [[] for _ in range(count)]
    for i, j, texts in played:
        numbers = [known[text] for text in texts]
        failures = [number for number in numbers if isinstance(number, Exception)]
        share = failures[0] if failures else (numbers[0] + 1 - numbers[1]) / 2 if numbers else 0.5
        won[i].append(share)
        won[j].append(share if failures else 1 - share)
    return [_mean_of_known(shares) for shares in won]


def _mean_of_known(shares: list) -> float | Exception:
    known = [share for share in shares if not isinstance(share, Exception)]
    return sum(known) / len(known) if known else shares[0] if shares else 0.5


def _finite(number) -> float | Exception:
    if isinstance(number, Exception) or math.isfinite(number):
        return number if isinstance(number, Exception) else float(number)
    return ValueError(f"The judge's number must be finite. Received: {number}")


def _as_ranks(numbers: list) -> list:
    """0 for the lowest to 1 for the highest number; equal ones share, exceptions stay, and one alone has 0.5."""
    known = [number for number in numbers if not isinstance(number, Exception)]
    if len(known) < 2:
        return [number if isinstance(number, Exception) else 0.5 for number in numbers]
    ranks = iter((scipy.stats.rankdata(known) - 1) / (len(known) - 1))
    return [number if isinstance(number, Exception) else float(next(ranks)) for number in numbers]
