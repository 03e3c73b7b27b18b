"""Measures a policy on held-out puzzles: accuracy, pass@k, maj@k, by difficulty, against another one."""

import itertools
import json
import time
from pathlib import Path

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    parser.add_argument("target", metavar="TARGET", help="a run's folder, or a preset: its name, handle or folder")
    parser.add_argument("--against", metavar="TARGET", help="another run or preset, compared on the same puzzles")
    parser.add_argument("--recipe", help="for a preset: whose task and lengths to take (default: its own, if any)")
    parser.add_argument("--puzzles", type=_cli.at_least(1), help="held-out puzzles (default: the recipe's)")
    parser.add_argument("--samples", type=_cli.at_least(1), help="completions of each (default: the recipe's)")
    parser.add_argument("--seed", type=_cli.at_least(0), default=0, help="of the samples (default: %(default)s)")
    parser.add_argument(
        "--wait",
        type=_cli.at_least(1),
        metavar="N",
        help="budget forcing: where thinking would end, append a word and let it go on, 1 to N times",
    )
    parser.add_argument("--wait-word", metavar="WORD", help='which word (default: Wait); "" lets it just think on')
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row a puzzle there")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="write one row a completion there, with its text")
    _cli.add_process_flags(parser)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    word = "Wait" if args.wait_word is None else args.wait_word
    with _cli.errors_in_a_sentence():
        check_flags(args)
        recipe = find_recipe(args)
        other_recipe = find_other_recipe(args, recipe)
        _cli.join_processes(args)
        with _cli.quiet():
            from keras_aha.distribution import processes
            from keras_aha.runs import experiment
            from keras_aha.training.grpo_model import GRPOModel
        held_out = experiment.build_evaluation(recipe, args.seed)
        other_held_out = experiment.build_evaluation(other_recipe, args.seed) if args.against else held_out
        check_puzzles(args, held_out.task, other_held_out.task)
        check_vocabularies(args, recipe, other_recipe, word)
        with _cli.quiet():  # libtpu logs where it is installed and there is no TPU
            experiment.distribute_as(recipe)
        model = GRPOModel(load(recipe, args.target))
        other = GRPOModel(load(other_recipe, args.against)) if args.against else None

    tables = held_out.evaluate_waits(model, args.wait or 0, word)
    sampled, throughput = timed(lambda: next(tables))
    greedy = held_out.evaluate(model, greedy=True)
    with_answers = [table.assign(answer=table["text"].map(held_out.task.answer)) for table in (sampled, greedy)]
    puzzles, numbers = report(args.target, *with_answers, list(held_out.task.labels(held_out.task.problem(0))))
    print_throughput(throughput)
    numbers = {"target": args.target, "seed": args.seed, **numbers, "throughput": throughput}
    completions = [as_rows(sampled, args.target), as_rows(greedy, args.target, greedy=True)]
    if other:
        other_sampled = other_held_out.evaluate(other)
        completions.append(as_rows(other_sampled, args.against))
        numbers["comparison"] = report_comparison(args, sampled, other_sampled)
    if args.wait:
        waited = list(tables)
        completions += [as_rows(table, args.target, waits=i) for i, table in enumerate(waited, start=1)]
        numbers["waits"] = {"word": word, "curve": report_waits(word, [sampled, *waited])}
    if processes.is_first():
        write(args, numbers, puzzles, completions)
    return 0


# === Before anything is loaded ===


def check_flags(args) -> None:
    """Raises ValueError for files that cannot be written, and flags that do not belong together."""
    files = {"--json": args.json, "--csv": args.csv, "--parquet": args.parquet}
    for flag, path in files.items():
        _cli.check_new_file(path, flag)
    for (flag, path), (other, same) in itertools.combinations(files.items(), 2):
        if path is not None and path == same:
            raise ValueError(f"Two files cannot have one name. Received: {flag} {path} {other} {same}")
    if args.wait_word is not None and not args.wait:
        raise ValueError(
            f"--wait N puts --wait-word where thinking ends: give both. Received: --wait-word {args.wait_word}"
        )


