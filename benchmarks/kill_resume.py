"""Kills a run at random moments, lets it go on each time, and compares it with a run that nothing happens to.

    python benchmarks/kill_resume.py                  the default run, killed 20 times: about half an hour on two cores
    python benchmarks/kill_resume.py --kills 5 --set training.epochs=10

SIGKILL hits wherever the run is: in a rollout, in an update, in an evaluation, while a checkpoint is written. An epoch
is in flight until its checkpoint is there, which is written beside the next one's rollout: a kill in that second costs
an epoch whose row stood in `history.csv` already, and is counted. Ends with exit code 1 where the two runs differ in
anything but seconds, or where a kill has cost more than that.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import pandas as pd

FIT = Path(__file__).parents[1] / "scripts" / "fit.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], help="as of fit.py")
    parser.add_argument(
        "--folder", type=Path, help="for both runs, a new one, which is kept (default: a temporary one)"
    )
    args = parser.parse_args()
    flags = [part for change in args.set for part in ("--set", change)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        expected, folder = folder / "uninterrupted", folder / "killed"
        print("the uninterrupted run", flush=True)
        subprocess.run([sys.executable, FIT, "--log-dir", expected, *flags], check=True, stdout=subprocess.DEVNULL)
        history = pd.read_csv(expected / "history.csv")
        print(f"  {len(history)} epochs, {history['epoch_seconds'].sum():.0f} s", flush=True)
        lost = killed(folder, flags, args.kills, history["epoch_seconds"].median(), random.Random(args.seed))
        subprocess.run([sys.executable, FIT, "--resume", "--log-dir", folder], check=True, stdout=subprocess.DEVNULL)
        differing = differences(folder, expected)
    print(f"{len(lost)} kills, of which {lost.count(1)} while a checkpoint was written")
    print(f"that cost more: {len([epochs for epochs in lost if epochs > 1])}")
    print(f"different from the uninterrupted run: {', '.join(differing) or 'nothing'}")
    sys.exit(bool(differing) or max(lost) > 1)


def killed(folder: Path, flags: list[str], kills: int, epoch_seconds: float, moments) -> list[int]:
    """Starts the run and kills it, again and again: how many epochs with a row in `history.csv` each has cost."""
    lost = []
    for left in range(kills, 0, -1):
        command = [sys.executable, FIT, "--resume", "--log-dir", folder, *([] if lost else flags)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            epochs = next(int(line.split()[1].rstrip(",")) for line in child.stdout if line.startswith("  epochs"))
            next(line for line in child.stdout if line.startswith("held-out accuracy before"))
            seconds = moments.uniform(0, 2 * (epochs - len(saved(folder)[1])) * epoch_seconds / (left + 1))
            time.sleep(seconds)
            child.kill()
        if child.returncode == 0:
            sys.exit(
                f"The run has ended before it could be killed {kills} times: choose fewer --kills, or more epochs."
            )
        checkpoint, finished = saved(folder)
        lost.append(len([epoch for epoch in finished if epoch > checkpoint]))
        print(f"  killed after {seconds:5.1f} s: {len(finished)} epochs finished, {checkpoint} saved", flush=True)
    return lost


def saved(folder: Path) -> tuple[int, list[int]]:
    """The latest epoch that has a whole checkpoint, and the epochs that are finished."""
    whole = [int(path.parent.name) for path in folder.glob("saved_epochs/*/commit_success.txt")]
    path = folder / "history.csv"
    rows = path.read_text().splitlines()[1:] if path.exists() else []
    return max(whole, default=0), [int(row.split(",")[0]) for row in rows]


def differences(folder: Path, expected: Path) -> list[str]:
    """The files that are not the same, seconds aside."""
    differing = []
    found, wanted = (pd.read_csv(path / "history.csv") for path in (folder, expected))
    same = [name for name in wanted if "seconds" not in name]
    if list(found) != list(wanted) or not found[same].equals(wanted[same]):
        differing.append("history.csv")
    for name in ("completions.jsonl", "held_out_before.jsonl"):
        if (folder / name).read_bytes() != (expected / name).read_bytes():
            differing.append(name)
    if arrays(folder / "adapters.lora.h5") != arrays(expected / "adapters.lora.h5"):
        differing.append("adapters.lora.h5")
    return differing


def arrays(path: Path) -> dict[str, bytes]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "dtype") else {}))
    return found


if __name__ == "__main__":
    main()
