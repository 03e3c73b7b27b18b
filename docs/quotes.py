"""What the pages quote from the package: tables of a recipe's keys, and pieces of code.

A comment in a page names what stands below it:

    <!-- keys: rollouts -->
    <!-- code: losses.group_advantages from groups = ops.reshape -->

`python docs/quotes.py` writes all of them anew. A test compares the pages with the code.
"""

import inspect
import os
import re
import textwrap
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import recipe_keys  # noqa: E402

_QUOTE = re.compile(
    r"^<!-- (keys|code): ([^\n]+) -->\n(?:\n(?:\|[^\n]*\n)+|```python\n.*?^```\n)?", re.MULTILINE | re.DOTALL
)


def rewritten(page: str) -> str:
    """The text of a page with every quote as the code is now.

    Raises:
        LookupError: if a key is documented nowhere.
    """
    return _QUOTE.sub(lambda match: f"<!-- {match[1]}: {match[2]} -->\n{_QUOTES[match[1]](match[2])}", page)


def _code(what: str) -> str:
    """A fenced block with the source of a function, from the first line that begins with what stands behind "from"."""
    path, _, start = what.partition(" from ")
    lines = inspect.getsource(recipe_keys.find(path)).splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith(start))
    return f"```python\n{textwrap.dedent(chr(10).join(lines[first:]))}\n```\n"


_QUOTES = {"keys": lambda what: f"\n{recipe_keys.table(what)}", "code": _code}

if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("*.md")):
        path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
