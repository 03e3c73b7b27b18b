"""Writes a preset with a smaller vocabulary, the commonest pieces of ASCII text; a small Gemma then takes less time.

The adapters that are trained on it fit the whole preset.
"""

import shlex

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    parser.add_argument("preset", metavar="PRESET", help="a Gemma: a keras-hub preset, or a folder")
    parser.add_argument("out", metavar="OUT", type=_cli.path, help="the folder to write")
    words = "of ASCII text that are kept, beside single characters (default: %(default)s)"
    parser.add_argument("--pieces", metavar="N", type=_cli.at_least(1), default=32_000, help=words)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    with _cli.errors_in_a_sentence():
        from keras_aha.runs.check_folder import check_new_folder

        check_new_folder(args.out, "out")
        with _cli.quiet():
            from keras_aha.files import whole_folder
            from keras_aha.models.policy import load_policy
            from keras_aha.models.trimming import trim_vocabulary

            policy = load_policy(args.preset, lora_rank=0)
            trimmed = trim_vocabulary(policy, args.pieces)
            with whole_folder(args.out) as made:
                trimmed.save_to_preset(str(made))
    before, after = (f"{model.backbone.count_params():,}" for model in (policy, trimmed))
    print(f"Written: {args.out}, {before} → {after} parameters, for --set {shlex.quote(f'model.preset={args.out}')}")
    return 0


if __name__ == "__main__":
    _cli.start(main)
