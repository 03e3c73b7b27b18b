"""`GymTask`: reasoning-gym's generators as tasks."""

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from keras_aha.names import suggestion
from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.drawn_task import DrawnTask
from keras_aha.tasks.task import Score
from keras_aha.tasks.template import named_templates, resolve_template

TEMPLATES = named_templates(
    "{question}\nThink inside <think> </think> tags, then give only the answer inside <answer> </answer> tags.",
    compact="{question}",
)
VERSION = "0.1.25"  # of reasoning-gym, whose scorers were read for `EVALUATING`; pyproject.toml asks for it
# Generators whose scorers hand text, nearly always the answer, to Python's `eval` or to SymPy's `parse_expr`.
EVALUATING = (
    *("binary_matrix", "bitwise_arithmetic", "countdown", "intermediate_integration", "n_queens", "number_sorting"),
    *("polynomial_multiplication", "puzzle24", "simple_integration", "spiral_matrix", "string_insertion"),
)
_LONGEST = 2000  # characters of an answer
_ENTRIES = 10_000  # that a generator has, some of them the same, unless its `size` says otherwise


@dataclass(frozen=True)
class GymProblem:
    """An entry of a generator: its question, and all that its scorer needs."""

    question: str
    entry: dict[str, Any] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.question


class GymTask(DrawnTask):
    """A generator of reasoning-gym (https://github.com/open-thought/reasoning-gym, arXiv:2505.24760).

    Args:
        dataset: the generator's name, such as `"chain_sum"`.
        config: its own arguments, such as `{"max_terms": 3}`.
        seed: any integer; it changes the order of the problems, never which puzzles are held out.
        template: how a prompt is written: the name of one (see `template.named_templates`), such as `"plain"`, or a
            format string with the field `{question}`.
        partial_credit: give the part of a point that some generators' scorers give for answers that are not right,
            such as those that hold the right one among others. By default only a right answer has a reward.

    Raises:
        ValueError: if reasoning-gym is not installed or not of version `VERSION`, there is no such generator, it does
            not take its arguments, it is one of `EVALUATING`, the template is unknown, or there is nothing to train on.
    """

    def __init__(
        self,
        dataset: str,
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        template: str = "plain",
        partial_credit: bool = False,
    ):
        super().__init__(seed)
        self.dataset = dataset
        self.config = dict(config or {})
        self.template = template
        self.partial_credit = partial_credit
        self._format_string = resolve_template(template, TEMPLATES, {"question": "What?"})
        self._entries = _generator(dataset, {"seed": 0, "size": _ENTRIES} | self.config)
        self.problem(0)  # raises now, not in the middle of a run

    def draw(self, rng: random.Random) -> GymProblem:
        entry = self._entries[rng.randrange(len(self._entries))]
        return GymProblem(entry["question"], entry)

    def canonical(self, problem: GymProblem) -> tuple[str, str]:
        return self.dataset, problem.question

    def prompt(self, problem: GymProblem) -> str:
        return self._format_string.format(question=problem.question)

    def score(self, problem: GymProblem, completion: str) -> Score:
        """Scores the last complete `<answer>…</answer>` of `completion` by the generator's own `score_answer`.

        The reward is 1.0 if that gives a full point, else 0.0, or with `partial_credit` what it gives. Text after the
        answer takes 0.1 away, and so does more than one answer tag (see `answer_tag`). Verdicts, the first that
        applies: `no_answer`, `too_long`, `not_readable` (the scorer failed at it), `wrong_value`, `correct`.
        """
        answer = read_answer(completion)
        if answer.text is None or len(answer.text) > _LONGEST:
            return Score(0.0, False, "no_answer" if answer.text is None else "too_long")
        try:
            points = float(self._entries.score_answer(answer.text.strip(), problem.entry))
        except Exception:  # whatever some scorers raise at texts that they do not expect
            return Score(0.0, False, "not_readable")
        correct = points >= 1.0
        reward = 1.0 if correct else max(points, 0.0) * self.partial_credit
        return Score(max(reward - answer.deduction, 0.0), correct, "correct" if correct else "wrong_value")

    def answer(self, completion: str) -> str | None:
        """Returns the text that `score` reads; `None` if there is none."""
        text = read_answer(completion).text
        return None if text is None else text.strip() or None

    def reference(self, problem: GymProblem) -> str | None:
        """Returns the generator's own answer; `None` if it has only a scorer."""
        answer = problem.entry["answer"]
        return None if answer is None else str(answer)

    def worked_solution(self, problem: GymProblem, rng: random.Random, *, guess_rate: float = 0.0) -> str:
        """Returns the answer of the generator without a thought, because generators write none.

        Args:
            guess_rate: probability of giving the answer to another problem.

        Raises:
            NotImplementedError: if the generator has no answer of its own, only a scorer.
        """
        entry = self.draw(rng).entry if rng.random() < guess_rate else problem.entry
        if entry["answer"] is None:
            raise NotImplementedError(f"{self.dataset} has no worked solutions, so it cannot be used for priming.")
        return f"</think>\n<answer>{entry['answer']}</answer>"


def _generator(name: str, config: dict[str, Any]):
    try:
        version = metadata.version("reasoning-gym")
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        sentence = f'reasoning-gym is not installed: pip install "keras-aha[gym]". Received: dataset={name!r}'
        raise ValueError(sentence) from error
    if version != VERSION:
        raise ValueError(
            f"reasoning-gym must be of version {VERSION}, whose scorers are known not to run a policy's text: "
            f'pip install "keras-aha[gym]". Received: reasoning-gym {version}'
        )
    if name not in DATASETS:
        near = suggestion(name, DATASETS)
        raise ValueError(f"reasoning-gym has no generator of that name{near}. Received: dataset={name!r}")
    if name in EVALUATING:
        raise ValueError(
            "The scorer of this generator hands text to an evaluator, which may run what a policy writes, so it is not "
            f"used. Received: dataset={name!r}"
        )
    kind, config_kind = DATASETS[name]
    known = [key.name for key in dataclasses.fields(config_kind)]
    for key in config:
        if key not in known:
            raise ValueError(f"{name} takes no {key!r}{suggestion(key, known, '{!r}')}. Received: config={config}")
    try:
        return kind(config=config_kind(**config))
    except Exception as error:  # assertions, for the most part
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} does not take its arguments: {reason}. Received: config={config}") from error
