"""Primes a model on a task's worked solutions: supervised training, saved as a new preset."""

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    _cli.add_recipe_flags(parser, "countdown_tiny")
    parser.add_argument("--out", type=_cli.path, required=True, metavar="FOLDER", help="the new preset's folder")
    parser.add_argument("--new", action="store_true", help="begin with a tiny Gemma of random weights, not the preset")
    parser.add_argument("--seed", type=_cli.at_least(0), help="of all that is random (default: the recipe's)")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    with _cli.errors_in_a_sentence():
        from keras_aha.recipes.recipe import Recipe

        recipe = Recipe.load(args.recipe).override(_cli.changes(args, seed="priming.seed"))
        with _cli.quiet():
            from keras_aha.runs.conditions import conditions, in_words
            from keras_aha.runs.prime_preset import prime_preset

            summary = prime_preset(recipe, args.out, new=args.new)
    print(in_words(conditions(recipe, args.recipe)))
    _cli.print_accuracy("held-out accuracy primed", summary)
    print(f"preset: {args.out}; its curve: {args.out / 'priming.csv'}")
    return 0


if __name__ == "__main__":
    _cli.start(main)
