"""Teaches a model by examples, a task's worked solutions or rows of your own, and saves it as a new preset.

What was stopped goes on by --resume, and ends as it would have without the stop.
"""

import shlex
import signal

import _cli

_DEFAULT = "countdown_tiny"


def parse(argv):
    parser = _cli.new_parser(__doc__)
    _cli.add_recipe_flags(parser, None, f" (default: {_DEFAULT})")
    parser.add_argument("--out", type=_cli.path, required=True, metavar="FOLDER", help="the new preset's folder")
    parser.add_argument("--new", action="store_true", help="begin with a tiny Gemma of random weights, not the preset")
    parser.add_argument("--seed", type=_cli.at_least(0), help="of all that is random (default: the recipe's)")
    words = (
        "go on with what was stopped in --out, by its own recipe unless --recipe is given; begin it if there is none"
    )
    parser.add_argument("--resume", action="store_true", help=words)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    try:
        with _cli.interrupted_by_sigterm(), _cli.errors_in_a_sentence():
            return prime(args)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        how = f"Go on: {_cli.command('prime')} --resume --out {shlex.quote(str(args.out))}"
        print(f"Stopped by {signal.Signals(number).name}; whole epochs are saved. {how}")
        return 128 + number


def prime(args) -> int:
    from keras_aha.recipes.recipe import RECIPE, Recipe

    with _cli.quiet():
        from keras_aha.runs.conditions import conditions, in_words
        from keras_aha.runs.prime_preset import prime_preset
        from keras_aha.runs.priming_folder import PRIMING, is_primed, read_began

    own = args.out / PRIMING / RECIPE
    if args.resume and is_primed(args.out):
        print(f"{args.out} is primed already.")
        name = args.recipe or own
    else:
        began = read_began(args.out) if args.resume and args.recipe is None else None
        name = own if began else args.recipe or _DEFAULT
        recipe = Recipe.load(name).override(_cli.changes(args, seed="priming.seed"))
        new = args.new or bool(began and began["new"])
        with _cli.quiet():
            summary = prime_preset(recipe, args.out, new=new, resume=args.resume)
        print(in_words(conditions(recipe, name)))
        _cli.print_accuracy("held-out accuracy primed", summary)
    curves = f"tensorboard --logdir {shlex.quote(str(args.out))}"
    print(f"preset: {args.out}; its curve: {args.out / 'priming.csv'}; in TensorBoard: {curves}")
    changes = [change for change in args.set if not change.strip().startswith(("priming.", "model.preset"))]
    flags = [flag for change in (*changes, f"model.preset={args.out}") for flag in ("--set", change)]
    print(f"next, GRPO: {_cli.command('fit')} --recipe {shlex.join([str(name), *flags])}")
    return 0


if __name__ == "__main__":
    _cli.start(main)
