"""Kills `prime.py` by SIGKILL at random moments, lets it go on each time, and compares with one that is left alone.

    python benchmarks/kill_priming.py --kills 5

Rows of a made file, a tiny Gemma. Ends with exit code 1 if the curves of loss and held-out loss, or the weights of the
presets, differ in a single bit.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import pandas as pd

PRIME = Path(__file__).parents[1] / "scripts" / "prime.py"
FLAGS = [
    *("priming.steps=50", "priming.batch_size=8", "priming.held_out_share=0.1", "evaluation.puzzles=4"),
    *("evaluation.samples=1", "rollouts.max_completion_length=16"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.jsonl")
        sums = [(i % 9 + 1, i % 7 + 2) for i in range(300)]
        rows = ({"prompt": f"Use {a} {b} each once to make {a + b}.\n<think>\n", "answer": f"{a}+{b}"} for a, b in sums)
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        flags = ["--new", *(part for change in [*FLAGS, f"priming.file={file}"] for part in ("--set", change))]
        whole, out = Path(folder, "whole"), Path(folder, "killed")
        subprocess.run([sys.executable, PRIME, "--out", whole, *flags], check=True, stdout=subprocess.DEVNULL)
        command = [sys.executable, PRIME, "--out", out, "--resume", *flags]
        epochs = len(pd.read_csv(whole / "priming.csv"))
        for epoch in sorted(moments.sample(range(1, epochs), args.kills)):
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
                while trained(out) < epoch and child.poll() is None:
                    time.sleep(0.05)
                time.sleep(moments.random())  # while a checkpoint is written, or in the next epoch
                child.kill()
            print(f"killed after epoch {trained(out)} of {epochs}: {child.returncode}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        curves = [pd.read_csv(path / "priming.csv")[["epoch", "loss", "val_loss"]] for path in (whole, out)]
        same_curves, same_weights = curves[0].equals(curves[1]), arrays(whole) == arrays(out)
    print(f"same curves: {same_curves}; same weights: {same_weights}")
    sys.exit(not (same_curves and same_weights))


def trained(out: Path) -> int:
    """How many epochs have a row in the history."""
    history = out / "priming" / "history.csv"
    return len(history.read_text(encoding="utf-8").splitlines()) - 1 if history.exists() else 0


def arrays(preset: Path) -> dict[str, bytes]:
    """Every array of a preset's weights."""
    found = {}
    with h5py.File(preset / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return found


if __name__ == "__main__":
    main()
