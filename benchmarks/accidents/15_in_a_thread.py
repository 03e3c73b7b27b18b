"""A run that is trained in a thread, as behind a button (Gradio, Streamlit) or in a worker of Ray.

github.com/huggingface/trl/pull/5281, github.com/huggingface/Math-Verify/issues/50
"""

import threading
import warnings

import keras_aha as aha

from commands import ROOT, SMALL


def check(folder):
    recipe = aha.Recipe.load(ROOT / "presets" / "countdown_tiny.toml")
    run = aha.Run(aha.Experiment(recipe.override([*SMALL[1::2], "training.epochs=1"])), folder / "run")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=run.fit)
        thread.start()
        thread.join()
    assert run.after is not None and (folder / "run" / "summary.json").exists()
    (warning,) = [str(entry.message) for entry in caught if "thread" in str(entry.message)]
    return warning
