"""Measures a policy on held-out puzzles: accuracy, pass@k, maj@k, by difficulty, against another one."""

import csv
import itertools
import json

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    parser.add_argument("target", metavar="TARGET", help="a run's folder, or a preset: its name, handle or folder")
    _cli.add_epoch_flag(parser, "of a run, after which saved epoch it is measured")
    parser.add_argument("--against", metavar="TARGET", help="another run or preset, compared on the same puzzles")
    _cli.add_recipe_flags(parser, None, ", for a preset: whose task and lengths to take (default: that of its name)")
    parser.add_argument("--puzzles", type=_cli.at_least(1), help="held-out puzzles (default: the recipe's)")
    parser.add_argument("--samples", type=_cli.at_least(1), help="completions of each (default: the recipe's)")
    parser.add_argument("--seed", type=_cli.at_least(0), default=0, help="of the samples (default: %(default)s)")
    words = "budget forcing: where thinking would end, append a word and let it go on, 1 to N times"
    parser.add_argument("--wait", type=_cli.at_least(1), metavar="N", help=words)
    parser.add_argument("--wait-word", metavar="WORD", help='which word (default: Wait); "" lets it just think on')
    parser.add_argument("--json", type=_cli.path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--csv", type=_cli.path, metavar="FILE", help="write one row a puzzle there")
    words = "write one row a completion there, with its text"
    parser.add_argument("--parquet", type=_cli.path, metavar="FILE", help=words)
    parser.add_argument("--show", type=_cli.at_least(1), metavar="N", help="print a completion of the first N puzzles")
    words = "measure nothing: write what it samples for training problems there, as rows for [priming] file"
    parser.add_argument("--write-examples", type=_cli.path, metavar="FILE", help=words)
    parser.add_argument("--problems", type=_cli.at_least(1), metavar="N", help="of so many problems (default: 256)")
    parser.add_argument("--only-correct", action="store_true", help="and what is correct alone")
    _cli.add_process_flags(parser)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    changes = _cli.changes(args, puzzles="evaluation.puzzles", samples="evaluation.samples")
    with _cli.errors_in_a_sentence():
        check_flags(args)
        _cli.join_processes(args)
        if args.write_examples:
            return examples(args, changes)
        with _cli.quiet():
            from keras_aha.distribution import processes
            from keras_aha.runs.evaluate import evaluate

            settings = {name: getattr(args, name) for name in ("epoch", "against", "recipe", "seed")}
            word = "Wait" if args.wait_word is None else args.wait_word
            result = evaluate(args.target, **settings, waits=args.wait or 0, wait_word=word, changes=changes)
    print_numbers(result.numbers)
    print_completions(result.completions[: result.numbers["throughput"]["completions"]], args.show or 0)
    if processes.is_first():
        with _cli.errors_in_a_sentence():
            write(args, result)
    return 0


def examples(args, changes) -> int:
    with _cli.quiet():
        from keras_aha.runs.write_examples import write_examples

        settings = {name: getattr(args, name) for name in ("epoch", "recipe", "seed", "only_correct")}
        settings |= {"problems": args.problems} if args.problems else {}
        rows = write_examples(args.target, args.write_examples, changes=changes, **settings)
    share = f"{rows['correct'].mean():.1%} of them correct"
    print(f"{args.write_examples}: {len(rows)} completions of {rows['prompt'].nunique()} training problems, {share}")
    return 0


def check_flags(args) -> None:
    """Raises ValueError for files that cannot be written, and flags that do not belong together."""
    measuring, writing = ("against", "puzzles", "wait", "show", "json", "csv", "parquet"), ("problems", "only_correct")
    if wrong := [name for name in (measuring if args.write_examples else writing) if getattr(args, name)]:
        what = f"{'does not go with' if args.write_examples else 'needs'} --write-examples"
        raise ValueError(f"--{wrong[0].replace('_', '-')} {what}. Received: {getattr(args, wrong[0])}")
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


def write(args, result) -> None:
    from keras_aha.runs.conditions import in_words

    if args.csv:
        table = result.puzzles.assign(made_with=in_words(result.numbers["made_with"]))
        table.to_csv(args.csv, quoting=csv.QUOTE_NONNUMERIC)  # else a lone carriage return ends a line
    if args.parquet:
        result.completions.to_parquet(args.parquet, index=False)
    if args.json:
        args.json.write_text(json.dumps(result.numbers, indent=2) + "\n", encoding="utf-8")


def print_numbers(numbers: dict) -> None:
    from keras_aha.runs.conditions import in_words

    import pandas as pd

    print(in_words(numbers["made_with"]))
    if "by_label" in numbers:
        table = pd.DataFrame(numbers["by_label"])
        hidden = {"format_rate", *(name for name in table if name.startswith("mean_"))} - {"mean_completion_length"}
        print_table(table.drop(columns=hidden - {"mean_attempts"} if table["mean_attempts"].any() else hidden))
    print(
        f"{with_epoch(numbers['target'], numbers)}: {numbers['n']} held-out puzzles, {numbers['samples']} samples each"
    )
    _cli.print_accuracy(f"accuracy (mean@{numbers['samples']})", numbers)
    for kind in ("pass", "maj") if numbers["is_checked"] else ():
        ends = numbers[f"{kind}_at_k_ci95"]
        print(", ".join(f"{kind}@{k} {x:.1%} {interval(ends[k])}" for k, x in numbers[f"{kind}_at_k"].items()))
    print(
        "{completions:,} completions, {tokens:,} tokens in {seconds:.1f} s, {compile_seconds:.1f} s of them compiling: "
        "{tokens_per_second:,.0f} tokens/s without".format(**numbers["throughput"])
    )
    if "mean_turns" in numbers:
        words = "{mean_turns:.2f} turns a completion, {mean_tool_calls:.2f} tool calls, {mean_tool_errors:.2f} of them "
        print((words + "failed; {mean_observation_tokens:.1f} tokens of observations").format(**numbers))
    if "comparison" in numbers:
        other = numbers["comparison"]
        print(
            f"against {with_epoch(other['against'], other)}, {other['accuracy']:.1%}: {other['difference']:+.1%} "
            f"{interval(other['ci95'])}, p = {other['p_value']:.2g}; better on {other['better']} puzzles, worse on "
            f"{other['worse']} of {other['n']}"
        )
    if "waits" in numbers:
        print(f"\nthinking that would end goes on after {numbers['waits']['word']!r}:")
        curve = pd.DataFrame(numbers["waits"]["curve"])
        print_table(curve.assign(p_value=curve["p_value"].map("{:.1e}".format)))


def print_completions(table, count: int) -> None:
    from keras_aha.evaluation.transcript import shown
    from keras_aha.names import printable

    for row in table[table["sample"] == 0].head(count).to_dict("records"):
        print(printable(f"\n{row['problem']}  {row['verdict']}\n{shown(row)}", keep="\n\t"))


def with_epoch(target, numbers: dict) -> str:
    return target if numbers["epoch"] is None else f"{target} after epoch {numbers['epoch']}"


def interval(ends) -> str:
    return f"({ends[0]:.1%} to {ends[1]:.1%})"


def print_table(table) -> None:
    print(table.to_string(index=False, float_format="{:.3f}".format), end="\n\n")


if __name__ == "__main__":
    _cli.start(main)
