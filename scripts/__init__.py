"""The commands in a wheel: `keras-aha fit …` is what `python scripts/fit.py …` is in the repository."""

import importlib
import sys
from pathlib import Path

COMMANDS = ("fit", "evaluate", "plan", "check", "prime", "report", "export", "import-gguf", "trim")


def main() -> None:
    """Runs a command as Python runs the script of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        asked = name in ("-h", "--help")
        usage = f"usage: keras-aha {{{','.join(COMMANDS)}}} …, and `keras-aha COMMAND --help` for more."
        print(usage if asked else f"keras-aha: {usage} Received: {name!r}", file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    sys.path.insert(0, str(Path(__file__).parent))  # as if that were the script's folder
    sys.argv = [f"keras-aha {name}", *sys.argv[2:]]
    importlib.import_module("_cli").start(importlib.import_module(name.replace("-", "_")).main)
