"""`Experiment`: everything that a recipe describes, as live objects."""

import dataclasses
import json
import os
import warnings
from pathlib import Path

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.distribution.distribute import check_batch, distribute
from keras_aha.distribution.gemma_parallel import GEMMAS, GemmaParallel
from keras_aha.evaluation.tables import summarize
from keras_aha.losses import GRPOLoss
from keras_aha.models import lora
from keras_aha.models.lora import ADAPTERS
from keras_aha.models.presets import load_tokenizer
from keras_aha.models.special_tokens import prompt_ids, stop_token_ids
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import RecipeError
from keras_aha.runs.build_optimizer import build_optimizer
from keras_aha.runs.build_policy import build_policy, check_base, with_absolute_preset
from keras_aha.runs.build_task import build_held_out, build_task, with_absolute_files
from keras_aha.runs.check_files import PRESET
from keras_aha.runs.in_section import in_section
from keras_aha.runs.machine import unused_accelerator
from keras_aha.runs.saved_policy import checkpoints, find_epoch, load_epoch
from keras_aha.tasks import Task
from keras_aha.training.grpo_model import GRPOModel

import keras
import keras_hub
import pandas as pd

_PROMPTS_CHECKED = 2000


class Experiment:
    """Everything that a recipe describes, built and checked; nothing is written, which a `Run` does.

    Args:
        recipe: a `Recipe`.

    Attributes:
        recipe: what was passed, with absolute paths.
        task: the training problems, ordered by the training seed unless `[task]` has a seed of its own.
        distribution: the `GemmaParallel` that was set, `None` on one device.
        model: a compiled `GRPOModel`.
        rollouts, evaluation: its `RolloutCallback`, and the `EvaluateCallback` on the held-out problems, which are the
            same ones for every training seed.

    Raises:
        RecipeError, ValueError: one sentence about what cannot be used; what is cheap to check is checked before
            weights are loaded.
    """

    def __init__(self, recipe: Recipe):
        training, rollouts = recipe.training, recipe.rollouts
        if unused := unused_accelerator():
            warnings.warn(unused, stacklevel=2)
        self.task = build_task(recipe, training.seed)
        self.evaluation = build_evaluation(recipe)
        with in_section("loss"):
            loss = GRPOLoss(**dataclasses.asdict(recipe.loss))
        with in_section("rollouts"):
            self.rollouts = RolloutCallback(self.task, seed=training.seed, **dataclasses.asdict(rollouts))
        check_base(recipe)
        self.recipe = with_absolute_paths(recipe)
        self.distribution = distribute_as(self.recipe)
        with in_section("training"):
            check_batch(rollouts.prompts_per_epoch, rollouts.group_size, training.micro_batch_size)
        optimizer = build_optimizer(recipe.optimizer, training.epochs * rollouts.updates_per_rollout)  # has variables
        _check_tokens(self.recipe, [self.task, self.evaluation.task])
        keras.utils.set_random_seed(training.seed)  # the adapters' first values are random
        self.model = GRPOModel(build_policy(self.recipe), training.micro_batch_size, training.completion_lengths)
        self.model.compile(optimizer, loss)

    def evaluate(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Completes the held-out problems with the current weights: tables of sampled and of greedy completions."""
        return self.evaluation.evaluate(self.model), self.evaluation.evaluate(self.model, greedy=True)


def distribute_as(recipe: Recipe) -> GemmaParallel | None:
    """Calls `distribute` by `[distribution]`, before any variable is made; ValueError if devices cannot lie so."""
    model = recipe.model
    with in_section("distribution"):
        return distribute(**dataclasses.asdict(recipe.distribution), preset=model.preset, dtype=model.dtype)


def build_evaluation(recipe: Recipe, seed: int = 0) -> EvaluateCallback:
    """The `EvaluateCallback` of `[evaluation]` at temperature 1, with lengths and stop tokens of `[rollouts]`.

    It raises RecipeError for what `build_held_out` does.
    """
    evaluation, rollouts = recipe.evaluation, recipe.rollouts
    shared = "max_completion_length", "stop_tokens", "stop_strings", "reward_seconds", "on_reward_error"
    settings = {name: getattr(rollouts, name) for name in shared}
    settings["max_rows"] = rollouts.max_rows or rollouts.prompts_per_epoch * rollouts.group_size
    task, every, samples = build_held_out(recipe), evaluation.every, evaluation.samples
    return EvaluateCallback(task, every=every, samples=samples, seed=seed, **settings)


def load_trained(recipe: Recipe, log_dir: str | os.PathLike, epoch: int | str = "last") -> keras_hub.models.CausalLM:
    """The policy that a run has trained, after an epoch as `find_epoch` takes it: `recipe` is the run's own, `log_dir`
    its folder, which a `Run` wrote.

    Raises:
        RecipeError, ValueError: if that epoch is not saved, or the preset that the run started from is gone.
    """
    number = find_epoch(log_dir, epoch)
    if not checkpoints(log_dir) and not recipe.lora.rank:
        return build_policy(recipe.override(f"model.preset={json.dumps(str(Path(log_dir, PRESET)))}"))
    policy = build_policy(recipe.override("lora.start=none"))
    if checkpoints(log_dir):
        load_epoch(policy, log_dir, number)
    else:
        lora.load_adapters(policy.backbone, Path(log_dir, ADAPTERS))
    return policy


def summarize_held_out(sampled: pd.DataFrame, greedy: pd.DataFrame) -> dict:
    """`evaluation.summarize` of the sampled completions, and `greedy_accuracy`."""
    summary = summarize(sampled)
    return {"accuracy": summary.pop("accuracy"), "greedy_accuracy": float(greedy["correct"].mean()), **summary}


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe as it is written into a run's folder, so that it means the same from anywhere.

    It raises RecipeError for an unknown preset.
    """
    recipe = with_absolute_files(recipe)
    if recipe.lora.start is not None:
        recipe = recipe.override(f"lora.start={json.dumps(str(Path(recipe.lora.start).resolve()))}")
    return with_absolute_preset(recipe)


def _check_tokens(recipe: Recipe, tasks: list[Task]) -> None:
    """Raises RecipeError or ValueError if prompts of the first problems are too long, the vocabulary lacks a stop
    token, or the model cannot be sampled as it should be; no weights are read."""
    limit = recipe.rollouts.max_prompt_length
    tokenizer = load_tokenizer(recipe.model.preset)
    with in_section("rollouts"):
        stop_token_ids(tokenizer, recipe.rollouts.stop_tokens)
    if recipe.rollouts.quantization and not issubclass(tokenizer.backbone_cls, GEMMAS):
        raise RecipeError(
            'Only a Gemma\'s rollouts can be quantized: set rollouts.quantization="none". Received: '
            f"rollouts.quantization={recipe.rollouts.quantization!r}, model.preset={recipe.model.preset!r}"
        )
    training, held_out = tasks
    problems = min(_PROMPTS_CHECKED, recipe.training.epochs * recipe.rollouts.prompts_per_epoch)
    prompts = [training.prompt(training.problem(i)) for i in range(problems)]
    prompts += [held_out.prompt(held_out.problem(i)) for i in range(len(held_out))]
    longest = max(map(len, prompt_ids(tokenizer, prompts)))
    if longest > limit:
        raise RecipeError(
            f"A prompt has {longest} tokens, more than the limit: raise rollouts.max_prompt_length or choose another "
            f"task.template. Received: rollouts.max_prompt_length={limit}"
        )
