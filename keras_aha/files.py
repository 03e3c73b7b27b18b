"""Files: paths of this machine, text line by line, what is written whole or not at all, and what keras-aha brings."""

import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


def local_path(path: str | os.PathLike, name: str = "path") -> Path:
    """A path of this machine, its `~` replaced by the home folder; `name` is the argument's.

    It raises ValueError for an address such as `gs://bucket/runs`, a `~` without a home, and what is no file's name.
    """
    text = os.path.expanduser(os.fspath(path))
    is_address = re.match(r"[A-Za-z][\w+.-]+:/", text)  # pathlib makes one slash of two
    if text and text[0] != "~" and not is_address and not re.search("[\0\ud800-\udfff]", text):
        return Path(text)
    remedy = "mount what the address names, or copy it here" if is_address else "write it out, in UTF-8 and without ~"
    raise ValueError(f"`{name}` must be a path of this machine: {remedy}. Received: {name}={os.fspath(path)!r}")


def read_text(path: str | os.PathLike, errors: str = "strict") -> str:
    """A text in UTF-8, with or without a byte-order mark, its line ends as they are; or OSError, ValueError."""
    content = local_path(path).read_bytes()
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"Line {line} is not in UTF-8, in which the text must be saved: {error.reason}") from error


def read_lines(path: str | os.PathLike) -> list[str]:
    """The lines of `read_text`, each with its end, which is `\\n` alone: `str.splitlines` knows nine other ends."""
    return io.StringIO(read_text(path), newline="\n").readlines()


def json_lines(records: Iterable[dict]) -> bytes:
    """A line of JSON for each record, as it is to be written; a lone surrogate is no UTF-8, and becomes its number."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return "".join(lines).encode(errors="backslashreplace")


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes text, as UTF-8, or bytes. Whatever happens, a reader finds all of it or what was there before."""
    path = local_path(path)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    os.replace(part, path)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which becomes `path` as the block ends, and is removed if it ends by an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".keras-aha-") as beside:
        part = Path(beside, path.name)
        part.mkdir()
        yield part
        part.rename(path)


def presets_folder() -> Path:
    """The folder of the recipes and presets that come with keras-aha: inside a wheel, beside the package elsewhere."""
    inside = Path(__file__).parent / "presets"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "presets"
