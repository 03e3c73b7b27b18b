"""Draws accuracy and completion length of finished runs, one colour a run."""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of scripts/fit.py")
    parser.add_argument("--out", type=Path, required=True, help="the picture, a PNG file")
    args = parser.parse_args()

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for color, run in zip(plt.cm.tab10.colors, args.runs, strict=False):
        history = pd.read_csv(run / "history.csv")
        summary = json.loads((run / "summary.json").read_text())
        held_out = history.dropna(subset="val_accuracy")
        epochs = [0, *held_out["epoch"]]
        left.plot(history["epoch"], history["accuracy"], color=color, alpha=0.3, linewidth=1)
        accuracies = [summary["heldout_before"]["accuracy"], *held_out["val_accuracy"]]
        left.plot(epochs, accuracies, "o-", color=color, markersize=4, label=run.name)
        right.plot(history["epoch"], history["completion_length"], color=color, linewidth=1)
    left.set(xlabel="epoch (one rollout, one update)", ylabel="accuracy", ylim=(0, 1), title="Solved puzzles")
    figure.legend(title="dots: held-out\nthin: training", frameon=False, loc="outside right upper")
    right.set(xlabel="epoch", ylabel="tokens", ylim=(0, None), title="Completion length")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(args.out, dpi=130)


if __name__ == "__main__":
    main()
