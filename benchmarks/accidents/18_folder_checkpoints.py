"""A folder `checkpoints`, which the file browsers of notebooks keep for themselves: new runs have none, old ones go on.

github.com/googlecolab/colabtools/issues/621, github.com/jupyterlab/jupyterlab/issues/12456
"""

import shutil

from commands import SMALL, last_lines, run


def check(folder):
    log_dir = folder / "run"
    result = run("fit", "--log-dir", log_dir, "--epochs", 2, *SMALL)
    assert result.returncode == 0, last_lines(result)
    assert (log_dir / "saved_epochs" / "1").is_dir() and not list(log_dir.glob("**/*checkpoints"))
    (log_dir / "saved_epochs").rename(log_dir / "checkpoints")  # as an older one, stopped after its first epoch
    shutil.rmtree(log_dir / "checkpoints" / "2")
    (log_dir / "summary.json").unlink()
    result = run("fit", "--resume", "--log-dir", log_dir)
    assert result.returncode == 0, last_lines(result)
    assert {path.name for path in (log_dir / "checkpoints").iterdir()} == {"1", "2"}
    assert not (log_dir / "saved_epochs").exists()
    return "a new run saves its epochs in saved_epochs, an old one went on in checkpoints"
