"""The same command a second time while the first still runs: the second is refused, and told by whom.

DeepTab, issue 411
"""

import time

import pandas as pd
from commands import SMALL, last_lines, refused, run, start


def check(folder):
    log_dir = folder / "run"
    arguments = ["--log-dir", log_dir, "--epochs", 200, *SMALL]
    first = start("fit", *arguments, log=folder / "first.log")
    try:
        while not (log_dir / "saved_epochs" / "2").exists():
            assert first.poll() is None, (folder / "first.log").read_text()
            time.sleep(0.5)
        words = refused(run("fit", "--resume", *arguments), f"in use by process {first.pid} on ")
        refused(run("fit", *arguments), f"in use by process {first.pid} on ")
        report = run("report", log_dir)
        assert report.returncode == 0, last_lines(report)
        assert first.poll() is None, (folder / "first.log").read_text()
    finally:
        first.kill()
        first.wait()
    again = run("fit", "--resume", *arguments, "--max-hours", 1e-6)  # a kill has let go of the lock
    assert again.returncode == 0 and "what was trained is saved" in again.stdout, last_lines(again)
    epochs = pd.read_csv(log_dir / "history.csv")["epoch"].tolist()
    assert epochs == [*range(1, len(epochs) + 1)], epochs
    return words
