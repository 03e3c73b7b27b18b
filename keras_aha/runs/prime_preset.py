"""`prime_preset`: a recipe's model, taught by examples and saved as a new preset."""

import os
import random
from pathlib import Path

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.callbacks.flushed_tensorboard import FlushedTensorBoard
from keras_aha.callbacks.history_callback import HistoryCallback
from keras_aha.callbacks.interrupt_callback import InterruptCallback
from keras_aha.callbacks.order import in_order
from keras_aha.callbacks.progress_callback import ProgressCallback
from keras_aha.callbacks.run_folder import HISTORY
from keras_aha.distribution.folder_lock import FolderLock
from keras_aha.files import local_path
from keras_aha.models.presets import load_tokenizer
from keras_aha.models.special_tokens import turn_end_id
from keras_aha.models.tiny_gemma import tiny_gemma, tiny_tokenizer
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import in_section
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.check_marks import check_marks, check_tool_form
from keras_aha.runs.experiment import build_evaluation, summarize_held_out, with_absolute_paths
from keras_aha.runs.priming_examples import build_examples
from keras_aha.runs.priming_folder import begin, check_out, finish
from keras_aha.tasks import Mixture, Task
from keras_aha.training.examples import Example
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.priming import prime

import keras
import keras_hub

_SHOWN = {name: (name, ".4f") for name in ("loss", "val_loss")}


def prime_preset(recipe: Recipe, out: str | os.PathLike, *, new: bool = False, resume: bool = False) -> dict:
    """Primes the model of a recipe as `[priming]` says, and saves it, with the curve of its loss in `priming.csv`.

    Until it is complete, all stands in the folder `priming` of `out`, from which a priming that was stopped goes on,
    to the same numbers. What it began with, and the curves for TensorBoard, stay there.

    Args:
        recipe: its sections model, task, priming and evaluation count, and lora if `priming.adapters` is set.
        out: the new preset's folder, which must be missing or empty, unless `resume` is set. A preset that stands there
            is complete.
        new: begin with a tiny Gemma of random weights, and not with the recipe's preset.
        resume: go on with what was stopped in `out`, if there is something.

    Returns:
        What `summarize_held_out` says of the primed policy.

    Raises:
        RecipeError, ValueError: something cannot be used: a task without worked solutions, rows, adapters that are
            missing or cannot be merged, a folder that is in use or holds something else; before weights are loaded.
        OSError: files cannot be written.
        KeyboardInterrupt: at SIGTERM or SIGINT, after the epoch.
    """
    out = local_path(out, "out")
    _check_adapters(recipe, new)
    recipe = with_absolute_paths(recipe.override("model.preset=countdown_tiny") if new else recipe)
    check_out(out, recipe, new, resume)
    with FolderLock(out, "out"):
        held_out = build_evaluation(recipe)
        examples = _build_examples(recipe, new, held_out.task)
        folder = begin(out, recipe, new, examples[0])
        keras.utils.set_random_seed(recipe.priming.seed)  # nothing random between here and the first weights
        model = GRPOModel(tiny_gemma() if new else build_policy(recipe, recipe.priming.adapters))
        _train(recipe, model.policy, examples, folder)
        finish(out, model.policy)
    return summarize_held_out(held_out.evaluate(model), held_out.evaluate(model, greedy=True))


def _build_examples(recipe: Recipe, new: bool, problems: Task) -> tuple[Task | list[Example], list[Example] | None]:
    """What `build_examples` does, checked; no weights are read."""
    with in_section("model"):
        tokenizer = tiny_tokenizer() if new else load_tokenizer(recipe.model.preset)
    turn_end_id(tokenizer, recipe.priming.stop_token)
    check_tool_form(tokenizer, recipe)
    examples, held_out = build_examples(recipe, tokenizer, problems)
    if isinstance(examples, Mixture):
        keys = [f"priming.tasks[{i}].habits" for i in range(len(recipe.priming.tasks))]
        keys = keys or [f"tasks[{i}].habits" for i in range(len(recipe.tasks))] or ["priming.habits"]
        for key, task, habits in zip(keys, examples.tasks, examples.habits, strict=True):
            _check_habits(key, task, habits)
            check_marks(tokenizer, task)
    return examples, held_out


def _train(recipe: Recipe, policy: keras_hub.models.CausalLM, examples: tuple, folder: Path) -> None:
    """Primes the policy, from what is saved in the folder on; KeyboardInterrupt if a signal ended it early."""
    checkpoints, interrupt = CheckpointCallback(folder, keep=2), InterruptCallback()
    columns = ["epoch", "loss", *(["val_loss"] if examples[1] is not None else [])]
    callbacks = [FlushedTensorBoard(str(folder), write_graph=False), HistoryCallback(folder / HISTORY, columns)]
    callbacks = in_order([*callbacks, ProgressCallback(_SHOWN), checkpoints, interrupt])
    try:
        history = imitate(recipe, policy, examples, restore=checkpoints.restore, callbacks=callbacks, verbose=0)
    finally:
        interrupt.release()
        checkpoints.close()
    if interrupt.signal is not None and history.epoch[-1] + 1 < history.params["epochs"]:
        raise KeyboardInterrupt(interrupt.signal)


def imitate(recipe: Recipe, policy: keras_hub.models.CausalLM, examples: tuple | None = None, **changes):
    """Primes `policy` in place as `[priming]` says, on what `build_examples` made, and returns the `History`; `changes`
    are keyword arguments of `prime`."""
    names = "steps", "batch_size", "learning_rate", "stop_token", "seed"
    settings = {name: getattr(recipe.priming, name) for name in names}
    if examples is None:
        examples = build_examples(recipe, policy.preprocessor.tokenizer, build_evaluation(recipe).task)
    return prime(policy, examples[0], held_out=examples[1], **settings | changes)


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
        task.worked_turns(task.problem(0), random.Random(0), **habits)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"The task's worked solutions: {error}. Received: {key}={habits}") from error
