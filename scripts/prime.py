"""Primes a model on a task's worked solutions: supervised training, saved as a new preset."""

import dataclasses
import os
import random
import tempfile
from pathlib import Path

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    parser.add_argument(
        "--preset",
        default="countdown_tiny",
        help="a recipe in presets/, or the path of a TOML file (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the new preset's folder")
    parser.add_argument("--new", action="store_true", help="begin with a tiny Gemma of random weights, not the preset")
    parser.add_argument("--seed", type=_cli.at_least(0), help="of all that is random (default: the recipe's)")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    with _cli.errors_in_a_sentence():
        recipe = _cli.load_recipe(args.preset, args.set, priming__seed=args.seed)
        _cli.check_new_folder(args.out, "--out")
        check_adapters(recipe, args.new)
        with _cli.quiet():
            from keras_aha.models import lora
            from keras_aha.models.presets import is_download
            from keras_aha.models.special_tokens import turn_end_id
            from keras_aha.models.tiny_gemma import tiny_gemma
            from keras_aha.runs import experiment
            from keras_aha.runs.build_policy import build_policy
            from keras_aha.runs.build_task import build_task
            from keras_aha.training.grpo_model import GRPOModel
            from keras_aha.training.priming import prime

            import keras
        priming = recipe.priming
        task = build_task(recipe, priming.seed)
        check_habits(task, priming.habits)
        held_out = experiment.build_evaluation(recipe)
        with _cli.quiet(unless=not args.new and is_download(recipe.model.preset)):
            keras.utils.set_random_seed(priming.seed)  # nothing random between here and the first weights
            policy = tiny_gemma() if args.new else build_policy(recipe, priming.adapters)
        turn_end_id(policy.preprocessor.tokenizer, priming.stop_token)  # both raise before the long work
        model = GRPOModel(policy)

    print(f"{policy.backbone.count_params():,} parameters, {priming.steps} steps of {priming.batch_size} solutions")
    settings = dataclasses.asdict(priming)
    del settings["adapters"]
    history = prime(policy, task, **settings)
    lora.merge(policy)
    save(policy, history, args.out)
    summary = experiment.summarize_held_out(held_out.evaluate(model), held_out.evaluate(model, greedy=True))
    _cli.print_accuracy("held-out accuracy primed", summary)
    print(f"preset: {args.out}; its curve: {args.out / 'priming.csv'}")
    return 0


def check_adapters(recipe, new: bool) -> None:
    """Raises ValueError where adapters are to be trained and there are none, or none that can be merged."""
    rank, quantization = recipe.lora.rank, recipe.model.quantization
    if recipe.priming.adapters and (new or not rank or quantization):
        raise ValueError(
            "priming.adapters trains those of [lora] and merges them into a preset's float weights: leave it or --new "
            f'out, or set lora.rank and model.quantization="none". Received: lora.rank={rank}, '
            f"model.quantization={quantization!r}, --new {'given' if new else 'not given'}"
        )


def check_habits(task, habits: dict) -> None:
    """Raises ValueError where the task has no worked solutions, or not with these habits."""
    try:
        task.worked_solution(task.problem(0), random.Random(0), **habits)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"The task's worked solutions: {error}. Received: priming.habits={habits}") from error


def save(policy, history, folder: Path) -> None:
    """Writes all at once: what stands at `folder` is complete."""
    import pandas

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        made = Path(beside, folder.name)
        policy.save_to_preset(str(made))
        epochs = pandas.RangeIndex(1, len(history.epoch) + 1, name="epoch")
        pandas.DataFrame(history.history, index=epochs).to_csv(made / "priming.csv")
        os.rename(made, folder)


if __name__ == "__main__":
    _cli.start(main)
