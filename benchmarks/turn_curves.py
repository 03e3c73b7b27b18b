"""Three things that a second turn is good for, learned by the embedded model: a game, a calculator, a search.

    python benchmarks/turn_curves.py run --out runs/turns --seeds 0 1 2
    python benchmarks/turn_curves.py run --out runs/turns --curves game --seeds 0 --set training.epochs=15
    python benchmarks/turn_curves.py draw --out runs/turns --picture turns.png

Each policy is primed by its recipe, once for all seeds, and trained by it. Curves: `game`, guess a number; `search`
against `closed-book`, two-hop questions; `calculator` against `no-calculator`, multiplication. Held-out problems are
measured every five epochs. Prints a table, and a line of JSON an epoch into `curves.jsonl`.
"""

import argparse
import random
import shutil
from pathlib import Path

from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import assignment
from keras_aha.runs.build_task import build_held_out
from keras_aha.runs.experiment import Experiment
from keras_aha.runs.prime_preset import prime_preset
from keras_aha.runs.run import Run

import matplotlib.pyplot as plt
import pandas as pd

# A curve's recipe, and changes to it.
CURVES = {
    "game": ("guessing_tiny", ["evaluation.puzzles=128"]),
    "search": ("search_tiny", []),
    "closed-book": ("search_tiny", ["task.closed_book=true"]),
    "calculator": ("multiplication_calculator_tiny", ["evaluation.puzzles=128"]),
    "no-calculator": ("multiplication_tiny", ["evaluation.puzzles=128"]),
}
PANELS = (("game",), ("search", "closed-book"), ("calculator", "no-calculator"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "draw"))
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--curves", nargs="+", default=list(CURVES), choices=CURVES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], help="a change to the recipe of all")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    path = args.out / "curves.jsonl"
    if args.what == "run":
        args.out.mkdir(parents=True, exist_ok=True)
        for seed in args.seeds:
            for name in args.curves:
                rows = pd.DataFrame(measure(name, seed, args)).assign(curve=name, seed=seed)
                rows.to_json(path, orient="records", lines=True, mode="a")
    curves = pd.read_json(path, lines=True)
    print(table(curves).to_string())
    if args.picture:
        draw(curves, args.picture)


def measure(name: str, seed: int, args) -> list[dict]:
    """What is held out, before training and every few epochs, and how many turns rollouts had in between."""
    preset, changes = CURVES[name]
    changes = [*changes, "evaluation.every=5", *args.set]
    recipe = Recipe.load(preset).override(changes)
    primed = args.out / f"primed-{name}"
    if not (primed / "config.json").exists():
        prime_preset(recipe, primed, resume=True)
    recipe = recipe.override([assignment("model.preset", str(primed)), f"training.seed={seed}"])
    log_dir = args.out / f"{name}-seed{seed}"
    shutil.rmtree(log_dir, ignore_errors=True)
    run = Run(Experiment(recipe), log_dir)
    run.fit()
    history = pd.read_csv(log_dir / "history.csv")
    rows = [{"epoch": 0, "accuracy": run.before[0]["correct"].mean(), **means(run.before[0])}]
    for epoch in history.itertuples():
        rows.append(dict(epoch=epoch.epoch, accuracy=epoch.val_accuracy, rollout_turns=getattr(epoch, "turns", 1.0)))
    seconds = history["epoch_seconds"].sum() - history["evaluation_seconds"].sum()
    rows[-1] |= {"seconds": seconds, **means(run.after[0])}
    return rows


def means(table: pd.DataFrame) -> dict:
    """Means a completion of a table of held-out problems."""
    columns = [column for column in ("turns", "tool_calls", "tool_errors", "observation_tokens") if column in table]
    return {column: float(table[column].mean()) for column in columns}


def table(curves: pd.DataFrame) -> pd.DataFrame:
    """Of each curve and seed: held-out accuracy and means a completion, before training and after it."""
    rows = {}
    for key, one in curves.groupby(["curve", "seed"], sort=False):
        measured = one.dropna(subset=["accuracy"]).iloc[[0, -1]].set_axis(["before", "after"])
        columns = [name for name in ("accuracy", "turns", "tool_calls", "tool_errors") if name in one]
        rows[key] = {f"{name} {when}": measured.loc[when, name] for name in columns for when in measured.index}
        rows[key] |= {"epochs": one["epoch"].max(), "seconds": one["seconds"].max()}
    return pd.DataFrame(rows).T.dropna(axis=1, how="all").round(3)


def draw(curves: pd.DataFrame, path: Path) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axes, names in zip(panels, PANELS, strict=True):
        for name, color in zip(names, plt.cm.tab10.colors, strict=False):
            column = "rollout_turns" if name == "game" else "accuracy"
            rollouts = Recipe.load(CURVES[name][0]).rollouts
            for _, one in curves[curves["curve"] == name].groupby("seed"):
                points = one.dropna(subset=[column])
                completions = points["epoch"] * rollouts.prompts_per_epoch * rollouts.group_size
                axes.plot(completions, points[column], ".-", color=color, markersize=4, linewidth=1, label=name)
        axes.set(xlabel="completions")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one of each name
        axes.legend(lines.values(), lines, frameon=False)
    for habits, words in (({}, "halving"), ({"guess_rate": 1.0}, "by chance")):
        turns = mean_turns(Recipe.load(CURVES["game"][0]).override(CURVES["game"][1]), habits)
        panels[0].axhline(turns, color="gray", linewidth=1, linestyle="--")
        panels[0].annotate(f"{words}, {turns:.1f}", (0, turns), (2, 3), textcoords="offset points", color="gray")
    panels[0].set(ylabel="guesses a game, in training", ylim=(3.5, 7.5))
    for axes in panels[1:]:
        axes.set(ylabel="held-out accuracy", ylim=(0, 1))
    figure.savefig(path, dpi=130)


def mean_turns(recipe: Recipe, habits: dict) -> float:
    """Guesses a game of a player who has these habits of priming, a mean over the held-out games."""
    task, count = build_held_out(recipe), recipe.evaluation.puzzles
    rng = random.Random(0)
    games = [task.worked_turns(task.problem(i % count), rng, **habits) for i in range(10 * count)]
    return sum(map(len, games)) / len(games)


if __name__ == "__main__":
    main()
