"""`Experiment`: everything that a recipe describes, as live objects."""

import dataclasses
import warnings

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.distribution.distribute import check_batch, distribute
from keras_aha.distribution.gemma_parallel import GEMMAS, GemmaParallel
from keras_aha.evaluation.tables import checked, summarize
from keras_aha.files import local_path, presets_folder
from keras_aha.models.presets import find_preset, load_tokenizer
from keras_aha.models.special_tokens import stop_token_ids
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError, assignment, in_section
from keras_aha.runs.build_optimizer import build_optimizer
from keras_aha.runs.build_policy import build_policy, check_base
from keras_aha.runs.build_rewards import Rewards, build_rewards, is_server, load_judges
from keras_aha.runs.build_task import build_held_out, build_task, task_files
from keras_aha.runs.build_teacher import build_loss, build_teacher, check_teacher
from keras_aha.runs.check_marks import check_marks, check_tool_form
from keras_aha.runs.machine import unused_accelerator
from keras_aha.runs.sources import BASE
from keras_aha.tasks import HeldOut, Task
from keras_aha.training.ask import ask, ask_problem
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.padded_prompts import PaddedPrompts
from keras_aha.training.turn_limits import TurnLimits

import keras
import pandas as pd


class Experiment:
    """Everything that a recipe describes, built and checked; nothing is written, which a `Run` does.

    Args:
        recipe: a `Recipe`.

    Attributes:
        recipe: what was passed, with absolute paths.
        task: the training problems, ordered by the training seed unless `[task]` has a seed of its own.
        distribution: the `GemmaParallel` that was set, `None` on one device.
        model: a compiled `GRPOModel`.
        others: the models beside its policy, frozen, by the keys of the recipe that name them: `teacher.preset`,
            `rewards[0].judge`.
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
        rewards = build_rewards(recipe, self.task)
        self.evaluation = build_evaluation(recipe, rewards=rewards)
        loss = build_loss(recipe)
        with in_section("rollouts"):
            settings = {key: value for key, value in dataclasses.asdict(rollouts).items() if key != "long_prompts"}
            settings["turns"] = turn_limits(recipe)
            self.rollouts = RolloutCallback(self.task, rewards=rewards, seed=training.seed, **settings)
        check_base(recipe)
        self.recipe = with_absolute_paths(recipe)
        check_teacher(self.recipe)
        self.distribution = distribute_as(self.recipe)
        with in_section("training"):
            check_batch(rollouts.prompts_per_epoch, rollouts.group_size, training.micro_batch_size)
        optimizer = build_optimizer(recipe.optimizer, training.epochs * rollouts.updates_per_rollout)  # has variables
        self._check_problems()
        self.others = load_judges(self.recipe, rewards)
        teacher = build_teacher(self.recipe)
        if teacher is not None and teacher.policy is not None:
            self.others["teacher.preset"] = teacher.policy
        # The adapters' first values are random, and the same whether there are other models or not.
        keras.utils.set_random_seed(training.seed)
        sizes = training.micro_batch_size, training.completion_lengths
        self.model = GRPOModel(build_policy(self.recipe), *sizes, teacher=teacher)
        self.model.compile(optimizer, loss)

    def evaluate(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Completes the held-out problems with the current weights: tables of sampled and of greedy completions."""
        return self.evaluation.evaluate(self.model), self.evaluation.evaluate(self.model, greedy=True)

    def _check_problems(self):
        """Raises RecipeError or ValueError if a problem that is known cannot be used, the vocabulary lacks a stop
        token, or the model cannot be sampled as it should be; no weights are read."""
        rollouts, teacher = self.recipe.rollouts, self.recipe.teacher
        tokenizer = load_tokenizer(self.recipe.model.preset)
        with in_section("rollouts"):
            stop_token_ids(tokenizer, rollouts.stop_tokens)
        held_out, section = self.evaluation.task, "task" if self.recipe.task else "tasks"
        check_tool_form(tokenizer, self.recipe)
        with in_section(section):
            for alone in one_of_each(self.recipe, held_out):
                check_marks(tokenizer, alone)
        if rollouts.quantization and not issubclass(tokenizer.backbone_cls, GEMMAS):
            raise RecipeError(
                'Only a Gemma\'s rollouts can be quantized: set rollouts.quantization="none". Received: '
                f"rollouts.quantization={rollouts.quantization!r}, model.preset={self.recipe.model.preset!r}"
            )
        with in_section(section):
            self.rollouts.look_at_prompts(tokenizer, self.recipe.training.epochs, teacher.preset and teacher.hint)
            PaddedPrompts(held_out, rollouts.max_prompt_length).look_at(tokenizer, range(len(held_out)))
            for alone in one_of_each(self.recipe, held_out):
                ask(alone, "labels", alone.problem(0), "a dictionary", dict)
                self.rollouts.grader.try_score(alone.problem(0))


