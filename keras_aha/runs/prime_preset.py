"""`prime_preset`: a recipe's model, primed on its task's worked solutions and saved as a new preset."""

import os
import random

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.distribution.folder_lock import FolderLock
from keras_aha.files import local_path, whole_folder
from keras_aha.models.presets import load_tokenizer
from keras_aha.models.special_tokens import turn_end_id
from keras_aha.models.tiny_gemma import tiny_gemma, tiny_tokenizer
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import in_section
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.build_task import build_priming_task
from keras_aha.runs.check_folder import check_new_folder
from keras_aha.runs.check_marks import check_marks
from keras_aha.runs.experiment import build_evaluation, summarize_held_out
from keras_aha.tasks import Task
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.priming import prime

import keras
import keras_hub
import pandas as pd


def prime_preset(recipe: Recipe, out: str | os.PathLike, *, new: bool = False) -> dict:
    """Primes the model of a recipe as `[priming]` says, and saves it, with the curve of its loss in `priming.csv`.

    Args:
        recipe: its sections model, task, priming and evaluation count, and lora if `priming.adapters` is set.
        out: the new preset's folder, which must be missing or empty. What stands there is complete.
        new: begin with a tiny Gemma of random weights, and not with the recipe's preset.

    Returns:
        What `summarize_held_out` says of the primed policy.

    Raises:
        RecipeError, ValueError: something cannot be used: a task without worked solutions, adapters that are missing
            or cannot be merged, a folder that is in use; before weights are loaded.
        OSError: files cannot be written.
    """
    out = local_path(out, "out")
    check_new_folder(out, "out")
    with FolderLock(out, "out") as lock:
        model, history, held_out = _prime(recipe, new)
        with whole_folder(out) as made:
            model.policy.save_to_preset(str(made))
            epochs = pd.RangeIndex(1, len(history.epoch) + 1, name="epoch")
            pd.DataFrame(history.history, index=epochs).to_csv(made / "priming.csv")
            lock.release()  # and its file, so that the folder is empty
    return summarize_held_out(held_out.evaluate(model), held_out.evaluate(model, greedy=True))


def _prime(recipe: Recipe, new: bool) -> tuple[GRPOModel, keras.callbacks.History, EvaluateCallback]:
    priming = recipe.priming
    _check_adapters(recipe, new)
    mixture = build_priming_task(recipe)
    keys = [f"priming.tasks[{i}].habits" for i in range(len(priming.tasks))]
    keys = keys or [f"tasks[{i}].habits" for i in range(len(recipe.tasks))] or ["priming.habits"]
    for key, task, habits in zip(keys, mixture.tasks, mixture.habits, strict=True):
        _check_habits(key, task, habits)
    held_out = build_evaluation(recipe)
    with in_section("model"):
        tokenizer = tiny_tokenizer() if new else load_tokenizer(recipe.model.preset)
    for task in mixture.tasks:
        check_marks(tokenizer, task)
    turn_end_id(tokenizer, priming.stop_token)
    keras.utils.set_random_seed(priming.seed)  # nothing random between here and the first weights
    model = GRPOModel(tiny_gemma() if new else build_policy(recipe, priming.adapters))
    return model, imitate(recipe, model.policy), held_out


def imitate(recipe: Recipe, policy: keras_hub.models.CausalLM, **changes) -> keras.callbacks.History:
    """Primes `policy` in place as `[priming]` says; `changes` are keyword arguments of `prime`."""
    names = "steps", "batch_size", "learning_rate", "stop_token", "seed"
    settings = {name: getattr(recipe.priming, name) for name in names}
    return prime(policy, build_priming_task(recipe), **settings | changes)


def _check_adapters(recipe: Recipe, new: bool) -> None:
    """Raises ValueError if adapters are to be trained and there are none, or none that can be merged."""
    rank, quantization = recipe.lora.rank, recipe.model.quantization
    if recipe.priming.adapters and (new or not rank or quantization):
        raise ValueError(
            "priming.adapters trains those of [lora] and merges them into a preset's float weights: leave it or `new` "
            f'out, or set lora.rank and model.quantization="none". Received: lora.rank={rank}, '
            f"model.quantization={quantization!r}, new={new}"
        )


def _check_habits(key: str, task: Task, habits: dict) -> None:
    """Raises ValueError if the task has no worked solutions, or not with these habits."""
    try:
        task.worked_solution(task.problem(0), random.Random(0), **habits)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"The task's worked solutions: {error}. Received: {key}={habits}") from error
