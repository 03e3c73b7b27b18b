"""The commands in a wheel: `keras-aha fit …` is what `python scripts/fit.py …` is in the repository."""

import runpy
import sys
from pathlib import Path

COMMANDS = ("fit", "evaluate", "plan", "prime", "report", "export", "import-gguf")


def main() -> None:
    """Runs a command as Python runs a script of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        asked = name in ("-h", "--help")
        usage = f"usage: keras-aha {{{','.join(COMMANDS)}}} …, and `keras-aha COMMAND --help` for more."
        print(usage if asked else f"keras-aha: {usage} Received: {name!r}", file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    folder = Path(__file__).parent
    sys.path.insert(0, str(folder))
    sys.argv = [f"keras-aha {name}", *sys.argv[2:]]
    runpy.run_path(str(folder / f"{name.replace('-', '_')}.py"), run_name="__main__")
