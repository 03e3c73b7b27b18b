"""`evaluate.py PRESET` where the name of the preset is that of no recipe, or is followed by a version.

github.com/EleutherAI/lm-evaluation-harness/issues/3513, 1841
"""

import json
import shutil

from commands import ROOT, refused, run


def check(folder):
    places = [folder / "multiplication_tiny", folder / "versions" / "multiplication_tiny" / "2", folder / "my_model"]
    for place in places:
        shutil.copytree(ROOT / "presets" / "countdown_tiny", place)
    for place in places[:2]:
        result = run("evaluate", place, "--puzzles", 4, "--samples", 1, "--json", folder / "numbers.json")
        assert result.returncode == 0, result.stdout
        first = result.stdout.split("\n")[0]
        made_with = json.loads((folder / "numbers.json").read_text())["made_with"]
        assert made_with["recipe"] == "multiplication_tiny" and made_with["task"].startswith("multiplication(")
        limit = f"{made_with['max_completion_length']} tokens"
        for value in ("multiplication_tiny", made_with["task"], f"template {made_with['template']!r}", limit, "cpu"):
            assert value in first, (value, first)
    refused(run("evaluate", places[2]), "No recipe belongs to a preset of the name 'my_model'", "--recipe")
    result = run("evaluate", places[2], "--recipe", "countdown_tiny", "--puzzles", 4, "--samples", 1)
    assert result.returncode == 0 and "by the recipe countdown_tiny" in result.stdout.split("\n")[0], result.stdout
    return first
