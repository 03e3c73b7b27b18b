"""`rollout_bar`: the progress of a long rollout; `below_bar`: what a user's code prints beside a bar."""

import contextlib
import io
import sys

from keras_aha.distribution import processes

import tqdm.auto

_PATIENCE = 5  # seconds; a rollout that is shorter needs no bar


@contextlib.contextmanager
def rollout_bar(what: str, rows: int):
    """Shows finished completions, rows alive and tokens per second while the block runs, then disappears.

    It is shown on a terminal and in notebooks only, by the first of several processes, and only after 5 seconds. It
    says `what` before the bar of so many `rows`, and yields a function for `GRPOModel.generate`'s `on_segment`.
    """
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel.")
    hidden = not (sys.stderr.isatty() or in_notebook) or not processes.is_first()
    with tqdm.auto.tqdm(total=rows, desc=what, delay=_PATIENCE, leave=False, disable=hidden, unit="completion") as bar:

        def on_segment(unfinished: int, tokens: int) -> None:
            speed = tokens / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{unfinished} rows alive, {speed:,.0f} tokens/s", refresh=False)
            bar.update(rows - unfinished - bar.n)

        yield on_segment


@contextlib.contextmanager
def below_bar():
    """What is printed while the block runs begins on a line of its own, below a bar that is redrawn in place."""
    if not sys.stdout.isatty():
        yield
        return
    with contextlib.redirect_stdout(_OwnLines(sys.stdout)), contextlib.redirect_stderr(_OwnLines(sys.stderr)):
        yield


class _OwnLines(io.TextIOBase):
    """Passes text on to `stream`, after a line break before the first of it."""

    def __init__(self, stream):
        self.stream, self.begin = stream, "\n"

    def write(self, text):
        self.stream.write(self.begin + text)
        self.begin = ""
        return len(text)
