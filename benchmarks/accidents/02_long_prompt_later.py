"""A prompt that is too long comes after the first 2,000: in a file, and drawn by a task of the user's own.

github.com/huggingface/trl/issues/3569, 3180, github.com/unslothai/unsloth/issues/1642
"""

import csv
import json

from commands import SMALL, refused, run

LATE = '''
from keras_aha.tasks import Countdown


class Late(Countdown):
    """One prompt of the fifth epoch is long."""

    def problem(self, index):
        problem = super().problem(index)
        return problem if index != 2300 else type(problem)(tuple(range(10**19, 10**19 + 6)), problem.target)
'''
LARGE = ["--set", "rollouts.prompts_per_epoch=512", "--set", "rollouts.group_size=2", "--set"]
LARGE += ["rollouts.max_completion_length=8", "--set", "training.micro_batch_size=64"]
LARGE += ["--set", "optimizer.config.learning_rate=1e-4"]  # a schedule could not be stretched to a sixth epoch


def check(folder):
    puzzles = folder / "puzzles.csv"
    rows = [f'"[{a} {b} 2]",{a + b + 2}\n' for a in range(3, 90) for b in range(a, 90)]
    odd = "".join(f'"[{" ".join(str(10**19 + i) for i in range(6))}]",{n}\n' for n in range(8))  # some are held out
    puzzles.write_text("".join(["nums,target\n", *rows, odd]))
    refusal = refused(
        run("fit", "--log-dir", folder / "file", *SMALL, "--set", f"task.puzzles={puzzles}"),
        *("tokens, more than the limit: raise max_prompt_length", "10000000000000000000"),
    )
    assert not (folder / "file").exists()  # before anything was paid for
    (folder / "late.py").write_text(LATE)
    task = ["--set", "task.name=late:Late", "--set", "task.num_numbers=3", "--set", "task.template=compact"]
    fit = ["fit", "--log-dir", folder / "drawn", "--epochs", 5, *SMALL, *LARGE, *task]
    result = run(*fit, cwd=folder)
    assert result.returncode == 0, result.stdout
    assert "An earlier problem takes the place" in result.stdout and "Doctor, epoch 5" in result.stdout, result.stdout
    with open(folder / "drawn" / "history.csv", encoding="utf-8") as file:
        assert [row["left_out_problems"] for row in csv.DictReader(file)] == ["0"] * 4 + ["1"]
    findings = (folder / "drawn" / "findings.jsonl").read_text(encoding="utf-8").split("\n")
    assert "left_out" in [json.loads(line)["name"] for line in findings if line]
    result = run(*fit, "--epochs", 6, "--resume", "--set", "rollouts.max_prompt_length=256", cwd=folder)
    assert result.returncode == 0 and "max_prompt_length: 32 → 256" in result.stdout, result.stdout
    return f"{refusal} | drawn: the run goes on, and may go on with a higher limit"
