"""A run of the embedded model that is killed and goes on: on the CPU, as a TPU serves one process alone."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from keras_aha.callbacks.history_callback import of_the_machine
from keras_aha.callbacks.run_folder import HISTORY
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.check_files import saved_epochs
from keras_aha.runs.experiment import Experiment
from keras_aha.runs.run import Run

import keras
import pandas as pd

EPOCHS = 3
_SMALL = (
    *("rollouts.prompts_per_epoch=4", "rollouts.group_size=4", "rollouts.max_completion_length=24"),
    *("training.micro_batch_size=none", "training.completion_lengths=1", f"training.epochs={EPOCHS}"),
    *("evaluation.puzzles=4", "evaluation.samples=1", f"evaluation.every={EPOCHS}", "lora.rank=2"),
)


def kill_and_resume(folder: Path) -> tuple[int, list[str]]:
    """Trains twice in an empty folder, once with a kill.

    Returns:
        How many epochs were saved when SIGKILL came, and which columns of `history.csv` differ, but for the machine's.

    Raises:
        RuntimeError: if a process ends otherwise than it should.
    """
    _in_a_process(_train_and_be_killed, folder, -signal.SIGKILL)
    saved = saved_epochs(folder / "killed")
    _in_a_process(_resume, folder, 0)
    whole, killed = (pd.read_csv(folder / name / HISTORY) for name in ("whole", "killed"))
    return saved, [name for name in whole if not of_the_machine(name) and not whole[name].equals(killed.get(name))]


def _train_and_be_killed(folder: Path) -> None:
    _run(folder, "whole").fit()
    run = _run(folder, "killed")
    arguments = run.fit_arguments()
    arguments["callbacks"].append(_Kill(run.log_dir))
    run.experiment.model.fit(**arguments)


def _resume(folder: Path) -> None:
    _run(folder, "killed").fit()


def _run(folder: Path, name: str) -> Run:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a run prints its progress
    return Run(Experiment(Recipe.load("countdown_tiny").override(_SMALL)), folder / name, resume=True)


class _Kill(keras.callbacks.Callback):
    """Ends the process without a warning as the last epoch begins, once an epoch is saved."""

    def __init__(self, log_dir):
        super().__init__()
        self.log_dir = log_dir

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == EPOCHS - 1:
            while not saved_epochs(self.log_dir):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


def _in_a_process(function, folder: Path, status: int) -> None:
    before = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        child = multiprocessing.get_context("spawn").Process(target=function, args=(folder,))
        child.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    child.join()
    if child.exitcode != status:
        raise RuntimeError(f"A process ended with status {child.exitcode}, not {status}.")
