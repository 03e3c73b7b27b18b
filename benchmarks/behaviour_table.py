"""Precision and recall of the counter of behaviours, on completions whose behaviours were counted by hand.

    python benchmarks/behaviour_table.py
    python benchmarks/behaviour_table.py --table mine.toml

Precision is the share of what the counter finds that is there, recall the share of what is there that it finds; of a
completion with 3 attempts in which it finds 4, three are found and one is too many. Below the table stands each
completion where the counter and the labels differ.
"""

import argparse
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TABLE = ROOT / "tests" / "labelled_completions.toml"


def main() -> None:
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, metavar="FILE", help="(default: %(default)s)")
    completions = read(parser.parse_args().table)
    styles = pd.Series([completion["style"] for completion in completions])
    print(f"{len(completions)} completions: {styles.value_counts().to_dict()}")
    for style in ["all", *styles.unique()]:
        scores = precision_and_recall([row for row in completions if style in ("all", row["style"])])
        table = pd.DataFrame(scores).T.astype({"there": int, "found": int})
        print(f"\n{style}\n{table.to_string(float_format='{:.3f}'.format, na_rep='-')}")
    for completion in completions:
        wrong = {name: (found, completion["labels"][name]) for name, found in completion["found"].items()}
        wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
        if wrong:
            print(f"\n{completion.get('note', '')}")
            print("".join(f"    {line}\n" for line in completion["text"].strip().splitlines()), end="")
            print("  ".join(f"{name}: {found} found, {label} there" for name, (found, label) in wrong.items()))


def read(path: Path = TABLE) -> list[dict]:
    """The completions of a table: `style`, `note`, `text`, `labels`, and `found`, which the counter says."""
    from keras_aha.evaluation.behaviours import count_behaviours

    completions = tomllib.loads(path.read_text(encoding="utf-8"))["completion"]
    return [completion | {"found": asdict(count_behaviours(completion["text"]))} for completion in completions]


def precision_and_recall(completions: list[dict]) -> dict[str, dict]:
    """Of each counter, over all completions: how many are there and found, and what part of them is both."""
    scores = {}
    for name in completions[0]["found"]:
        pairs = [(completion["labels"][name], completion["found"][name]) for completion in completions]
        labels, found, both = sum(x for x, _ in pairs), sum(x for _, x in pairs), sum(map(min, pairs))
        scores[name] = {"there": labels, "found": found, "precision": share(both, found), "recall": share(both, labels)}
    return scores


def share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


if __name__ == "__main__":
    main()
