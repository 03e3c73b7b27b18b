"""`Passage`: a piece of a corpus, as a search finds it; `read_passages` reads them from texts or rows."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from keras_aha.files import local_path, read_text
from keras_aha.tasks.rows_file import read_rows, row_files

_TEXTS = (".txt", ".md")
_LONGEST = 1000  # characters of a passage of a text


class Passage(NamedTuple):
    """A text with an id, by which it is cited, such as `Torvik.txt#2`, the second passage of a file."""

    id: str
    text: str
    title: str = ""

    @property
    def names(self) -> set[str]:
        """What may name it as evidence, as `clean_id` writes it: its id, the file in it, its title."""
        return {self.id, self.id.partition("#")[0], clean_id(self.title)} - {""}


def read_passages(corpus: str | PathLike | Sequence[Passage], key: str = "corpus") -> tuple[Passage, ...]:
    """Reads all passages, in order.

    Args:
        corpus: a folder of texts, `.txt` and `.md`, or one of them, long ones cut where paragraphs end; a file of rows
            with the columns `id`, `text`, and `title` if you like, see `read_rows`; or the passages themselves.
        key: the argument's name, as errors show it.

    Raises:
        ValueError: if it cannot be read, is empty, or an id comes twice.
    """
    found = _read(local_path(corpus, key), key) if isinstance(corpus, str | PathLike) else corpus
    passages = {}
    for passage in found:
        passage = passage._replace(id=clean_id(passage.id))
        if passages.setdefault(passage.id, passage) is not passage:
            raise ValueError(f"`{key}` must have each id once. Received: the id {passage.id!r} twice")
    if not any(passage.text.strip() for passage in passages.values()):
        raise ValueError(f"`{key}` must have a text or more. Received: {key}={str(corpus)[:200]!r}")
    return tuple(passages.values())


def clean_id(text: str) -> str:
    """An id as it can be cited in brackets: what is no part of such an id becomes `_`."""
    return re.sub(r"[\[\]\s]+", "_", text.strip())


def corpus_files(path: str | PathLike, key: str) -> list[Path]:
    """The files that `read_passages` reads, in order: texts if there are some, else those of `row_files`."""
    path = local_path(path, key)
    if not path.exists():
        raise ValueError(
            f"`{key}` must be a folder of .txt and .md, or a file of rows, and nothing has that name. Received: "
            f"{key}={str(path)!r}"
        )
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    texts = [file for file in inside if file.suffix.lower() in _TEXTS and file.name[0] != "." and file.is_file()]
    return texts or row_files(path, key)


def _read(path: Path, key: str) -> Iterator[Passage]:
    files = corpus_files(path, key)
    if files[0].suffix.lower() not in _TEXTS:
        for row in read_rows(files, key, ("id", "text"), ("title",)):
            yield Passage(row["id"], row["text"], row["title"] or "")
        return
    for file in files:
        try:
            pieces = _cut(read_text(file))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file.name} cannot be read: {error}. Received: {key}={str(path)!r}") from error
        name = (file.relative_to(path) if file != path else Path(file.name)).as_posix()
        for number, piece in enumerate(pieces, start=1):
            yield Passage(f"{name}#{number}" if len(pieces) > 1 else name, piece, file.stem.replace("_", " "))


def _cut(text: str) -> list[str]:
    """Pieces of paragraphs, several short ones together."""
    pieces = [""]
    for paragraph in re.split(r"\n\s*\n", text):
        for piece in textwrap.wrap(paragraph, _LONGEST):
            together = f"{pieces[-1]}\n{piece}".strip()
            pieces[-1:] = [together] if len(together) <= _LONGEST else [pieces[-1], piece]
    return pieces
