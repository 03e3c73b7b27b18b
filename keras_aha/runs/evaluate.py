"""`evaluate`: a run or a preset on held-out puzzles, measured alone, against another one, and with more thinking."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from keras_aha.evaluation import comparison, intervals, tables
from keras_aha.evaluation.at_k import at_k
from keras_aha.models.presets import find_preset, load_tokenizer
from keras_aha.recipes.recipe import RECIPE, Recipe, recipe_of
from keras_aha.recipes.values import assignment, in_section
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.build_rewards import Rewards, build_rewards, load_judges
from keras_aha.runs.build_task import build_task
from keras_aha.runs.check_marks import check_marks
from keras_aha.runs.conditions import conditions
from keras_aha.runs.experiment import (
    build_evaluation,
    distribute_as,
    one_of_each,
    summarize_held_out,
)
from keras_aha.runs.saved_policy import find_epoch
from keras_aha.runs.trained_policy import is_run, load_trained
from keras_aha.tasks.mixture import task_of
from keras_aha.tasks.task import Task
from keras_aha.training.ask import ask
from keras_aha.training.budget_forcing import word_to_ids
from keras_aha.training.grpo_model import GRPOModel

import pandas as pd


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What a policy does on held-out puzzles. Rates are shares between 0 and 1, intervals are of 95 % over puzzles.

    Attributes:
        numbers: ready for JSON. `target`, the `epoch` after which a run was measured, `seed`, `made_with` (see
            `conditions`) and what `summarize_held_out` says; `mean_at_k`, `pass_at_k`, `maj_at_k` and their intervals
            `…_ci95`, by k; `by_label`, one record for each combination of the task's labels, if it has any;
            `throughput` of the sampled completions, in tokens and seconds; `comparison` with `against` (see
            `evaluation.compare`); `waits`, with the `curve` of accuracy against tokens.
        puzzles: one row a puzzle: its problem, labels, accuracy, pass@k and maj@k.
        completions: one row a completion, with its text. `target`, `epoch`, `greedy` and `waits` tell what it is of.
    """

    numbers: dict
    puzzles: pd.DataFrame
    completions: pd.DataFrame


def evaluate(
    target: str | os.PathLike,
    *,
    epoch: int | str = "last",
    against: str | os.PathLike | None = None,
    recipe: str | os.PathLike | None = None,
    changes: Iterable[str] = (),
    seed: int = 0,
    waits: int = 0,
    wait_word: str = "Wait",
) -> EvaluationResult:
    """Measures a policy on held-out puzzles: sampled at temperature 1, and greedily.

    Args:
        target: a run's folder, or a preset: its name, handle or folder.
        epoch: if `target` is a run, after which epoch: a number, `"best"` or `"last"`, see `find_epoch`.
        against: another run, after its last epoch, or preset, on the same puzzles and with the same rewards. It may be
            the same run.
        recipe: if `target` is a preset, the recipe whose task and lengths to take; `None` is that of its name, wherever
            it lies, see `recipe_of`.
        changes: to the recipes, as `Recipe.override` takes them: `["evaluation.puzzles=512", "evaluation.samples=16"]`.
        seed: of the samples.
        waits: budget forcing (arXiv:2501.19393): thinking that would end goes on up to so many times; 0 is never.
        wait_word: what is written there; `""` lets it just think on.

    Raises:
        RecipeError, ValueError: a recipe or preset that cannot be used, an epoch that is not saved, two policies with
            other puzzles, or a word that the vocabulary cannot write; before weights are loaded.
    """
    if epoch != "last" and not is_run(target):
        raise ValueError(f"A preset has no epochs: leave `epoch` out. Received: {str(target)!r}, epoch={epoch!r}")
    changes = list(changes)
    found = find_recipe(target, recipe, changes)
    rewards = build_rewards(found[0], build_task(found[0])) if found[0].rewards else {}
    measured = _Measured(target, epoch, *found, seed, rewards)
    both = [measured]
    if against is not None:  # a preset takes all but the weights from the other
        shared = _of_preset(measured.recipe, against), measured.made_with["recipe"]
        found = find_recipe(against, None, changes) if is_run(against) else shared
        both.append(_Measured(against, "last", *found, seed, rewards))
    _check_puzzles(both)
    for x in both:
        with in_section("model"):
            tokenizer = load_tokenizer(x.recipe.model.preset)
        for alone in one_of_each(x.recipe, x.held_out.task):
            check_marks(tokenizer, alone)
        if waits:
            word_to_ids(tokenizer, wait_word)
    distribute_as(measured.recipe)
    load_judges(measured.recipe, rewards)
    for x in both:
        x.load()
    return _measure(both, seed, waits, wait_word)


class _Measured:
    """A policy that is measured; `model` is there once it is loaded."""

    def __init__(self, target, epoch, recipe: Recipe, name: str, seed: int, rewards: Rewards):
        self.target, self.recipe = str(target), recipe
        self.epoch = find_epoch(target, epoch) if is_run(target) else None
        self.made_with, self.held_out = conditions(recipe, name), build_evaluation(recipe, seed, rewards=rewards)

    def load(self):
        run = is_run(self.target)
        policy = load_trained(self.recipe, self.target, self.epoch) if run else build_policy(self.recipe)
        self.model = GRPOModel(policy)

    def rows(self, table: pd.DataFrame, greedy: bool = False, waits: int = 0) -> pd.DataFrame:
        """A table of its completions with columns in front that tell it from others."""
        columns = {"target": self.target, "epoch": self.epoch, "greedy": greedy, "waits": waits, "thought_on": 0}
        columns |= table.to_dict("series")
        return table.assign(**columns)[list(columns)]


