import io
import sys
import time

from keras_aha.callbacks import rollout_bar as module
from keras_aha.callbacks.rollout_bar import rollout_bar

import pytest


class Terminal(io.StringIO):
    """Keeps what is written to it."""

    def __init__(self, monkeypatch, patience=0):
        super().__init__()
        monkeypatch.setattr(sys, "stderr", self)
        monkeypatch.setattr(module, "_PATIENCE", patience)

    def isatty(self):
        return True

    @property
    def line(self):
        """The last line, as one would see it."""
        return self.getvalue().rsplit("\r", 1)[1] or self.getvalue().rsplit("\r", 2)[1]


def report(on_segment, *calls):
    for unfinished, tokens in calls:
        time.sleep(0.12)  # tqdm looks at the clock every tenth of a second
        on_segment(unfinished, tokens)


def test_rows_and_tokens_on_a_terminal(monkeypatch):
    terminal = Terminal(monkeypatch)
    with rollout_bar("evaluation", 8) as on_segment:
        report(on_segment, (8, 512), (5, 1000), (0, 1200))
        shown = terminal.getvalue()
    assert "evaluation" in shown
    for finished in ("0/8", "3/8", "8/8"):
        assert finished in shown
    assert "5 rows alive" in shown and "tokens/s" in shown
    assert not terminal.line.strip()  # it has wiped itself away


def test_a_short_rollout_has_none(monkeypatch):
    terminal = Terminal(monkeypatch, patience=module._PATIENCE)
    with rollout_bar("rollout", 8) as on_segment:
        report(on_segment, (4, 100), (0, 200))
    assert not terminal.getvalue().strip()


def test_there_is_none_in_a_file(monkeypatch, capsys):
    monkeypatch.setattr(module, "_PATIENCE", 0)
    with rollout_bar("rollout", 8) as on_segment:
        report(on_segment, (4, 100), (0, 200))
    assert capsys.readouterr() == ("", "")


def test_it_disappears_with_an_error(monkeypatch):
    terminal = Terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), rollout_bar("rollout", 8) as on_segment:
        report(on_segment, (4, 100))
        raise KeyboardInterrupt
    assert not terminal.line.strip()
