"""Files that are written whole or not at all, and the folder of those that come with keras-aha."""

import os
from pathlib import Path


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes text, as UTF-8, or bytes. Whatever happens, a reader finds all of it or what was there before."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def presets_folder() -> Path:
    """The folder of the recipes and presets that come with keras-aha: inside a wheel, beside the package elsewhere."""
    inside = Path(__file__).parent / "presets"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "presets"
