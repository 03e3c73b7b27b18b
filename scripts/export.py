"""Writes the policy of a run as folders that keras-hub, transformers and PEFT load, with model cards."""

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    words = "a run's folder, such as runs/countdown_tiny-seed0, finished or not"
    parser.add_argument("run", metavar="RUN", type=_cli.path, help=words)
    _cli.add_epoch_flag(parser, "after which saved epoch")
    words = "where the folders come to lie (default: RUN/export)"
    parser.add_argument("--out", metavar="FOLDER", type=_cli.path, help=words)
    words = "keras, transformers or peft; may be given several times (default: all that the run can have)"
    parser.add_argument("--format", action="append", metavar="FORMAT", help=words)
    words = (
        "where the preset or a file lies now, if elsewhere, e.g. --set model.preset=FOLDER; may be given several times"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=words)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    out = args.out or args.run / "export"
    with _cli.errors_in_a_sentence():
        from keras_aha.runs.check_folder import check_new_folder

        check_new_folder(out, "out")
        with _cli.quiet():
            from keras_aha.runs.export import export

            folders = export(args.run, out, args.format, args.epoch, changes=args.set)
    print(*folders, sep="\n")
    return 0


if __name__ == "__main__":
    _cli.start(main)
