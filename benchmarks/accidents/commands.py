"""Runs the project's scripts as a user does, on a run that takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--set", "rollouts.prompts_per_epoch=4"),
    *("--set", "rollouts.group_size=4"),
    *("--set", "rollouts.max_completion_length=64"),
    *("--set", "training.micro_batch_size=none"),
    *("--set", "training.completion_lengths=1"),
    *("--set", "evaluation.puzzles=8"),
    *("--set", "evaluation.samples=2"),
]


def run(script: str, *arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """`python scripts/SCRIPT.py ARGUMENTS`; its stdout and stderr together are the result's `stdout`."""
    return subprocess.run(command(script, *arguments), cwd=cwd, env=os.environ | environment, **CAPTURED)


def start(script: str, *arguments, log: Path, **environment) -> subprocess.Popen:
    """The same in the background, with what it says in `log`."""
    with log.open("w") as file:
        return subprocess.Popen(
            command(script, *arguments), env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT
        )


def command(script: str, *arguments) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *map(str, arguments)]


def last_lines(result: subprocess.CompletedProcess, count: int = 3) -> str:
    return " | ".join(result.stdout.strip().split("\n")[-count:])


def refused(result: subprocess.CompletedProcess, *words: str) -> str:
    """The sentence of a command that ended with exit code 2, in which `words` stand, and no traceback."""
    assert result.returncode == 2, (result.returncode, last_lines(result))
    assert "Traceback" not in result.stdout, last_lines(result, 10)
    for word in words:
        assert word in result.stdout, (word, last_lines(result))
    return last_lines(result, 1)


CAPTURED = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
