"""Measures a policy on held-out puzzles: accuracy with its interval, pass@k, and a table by difficulty."""

import json
from pathlib import Path

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    parser.add_argument("target", metavar="TARGET", help="a run's folder, or a preset: its name, handle or folder")
    parser.add_argument("--recipe", help="for a preset: whose task and lengths to take (default: its own, if any)")
    parser.add_argument("--puzzles", type=_cli.at_least(1), help="held-out puzzles (default: the recipe's)")
    parser.add_argument("--samples", type=_cli.at_least(1), help="completions of each (default: the recipe's)")
    parser.add_argument("--seed", type=_cli.at_least(0), default=0, help="of the samples (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row a puzzle there")
    _cli.add_process_flags(parser)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    is_run = Path(args.target, "recipe.toml").is_file()
    with _cli.errors_in_a_sentence():
        _cli.check_new_file(args.json, "--json")
        _cli.check_new_file(args.csv, "--csv")
        if args.csv is not None and args.csv == args.json:
            raise ValueError(f"Two files cannot have one name. Received: --json {args.json} --csv {args.csv}")
        recipe = find_recipe(args, is_run)
        _cli.join_processes(args)
        with _cli.quiet():
            from keras_aha import evaluation, experiment, policy, processes
            from keras_aha.grpo_model import GRPOModel
        held_out = experiment.build_evaluation(recipe, args.seed)
        experiment.distribute_as(recipe)
        with _cli.quiet(unless=policy.is_download(recipe)):
            trained = experiment.load_trained(recipe, args.target) if is_run else policy.build_policy(recipe)

    model = GRPOModel(trained)
    sampled, greedy = held_out.evaluate(model), held_out.evaluate(model, greedy=True)
    summary = experiment.summarize_held_out(sampled, greedy)
    labels = list(held_out.task.labels(held_out.task.problem(0)))
    puzzles = evaluation.by_puzzle(sampled, ["problem", *labels])
    samples, correct = puzzles["samples"], puzzles["correct"]
    pass_at_k = {k: float(evaluation.pass_at_k(samples, correct, k).mean()) for k in powers(summary["samples"])}
    if labels:
        table = evaluation.by_label(sampled, labels).drop(columns="samples")
        print(table.to_string(index=False, float_format="{:.3f}".format), end="\n\n")
    print(f"{args.target}: {summary['n']} held-out puzzles, {summary['samples']} samples each")
    _cli.print_accuracy("accuracy", summary)
    print("  ".join(f"pass@{k} {value:.1%}" for k, value in pass_at_k.items()))
    if args.csv and processes.is_first():
        puzzles.to_csv(args.csv)
    if args.json and processes.is_first():
        numbers = {"target": args.target, "seed": args.seed, **summary, "pass_at_k": pass_at_k}
        args.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return 0


def find_recipe(args, is_run: bool):
    """The recipe of the run; or of the preset, which then takes the place of the recipe's own."""
    from keras_aha.recipe import presets_folder

    changes = dict(evaluation__puzzles=args.puzzles, evaluation__samples=args.samples)
    if is_run:
        if args.recipe:
            raise ValueError(f"A run has its own recipe: leave --recipe out. Received: --recipe {args.recipe}")
        return _cli.load_recipe(Path(args.target, "recipe.toml"), args.set, **changes)
    own = presets_folder() / f"{Path(args.target).name}.toml"
    name = args.recipe or (own if own.is_file() else "countdown_tiny")
    return _cli.load_recipe(name, args.set, model__preset=json.dumps(args.target), lora__rank=0, **changes)


def powers(samples: int) -> list[int]:
    """1, 2, 4, … up to `samples`, which is the last."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})


if __name__ == "__main__":
    _cli.start(main)
