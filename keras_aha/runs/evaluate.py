"""`evaluate`: a run or a preset on held-out puzzles, measured alone, against another one, and with more thinking."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.evaluation import comparison, intervals, tables
from keras_aha.evaluation.at_k import at_k
from keras_aha.models.presets import find_preset, load_tokenizer
from keras_aha.recipes.recipe import RECIPE, Recipe, recipe_of
from keras_aha.recipes.values import assignment
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.check_marks import check_marks
from keras_aha.runs.conditions import conditions
from keras_aha.runs.experiment import build_evaluation, distribute_as, load_trained, summarize_held_out
from keras_aha.runs.in_section import in_section
from keras_aha.runs.saved_policy import find_epoch
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
    on_begin: Callable[[dict], None] = lambda made_with: None,
) -> EvaluationResult:
    """Measures a policy on held-out puzzles: sampled at temperature 1, and greedily.

    Args:
        target: a run's folder, or a preset: its name, handle or folder.
        epoch: if `target` is a run, after which epoch: a number, `"best"` or `"last"`, see `find_epoch`.
        against: another run, after its last epoch, or preset, compared on the same puzzles. It may be the same run.
        recipe: if `target` is a preset, the recipe whose task and lengths to take; `None` is that of its name, wherever
            it lies, see `recipe_of`.
        changes: to the recipes, as `Recipe.override` takes them: `["evaluation.puzzles=512", "evaluation.samples=16"]`.
        seed: of the samples.
        waits: budget forcing (arXiv:2501.19393): thinking that would end goes on up to so many times; 0 is never.
        wait_word: what is written there; `""` lets it just think on.
        on_begin: called with `made_with` when all is checked, before the long work.

    Raises:
        RecipeError, ValueError: a recipe or preset that cannot be used, an epoch that is not saved, two policies with
            other puzzles, or a word that the vocabulary cannot write; before weights are loaded.
    """
    changes, own = list(changes), find_name(target, recipe)
    if epoch != "last" and not is_run(target):
        raise ValueError(f"A preset has no epochs: leave `epoch` out. Received: {str(target)!r}, epoch={epoch!r}")
    asked = [(target, epoch)] if against is None else [(target, epoch), (against, "last")]
    names = [(name, find_epoch(name, which) if is_run(name) else None) for name, which in asked]
    recipes = {names[0]: find_recipe(target, recipe, changes)}
    made_with = {names[0]: conditions(recipes[names[0]], own)}
    if against is not None:  # a preset takes all but the weights from the other
        of_run = is_run(against)
        other = find_recipe(against, changes=changes) if of_run else _of_preset(recipes[names[0]], against)
        recipes[names[1]] = other
        made_with[names[1]] = conditions(other, find_name(against) if of_run else own)
    held_out = {name: build_evaluation(recipe, seed) for name, recipe in recipes.items()}
    _check_puzzles(held_out)
    for name, recipe in recipes.items():
        with in_section("model"):
            tokenizer = load_tokenizer(recipe.model.preset)
        check_marks(tokenizer, held_out[name].task)
        if waits:
            word_to_ids(tokenizer, wait_word)
    distribute_as(recipes[names[0]])
    models = {name: GRPOModel(_load(recipe, *name)) for name, recipe in recipes.items()}
    on_begin(made_with[names[0]])
    return _measure(models, held_out, made_with, seed, waits, wait_word)


def _load(recipe: Recipe, target, epoch: int | None):
    return load_trained(recipe, target, epoch or "last") if is_run(target) else build_policy(recipe)


def is_run(target: str | os.PathLike) -> bool:
    """Whether `target` is a run's folder, and no preset."""
    return os.path.isfile(Path(os.path.expanduser(target), RECIPE))


def find_recipe(target, recipe=None, changes: Iterable[str] = ()) -> Recipe:
    """The recipe of a run; for a preset `recipe`, or its own, with that preset in it. Arguments are those of
    `evaluate`.

    It raises RecipeError or ValueError if there is no such recipe, or one is given for a run, which has its own.
    """
    if is_run(target):
        if recipe is not None:
            raise ValueError(f"A run has its own recipe: leave the other one out. Received: recipe={str(recipe)!r}")
        return Recipe.load(Path(target, RECIPE)).override(changes)
    return _of_preset(Recipe.load(find_name(target, recipe)).override(changes), target)


