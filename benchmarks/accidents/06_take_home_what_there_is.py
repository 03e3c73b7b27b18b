"""A run that is stopped by Ctrl-C, goes on and is killed: the policy after each epoch that is saved can be taken home.

github.com/huggingface/trl/issues/3384, github.com/modelscope/ms-swift/issues/5111
"""

import json
import signal
import time

from commands import SMALL, refused, run, start

FLAGS = [*SMALL, "--set", "evaluation.every=1", "--epochs", 300]


def check(folder):
    home = folder / "run"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child ignores it if its parent does
    stopped = until_epoch(2, home, signal.SIGINT, "--log-dir", home, *FLAGS)
    assert (home / "adapters.lora.h5").exists()
    killed = until_epoch(stopped + 1, home, signal.SIGKILL, "--resume", "--log-dir", home)

    measured = run("evaluate", home, "--json", folder / "numbers.json")
    assert json.loads((folder / "numbers.json").read_text())["epoch"] == killed > stopped, measured.stdout
    assert f"{home} after epoch {killed}: 8 held-out puzzles" in measured.stdout, measured.stdout
    exported = run("export", home, "--epoch", "best", "--format", "keras")
    assert exported.returncode == 0, exported.stdout
    card = (home / "export" / "keras" / "README.md").read_text()
    (words,) = [line for line in card.split("\n") if " of 300 epochs." in line]
    assert run("report", home, "--epoch", 1).returncode == 0 and (home / "report-1.html").exists()
    refused(run("evaluate", home, "--epoch", 299), "Epoch 299 is not saved: `epoch` must be one of ", f", {killed}, ")
    return f"stopped after epoch {stopped}, killed after {killed}, which is measured; the card: {words}"


def until_epoch(epoch, home, number, *flags) -> int:
    """Trains until an epoch is saved, ends that by a signal, and returns the last epoch that is."""
    log = home.with_name(f"{number.name}.txt")
    process = start("fit", *flags, log=log)
    while saved(home) < epoch:
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    process.send_signal(number)
    process.wait()
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), log.read_text()
    return saved(home)


def saved(home) -> int:
    return max((int(path.name) for path in home.glob("saved_epochs/*") if path.name.isdecimal()), default=0)
