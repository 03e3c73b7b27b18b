"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file so that whoever reads it, whatever happened, finds all of it or what was there before.

    Args:
        path: of the file.
        content: text, written as UTF-8, or bytes.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)
