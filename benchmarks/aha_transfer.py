"""Does a habit cross from one task to another? The recipe `aha_transfer`, and its controls.

    python benchmarks/aha_transfer.py --out runs/aha_transfer

A policy is primed on Countdown without search, and on the task signs with search; then GRPO trains it on Countdown
alone. The controls: `straight`, primed on signs without a failed attempt, then the same GRPO; `primed_on`, more
priming instead of GRPO, for as many seconds as rollouts and updates took; `shuffled`, GRPO with rewards in a random
order. Each part has its folder in --out and is left out if it is finished; a run of GRPO that was killed goes on.
Prints tables in Markdown, of the same held-out puzzles, with 95 % intervals over puzzles, and the first completions.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from keras_aha.callbacks.order import in_order
from keras_aha.callbacks.run_folder import AFTER, BEFORE, HISTORY, SUMMARY
from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.evaluation.comparison import compare
from keras_aha.evaluation.intervals import bootstrap_interval, share_interval
from keras_aha.evaluation.table_file import read_tables, write_tables
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import assignment
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.experiment import Experiment, build_evaluation
from keras_aha.runs.prime_preset import imitate, prime_preset
from keras_aha.runs.run import Run
from keras_aha.training.grpo_model import GRPOModel

import keras
import pandas as pd

FIRST, SECONDS = "first.json", "seconds.json"
COUNTS = {"attempts": 2, "verifications": 1, "backtracks": 1}  # the fewest of each in a completion that does it
RUNS = {"grpo": ("primed", []), "straight_grpo": ("straight", []), "shuffled": ("primed", ["shuffle_rewards=true"])}


class FirstBacktrack(keras.callbacks.Callback):
    """Keeps the first completion of a run, in the order of training, that turns back and is right in the end."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        if self.path.exists():
            return
        rollout = self.model.rollout
        for problem, text, score in zip(rollout.problems, rollout.texts, rollout.scores, strict=True):
            if score.correct and count_behaviours(text).backtracks:
                record = {"epoch": epoch + 1, "problem": str(problem), "text": text}
                self.path.write_text(json.dumps(record))
                return


def prime_arm(recipe: Recipe, folder: Path, straight: bool) -> None:
    sections = recipe.to_dict()
    for task in sections["priming"]["tasks"]:
        if straight and task["habits"].get("verdicts", True):  # what is searched for
            task["habits"]["straight"] = True
    if not folder.with_suffix(".json").exists():  # which is written last
        shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        prime_preset(Recipe.from_dict(sections), folder, new=True)
        folder.with_suffix(".json").write_text(json.dumps(time.perf_counter() - start))


def train(recipe: Recipe, folder: Path) -> None:
    if (folder / SUMMARY).exists():
        return
    run = Run(Experiment(recipe), folder, resume=True)
    arguments = run.fit_arguments()
    arguments["callbacks"] = in_order([*arguments["callbacks"], FirstBacktrack(folder / FIRST)])
    run.experiment.model.fit(**arguments)
    run.finish()
    if run.stopped_by:
        raise SystemExit(f"Stopped by {run.stopped_by}: the same command goes on.")


def prime_on(recipe: Recipe, folder: Path, like: Path) -> None:
    """Primes the preset of the recipe for as many seconds as the run `like` took for rollouts and updates."""
    if (folder / AFTER).exists():
        return
    history = pd.read_csv(like / HISTORY)
    seconds = history["epoch_seconds"].sum() - history["evaluation_seconds"].sum()
    priming_seconds = json.loads(Path(recipe.model.preset).with_suffix(".json").read_text())
    steps = round(recipe.priming.steps * seconds / priming_seconds)
    policy, start = build_policy(recipe, adapters=False), time.perf_counter()
    imitate(recipe, policy, steps=steps)
    spent = time.perf_counter() - start
    model, evaluation = GRPOModel(policy), build_evaluation(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SECONDS).write_text(json.dumps({"grpo": seconds, "primed_on": spent, "steps": steps}))
    write_tables(folder / AFTER, evaluation.evaluate(model), evaluation.evaluate(model, greedy=True))


