"""A trained policy teaches one that is only primed: six ways to the same accuracy, on the embedded model.

    python scripts/fit.py --recipe countdown_tiny --seed 3 --log-dir runs/teacher
    python benchmarks/distillation.py run --teacher runs/teacher --out runs/distillation --seeds 0 1 2
    python benchmarks/distillation.py draw --out runs/distillation --picture distillation.png

Ways: `grpo`, the default run, without a teacher; `sft`, supervised on the teacher's samples, as many as GRPO has
rollouts; `distill`, the reverse KL to the teacher on the policy's own samples, exact over the vocabulary, and no
reward; `both`, the KL beside the reward; `…-of-4`, groups of 4 completions in place of 16. All train the same
adapters, on the same problems, and are measured on the same held-out puzzles. Seconds are those of sampling and
updates: no evaluation, and in the first epoch no compiling (the second one's time is taken in its place). Prints a
table, and a line of JSON a measurement into `curves.jsonl`.
"""

import argparse
import shutil
import time
from pathlib import Path

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.files import json_lines
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import assignment
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.build_task import build_task
from keras_aha.runs.experiment import Experiment, build_evaluation
from keras_aha.runs.run import Run
from keras_aha.runs.trained_policy import load_trained
from keras_aha.tasks import HeldOut
from keras_aha.tasks.chat import Piece
from keras_aha.training.examples import make_examples
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.priming import prime

import keras
import matplotlib.pyplot as plt
import pandas as pd

ALONE, SMALL = "loss.surrogate_coef=0", "rollouts.group_size=4"
WAYS = {"grpo": [], "distill": [ALONE], "both": [], "sft": [], "grpo-of-4": [SMALL], "distill-of-4": [ALONE, SMALL]}
EVERY = 2  # epochs from one evaluation to the next


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "draw"))
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--teacher", type=Path, help="the folder of a finished run of countdown_tiny")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], help="a change to the recipe of all")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    path = args.out / "curves.jsonl"
    if args.what == "run":
        args.out.mkdir(parents=True, exist_ok=True)
        for seed in args.seeds:
            for way in args.ways:
                rows = measure(way, seed, args)
                with open(path, "ab") as file:
                    file.write(json_lines({"way": way, "seed": seed, **row} for row in rows))
    curves = pd.read_json(path, lines=True)
    print(table(curves).to_string())
    if args.picture:
        draw(curves, args.picture)


def measure(way: str, seed: int, args) -> list[dict]:
    """Accuracy before training and at each evaluation, with completions and seconds up to it."""
    changes = [f"training.seed={seed}", f"evaluation.every={EVERY}", "evaluation.puzzles=128", *WAYS[way], *args.set]
    recipe = Recipe.load("countdown_tiny").override(changes)
    if way == "sft":
        return imitate_teacher(recipe, args.teacher)
    if not way.startswith("grpo"):
        recipe = recipe.override(assignment("teacher.preset", str(args.teacher)))
    log_dir = args.out / f"{way}-seed{seed}"
    shutil.rmtree(log_dir, ignore_errors=True)
    run = Run(Experiment(recipe), log_dir)
    run.fit()
    history = pd.read_csv(log_dir / "history.csv")
    seconds = (history["epoch_seconds"] - history["evaluation_seconds"].fillna(0)).tolist()
    return curve(run.before[0]["correct"].mean(), history, seconds, rows_of(recipe))


def curve(before: float, history: pd.DataFrame, seconds: list[float], rows: int) -> list[dict]:
    seconds[0] = seconds[1]
    total = pd.Series(seconds).cumsum()
    points = [{"completions": 0, "seconds": 0.0, "accuracy": float(before)}]
    for i in history.index[history["val_accuracy"].notna()]:
        epoch = int(history["epoch"][i])
        points.append(
            dict(completions=epoch * rows, seconds=float(total[i]), accuracy=float(history["val_accuracy"][i]))
        )
    return points


