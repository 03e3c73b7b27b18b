"""The notebook where TensorBoard cannot be shown inline, as on Kaggle: it goes on, and names the report's curves.

github.com/googlecolab/colabtools/issues/4567, github.com/erfanzar/EasyDeL/issues/59
"""

import contextlib
import io
import json
import os
from types import SimpleNamespace

from commands import ROOT

KAGGLE = "KAGGLE_KERNEL_RUN_TYPE"


def check(folder):
    notebook = json.loads((ROOT / "notebooks" / "countdown.ipynb").read_text(encoding="utf-8"))
    (cell,) = (cell for cell in notebook["cells"] if cell["id"] == "tensorboard")
    lines = "".join(cell["source"]).split("\n")
    code = "\n".join(f"{line[: len(line) - len(line.lstrip())]}magic()" if "%" in line[:8] else line for line in lines)
    assert "magic()" in code, code

    def magic(*words):
        raise ModuleNotFoundError("No module named 'pkg_resources'")

    names = {"magic": magic, "get_ipython": lambda: SimpleNamespace(run_line_magic=magic), "os": os, "folder": folder}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, names)  # noqa: S102  the notebook's own cell
    assert "The report in section 10 has the curves." in said.getvalue(), said.getvalue()
    return said.getvalue().strip()
