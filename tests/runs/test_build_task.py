import json
import random
from pathlib import Path

from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.models.presets import load_tokenizer
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import RecipeError
from keras_aha.runs.build_rewards import build_rewards
from keras_aha.runs.build_task import build_held_out, build_priming_task, build_task, task_files
from keras_aha.runs.conditions import conditions
from keras_aha.runs.experiment import with_absolute_paths
from keras_aha.runs.prime_preset import prime_preset
from keras_aha.tasks import Countdown, Multiplication, Signs
from keras_aha.training.ask import TaskError

import pytest

RECIPE = Recipe.load("countdown_tiny")
OWN_TASK = """
from keras_aha.tasks import DrawnTask, Score

class Doubling(DrawnTask):
    def __init__(self, most=50):
        super().__init__()
        self.most = most

    def draw(self, rng):
        return rng.randrange(self.most)

    def prompt(self, problem):
        return f"{problem}+{problem}=?"

    def score(self, problem, completion):
        return Score(1.0, True, "correct")

class NoTask:
    pass
"""


def test_ours():
    assert isinstance(build_task(RECIPE), Countdown)
    assert RECIPE.override("task.name=countdown") == RECIPE
    other = RECIPE.override("task.name=multiplication")  # which begins with no arguments
    assert other.task.arguments == {} and other.priming.habits == {}
    task = build_task(RECIPE.override(["task.digits=[1, 2]", "task.name=multiplication"]), seed=4)
    assert isinstance(task, Multiplication) and (task.digits, task.seed, task.template) == ((1, 2), 4, "plain")


def test_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "doubling_task.py").write_text(OWN_TASK)
    recipe = RECIPE.override("task.name=doubling_task:Doubling")
    with pytest.raises(RecipeError, match="cannot be imported: ModuleNotFoundError: .* 'doubling_task'. Is its folder"):
        build_task(recipe)
    monkeypatch.syspath_prepend(tmp_path)
    task = build_task(recipe.override("task.most=40"), seed=4)
    assert task.seed == 0  # as it takes none
    held_out = {task.held_out(2).problem(i) for i in range(2)}
    assert all(task.problem(i) < 40 and task.problem(i) not in held_out for i in range(50))
    with pytest.raises(RecipeError, match="has no task 'Dubling'; the nearest is doubling_task:Doubling. Received"):
        build_task(RECIPE.override("task.name=doubling_task:Dubling"))
    for name in ("doubling_task:NoTask", "doubling_task:Missing", "doubling_task:DrawnTask.x", "doubling_task:"):
        with pytest.raises(RecipeError, match="has no task .*Received: task.name="):
            build_task(RECIPE.override(f'task.name="{name}"'))
    for name in ("chess", ":", "a b:C", ".x:C", "os:system"):
        with pytest.raises(RecipeError, match="Received: task.name="):
            build_task(RECIPE.override(f'task.name="{name}"'))
    with pytest.raises(RecipeError, match="Unknown key task.moist; the nearest is task.most."):
        build_task(recipe.override("task.moist=9"))
    with pytest.raises(RecipeError, match="DrawnTask cannot be made of the section's keys: Can't instantiate"):
        build_task(RECIPE.override("task.name=doubling_task:DrawnTask"))