def row(name: str, tables: list[pd.DataFrame]) -> str:
    """A line of the table: shares of completions that do it, with intervals over puzzles, of one seed or several."""
    table = pd.concat(tables)
    cells = [name]
    for column in ("correct", *COUNTS):
        values = table[column].astype(float) if column == "correct" else (table[column] >= COUNTS[column]).astype(float)
        means = values.groupby(table["puzzle"]).mean()
        low, high = share_interval(means)
        cells.append(f"{100 * means.mean():.1f} % ({100 * low:.1f}–{100 * high:.1f})")
    for column in (*COUNTS, "completion_length"):
        means = table[column].groupby(table["puzzle"]).mean()
        low, high = bootstrap_interval(means)
        cells.append(f"{means.mean():.2f} ({low:.2f}–{high:.2f})")
    return f"| {' | '.join(cells)} |"


def print_tables(out: Path, seeds: list[int]) -> None:
    columns = ["policy", "right", "≥ 2 attempts", "≥ 1 verification", "≥ 1 backtrack"]
    columns += ["attempts", "verifications", "backtracks", "tokens"]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    arms = {"primed": ("grpo", BEFORE), "grpo": ("grpo", AFTER), "straight": ("straight_grpo", BEFORE)}
    arms |= {"straight, grpo": ("straight_grpo", AFTER), "primed on": ("primed_on", AFTER)}
    arms |= {"grpo, rewards shuffled": ("shuffled", AFTER)}
    every = {}
    for name, (folder, file) in arms.items():
        tables = [read_tables(out / f"{folder}-seed{seed}" / file)[0] for seed in seeds]
        every[name] = tables
        for seed, table in zip(seeds, tables, strict=True):
            print(row(f"{name}, seed {seed}", [table]))
        print(row(f"**{name}, all seeds**", tables))
    print("\n| grpo above | right, paired, a seed each |\n|---|---|")
    for name in every.keys() - {"grpo"}:
        pairs = [compare(*pair) for pair in zip(every["grpo"], every[name], strict=True)]
        cells = (f"{100 * x['difference']:+.1f} ({100 * x['ci95'][0]:.1f}–{100 * x['ci95'][1]:.1f})" for x in pairs)
        print(f"| {name} | {', '.join(cells)} |")
    for folder in sorted(out.glob("*-seed*")):
        if (folder / FIRST).exists():
            first = json.loads((folder / FIRST).read_text())
            print(f"\n{folder.name}, epoch {first['epoch']}: {first['problem']}\n{first['text']}")
        elif (folder / HISTORY).exists():
            print(f"\n{folder.name}: no completion turned back and was right in the end.")
        if (folder / SECONDS).exists():
            print(f"\n{folder.name}, seconds: {(folder / SECONDS).read_text()}")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="aha_transfer")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--primings", type=int, help="policies that are primed, by the first seeds (default: all)")
    parser.add_argument("--set", action="append", default=[], help="a change to the recipe, such as training.epochs=2")
    args = parser.parse_args(argv)
    for i, seed in enumerate(args.seeds):
        first = args.seeds[i % (args.primings or len(args.seeds))]
        recipe = Recipe.load(args.recipe).override([*args.set, f"training.seed={seed}", f"priming.seed={first}"])
        for name in ("primed", "straight"):
            prime_arm(recipe, args.out / f"{name}-seed{first}", straight=name == "straight")
        for name, (start, changes) in RUNS.items():
            preset = assignment("model.preset", str(args.out / f"{start}-seed{first}"))
            changes = [preset, *(f"rollouts.{change}" for change in changes)]
            train(recipe.override(changes), args.out / f"{name}-seed{seed}")
        preset = assignment("model.preset", str(args.out / f"primed-seed{first}"))
        more = recipe.override([preset, f"priming.seed={1000 + seed}"])
        prime_on(more, args.out / f"primed_on-seed{seed}", args.out / f"grpo-seed{seed}")
    print_tables(args.out, args.seeds)


if __name__ == "__main__":
    main()
