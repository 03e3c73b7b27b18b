"""`ColumnText`: a text with columns of a file in it."""

import re
from collections.abc import Mapping
from string import Formatter


class ColumnText:
    """A column, or a text with columns in it, such as `"{question}\\n{options}"`.

    Args:
        text: either of them.
        key: what it is called, for errors.

    Raises:
        ValueError: if braces stand in it that hold no column.
    """

    def __init__(self, text: str, key: str):
        self._pieces = [("", text)]
        if re.search("[{}]", text):
            try:
                pieces = list(Formatter().parse(text))
            except ValueError:
                pieces = []
            self._pieces = [(before, column) for before, column, *_ in pieces]
            if not any(self.columns) or any(column == "" or a or b for _, column, a, b in pieces):
                raise ValueError(
                    f'`{key}` must be a column, or a text with columns in it, such as "{{question}}\\n{{options}}". '
                    f"Received: {key}={text!r}"
                )

    @property
    def columns(self) -> list[str]:
        """Its columns, in the order of the text."""
        return [column for _, column in self._pieces if column is not None]

    def filled(self, texts: Mapping[str, str]) -> str:
        """The text with those of a row, by column."""
        return "".join(before + ("" if column is None else texts[column]) for before, column in self._pieces)
