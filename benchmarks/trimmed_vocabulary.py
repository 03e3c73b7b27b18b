"""Epochs of a recipe with a preset and with the same one whose vocabulary is trimmed, in turns.

    python benchmarks/trimmed_vocabulary.py models/gemma3_270m          about ten minutes on two cores

Each of the two trains twice, in turns. The first epoch of each time compiles its programs and is not timed. Both see
the same puzzles; their completions differ. Prints one JSON line: milliseconds of rollout and of update for each token
of a completion, medians over epochs, and the ratios.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

from keras_aha.models.policy import load_policy
from keras_aha.models.trimming import trim_vocabulary
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.experiment import Experiment

import keras


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", type=Path, help="the folder of a Gemma")
    parser.add_argument("--recipe", default="gemma3_270m_zero")
    parser.add_argument("--pieces", type=int, default=32_000)
    parser.add_argument("--epochs", type=int, default=4, help="timed epochs of each (default: %(default)s)")
    args = parser.parse_args()
    recipe = Recipe.load(args.recipe).override(["evaluation.puzzles=1", "evaluation.samples=1"])
    with tempfile.TemporaryDirectory() as folder:
        trim_vocabulary(load_policy(str(args.preset), lora_rank=0), args.pieces).save_to_preset(folder)
        presets = {"whole": str(args.preset.resolve()), "trimmed": folder}
        experiments = {
            name: Experiment(recipe.override(f"model.preset={json.dumps(preset)}")) for name, preset in presets.items()
        }
    epochs = {name: [] for name in experiments}
    for _ in range(2):
        for name, experiment in experiments.items():
            epochs[name] += timed_epochs(experiment, args.epochs)
    result = {}
    for name, timed in epochs.items():
        result[name] = {part: median(epoch[part] for epoch in timed) for part in ("rollout", "update")}
    for part in ("rollout", "update"):
        result[f"{part}_ratio"] = result["whole"][part] / result["trimmed"][part]
    result["ratio"] = sum(result["whole"].values()) / sum(result["trimmed"].values())
    print(json.dumps(result))


def timed_epochs(experiment: Experiment, epochs: int) -> list[dict[str, float]]:
    """Milliseconds a completion token of rollout and update, of all epochs but the first."""
    times, timed = [], []

    def end(epoch, logs):
        times.append(time.perf_counter())
        if epoch:
            seconds = {"rollout": logs["rollout_seconds"], "update": times[-1] - times[-2] - logs["rollout_seconds"]}
            timed.append({part: 1e3 * x / logs["generated_tokens"] for part, x in seconds.items()})

    rollouts, clock = experiment.rollouts, keras.callbacks.LambdaCallback(on_epoch_end=end)
    experiment.model.fit(rollouts.dataset, epochs=epochs + 1, callbacks=[rollouts, clock], verbose=0)
    return timed


if __name__ == "__main__":
    main()