def distribute_as(recipe: Recipe) -> GemmaParallel | None:
    """Calls `distribute` by `[distribution]`, before any variable is made; ValueError if devices cannot lie so."""
    model = recipe.model
    with in_section("distribution"):
        return distribute(**dataclasses.asdict(recipe.distribution), preset=model.preset, dtype=model.dtype)


def one_of_each(recipe: Recipe, held_out: Task) -> list[HeldOut]:
    """A held-out problem of each task, alone; those of a mixture take turns."""
    return [HeldOut(held_out, [ask_problem(held_out, i)]) for i in range(min(len(held_out), len(recipe.asked)))]


def build_evaluation(
    recipe: Recipe, seed: int = 0, task: Task | None = None, rewards: Rewards | None = None
) -> EvaluateCallback:
    """The `EvaluateCallback` of `[evaluation]` at temperature 1, with lengths and stop tokens of `[rollouts]`, which
    also says what `rewards` are, such as `build_rewards` makes; `task` has other problems than the held-out ones."""
    evaluation, rollouts = recipe.evaluation, recipe.rollouts
    shared = "max_completion_length", "stop_tokens", "stop_strings", "reward_seconds", "on_reward_error"
    settings = {name: getattr(rollouts, name) for name in shared}
    settings["turns"] = turn_limits(recipe)
    settings["max_rows"] = rollouts.max_rows or rollouts.prompts_per_epoch * rollouts.group_size
    task = build_held_out(recipe) if task is None else task
    every, samples = evaluation.every, evaluation.samples
    return EvaluateCallback(task, rewards=rewards, every=every, samples=samples, seed=seed, **settings)


def turn_limits(recipe: Recipe) -> TurnLimits:
    """Those of `[turns]`."""
    return TurnLimits(**{field.name: getattr(recipe.turns, field.name) for field in dataclasses.fields(TurnLimits)})


def summarize_held_out(sampled: pd.DataFrame, greedy: pd.DataFrame) -> dict:
    """`evaluation.summarize` of the sampled completions, `greedy_accuracy`, and `is_checked`: whether the task has a
    checker, without which accuracies say nothing."""
    summary = {"is_checked": not checked(sampled).empty} | summarize(sampled)
    return {"accuracy": summary.pop("accuracy"), "greedy_accuracy": float(greedy["correct"].mean()), **summary}


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe as it stands in a run's folder, the same from anywhere; RecipeError for an unknown preset."""
    paths = task_files(recipe)
    if recipe.lora.start is not None:
        paths["lora.start"] = recipe.lora.start
    places = {
        key: [_absolute(path, key) for path in given] if isinstance(given, tuple) else _absolute(given, key)
        for key, given in paths.items()
    }
    for key, preset in _presets(recipe).items():
        if not (presets_folder() / preset).is_dir():  # what comes with keras-aha has its name everywhere
            with in_section(key.partition(".")[0]):
                places[key] = find_preset(preset, key)
    return recipe.override(assignment(key, place) for key, place in places.items())


def _absolute(path: str, key: str) -> str:
    return str(local_path(path, key).resolve())


def _presets(recipe: Recipe) -> dict[str, str]:
    """Key of the recipe → a preset, or the folder of one or of a run, that it names."""
    judges = {f"rewards[{i}].judge": reward.judge for i, reward in enumerate(recipe.rewards)}
    presets = {key: judge for key, judge in judges.items() if judge is not None and not is_server(judge)}
    if recipe.teacher.preset not in (None, "self"):
        presets["teacher.preset"] = recipe.teacher.preset
    return {BASE: recipe.model.preset} | presets
