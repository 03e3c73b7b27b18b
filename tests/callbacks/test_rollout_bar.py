import io
import sys
import time

from keras_aha.callbacks import rollout_bar as module
from keras_aha.callbacks.rollout_bar import below_bar, rollout_bar

import keras
import pytest


class Terminal(io.StringIO):
    def isatty(self):
        return True


def report(on_segment, *calls):
    for unfinished, tokens in calls:
        time.sleep(0.12)  # tqdm looks at the clock every tenth of a second
        on_segment(unfinished, tokens)


def test_rows_and_tokens_on_a_terminal(monkeypatch):
    """It wipes itself away, and does so if an error ends the rollout."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(module, "_PATIENCE", 0)
    with pytest.raises(KeyboardInterrupt), rollout_bar("evaluation", 8) as on_segment:
        report(on_segment, (8, 512), (5, 1000), (0, 1200))
        shown = terminal.getvalue()
        raise KeyboardInterrupt
    assert all(part in shown for part in ("evaluation", "0/8", "3/8", "8/8", "5 rows alive", "tokens/s"))
    assert not terminal.getvalue().rstrip("\r").rsplit("\r", 1)[1].strip()  # the line as one would see it


@pytest.mark.parametrize("stream, patience", [(Terminal, module._PATIENCE), (io.StringIO, 0)])
def test_a_short_rollout_and_a_file_have_none(stream, patience, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(module, "_PATIENCE", patience)
    with rollout_bar("rollout", 8) as on_segment:
        report(on_segment, (4, 100), (0, 200))
    assert not sys.stderr.getvalue().strip()


def test_what_a_reward_prints_stands_below_the_bar_of_epochs(monkeypatch):
    """On a line of its own, also what it writes to stderr; and it is let through at once."""
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = keras.utils.Progbar(2, unit_name="epoch")
    bar.update(1, [("reward", 0.5)])
    drawn = terminal.getvalue().rsplit("\r", 1)[1]
    with below_bar():
        print("scored", flush=True)
        assert terminal.getvalue().endswith("\nscored\n")
        print("again")
    assert sys.stdout is terminal and terminal.getvalue().endswith(f"{drawn}\nscored\nagain\n")
    with below_bar():
        pass
    assert terminal.getvalue().endswith("again\n")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with below_bar():
        print("to a file")
    assert sys.stdout.getvalue() == "to a file\n"
