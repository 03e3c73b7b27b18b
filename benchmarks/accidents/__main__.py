"""Accidents that people who train like this have reported, made again here: a line each, of what became of it.

    python benchmarks/accidents                 all of them, some minutes
    python benchmarks/accidents 03 09           these
    python benchmarks/accidents --folder DIR    keeps what they write

Each file beside this one is an accident. Its `check(folder)` makes it in an empty folder, asserts what is right, and
returns in a few words what was seen. Ends with exit code 1 if one of them is not as it should be. Two need
`pip install -e ".[interop]"`, and say so.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", metavar="NN", help="of the files (default: all)")
    parser.add_argument("--folder", type=Path, help="a new one, which is kept (default: a temporary one)")
    args = parser.parse_args()
    paths = [path for path in sorted(HERE.glob("[0-9]*.py")) if not args.numbers or path.name[:2] in args.numbers]
    if not paths:
        parser.error(f"There is no such accident. Received: {' '.join(args.numbers)}")
    with tempfile.TemporaryDirectory() as temporary:
        ends = [end_of(path, (args.folder or Path(temporary)) / path.stem) for path in paths]
    print(f"{ends.count('right')} of {len(paths)} as they should be, {ends.count('untried')} not tried")
    sys.exit("wrong" in ends)


def end_of(path: Path, folder: Path) -> str:
    """Makes the accident and prints its line."""
    title = path.stem[3:].replace("_", " ")
    spec = importlib.util.spec_from_file_location(f"accident_{path.stem}", path)
    accident = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(accident)
    folder.mkdir(parents=True)
    try:
        words = accident.check(folder)
    except ImportError as error:
        print(f"{path.name[:2]} {title}: not tried. {error}", flush=True)
        return "untried"
    except Exception as error:  # whatever it is, the others are still to be tried
        print(f"{path.name[:2]} {title}: WRONG, {type(error).__name__}: {error}", flush=True)
        return "wrong"
    print(f"{path.name[:2]} {title}: {words}", flush=True)
    return "right"


if __name__ == "__main__":
    main()
