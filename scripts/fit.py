"""Teaches a Gemma a task by GRPO, as a recipe says. What comes out stands in the run's folder."""

import json
import math
import time
from pathlib import Path

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    parser.add_argument(
        "--preset",
        default="countdown_tiny",
        help="a recipe in presets/, or the path of a TOML file (default: %(default)s)",
    )
    parser.add_argument("--logdir", type=Path, help="the run's folder, a new one (default: runs/PRESET-seedSEED)")
    parser.add_argument("--epochs", type=_cli.at_least(1), help="rollouts to train on (default: the recipe's)")
    parser.add_argument("--seed", type=_cli.at_least(0), help="of all that is random (default: the recipe's)")
    _cli.add_process_flags(parser)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    start = time.perf_counter()
    with _cli.errors_in_a_sentence():
        recipe = _cli.load_recipe(args.preset, args.set, training__epochs=args.epochs, training__seed=args.seed)
        name = Path(args.preset).name.removesuffix(".toml")
        logdir = args.logdir or Path("runs", f"{name}-seed{recipe.training.seed}")
        _cli.check_new_folder(logdir, "--logdir")
        _cli.join_processes(args)
        with _cli.quiet():
            from keras_aha import processes
            from keras_aha.experiment import Experiment, summarize_held_out
            from keras_aha.policy import is_download
        with _cli.quiet(unless=is_download(recipe)):
            experiment = Experiment(recipe)

    print_plan(name, experiment, logdir)
    sampled, greedy = experiment.evaluate()
    before = summarize_held_out(sampled, greedy)
    _cli.print_accuracy("held-out accuracy before", before)
    history = experiment.fit(logdir)
    _, sampled_after, greedy_after = experiment.evaluation.latest
    after = summarize_held_out(sampled_after, greedy_after)
    summary = {
        "preset": args.preset,
        "seed": recipe.training.seed,
        "epochs": recipe.training.epochs,
        "wall_seconds": time.perf_counter() - start,
        "generated_tokens": sum(history.history["generated_tokens"]),
        "heldout_before": before,
        "heldout_after": after,
    }
    if processes.is_first():
        (logdir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print_examples(sampled, sampled_after)
    _cli.print_accuracy("held-out accuracy before", before)
    _cli.print_accuracy("held-out accuracy after ", after)
    print(f"{summary['wall_seconds']:.0f} s; files: {logdir}; curves: tensorboard --logdir {logdir.parent}")
    return 0


def print_plan(name, experiment, logdir):
    recipe, policy = experiment.recipe, experiment.model.policy
    rollouts, evaluation, training = recipe.rollouts, recipe.evaluation, recipe.training
    arguments = ", ".join(f"{key}={value!r}" for key, value in recipe.task.arguments.items())
    trained = sum(math.prod(variable.shape) for variable in policy.trainable_variables)
    base = policy.backbone.count_params() - (trained if recipe.lora.rank else 0)
    which = f"LoRA of rank {recipe.lora.rank} on {', '.join(recipe.lora.target)}" if recipe.lora.rank else "all"
    rows = f"{rollouts.prompts_per_epoch} prompts × {rollouts.group_size} completions"
    print(
        f"{name}: GRPO on {recipe.model.preset}, {base:,} parameters",
        f"  trained    {trained:,} parameters ({which})",
        f"  task       {recipe.task.name}({arguments})",
        f"  epochs     {training.epochs}, each {rows} of at most {rollouts.max_completion_length} tokens",
        f"  seed       {training.seed}",
        f"  held out   {evaluation.puzzles} puzzles × {evaluation.samples} samples, every {evaluation.every} epochs",
        f"  files      {logdir}",
        f"  curves     tensorboard --logdir {logdir.parent}",
        *([] if experiment.distribution is None else [f"\n{experiment.distribution.describe(policy)}\n"]),
        "Watch reward and accuracy: the loss of a policy gradient says nothing about progress.",
        sep="\n",
        flush=True,
    )


def print_examples(before, after, count=3):
    """The first sample of the first held-out puzzles, whatever came of it."""
    for puzzle in range(min(count, before["puzzle"].nunique())):
        for when, table in (("before", before), ("after", after)):
            row = table[(table["puzzle"] == puzzle) & (table["sample"] == 0)].iloc[0]
            print(f"\n[{row['problem']}] {when}: {row['verdict']}")
            print("\n".join(f"    {line}" for line in _cli.printable(row["text"]).splitlines()))
    print()


if __name__ == "__main__":
    _cli.start(main)
