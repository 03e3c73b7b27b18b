"""Writes a page about a run: pictures of accuracy, lengths, behaviours and verdicts, and completions to look at."""

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    words = "a run's folder, such as runs/countdown_tiny-seed0, finished or not"
    parser.add_argument("run", metavar="RUN", type=_cli.path, help=words)
    _cli.add_epoch_flag(parser, "up to which epoch")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    with _cli.errors_in_a_sentence():
        with _cli.quiet():
            from keras_aha.runs.report import write_report

            page = write_report(args.run, args.epoch)
    print(page)
    return 0


if __name__ == "__main__":
    _cli.start(main)
