"""The control of a run: the same minutes of further priming instead of GRPO, from the same preset.

    python benchmarks/priming_control.py runs/countdown_tiny-seed0

Prints one JSON line with held-out accuracy of the start, of the control and of the run, on the same puzzles.
"""

import argparse
import json
import time
from pathlib import Path

from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.experiment import build_evaluation, summarize_held_out
from keras_aha.runs.prime_preset import imitate
from keras_aha.training.grpo_model import GRPOModel

import keras
import pandas as pd


class StopAfter(keras.callbacks.Callback):
    """Ends priming when `seconds` have passed since it began."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def on_train_begin(self, logs=None):
        self.deadline = time.perf_counter() + self.seconds

    def on_train_batch_end(self, batch, logs=None):
        if time.perf_counter() > self.deadline:
            self.model.stop_training = True


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run of scripts/fit.py")
    parser.add_argument("--steps", type=int, default=2000, help="of the schedule; the run's time ends it")
    args = parser.parse_args(argv)

    summary = json.loads((args.run / "summary.json").read_text())
    history = pd.read_csv(args.run / "history.csv")
    seconds = float(history["epoch_seconds"].sum() - history["evaluation_seconds"].sum())  # of rollouts and updates
    recipe = Recipe.load(args.run / "recipe.toml").override(f"priming.seed={1000 + summary['seed']}")
    policy = build_policy(recipe, adapters=False)  # every weight is trained
    imitate(recipe, policy, steps=args.steps, callbacks=[StopAfter(seconds)])

    model, evaluation = GRPOModel(policy), build_evaluation(recipe)
    control = summarize_held_out(evaluation.evaluate(model), evaluation.evaluate(model, greedy=True))
    results = {"before": summary["heldout_before"], "primed_on": control, "grpo": summary["heldout_after"]}
    print(json.dumps({"seconds": round(seconds), **results}))


if __name__ == "__main__":
    main()
