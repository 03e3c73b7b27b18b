"""`Run`: an experiment that is trained in a folder."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.callbacks.completions_callback import CompletionsCallback
from keras_aha.callbacks.doctor_callback import DoctorCallback
from keras_aha.callbacks.guard_callback import GuardCallback
from keras_aha.callbacks.history_callback import HistoryCallback
from keras_aha.callbacks.interrupt_callback import InterruptCallback
from keras_aha.callbacks.order import in_order
from keras_aha.callbacks.profile_callback import ProfileCallback
from keras_aha.callbacks.progress_callback import ProgressCallback
from keras_aha.callbacks.run_folder import AFTER, BEFORE, BEHAVIOUR_RATES, HISTORY, SUMMARY
from keras_aha.callbacks.tensorboard_callback import TensorBoardCallback
from keras_aha.callbacks.time_limit_callback import TimeLimitCallback
from keras_aha.callbacks.utilization_callback import UtilizationCallback
from keras_aha.distribution import processes
from keras_aha.distribution.distribute import whole
from keras_aha.distribution.folder_lock import FolderLock, check_unused
from keras_aha.evaluation.table_file import read_tables, write_tables
from keras_aha.evaluation.tables import behaviour_rates
from keras_aha.files import local_path, write_whole
from keras_aha.models import lora
from keras_aha.models.lora import ADAPTERS
from keras_aha.recipes.recipe import RECIPE
from keras_aha.runs.check_files import PRESET, SOURCES, check_log_dir, saved_epochs
from keras_aha.runs.conditions import conditions
from keras_aha.runs.experiment import Experiment, summarize_held_out
from keras_aha.runs.machine import devices_in_words, keep_compiled_programs
from keras_aha.runs.saved_policy import load_epoch
from keras_aha.runs.sources import check_sources, source_checksums

import jax
import keras
import pandas as pd


class Run:
    """Trains an experiment and writes all that comes of it into a folder.

        run = Run(Experiment(recipe), "runs/demo", resume=True, max_hours=8.5)
        run.fit()

    What `fit` does may be done step by step, in a notebook:

        model = run.experiment.model
        model.fit(**run.fit_arguments())
        run.finish()

    With several processes all of them must do the same with the same folder; the first one writes all but checkpoints.
    From here to the end of `fit` or `finish` no other process can write the folder, see `FolderLock`.

    Args:
        experiment: an `Experiment`.
        log_dir: the run's folder, made if it is missing.
        name: what the run is called in its summary; `None` is the folder's name.
        resume: go on with the run in the folder, from its last checkpoint, or begin it if there is none. If it is not
            set, a folder that holds a run is refused.
        max_hours: stop if another epoch would not end within so many hours after `start`; also before the first one.
        start: by `time.time()`; `None` is now.
        profile: trace the second epoch that is trained, see `ProfileCallback`.

    Attributes:
        before, after: tables of the held-out problems, sampled and greedy, see `Experiment.evaluate`; `None` until
            they are made.
        stopped_by: why training ended before the last epoch: `"time"`, `"SIGTERM"`, `"SIGINT"`, or `"skipped updates"`
            if no update could be made any more, see `GuardCallback`; else `None`.

    Raises:
        ValueError: if another process writes the folder, it holds something else, it would become another run, or one
            of its files is damaged: see `check_log_dir`; or if the run began with another preset or file.
    """

    def __init__(
        self,
        experiment: Experiment,
        log_dir: str | os.PathLike,
        *,
        name: str | None = None,
        resume: bool = False,
        max_hours: float | None = None,
        start: float | None = None,
        profile: bool = False,
    ):
        self.log_dir = log_dir = local_path(log_dir, "log_dir")
        with processes.together():
            if processes.is_first():  # others may find what the first one has begun to write
                check_unused(log_dir)
                check_log_dir(log_dir, experiment.recipe, resume)
        self._lock = FolderLock(log_dir)
        self._lock.acquire()
        keep_compiled_programs(log_dir)
        self._sources = source_checksums(experiment.recipe, experiment.model.policy, experiment.others)
        check_sources(log_dir, experiment.recipe, self._sources)
        self.experiment = experiment
        self.name = name or self.log_dir.name
        self.resume = resume
        self.before = self.after = None
        self.stopped_by = None
        self._start = time.time() if start is None else start
        self._guard, self._interrupt = GuardCallback(), InterruptCallback()
        self._limits = [] if max_hours is None else [TimeLimitCallback(max_hours, self._start)]
        self._doctor = DoctorCallback(self.log_dir, experiment.rollouts)
        self._profile = [ProfileCallback(self.log_dir)] if profile else []
        self._tensorboard = TensorBoardCallback(self.log_dir, experiment.recipe.flat(), write_graph=False)
        self._checkpoints = CheckpointCallback(self.log_dir)
        self._trained = 0  # epochs, before this `fit`

    def is_over(self) -> bool:
        """Whether `max_hours` are over, so that `fit` will train nothing; all processes must ask."""
        return any(limit.is_over() for limit in self._limits)

    def evaluate_before(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Makes the run's folder, and returns what `Experiment.evaluate` says before anything is trained.

        It is kept in `held_out_before.jsonl`, and read from there if the run goes on.
        """
        path = self.log_dir / BEFORE
        if self.resume and path.exists():
            self.before = read_tables(path)
        else:
            self._begin()
            start = time.time()
            self.before = self.experiment.evaluate()
            for limit in self._limits:
                limit.evaluation_seconds = time.time() - start
            if processes.is_first():
                write_tables(path, *self.before)
        return self.before

    def fit(self) -> keras.callbacks.History:
        """Trains, and writes what comes of it: `fit_arguments`, Keras's `fit` and `finish` in one.

        Returns:
            The `History` of what was trained now.

        Raises:
            CheckpointError, OSError: see `fit_arguments` and `finish`.
            KeyboardInterrupt: at SIGTERM or SIGINT during a rollout; `stopped_by` tells which. The policy after the
                last epoch that is saved is written before.
        """
        with self._lock:
            try:
                history = self.experiment.model.fit(**self.fit_arguments())
            except BaseException as error:
                self._release()
                if isinstance(error, KeyboardInterrupt) and jax.process_count() == 1:  # others would have to come too
                    self._save_policy()
                raise
            self.finish()
        return history

    def fit_arguments(self) -> dict:
        """The keyword arguments of the model's `fit`, which begins the run, or goes on with it if `resume` is set.

        Its callbacks write `history.csv`, `completions.jsonl`, `findings.jsonl`, TensorBoard's events and, after each
        epoch, all that is needed to go on, in `saved_epochs`. `recipe.toml` is written now.

        Raises:
            CheckpointError: if there are checkpoints and none can be restored, see `CheckpointCallback`.
            OSError: if files cannot be written.
        """
        experiment, epochs = self.experiment, self.experiment.recipe.training.epochs
        self._lock.acquire()
        if self.before is None and not self.is_over():
            self.evaluate_before()
        self._trained = self._checkpoints.restore(experiment.model) if self.resume else 0
        # A second `fit` goes on, as of a notebook's cell that was interrupted and is run again.
        self.resume, self.stopped_by = True, None
        self._begin()
        if self.is_over():  # no epoch is left to Keras, and callbacks have nothing to do
            return dict(x=experiment.rollouts.dataset, epochs=self._trained, initial_epoch=self._trained, verbose=0)
        if processes.is_first():  # what an earlier stop has written is not the run's last policy much longer
            self._remove_policy()
        callbacks = [experiment.rollouts, experiment.evaluation, UtilizationCallback(), *self._profile, *self._limits]
        callbacks += [self._guard, self._doctor, self._checkpoints, self._interrupt]
        if processes.is_first():
            callbacks += [CompletionsCallback(self.log_dir, evaluation=experiment.evaluation), self._tensorboard]
            callbacks += [HistoryCallback(self.log_dir / HISTORY), ProgressCallback()]
        dataset = experiment.rollouts.dataset
        return dict(x=dataset, epochs=epochs, initial_epoch=self._trained, callbacks=in_order(callbacks), verbose=0)

    def finish(self) -> None:
        """Saves the policy; and what came of the run, unless it was stopped before its last epoch.

        The policy is `adapters.lora.h5`, or the folder `preset` if every weight was trained: as it is after the last
        epoch that is saved, and nothing if none is. The rest is
        `held_out_after.jsonl`, `behaviours.csv` (see `evaluation.behaviour_rates`) and `summary.json`.

        Raises:
            OSError: if files cannot be written.
        """
        self._release()
        self._save_policy()
        if self.stopped_by is not None:
            self._lock.release()
            return
        evaluation = self.experiment.evaluation
        is_old = evaluation.latest is None or evaluation.latest[0] + 1 != saved_epochs(self.log_dir)
        self.after = self.experiment.evaluate() if processes.any_of(is_old) else evaluation.latest[1:]
        if processes.is_first():
            write_tables(self.log_dir / AFTER, *self.after)
            rates = behaviour_rates(self.before[0], self.after[0])
            write_whole(self.log_dir / BEHAVIOUR_RATES, rates.to_csv(index=False))
            write_whole(self.log_dir / SUMMARY, json.dumps(self._summary(), indent=2) + "\n")
        self._lock.release()

    def _begin(self):
        if processes.is_first():
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self.experiment.recipe.dump(self.log_dir / RECIPE)
            write_whole(self.log_dir / SOURCES, json.dumps(self._sources, indent=2) + "\n")

    def _release(self):
        """Ends what a `fit` that ended by an error left, and finds why it ended."""
        self._interrupt.release()
        self._checkpoints.close()
        if self._interrupt.signal is not None:
            self.stopped_by = signal.Signals(self._interrupt.signal).name
        elif any(limit.reached for limit in self._limits):
            self.stopped_by = "time"
        elif self._guard.reached:
            self.stopped_by = "skipped updates"

    def _save_policy(self):
        """Writes it by another name first: what stands there is complete, and of the last epoch that is saved."""
        policy, epochs = self.experiment.model.policy, saved_epochs(self.log_dir)
        if not processes.any_of(epochs > 0):
            return
        if jax.process_count() == 1:  # else there is nothing that may have left other values
            load_epoch(policy, self.log_dir, epochs)
        with whole(policy.trainable_variables):
            if not processes.is_first():
                return
            path, part = self._remove_policy()
            try:
                if path.name == ADAPTERS:
                    lora.save_adapters(policy.backbone, part)
                else:
                    policy.save_to_preset(str(part))
            except RuntimeError as error:  # of h5py, if a disk is full
                raise OSError(f"The policy cannot be saved: {' '.join(str(error).split())[:300]}") from error
            part.rename(path)

    def _remove_policy(self) -> tuple[Path, Path]:
        """Removes what a stop or a kill has left, and returns its path, and the name under which it is written."""
        path = self.log_dir / (ADAPTERS if self.experiment.recipe.lora.rank else PRESET)
        part = path.with_name(f"part-{path.name}")
        for left in (part, path):
            if left.is_dir():
                shutil.rmtree(left.rename(part))  # never half of a preset by its own name
            else:
                left.unlink(missing_ok=True)
        return path, part

    def _summary(self) -> dict:
        recipe, epochs = self.experiment.recipe, pd.read_csv(self.log_dir / HISTORY)
        earlier = epochs["epoch_seconds"][: self._trained].sum()  # trained before the run went on
        return {
            "preset": self.name,
            "seed": recipe.training.seed,
            "epochs": recipe.training.epochs,
            "devices": devices_in_words(),
            "made_with": conditions(recipe, RECIPE),
            "wall_seconds": float(time.time() - self._start + earlier),
            "generated_tokens": int(epochs["generated_tokens"].sum()),
            "heldout_before": summarize_held_out(*self.before),
            "heldout_after": summarize_held_out(*self.after),
        }
