"""Draws accuracy and completion length, or another column of history.csv, of finished runs, one colour a run."""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of scripts/fit.py")
    parser.add_argument("--out", type=Path, required=True, help="the picture, a PNG file")
    parser.add_argument(
        "--column", default="completion_length", help="what to draw on the right (default: %(default)s)"
    )
    parser.add_argument(
        "--by-arm", action="store_true", help="one colour for runs whose names differ in the seed alone"
    )
    args = parser.parse_args()

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    arms = {run: run.name.rpartition("-seed")[0] if args.by_arm else run.name for run in args.runs}
    colors = dict(zip(dict.fromkeys(arms.values()), plt.cm.tab10.colors, strict=False))
    for run, arm in arms.items():
        color = colors[arm]
        history = pd.read_csv(run / "history.csv")
        summary = json.loads((run / "summary.json").read_text())
        held_out = history.dropna(subset="val_accuracy")
        epochs = [0, *held_out["epoch"]]
        left.plot(history["epoch"], history["accuracy"], color=color, alpha=0.3, linewidth=1)
        accuracies = [summary["heldout_before"]["accuracy"], *held_out["val_accuracy"]]
        left.plot(epochs, accuracies, "o-", color=color, markersize=4, label=arm)
        right.plot(history["epoch"], history[args.column], color=color, linewidth=1)
    left.set(xlabel="epoch (one rollout, one update)", ylabel="accuracy", ylim=(0, 1), title="Solved puzzles")
    lines = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))  # one of each name
    figure.legend(
        lines.values(), lines, title="dots: held-out\nthin: training", frameon=False, loc="outside right upper"
    )
    words = args.column.replace("_", " ").capitalize()
    unit = "tokens" if args.column == "completion_length" else "a completion, in training"
    right.set(xlabel="epoch", ylabel=unit, ylim=(0, None), title=words)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(args.out, dpi=130)


if __name__ == "__main__":
    main()