def find_recipe(target, recipe, changes: list[str]) -> tuple[Recipe, str]:
    """The recipe of a run; for a preset `recipe`, or its own, with that preset in it. And its name or path."""
    if is_run(target):
        if recipe is not None:
            raise ValueError(f"A run has its own recipe: leave the other one out. Received: recipe={str(recipe)!r}")
        name = str(Path(target, RECIPE))
        return Recipe.load(name).override(changes), name
    with in_section("model"):
        find_preset(str(target))
    name = recipe_of(target) if recipe is None else os.fspath(recipe)
    return _of_preset(Recipe.load(name).override(changes), target), name


def _of_preset(recipe: Recipe, preset: str | os.PathLike) -> Recipe:
    return recipe.override([assignment("model.preset", str(preset)), "lora.rank=0", "lora.start=none"])


def _check_puzzles(both: list[_Measured]) -> None:
    problems = [[str(task.problem(i)) for i in range(len(task))] for task in (x.held_out.task for x in both)]
    if problems[0] != problems[-1]:
        raise ValueError(
            "Two policies are compared on the same puzzles, and their recipes have others: choose them by `recipe`, or "
            f"by changes to [task] and [evaluation]. Received: {' and '.join(x.target for x in both)}"
        )


def _measure(both: list[_Measured], seed, waits, wait_word) -> EvaluationResult:
    measured, *others = both
    held_out, model, task = measured.held_out, measured.model, measured.held_out.task
    waited = held_out.evaluate_waits(model, waits, wait_word) if waits else iter([held_out.evaluate(model)])
    sampled = next(waited)
    drawn = sampled["completion_length"] - sampled.get("observation_tokens", 0)
    (seconds, compiling), tokens = held_out.seconds, int(drawn.sum())
    speed = {"completions": len(sampled), "tokens": tokens, "seconds": seconds, "compile_seconds": compiling}
    speed["tokens_per_second"] = tokens / (seconds - compiling)
    greedy = held_out.evaluate(model, greedy=True)
    puzzles, numbers = _analyse(sampled, greedy, task, list(ask(task, "labels", task.problem(0), "a dictionary", dict)))
    what = {"target": measured.target, "epoch": measured.epoch, "seed": seed, "made_with": measured.made_with}
    numbers = what | numbers | {"throughput": speed}
    completions = [measured.rows(sampled), measured.rows(greedy, greedy=True)]
    for against in others:
        other = against.held_out.evaluate(against.model)
        completions.append(against.rows(other))
        what = {"against": against.target, "epoch": against.epoch, "made_with": against.made_with}
        summary = tables.summarize(other)
        what |= {name: x for name, x in summary.items() if name == "accuracy" or name.startswith("mean_reward_")}
        numbers["comparison"] = what | comparison.compare(sampled, other)
    if waits:
        waited = [sampled, *waited]
        completions += [measured.rows(table, waits=i) for i, table in enumerate(waited) if i]
        curve = comparison.accuracy_curve(waited).rename_axis("waits").reset_index()
        curve.insert(1, "thought_on", [float(table["thought_on"].mean()) for table in waited])
        numbers["waits"] = {"word": wait_word, "curve": curve.to_dict("records")}
    return EvaluationResult(numbers, puzzles, pd.concat(completions, ignore_index=True))


def _analyse(sampled: pd.DataFrame, greedy: pd.DataFrame, task: Task, labels: list[str]) -> tuple[pd.DataFrame, dict]:
    """One row a puzzle, and the numbers."""
    numbers = summarize_held_out(sampled, greedy)
    samples = numbers["samples"]
    counts = sorted({2**i for i in range(samples.bit_length())} | {samples})  # 1, 2, 4, … and all
    asked = [task_of(task, task.problem(puzzle)) for puzzle in sampled["puzzle"]]
    pairs = zip(asked, sampled["text"], strict=True)
    answers = [ask(task, "answer", text, "a text, or None", str | None) for task, text in pairs]
    votes = at_k(sampled.assign(answer=answers), counts)
    puzzles = tables.by_puzzle(sampled, ["problem", *labels]).join(votes)
    numbers["mean_at_k"] = {samples: numbers["accuracy"]}
    for kind in ("pass", "maj"):
        columns = {int(name.partition("@")[2]): votes[name] for name in votes if name.startswith(kind)}
        numbers[f"{kind}_at_k"] = {k: float(column.mean()) for k, column in columns.items()}
        numbers[f"{kind}_at_k_ci95"] = {k: intervals.share_interval(column) for k, column in columns.items()}
    if labels:
        most = [f"{kind}@{max(numbers[f'{kind}_at_k'])}" for kind in ("pass", "maj")]
        table = tables.by_label(sampled, labels).drop(columns="samples")
        means = puzzles.groupby(labels, dropna=False)[most].mean().reset_index()
        numbers["by_label"] = table.merge(means, on=labels).to_dict("records")
    return puzzles, numbers