def test_what_priming_imitates():
    alone = build_priming_task(RECIPE.override("priming.seed=4"))
    assert [type(task) for task in alone.tasks] == [Countdown] and alone.habits == (RECIPE.priming.habits,)
    assert alone.problem(3).problem == build_task(RECIPE, 4).problem(3)
    tables = '[{name="countdown", max_number=9}, {name="signs", max_number=8, weight=3, habits={straight=true}}]'
    recipe = RECIPE.override(["priming.habits={}", f"priming.tasks={tables}", "priming.seed=4"])
    mixture = build_priming_task(recipe)
    assert [type(task) for task in mixture.tasks] == [Countdown, Signs] and mixture.weights == (1.0, 3.0)
    assert [task.seed for task in mixture.tasks] == [4, 4] and [task.max_number for task in mixture.tasks] == [9, 8]
    assert mixture.habits == ({}, {"straight": True})
    for tables, sentence in (
        ('[{name="chess"}]', r"No task is called 'chess'.*Received: priming.tasks\[0\].name='chess'"),
        ('[{name="signs", max_nmber=3}]', r"Unknown key priming.tasks\[0\].max_nmber; the nearest is "),
        ('[{name="signs", max_number=0}]', r"\[priming.tasks\[0\]\]: max_number must be an integer from 1"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            build_priming_task(recipe.override(f"priming.tasks={tables}"))


MIXED = """tasks=[
    {name="countdown", max_number=9, template="gemma", weight=2},
    {name="signs", label="s", habits={straight=true}}]"""


def test_several_tasks(tmp_path):
    recipe = RECIPE.override(MIXED)
    mixture = build_task(recipe, seed=4)
    assert [type(task) for task in mixture.tasks] == [Countdown, Signs] and mixture.weights == (2.0, 1.0)
    assert mixture.names == ("countdown", "s") and [task.seed for task in mixture.tasks] == [4, 4]
    assert build_priming_task(recipe).habits == ({}, {"straight": True})  # priming imitates what is asked
    held_out = build_held_out(recipe.override("evaluation.puzzles=5"))
    assert [problem.task for problem in held_out.problems] == [0, 1, 0, 1, 0]
    made_with = conditions(recipe, "mixed")
    assert made_with["task"] == "2 countdown(max_number=9) + 1 signs()" and made_with["template"] is None
    for change, sentence in (
        ("tasks[1].name=chess", r"No task is called 'chess'.*Received: tasks\[1\].name='chess'"),
        ("tasks[1].wight=3", r"Unknown key tasks\[1\].wight; the nearest is tasks\[1\].weight. Received: "),
        ("tasks[1].max_number=0", r"\[tasks\[1\]\]: max_number must be an integer from 1"),
        ("tasks[1].max_number=3", r"\[evaluation.puzzles\]: Of the task 's', of which 256 / 2 are needed: `n` must be"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            build_held_out(recipe.override(change))
    with pytest.raises(
        ValueError, match=r"unexpected keyword argument 'hope'. Received: tasks\[1\].habits={'hope': 1}"
    ):
        prime_preset(recipe.override("tasks[1].habits={hope=1}"), tmp_path / "primed", new=True)


def test_files_of_several_tasks():
    files = ['tasks=[{name="rows", file="a", held_out_file="b"}, {name="own:Task", file="c"}]']
    recipe = RECIPE.override([*files, 'priming.tasks=[{name="countdown", puzzles="d.csv"}]'])
    found = {"tasks[0].file": "a", "tasks[0].held_out_file": "b", "priming.tasks[0].puzzles": "d.csv"}
    assert task_files(recipe) == found
    recipe = with_absolute_paths(recipe)
    assert task_files(recipe) == {key: str(Path(path).resolve()) for key, path in found.items()}
    assert recipe.tasks[1].arguments == {"file": "c"}


def test_long_prompts_of_lists_are_left_out(tmp_path):
    rows = [{"prompt": f"{'long ' * 40 * (i % 2)}{i}?", "answer": f"#### {i}"} for i in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    table = f'{{name="rows", file="{tmp_path / "rows.jsonl"}", answer_in="####", template="compact"}}'
    changes = [f'tasks=[{table}, {{name="signs", template="compact"}}]', "evaluation.puzzles=20"]
    recipe = RECIPE.override([*changes, "rollouts.long_prompts=skip"])
    task = build_task(recipe)
    with pytest.warns(
        UserWarning, match="of .* problems to train on are left out: their prompts have more than 32 tok"
    ):
        assert len(task.listed()) == task.tasks[0].problem_count() < 100
    with pytest.warns(UserWarning, match="of the first .* held-out problems are left out"):
        held_out = build_held_out(recipe)
    problems = [task.problem(i).problem for i in task.listed()] + [x.problem for x in held_out.problems if not x.task]
    assert all("long" not in problem.prompt for problem in problems)
    rollouts = RolloutCallback(build_task(recipe.override("rollouts.long_prompts=error")), max_prompt_length=32)
    with pytest.raises(
        TaskError, match=r"[5-9]\d of 1\d\d problems cannot be used: A prompt has "
    ):  # of which some come late
        rollouts.look_at_prompts(load_tokenizer("countdown_tiny"), epochs=1)


def test_none_is_the_argument_that_is_not_there():
    """As tables of keys say; a path it is not."""
    recipe = RECIPE.override("task.puzzles=none")
    assert build_task(recipe).problem(0) == build_task(RECIPE).problem(0)
    assert with_absolute_paths(recipe).task.arguments["puzzles"] == "none"


def test_rewards(tmp_path, monkeypatch):
    (tmp_path / "some_rewards.py").write_text("def brevity(problem, completion):\n    return 0\n\nNUMBER = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = RECIPE.override('rewards=[{name="brief", function="some_rewards:brevity", weight=2}]')
    (name, (function, weight)), *others = build_rewards(recipe, Countdown()).items()
    assert (name, function(1, ""), weight, others) == ("brief", 0, 2.0, [])
    for name, sentence in (
        ("some_rewards:brevty", "has no function 'brevty'; the nearest is some_rewards:brevity. Received: rewards"),
        ("some_rewards:NUMBER", r"has no function 'NUMBER'.*Received: rewards\[0\].function="),
        ("no_such_module:f", r"The module of rewards\[0\].function cannot be imported: ModuleNotFoundError"),
        ("some_rewards", "has no function ''"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build_rewards(recipe.override(f'rewards[0].function="{name}"'), Countdown())


def test_the_recipe_aha_transfer_shows_search_in_signs_and_none_in_countdown():
    """What its experiment stands on; GRPO's prompts for Countdown ask for thinking, which no example of it does."""
    recipe = Recipe.load("aha_transfer")
    mixture, task, right, searched = build_priming_task(recipe), build_task(recipe), [], []
    for mixed in map(mixture.problem, range(2500)):
        text = mixture.worked_solution(mixed, random.Random(str(mixed)))
        counts = count_behaviours(text)
        if isinstance(mixture.tasks[mixed.task], Countdown):
            assert (counts.attempts, counts.verifications, counts.backtracks, counts.slips) == (1, 0, 0, 0)
            assert "yes" not in text and "no" not in text and text.count("\n") == 2
            assert mixture.prompt(mixed) + "<think>\n" == task.prompt(mixed.problem)
            right.append(task.score(mixed.problem, text).correct)
        else:
            assert bool(counts.verifications) == mixture.prompt(mixed).endswith("<think>\n")
            searched.append(counts.backtracks)
    assert len(right) > 1000 and 0.05 < sum(right) / len(right) < 0.3  # right by chance
    assert sum(map(bool, searched)) > 200