def is_run(target: str) -> bool:
    return Path(target, "recipe.toml").is_file()


def changes(args) -> dict:
    return dict(evaluation__puzzles=args.puzzles, evaluation__samples=args.samples)


def find_recipe(args):
    """The recipe of the run; or of the preset, which then takes the place of the recipe's own."""
    from keras_aha.files import presets_folder

    if is_run(args.target):
        if args.recipe:
            raise ValueError(f"A run has its own recipe: leave --recipe out. Received: --recipe {args.recipe}")
        return _cli.load_recipe(Path(args.target, "recipe.toml"), args.set, **changes(args))
    own = presets_folder() / f"{Path(args.target).name}.toml"
    name = args.recipe or (own if own.is_file() else "countdown_tiny")
    return _cli.load_recipe(name, args.set, model__preset=json.dumps(args.target), lora__rank=0, **changes(args))


def find_other_recipe(args, recipe):
    """That of the run --against; for a preset that of TARGET, so that all but the weights is the same."""
    if args.against is None:
        return None
    if is_run(args.against):
        return _cli.load_recipe(Path(args.against, "recipe.toml"), args.set, **changes(args))
    return recipe.override([f"model.preset={json.dumps(args.against)}", "lora.rank=0", "lora.start=none"])


def check_puzzles(args, task, other) -> None:
    """Raises ValueError where two policies would be measured on other puzzles."""
    first, second = ([str(held_out.problem(i)) for i in range(len(held_out))] for held_out in (task, other))
    if first != second:
        raise ValueError(
            "Two policies are compared on the same puzzles, and their recipes have others: choose them by --recipe, or "
            f"[task] and [evaluation] by --set. Received: {args.target} --against {args.against}"
        )


def check_vocabularies(args, recipe, other_recipe, word: str) -> None:
    """Raises ValueError where a preset is missing, or cannot write the word to wait with; no weights are read."""
    from keras_aha.models.presets import is_download, load_tokenizer
    from keras_aha.training import budget_forcing

    if args.wait:
        with _cli.quiet(unless=is_download(recipe.model.preset)):
            budget_forcing.word_to_ids(load_tokenizer(recipe.model.preset), word)
    if args.against:
        with _cli.quiet(unless=is_download(other_recipe.model.preset)):
            load_tokenizer(other_recipe.model.preset)


def load(recipe, target: str):
    """The policy of a run, or of a preset."""
    from keras_aha.models.presets import is_download
    from keras_aha.runs import experiment
    from keras_aha.runs.build_policy import build_policy

    with _cli.quiet(unless=is_download(recipe.model.preset)):
        return experiment.load_trained(recipe, target) if is_run(target) else build_policy(recipe)


# === What comes out ===


def timed(evaluate):
    """The table that `evaluate` returns, and how fast its completions were sampled and scored."""
    from keras_aha.callbacks.compile_counter import CompileCounter

    compiles, start = CompileCounter(), time.perf_counter()
    table = evaluate()
    seconds, tokens = time.perf_counter() - start, int(table["completion_length"].sum())
    throughput = {
        "completions": len(table),
        "tokens": tokens,
        "seconds": seconds,
        "compile_seconds": compiles.seconds,
        "tokens_per_second": tokens / (seconds - compiles.seconds),
    }
    return table, throughput


