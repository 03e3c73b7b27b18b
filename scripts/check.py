"""Says in a few minutes what this machine does, against what is predicted: numbers, speed, memory, a kill, a resume.

Nothing is downloaded: weights are random. The file that it writes holds nothing personal, so a report can attach it.
"""

import json
import sys
import time

import _cli

_START = time.perf_counter()


def parse(argv):
    parser = _cli.new_parser(__doc__)
    words = " (default: gemma2_2b_en on an accelerator, gemma3_270m on a CPU); rows and tokens are few unless --set"
    _cli.add_recipe_flags(parser, None, words)
    words = "write all numbers to this file (default: %(default)s)"
    parser.add_argument("--json", type=_cli.path, metavar="FILE", default="check.json", help=words)
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse(argv)
    with _cli.errors_in_a_sentence():
        _cli.check_new_file(args.json, "--json")
        with _cli.quiet():
            from keras_aha.planner import check

            report = check(args.recipe, args.set, on_check=progress)
        args.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    print(report, f"All numbers: {args.json}. It holds nothing personal: attach it to a report.", sep="\n")
    return 0 if report.is_right else 1


def progress(name: str) -> None:
    """Tells which check begins, and when, on stderr."""
    print(f"{time.perf_counter() - _START:5.0f} s  {name}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    _cli.start(main)