def rows_of(recipe: Recipe) -> int:
    return recipe.rollouts.prompts_per_epoch * recipe.rollouts.group_size


def imitate_teacher(recipe: Recipe, teacher: Path) -> list[dict]:
    """Supervised on as many of the teacher's samples, of the same problems, as GRPO has rollouts, in one pass."""
    task, rollouts = build_task(recipe, recipe.training.seed), recipe.rollouts
    epochs, rows = recipe.training.epochs, rows_of(recipe)
    model = GRPOModel(load_trained(Recipe.load(teacher / "recipe.toml"), teacher))
    problems = [task.problem(i) for i in range(epochs * rollouts.prompts_per_epoch)]
    settings = dict(samples=rollouts.group_size, max_completion_length=rollouts.max_completion_length, max_rows=rows)
    sampler = EvaluateCallback(HeldOut(task, problems), **settings)
    EvaluateCallback(HeldOut(task, problems[: rollouts.prompts_per_epoch]), **settings).evaluate(model)  # compiles
    start = time.perf_counter()
    samples = sampler.evaluate(model)
    sampling = (time.perf_counter() - start) / epochs
    print(f"the teacher's samples: {samples['correct'].mean():.1%} right")
    keras.utils.set_random_seed(recipe.training.seed)
    policy = build_policy(recipe)
    texts = [
        [Piece(task.prompt(problems[puzzle]), False), Piece(text, True)]
        for puzzle, text in zip(samples["puzzle"], samples["text"], strict=True)
    ]
    examples = make_examples(policy.preprocessor.tokenizer, texts)
    evaluation, model = build_evaluation(recipe), GRPOModel(policy)
    before = evaluation.evaluate(model)["correct"].mean()
    measuring = _Measuring(evaluation, model)
    steps, batch = 50 * (epochs * rows // 50 // 64), 64  # prime has 50 epochs
    prime(policy, examples, steps=steps, batch_size=batch, learning_rate=1e-3, callbacks=[measuring], verbose=0)
    history = pd.DataFrame(measuring.rows)
    seconds = (history["seconds"] + sampling * epochs / len(history)).tolist()
    return curve(before, history, seconds, steps // 50 * batch)


class _Measuring(keras.callbacks.Callback):
    """Held-out accuracy every few epochs, and the seconds of each without it."""

    def __init__(self, evaluation, policy_model):
        super().__init__()
        self.evaluation, self.policy_model, self.rows = evaluation, policy_model, []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, "seconds": time.perf_counter() - self.start, "val_accuracy": None}
        if (epoch + 1) % 5 == 0:
            row["val_accuracy"] = self.evaluation.evaluate(self.policy_model)["correct"].mean()
        self.rows.append(row)


def table(curves: pd.DataFrame) -> pd.DataFrame:
    """Of each way and seed: accuracy at the end, and the completions and seconds until it first came to 80 %."""
    rows = {}
    for (way, seed), one in curves.groupby(["way", "seed"], sort=False):
        there = one[one["accuracy"] >= 0.8].head(1)
        first = {
            f"{name} to 80 %": there[name].squeeze() if len(there) else None for name in ("completions", "seconds")
        }
        rows[way, seed] = {"before": one["accuracy"].iloc[0], "after": one["accuracy"].iloc[-1], **first}
    return pd.DataFrame(rows).T.round(3)


def draw(curves: pd.DataFrame, path: Path) -> None:
    figure, both = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    colors = dict(zip(WAYS, plt.cm.tab10.colors, strict=False))
    for axes, column in zip(both, ("completions", "seconds"), strict=True):
        for (way, _), one in curves.groupby(["way", "seed"], sort=False):
            axes.plot(one[column], one["accuracy"], "o-", color=colors[way], markersize=3, linewidth=1, label=way)
        axes.set(xlabel=column, ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    both[0].set(ylabel="held-out accuracy")
    lines = dict(zip(*reversed(both[0].get_legend_handles_labels()), strict=True))  # one of each name
    both[1].legend(lines.values(), lines, frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