def report(target: str, sampled, greedy, labels):
    """Prints what a policy can do; returns a row a puzzle, and the numbers."""
    from keras_aha.evaluation import at_k as votes
    from keras_aha.evaluation import intervals, tables
    from keras_aha.runs import experiment

    summary = experiment.summarize_held_out(sampled, greedy)
    at_k = votes.at_k(sampled, powers(summary["samples"]))
    puzzles = tables.by_puzzle(sampled, ["problem", *labels]).join(at_k)
    numbers = {**summary, "mean_at_k": {summary["samples"]: summary["accuracy"]}}
    for kind in ("pass", "maj"):
        columns = {int(name.partition("@")[2]): at_k[name] for name in at_k if name.startswith(kind)}
        numbers[f"{kind}_at_k"] = {k: float(column.mean()) for k, column in columns.items()}
        numbers[f"{kind}_at_k_ci95"] = {k: intervals.share_interval(x) for k, x in columns.items()}
    if labels:
        most = [f"{kind}@{max(numbers[f'{kind}_at_k'])}" for kind in ("pass", "maj")]
        table = tables.by_label(sampled, labels).drop(columns="samples")
        table = table.merge(puzzles.groupby(labels, dropna=False)[most].mean().reset_index(), on=labels)
        lengths = ["mean_completion_length", "mean_attempts"]
        print_table(table[[*labels, "n", "accuracy", "ci95_low", "ci95_high", *most, *lengths]])
        numbers["by_label"] = table.to_dict("records")
    print(f"{target}: {summary['n']} held-out puzzles, {summary['samples']} samples each")
    _cli.print_accuracy(f"accuracy (mean@{summary['samples']})", summary)
    for kind in ("pass", "maj"):
        ends = numbers[f"{kind}_at_k_ci95"]
        shown = [f"{kind}@{k} {x:.1%} {interval(ends[k])}" for k, x in numbers[f"{kind}_at_k"].items()]
        print(", ".join(shown))
    return puzzles, numbers


def print_throughput(throughput: dict) -> None:
    print(
        "{completions:,} completions, {tokens:,} tokens in {seconds:.1f} s, {compile_seconds:.1f} s of them compiling: "
        "{tokens_per_second:,.0f} tokens/s without".format(**throughput)
    )


def report_comparison(args, sampled, other) -> dict:
    """Prints and returns how the accuracy differs from that of --against."""
    from keras_aha.evaluation import comparison, tables

    found = comparison.compare(sampled, other)
    accuracy = tables.summarize(other)["accuracy"]
    print(
        f"against {args.against}, {accuracy:.1%}: {found['difference']:+.1%} {interval(found['ci95'])}, "
        f"p = {found['p_value']:.2g}; better on {found['better']} puzzles, worse on {found['worse']} of {found['n']}"
    )
    return {"against": args.against, "accuracy": accuracy, **found}


def report_waits(word: str, tables) -> list[dict]:
    """Prints and returns the curve of accuracy against tokens."""
    from keras_aha.evaluation import comparison

    curve = comparison.accuracy_curve(tables).rename_axis("waits").reset_index()
    curve.insert(1, "thought_on", [float(table["thought_on"].mean()) for table in tables])
    print(f"\nthinking that would end goes on after {word!r}:")
    print_table(curve.assign(p_value=curve["p_value"].map("{:.1e}".format)))
    return curve.to_dict("records")


def interval(ends) -> str:
    return f"({ends[0]:.1%} to {ends[1]:.1%})"


def print_table(table) -> None:
    print(table.to_string(index=False, float_format="{:.3f}".format), end="\n\n")


def as_rows(table, target: str, greedy: bool = False, waits: int = 0):
    """A table for --parquet, with columns in front that tell it from others."""
    first = {"target": target, "greedy": greedy, "waits": waits, "thought_on": 0}
    columns = first | table.to_dict("series")
    return table.assign(**columns)[list(columns)]


def write(args, numbers: dict, puzzles, completions: list) -> None:
    import pandas as pd

    if args.csv:
        puzzles.to_csv(args.csv)
    if args.parquet:
        pd.concat(completions).to_parquet(args.parquet, index=False)
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def powers(samples: int) -> list[int]:
    """1, 2, 4, … up to `samples`, which is the last."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})


if __name__ == "__main__":
    _cli.start(main)
