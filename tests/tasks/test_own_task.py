"""The README's task of 30 lines, saved as it is told there, primes, trains and evaluates through the scripts."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import fit  # noqa: E402
import prime  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own task in 30 lines")[1]
CODE = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
SMALL = [
    *("--set", "task.name=sorting:Sorting", "--set", "evaluation.puzzles=6", "--set", "evaluation.samples=2"),
    *("--set", "rollouts.prompts_per_epoch=2", "--set", "rollouts.group_size=4", "--set", "lora.rank=2"),
    *("--set", "rollouts.max_completion_length=16", "--set", "training.micro_batch_size=none"),
    *("--set", "training.completion_lengths=1", "--set", "priming.steps=50"),
]


@pytest.mark.slow
def test_it_trains_and_evaluates(make_policy, tmp_path, monkeypatch, capsys):
    assert len(CODE.splitlines()) <= 30
    (tmp_path / "sorting.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    tiny, primed, run = (tmp_path / name for name in ("tiny", "primed", "run"))
    make_policy().save_to_preset(str(tiny))
    assert prime.main(["--out", str(primed), *SMALL, "--set", f"model.preset={tiny}"]) == 0
    assert fit.main(["--log-dir", str(run), *SMALL, "--set", f"model.preset={primed}", "--epochs", "2"]) == 0
    assert "held-out accuracy after" in capsys.readouterr().out
    completions = pd.read_json(run / "held_out_after.jsonl", lines=True)
    assert len(completions) == 6 * 3  # two samples, and a greedy one
    assert set(completions["verdict"]) <= {"correct", "wrong_value", "no_answer"}
