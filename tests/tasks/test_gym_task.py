"""The tests run on reasoning-gym, if it is installed (it needs a C compiler), and on generators of its interface."""

import dataclasses
import random
import sys
import types

from keras_aha.tasks import GymTask
from keras_aha.tasks.gym_task import EVALUATING, VERSION, GymProblem

import pytest

try:
    from reasoning_gym.factory import DATASETS
except ImportError:
    DATASETS = None
needs_gym = pytest.mark.skipif(DATASETS is None, reason='needs pip install -e ".[gym]"')
SUMS = dict(config={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}, template="compact")


@dataclasses.dataclass
class Config:
    seed: int = 0
    size: int = 500
    min_terms: int = 2
    max_terms: int = 6
    min_digits: int = 1
    max_digits: int = 4


class Sums:
    def __init__(self, config):
        assert config.min_terms <= config.max_terms, "min_terms must be <= max_terms"
        self.config = config

    def __len__(self):
        return self.config.size

    def __getitem__(self, index):
        rng = random.Random(self.config.seed + index)
        first, second = (rng.randrange(10**self.config.max_digits) for _ in range(2))
        sign, answer = rng.choice([("+", first + second), ("-", first - second)])
        question = f"State the final answer to the following arithmetic problem: {first} {sign} {second} ="
        return {"question": question, "answer": str(answer)}

    def score_answer(self, answer, entry):
        return 1.0 if answer == entry["answer"] else 0.3 * (entry["answer"] in answer)


class Silent(Sums):
    def __getitem__(self, index):
        return super().__getitem__(index) | {"answer": None}


@pytest.fixture(autouse=True, params=[pytest.param("reasoning_gym", marks=needs_gym), "of its interface"])
def generators(request, monkeypatch, tmp_path):
    if request.param == "of its interface":
        factory = types.ModuleType("reasoning_gym.factory")
        kinds = {"chain_sum": Sums, "graph_color": Silent, "countdown": Sums}
        factory.DATASETS = {name: (kind, Config) for name, kind in kinds.items()}
        monkeypatch.setitem(sys.modules, "reasoning_gym", types.ModuleType("reasoning_gym"))
        monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)
        pretend_installed(VERSION, tmp_path, monkeypatch)


def pretend_installed(version, folder, monkeypatch):
    info = folder / f"reasoning_gym-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: reasoning-gym\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def task(generators):
    return GymTask("chain_sum", **SUMS)


def test_problems_are_the_generators(task):
    problem = task.problem(0)
    assert str(problem).startswith("State the final answer to the following arithmetic problem: ")
    first, sign, second = str(problem).removesuffix(" =").split()[-3:]
    total = int(first) + (int(second) if sign == "+" else -int(second))
    assert problem.entry["answer"] == task.reference(problem) == task.held_out(2).reference(problem) == str(total)
    for answer, words in ((3, "3"), (None, None)):
        assert task.reference(GymProblem("?", {"answer": answer})) == words
    assert task.prompt(problem) == f"{problem}\n<think>\n"
    assert [task.problem(i) for i in range(9)] == [GymTask("chain_sum", **SUMS).problem(i) for i in range(9)]
    assert [task.problem(i) for i in range(9)] != [GymTask("chain_sum", **SUMS, seed=1).problem(i) for i in range(9)]


def test_a_generator_may_have_few_entries():
    task = GymTask("chain_sum", SUMS["config"] | {"size": 40})
    puzzles = {str(task.problem(i)) for i in range(300)}
    assert 20 < len(puzzles) < 40
    with pytest.raises(ValueError, match="there are only"):
        task.held_out(40)


def test_score(task):
    problem = task.problem(0)
    answer = problem.entry["answer"]
    for text, reward, verdict in [
        (f"</think>\n<answer> {answer}\n</answer>", 1.0, "correct"),
        (f"<answer>1</answer><answer>{answer}</answer> Done, I think.", 0.8, "correct"),
        (f"<answer>{answer} or 0</answer>", 0.0, "wrong_value"),
        ("<answer></answer>", 0.0, "wrong_value"),
        (answer, 0.0, "no_answer"),
        (f"<answer>{answer * 2001}</answer>", 0.0, "too_long"),
    ]:
        score = task.score(problem, text)
        assert (score.reward, score.verdict) == (pytest.approx(reward), verdict), text
    assert task.answer(f"<answer> {answer}</answer>") == answer and task.answer("<answer> </answer>") is None


