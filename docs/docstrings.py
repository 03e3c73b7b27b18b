"""Docstrings as Sphinx reads them: ours are Google's sections around plain text and Markdown's tables and backticks."""

import re

CODE = ".. code-block:: text"
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
# A bar begins a substitution, an underscore at the end of a word is a link, and `**settings` is not bold.
_SPECIAL = re.compile(r"\||(?<=\w)_(?!\w)|\*(?=\*)|(?<=\*)\*")
_CELL = re.compile(r"(?<!\\)\|")


def as_restructured(lines: list[str]) -> list[str]:
    """The same in reStructuredText, sections left to napoleon.

    Before the first section, what is indented after a blank line is code. Tables become list tables. Outside of code,
    bars, underscores and asterisks are themselves.
    """
    result, table, in_code, head = [], [], False, True
    for line in [*lines, ""]:
        head = head and not _SECTION.match(line)
        if line.startswith("|"):
            table.append(line)
            continue
        result += _as_list_table(table)
        table = []
        indented = head and line.startswith("    ")
        if indented and not in_code and (not result or not result[-1].strip()):
            result += [CODE, ""]
            in_code = True
        elif line.strip() and not indented:
            in_code = False
        result.append(line if in_code else _inline(line))
    return result


def _as_list_table(rows: list[str]) -> list[str]:
    if not rows:
        return []
    table = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if all(set(cell) <= set("-:") for cell in cells if cell):
            continue
        table += [f"   {'* -' if i == 0 else '  -'} {_as_is(cell)}" for i, cell in enumerate(cells)]
    return [*table, ""]


def _as_is(cell: str) -> str:
    return re.sub(r"^([-+*])", r"\\\1", cell)  # no list


def _inline(line: str) -> str:
    """With bars, underscores and asterisks that are themselves, and no blanks at the ends of code.

    Every second part between backticks is code.
    """
    parts = line.split("`")
    last = len(parts) - 1  # code that goes on in the next line, if it is one
    code = {i: part if i == last else part.strip() for i, part in enumerate(parts) if i % 2}
    return "`".join(code.get(i, _SPECIAL.sub(r"\\\g<0>", part)) for i, part in enumerate(parts))