def find_name(target, recipe=None) -> str:
    """What the recipe of `find_recipe` is called, or the path of its file; errors are the same."""
    if is_run(target):
        return str(Path(target, RECIPE))
    with in_section("model"):
        find_preset(str(target))
    return recipe_of(target) if recipe is None else os.fspath(recipe)


def _of_preset(recipe: Recipe, preset: str | os.PathLike) -> Recipe:
    return recipe.override([assignment("model.preset", str(preset)), "lora.rank=0", "lora.start=none"])


def _check_puzzles(held_out: dict[str, EvaluateCallback]) -> None:
    problems = [[str(x.task.problem(i)) for i in range(len(x.task))] for x in held_out.values()]
    if problems[0] != problems[-1]:
        raise ValueError(
            "Two policies are compared on the same puzzles, and their recipes have others: choose them by `recipe`, or "
            f"by changes to [task] and [evaluation]. Received: {' and '.join(str(name) for name, _ in held_out)}"
        )


def _measure(models, held_out, made_with, seed, waits, wait_word) -> EvaluationResult:
    target, *others = models
    waited = held_out[target].evaluate_waits(models[target], waits, wait_word)
    compiles, start = CompileCounter(), time.perf_counter()
    sampled = next(waited)
    compiles.close()
    seconds, tokens = time.perf_counter() - start, int(sampled["completion_length"].sum())
    speed = {"completions": len(sampled), "tokens": tokens, "seconds": seconds, "compile_seconds": compiles.seconds}
    speed["tokens_per_second"] = tokens / (seconds - compiles.seconds)
    greedy = held_out[target].evaluate(models[target], greedy=True)
    task = held_out[target].task
    puzzles, numbers = _analyse(sampled, greedy, task, list(ask(task, "labels", task.problem(0), "a dictionary", dict)))
    what = {"target": str(target[0]), "epoch": target[1], "seed": seed, "made_with": made_with[target]}
    numbers = what | numbers | {"throughput": speed}
    completions = [_as_rows(sampled, target), _as_rows(greedy, target, greedy=True)]
    for against in others:
        other = held_out[against].evaluate(models[against])
        completions.append(_as_rows(other, against))
        accuracy = tables.summarize(other)["accuracy"]
        what = {"against": str(against[0]), "epoch": against[1], "made_with": made_with[against], "accuracy": accuracy}
        numbers["comparison"] = what | comparison.compare(sampled, other)
    if waits:
        waited = [sampled, *waited]
        completions += [_as_rows(table, target, waits=i) for i, table in enumerate(waited) if i]
        curve = comparison.accuracy_curve(waited).rename_axis("waits").reset_index()
        curve.insert(1, "thought_on", [float(table["thought_on"].mean()) for table in waited])
        numbers["waits"] = {"word": wait_word, "curve": curve.to_dict("records")}
    return EvaluationResult(numbers, puzzles, pd.concat(completions, ignore_index=True))


def _analyse(sampled: pd.DataFrame, greedy: pd.DataFrame, task: Task, labels: list[str]) -> tuple[pd.DataFrame, dict]:
    """One row a puzzle, and the numbers."""
    numbers = summarize_held_out(sampled, greedy)
    samples = numbers["samples"]
    counts = sorted({2**i for i in range(samples.bit_length())} | {samples})  # 1, 2, 4, … and all
    answers = sampled["text"].map(lambda text: ask(task, "answer", text, "a text, or None", str | None))
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


def _as_rows(table: pd.DataFrame, name: tuple, greedy: bool = False, waits: int = 0) -> pd.DataFrame:
    """A table with columns in front that tell it from others."""
    columns = {"target": str(name[0]), "epoch": name[1], "greedy": greedy, "waits": waits, "thought_on": 0}
    columns |= table.to_dict("series")
    return table.assign(**columns)[list(columns)]