def test_partial_credit_is_asked_for_and_a_scorer_that_fails_costs_the_answer(task, monkeypatch):
    problem = task.problem(0)
    completion = f"<answer>{problem.entry['answer']} or 0</answer>"
    score = GymTask("chain_sum", **SUMS, partial_credit=True).score(problem, completion)
    assert 0 < score.reward < 1 and not score.correct and score.verdict == "wrong_value"
    monkeypatch.setattr(type(task._entries), "score_answer", lambda self, answer, entry: 1 / 0)
    score = task.score(problem, completion)
    assert (score.reward, score.verdict, score.well_formed) == (0.0, "not_readable", False)


def test_worked_solutions(task):
    problem, rng = task.problem(0), random.Random(0)
    assert task.score(problem, task.worked_solution(problem, rng)).correct
    guesses = [task.score(problem, task.worked_solution(problem, rng, guess_rate=0.5)).correct for _ in range(200)]
    assert 80 < sum(guesses) < 120
    with pytest.raises(NotImplementedError, match="graph_color has no worked solutions"):
        graphs = GymTask("graph_color")
        graphs.worked_solution(graphs.problem(0), rng)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(dataset="chainsum"), "of that name; the nearest is chain_sum. Received: dataset='chainsum'"),
        (dict(dataset="chain_sum", config={"max_term": 3}), "takes no 'max_term'; the nearest is 'max_terms'"),
        (dict(dataset="chain_sum", config={"max_terms": 1}), "does not take its arguments: .*Received: config="),
        (dict(dataset="chain_sum", template="none"), "A template is one of"),
        (dict(dataset="countdown"), "which may run what a policy writes, so it is not used"),
    ],
)
def test_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        GymTask(**arguments)


def test_it_is_not_installed_or_of_another_version(monkeypatch, tmp_path):
    (tmp_path / "another").mkdir()
    pretend_installed("0.2", tmp_path / "another", monkeypatch)
    with pytest.raises(ValueError, match=f"must be of version {VERSION}, .* Received: reasoning-gym 0.2"):
        GymTask("chain_sum")
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ValueError, match='is not installed: pip install "keras-aha.gym.".*Received: dataset='):
        GymTask("chain_sum")


# === What is installed ===


@needs_gym
@pytest.mark.parametrize("generators", ["reasoning_gym"], indirect=True)
def test_no_other_scorer_compiles_an_answer():
    compiled, scored = set(), []

    def watch(event, arguments):  # stays for the life of the process, as audit hooks do
        if event == "compile" and scored and b"canary" in str(arguments[0]).encode():
            compiled.add(scored[-1])

    sys.addaudithook(watch)
    for name in set(DATASETS) - {"composite"}:  # which has no entries of its own
        kind, config = DATASETS[name]
        entries = kind(config=config(seed=0, size=50))
        scored.append(name)
        for answer in ("canary", "[canary]", "[[canary]]", '["canary"]', "canary + 1", "(canary)", "{'canary': 1}"):
            try:
                entries.score_answer(answer, entries[0])
            except Exception:  # as many do at such texts
                pass
    scored.clear()
    assert compiled and compiled <= set(EVALUATING) <= set(DATASETS)
    assert set(EVALUATING) - compiled == {"bitwise_arithmetic", "number_sorting"}  # evaluate their own texts only


@needs_gym
@pytest.mark.parametrize("generators", ["reasoning_gym"], indirect=True)
@pytest.mark.parametrize("name", [name for name in DATASETS or () if name.startswith(("c", "p", "s"))])
def test_every_generator_of_some_letters_is_a_task_or_is_refused(name):
    if name in (*EVALUATING, "composite"):
        with pytest.raises(ValueError, match="Received: "):
            GymTask(name, {"size": 200})
        return
    task = GymTask(name, {"size": 200})
    assert len({str(problem) for problem in task.held_out(5).problems}) == 5
    problem = task.problem(3)
    assert "Think inside <think> </think> tags" in task.prompt(problem)
    assert task.score(problem, "<answer>?</answer>").verdict in ("wrong_value", "not_readable")
    if problem.entry["answer"] is not None:
        assert task.score(problem, f"<answer>{problem.entry['answer']}</answer>").correct
