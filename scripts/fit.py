"""Teaches a model a task by GRPO, as a recipe says. What comes out stands in the run's folder.

A run that was stopped goes on by --resume, and ends as it would have without the stop. What is rewarded is the task's
`score`, and what the tables [[rewards]] of a recipe add to it. A task of your own is named by task.name=module:Class.
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
    _cli.add_recipe_flags(parser, None, f" (default: {_DEFAULT})")
    words = "the run's folder, a new one (default: runs/RECIPE-seedSEED)"
    parser.add_argument("--log-dir", "--logdir", type=_cli.path, help=words)
    parser.add_argument("--epochs", type=_cli.at_least(1), help="rollouts to train on (default: the recipe's)")
    parser.add_argument("--seed", type=_cli.at_least(0), help="of all that is random (default: the recipe's)")
    words = "go on with the run in --log-dir, by its own recipe unless --recipe is given; begin it if there is none"
    parser.add_argument("--resume", action="store_true", help=words)
    words = "save and stop before the command has run so long"
    parser.add_argument("--max-hours", type=_cli.positive, metavar="HOURS", help=words)
    words = "trace the second epoch for TensorBoard (pip install xprof shows it)"
    parser.add_argument("--profile", action="store_true", help=words)
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
        print_best(log_dir)
        print(stopped_by(signal.Signals(number).name, log_dir))
        return 128 + number


def find_run(args, argv):
    """Its name, recipe and folder; ValueError if there is something that this would overwrite."""
    from keras_aha.distribution.folder_lock import check_unused
    from keras_aha.names import preset_name
    from keras_aha.recipes.recipe import RECIPE, Recipe

    changes = _cli.changes(args, epochs="training.epochs", seed="training.seed")
    name = args.recipe or _DEFAULT
    name = Path(name).stem if name.endswith(".toml") else preset_name(name)
    recipe = Recipe.load(args.recipe or _DEFAULT).override(changes)
    log_dir = args.log_dir or Path("runs", f"{name}-seed{recipe.training.seed}")
    check_unused(log_dir)
    own = log_dir / RECIPE
    if os.path.isfile(own) and not args.resume:
        _cli.refuse(  # whole, as both commands are to be copied
            f"{log_dir} holds a run. {how_to_go_on(log_dir)}; begin another: {how_to_begin_another(argv, log_dir)}. "
            f"Received: --log-dir {log_dir}, no --resume"
        )
    if os.path.isfile(own) and args.recipe is None:
        return log_dir.name, Recipe.load(own).override(changes), log_dir
    return name, recipe, log_dir


def train(name, recipe, log_dir, args, start) -> int:
    with _cli.errors_in_a_sentence():
        _cli.join_processes(args)
        with _cli.quiet():
            from keras_aha.callbacks.checkpoint_callback import CheckpointError
            from keras_aha.callbacks.compile_counter import CompileCounter
            from keras_aha.distribution import processes
            from keras_aha.distribution.folder_lock import FolderLock
            from keras_aha.runs.check_files import check_log_dir, finished_epochs
            from keras_aha.runs.experiment import Experiment, summarize_held_out, with_absolute_paths
            from keras_aha.runs.report import write_report
            from keras_aha.runs.run import Run
            from keras_aha.training.ask import TaskError

        for line in check_log_dir(log_dir, with_absolute_paths(recipe), args.resume):
            print(f"changed since the run began: {line}")
        if finished_epochs(log_dir) == recipe.training.epochs:
            print(f"{log_dir} is finished: {recipe.training.epochs} epochs.")
            return 0
        with FolderLock(log_dir), _cli.quiet():  # which the run takes over
            experiment = Experiment(recipe)
            limits = dict(max_hours=args.max_hours, start=start)
            run = Run(experiment, log_dir, name=name, resume=args.resume, profile=args.profile, **limits)

    print_plan(name, experiment, log_dir)
    print_session_limit(args.max_hours)
    compiles = CompileCounter()
    try:
        if not run.is_over():
            _cli.print_accuracy("held-out accuracy before", summarize_held_out(*evaluate_before(run)))
        run.fit()
    except CheckpointError as error:
        _cli.say(str(error))
        return 2
    except (OSError, TaskError) as error:
        _cli.say(f"{error}. {how_to_go_on(log_dir)}")
        return 1
    finally:
        compiles.close()
    print(f"programs: {compiles.count}, {compiles.from_cache} of them taken from the cache of an earlier start")
    if run.stopped_by == "skipped updates":
        _cli.say(
            f"No update could be made any more, so the policy in {log_dir} is the one from before that. What to change "
            "stands in the doctor's words; begin a new run with it."
        )
        return 1
    if processes.is_first():
        print_best(log_dir)
    if run.stopped_by is not None:
        print(stopped_by(run.stopped_by, log_dir))
        return 0 if run.stopped_by == "time" else 128 + signal.Signals[run.stopped_by]

    print_examples(experiment.evaluation.task, run.before[0], run.after[0])
    _cli.print_accuracy("held-out accuracy before", summarize_held_out(*run.before))
    _cli.print_accuracy("held-out accuracy after ", summarize_held_out(*run.after))
    if processes.is_first():
        with _cli.errors_in_a_sentence():
            print(f"report: {write_report(log_dir)}")
    curves = f"tensorboard --logdir {shlex.quote(str(log_dir.parent))}"
    print(f"{time.time() - start:.0f} s; files: {log_dir}; curves: {curves}")
    return 0


def evaluate_before(run):
    """The first thing that the policy computes; what it cannot, as in a dtype that is too narrow, is said."""
    try:
        return run.evaluate_before()
    except ValueError as error:
        _cli.refuse(str(error))


def how_to_go_on(log_dir) -> str:
    return f"Go on: {_cli.command('fit')} --resume --log-dir {shlex.quote(str(log_dir))}"


def how_to_begin_another(argv, log_dir) -> str:
    """The same command with the first folder that is free."""
    flag = argparse.ArgumentParser(add_help=False)
    flag.add_argument("--log-dir", "--logdir")
    _, others = flag.parse_known_args(argv)
    free = next(path for i in itertools.count(2) if not os.path.lexists(path := f"{log_dir}-{i}"))
    return f"{_cli.command('fit')} {shlex.join([*others, '--log-dir', free])}"


def stopped_by(what, log_dir) -> str:
    from keras_aha.runs.check_files import saved_epochs

    if not (log_dir / "recipe.toml").exists():
        return f"Stopped by {what} before the run began: the same command begins it."
    saved = "what was trained is saved" if saved_epochs(log_dir) else "nothing has been trained yet"
    return f"Stopped by {what}; {saved}. {how_to_go_on(log_dir)}"


def print_best(log_dir) -> None:
    """After which epoch the policy was best on held-out puzzles, if they were tried after several."""
    from keras_aha.callbacks.run_folder import HISTORY
    from keras_aha.runs.check_files import best_epoch, saved_epochs

    import pandas as pd

    best = best_epoch(log_dir)
    evaluated = [] if best is None else pd.read_csv(log_dir / HISTORY, index_col="epoch").dropna(subset="val_accuracy")
    if len(evaluated) < 2 or best not in evaluated.index:
        return
    row, home = evaluated.loc[best], f"{_cli.command('export')} {shlex.quote(str(log_dir))} --epoch best"
    ends = [f"{row[name]:.1%}" for name in ("val_accuracy_low", "val_accuracy_high") if name in row]
    interval = f" (95 % interval {' to '.join(ends)})" if ends else ""
    which = "the last." if best == saved_epochs(log_dir) else f"not the last. Take it home: {home}"
    found = f"{row['val_accuracy']:.1%}{interval} after epoch {best}, {which}"
    print(f"best held-out accuracy of {len(evaluated)} epochs: {found}")


def print_session_limit(max_hours: float | None) -> None:
    """If sessions are known to end, and no limit is given, says which would do."""
    from keras_aha.runs.machine import session_hours

    hours = session_hours()
    if max_hours is None and hours is not None:
        print(f"Sessions end here: --max-hours {hours} saves and stops in time, and --resume goes on in the next.")


def print_plan(name, experiment, log_dir):
    from keras_aha.runs.build_policy import start_epoch
    from keras_aha.runs.conditions import conditions

    recipe, policy = experiment.recipe, experiment.model.policy
    made_with = conditions(recipe, name)
    rollouts, held_out, lora = recipe.rollouts, recipe.evaluation, recipe.lora
    trained = sum(math.prod(variable.shape) for variable in policy.trainable_variables)
    base = policy.backbone.count_params() - (trained if lora.rank else 0)
    epoch = start_epoch(recipe)
    started = f", started from epoch {epoch} of {lora.start}" if epoch else ""
    which = f"LoRA of rank {lora.rank} on {', '.join(lora.target)}{started}" if lora.rank else "all"
    rows = f"{rollouts.prompts_per_epoch} prompts × {rollouts.group_size} completions"
    limits = f"of at most {rollouts.max_completion_length} tokens at temperature {rollouts.temperature:g}"
    print(
        f"{name}: GRPO on {recipe.model.preset}, {base:,} parameters, seed {recipe.training.seed}",
        f"  trained    {trained:,} parameters ({which})",
        f"  task       {made_with['task']}, template {made_with['template']!r}",
        f"  epochs     {recipe.training.epochs}, each {rows} {limits}",
        f"  held out   {held_out.puzzles} puzzles × {held_out.samples} samples, every {held_out.every} epochs",
        f"  devices    {made_with['devices']}",
        f"  files      {log_dir}, curves by tensorboard --logdir {shlex.quote(str(log_dir.parent))}",
        *([] if experiment.distribution is None else [f"\n{experiment.distribution.describe(policy)}\n"]),
        "Watch reward and accuracy: the loss of a policy gradient says nothing about progress.",
        sep="\n",
        flush=True,
    )


def print_examples(task, before, after, count=3):
    """The first sample of the first held-out puzzles, whatever came of it."""
    from keras_aha.evaluation.transcript import shown
    from keras_aha.names import printable

    for puzzle in range(min(count, len(task))):
        print(f"\n{printable(task.prompt(task.problem(puzzle))).strip()}")
        for when, table in (("before", before), ("after", after)):
            row = table[(table["puzzle"] == puzzle) & (table["sample"] == 0)].iloc[0]
            print(f"  {when}: {row['verdict']}")
            print("\n".join(f"    {line}" for line in printable(shown(row)).splitlines()))
    print()


if __name__ == "__main__":
    _cli.start(main)
