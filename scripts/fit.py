"""Teaches a model a task by GRPO, as a recipe says. What comes out stands in the run's folder.

A run that was stopped goes on by --resume, and ends as it would have without the stop.
"""

import argparse
import itertools
import math
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import _cli

_DEFAULT = "countdown_tiny"


def parse(argv):
    parser = _cli.new_parser(__doc__)
    parser.add_argument("--preset", help=f"a recipe in presets/, or the path of a TOML file (default: {_DEFAULT})")
    parser.add_argument(
        "--log-dir", "--logdir", type=Path, help="the run's folder, a new one (default: runs/PRESET-seedSEED)"
    )
    parser.add_argument("--epochs", type=_cli.at_least(1), help="rollouts to train on (default: the recipe's)")
    parser.add_argument("--seed", type=_cli.at_least(0), help="of all that is random (default: the recipe's)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --log-dir, by its own recipe unless --preset is given; begin it if there is none",
    )
    parser.add_argument(
        "--max-hours", type=_cli.positive, metavar="HOURS", help="save and stop before the command has run so long"
    )
    parser.add_argument(
        "--profile", action="store_true", help="trace the second epoch for TensorBoard (pip install xprof shows it)"
    )
    _cli.add_process_flags(parser)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    start = time.time()
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    with _cli.errors_in_a_sentence():
        name, recipe, log_dir = find_run(args, argv)
    try:
        with _cli.interrupted_by_sigterm():
            return train(name, recipe, log_dir, args, start)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        print(stopped_by(signal.Signals(number).name, log_dir))
        return 128 + number


def train(name, recipe, log_dir, args, start) -> int:
    with _cli.errors_in_a_sentence():
        _cli.join_processes(args)
        with _cli.quiet():
            from keras_aha.callbacks.checkpoint_callback import CheckpointError
            from keras_aha.distribution import processes
            from keras_aha.models.presets import is_download
            from keras_aha.runs.check_files import finished_epochs
            from keras_aha.runs.experiment import Experiment, with_absolute_paths
            from keras_aha.runs.report import write_report
            from keras_aha.runs.run import Run
        if args.resume and (log_dir / "recipe.toml").exists():
            print_changes(log_dir, with_absolute_paths(recipe))
            if finished_epochs(log_dir) == recipe.training.epochs:
                print(f"{log_dir} is finished: {recipe.training.epochs} epochs.")
                return 0
        with _cli.quiet(unless=is_download(recipe.model.preset)):
            experiment = Experiment(recipe)

    print_plan(name, experiment, log_dir)
    _cli.print_session_limit(args.max_hours)
    limits = dict(max_hours=args.max_hours, start=start)
    run = Run(experiment, log_dir, name=name, resume=args.resume, profile=args.profile, **limits)
    try:
        if not run.is_over():
            _cli.print_accuracy("held-out accuracy before", summarize(*run.evaluate_before()))
        run.fit()
    except CheckpointError as error:
        print(f"fit.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fit.py: {error}. {how_to_go_on(log_dir)}", file=sys.stderr)
        return 1
    if run.stopped_by == "skipped updates":
        print(
            f"fit.py: No update could be made any more, so the policy in {log_dir} is the one from before that. What "
            "to change stands in the doctor's words; begin a new run with it.",
            file=sys.stderr,
        )
        return 1
    if run.stopped_by is not None:
        print(stopped_by(run.stopped_by, log_dir))
        return 0 if run.stopped_by == "time" else 128 + signal.Signals[run.stopped_by]

    print_examples(run.before[0], run.after[0])
    _cli.print_accuracy("held-out accuracy before", summarize(*run.before))
    _cli.print_accuracy("held-out accuracy after ", summarize(*run.after))
    if processes.is_first():
        with _cli.errors_in_a_sentence():
            print(f"report: {write_report(log_dir)}")
    print(f"{time.time() - start:.0f} s; files: {log_dir}; curves: tensorboard --logdir {log_dir.parent}")
    return 0


# === The run ===


def find_run(args, argv):
    """Its name, recipe and folder; ValueError where there is something that this would overwrite."""
    name = Path(args.preset or _DEFAULT).name.removesuffix(".toml")
    flags = {"training__epochs": args.epochs, "training__seed": args.seed}
    recipe = _cli.load_recipe(args.preset or _DEFAULT, args.set, **flags)
    log_dir = args.log_dir or Path("runs", f"{name}-seed{recipe.training.seed}")
    own = log_dir / "recipe.toml"
    if not own.is_file():
        _cli.check_new_folder(log_dir, "--log-dir")
    elif not args.resume:
        _cli.refuse(
            f"{log_dir} holds a run. {how_to_go_on(log_dir)}; begin another: {how_to_begin_another(argv, log_dir)}. "
            f"Received: --log-dir {log_dir}, no --resume"
        )
    _cli.check_writable(log_dir, "--log-dir")
    if own.is_file() and args.preset is None:
        return log_dir.name, _cli.load_recipe(str(own), args.set, **flags), log_dir
    return name, recipe, log_dir


def how_to_go_on(log_dir) -> str:
    return f"Go on: python scripts/fit.py --resume --log-dir {shlex.quote(str(log_dir))}"


def how_to_begin_another(argv, log_dir) -> str:
    """The same command with the first folder that is free."""
    flag = argparse.ArgumentParser(add_help=False)
    flag.add_argument("--log-dir", "--logdir")
    _, others = flag.parse_known_args(argv)
    free = next(path for i in itertools.count(2) if not os.path.lexists(path := f"{log_dir}-{i}"))
    return shlex.join(["python", "scripts/fit.py", *others, "--log-dir", free])


def stopped_by(what, log_dir) -> str:
    if not (log_dir / "recipe.toml").exists():
        return f"Stopped by {what} before the run began: the same command begins it."
    saved = any(path.name.isdecimal() for path in (log_dir / "checkpoints").glob("*"))
    return (
        f"Stopped by {what}; {'what was trained is saved' if saved else 'nothing has been trained yet'}. "
        f"{how_to_go_on(log_dir)}"
    )


def print_changes(log_dir, recipe):
    """ValueError where the run cannot go on: it would be another one, or files are damaged."""
    from keras_aha.recipes.changes import check_changes
    from keras_aha.recipes.recipe import Recipe
    from keras_aha.runs.check_files import check_run

    changes = check_changes(Recipe.load(log_dir / "recipe.toml"), recipe)
    check_run(log_dir, recipe)
    for line in changes:
        print(f"changed since the run began: {line}")


def summarize(sampled, greedy) -> dict:
    from keras_aha.runs.experiment import summarize_held_out

    return summarize_held_out(sampled, greedy)


# === Output ===


def print_plan(name, experiment, log_dir):
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
        f"  files      {log_dir}",
        f"  curves     tensorboard --logdir {log_dir.parent}",
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
