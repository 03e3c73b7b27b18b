"""Weights attached on Kaggle lie in a folder that ends in a version, and elsewhere when the run is taken home.

github.com/unslothai/unsloth/issues/699. The embedded model stands in for Gemma 2: names and places are looked at.
"""

import json
import shutil

from commands import ROOT, SMALL, refused, run


def check(folder):
    place = "models/keras/gemma2/keras/gemma2_2b_en/2"
    attached, home, trained = folder / "input" / place, folder / "elsewhere" / place, folder / "run"
    shutil.copytree(ROOT / "presets" / "countdown_tiny", attached)
    changes = ["--set", f"model.preset={attached}", "--set", "optimizer.config.learning_rate=1e-3", *SMALL]
    result = run("fit", "--log-dir", trained, "--epochs", 1, *changes)
    assert result.returncode == 0, result.stdout
    result = run("export", trained, "--format", "peft")
    assert result.returncode == 0, result.stdout
    card = (trained / "export/peft/README.md").read_text()
    lines = "license: gemma", 'base_model: "google/gemma-2-2b"', 'preset = "gemma2_2b_en"', "gemma2\\_2b\\_en, trained"
    for line in lines:
        assert line in card, line
    assert str(folder) not in card and not (trained / "export/peft/base").exists()

    (folder / "input").rename(folder / "elsewhere")
    moved = ["--set", f"model.preset={home}"]
    refused(run("export", trained, "--out", folder / "a"), "--set model.preset=FOLDER")
    for command in (
        ("export", trained, "--out", folder / "b", "--format", "keras"),
        ("evaluate", trained, "--json", folder / "numbers.json"),
        ("fit", "--resume", "--log-dir", trained, "--epochs", 2),
    ):
        result = run(*command, *moved)
        assert result.returncode == 0, result.stdout
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["epochs"] == 2 and summary["made_with"]["preset"] == str(home)

    other = folder / "other" / place
    result = run("prime", "--new", "--out", other, "--set", "priming.steps=1", *SMALL)
    assert result.returncode == 0, result.stdout
    other_base = ["--set", f"model.preset={other}"]
    for command in (("export", trained, "--out", folder / "c"), ("evaluate", trained)):
        refused(run(*command, *other_base), "not what the run began with", "model.preset")
    resumed = run("fit", "--resume", "--log-dir", trained, "--epochs", 3, *other_base)
    return refused(resumed, "not what the run began with", "model.preset")
