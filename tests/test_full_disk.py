"""A disk that is full, and one that cannot be written: file systems of their own, in a namespace that mounts them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIT = Path(__file__).parents[1] / "scripts" / "fit.py"
FLAGS = [
    *("--set", "rollouts.prompts_per_epoch=4", "--set", "rollouts.group_size=4"),
    *("--set", "rollouts.max_completion_length=16", "--set", "evaluation.puzzles=2", "--set", "evaluation.samples=2"),
    *("--set", "training.completion_lengths=1", "--set", "training.micro_batch_size=none", "--epochs", "3"),
]
SCRIPT = """
set -u
mount -t tmpfs -o size=600k tmpfs "$DISK"
"$@" --logdir "$DISK/run"; echo "full: $?"
mount -o remount,ro "$DISK"
"$@" --logdir "$DISK/run" --resume; echo "read-only: $?"
mount -o remount,rw,size=100m "$DISK"
"$@" --logdir "$DISK/run" --resume > /dev/null; echo "again: $?"
tail -n 1 "$DISK/run/history.csv"; ls "$DISK/run"
"""


def may_mount() -> bool:
    return (
        shutil.which("unshare")
        and not subprocess.run(
            ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True
        ).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="nothing may be mounted here")
def test_a_full_disk_then_a_read_only_one_then_room(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(FIT.parents[1]), "DISK": str(tmp_path)}
    command = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", sys.executable, str(FIT), *FLAGS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "full: 1\n" in done.stdout, done
    assert "read-only: 2\n" in done.stdout, done
    assert "again: 0\n3," in done.stdout and "summary.json" in done.stdout, done
    assert "Traceback" not in done.stderr
    full, read_only = done.stderr.splitlines()
    assert "No space left on device" in full and f"--resume --logdir {tmp_path}/run" in full
    assert "Nothing can be written into" in read_only
