"""`write_examples`: what a policy writes to training problems, as a file of rows that priming imitates."""

import os
from collections.abc import Iterable

from keras_aha.distribution import processes
from keras_aha.files import local_path, write_whole
from keras_aha.models.presets import load_tokenizer
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.build_task import build_task
from keras_aha.runs.check_folder import takes_files
from keras_aha.runs.check_marks import check_marks
from keras_aha.runs.evaluate import find_recipe
from keras_aha.runs.experiment import build_evaluation, distribute_as, one_of_each
from keras_aha.runs.trained_policy import is_run, load_trained
from keras_aha.tasks.held_out import HeldOut
from keras_aha.training.ask import ask_problem, ask_prompt
from keras_aha.training.grpo_model import GRPOModel

import pandas as pd

_COLUMNS = ["prompt", "completion", "reward", "correct", "verdict", "completion_length"]


def write_examples(
    target: str | os.PathLike,
    out: str | os.PathLike,
    *,
    problems: int = 256,
    only_correct: bool = False,
    epoch: int | str = "last",
    recipe: str | os.PathLike | None = None,
    changes: Iterable[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Samples a teacher's completions of training problems, as rows for `[priming] file`.

    What is blank, or did not end by itself, is left out, as priming would teach to end there.

    Args:
        target, epoch, recipe, changes, seed: see `evaluate`; each problem has `evaluation.samples` completions.
        out: the file of JSON lines to write.
        problems: N, to ask the task's training problems 0 to N - 1, or all if there are fewer.
        only_correct: leave out what is not correct.

    Returns:
        The rows: `prompt` as the policy read it, `completion`, `reward`, `correct`, `verdict`, `completion_length`.

    Raises:
        RecipeError, ValueError: see `evaluate`; if `out` is there or cannot be written, or no row is left.
    """
    out = local_path(out, "out")
    if out.exists() or not takes_files(out.parent):
        raise ValueError(f"`out` must be a new file, in a folder that can be written. Received: out={str(out)!r}")
    if problems < 1:
        raise ValueError(f"`problems` must be 1 or more. Received: problems={problems}")
    recipe, _ = find_recipe(target, recipe, list(changes))
    task = build_task(recipe, recipe.training.seed)
    count = min(problems, task.problem_count() or problems)
    task = HeldOut(task, [ask_problem(task, number) for number in range(count)])
    for alone in one_of_each(recipe, task):
        check_marks(load_tokenizer(recipe.model.preset), alone)
    evaluation = build_evaluation(recipe, seed, task)
    distribute_as(recipe)
    policy = load_trained(recipe, target, epoch) if is_run(target) else build_policy(recipe)
    table = evaluation.evaluate(GRPOModel(policy)).rename(columns={"text": "completion"})
    table["prompt"] = [ask_prompt(task, task.problem(number)) for number in table["puzzle"]]
    is_example = table["stopped"] & (table["completion"].str.strip() != "")
    rows = table.loc[is_example & table["correct"] if only_correct else is_example, _COLUMNS]
    if rows.empty:
        received = f"Received: target={str(target)!r}, problems={problems}, only_correct={only_correct}"
        raise ValueError(f"No completion can be an example. {received}")
    if processes.is_first():
        write_whole(out, rows.to_json(orient="records", lines=True, force_ascii=False))
    return rows
