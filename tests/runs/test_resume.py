"""Runs that end early go on to the same end. It is the embedded model that is trained: its rewards differ.

python tests/runs/test_resume.py [flags of fit.py] trains, and is killed as it writes a checkpoint.
"""

import contextlib
import fcntl
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from keras_aha.callbacks import time_limit_callback
from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.history_callback import of_the_machine
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.callbacks.utilization_callback import UtilizationCallback
from keras_aha.files import presets_folder
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.check_files import check_log_dir, saved_epochs
from keras_aha.runs.evaluate import evaluate
from keras_aha.runs.experiment import Experiment
from keras_aha.runs.export.export import export
from keras_aha.runs.prime_preset import prime_preset
from keras_aha.runs.report import write_report
from keras_aha.runs.run import Run
from keras_aha.runs.sources import check_sources
from keras_aha.training.turn_limits import TurnLimits

import h5py
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import fit  # noqa: E402

EPOCHS = 4
SMALL = [
    *("rollouts.prompts_per_epoch=4", "rollouts.group_size=4", "rollouts.max_completion_length=24"),
    *("rollouts.curriculum=0.5", "evaluation.puzzles=4", "evaluation.samples=2", "evaluation.every=2", "lora.rank=2"),
    *("training.micro_batch_size=none", "training.completion_lengths=1", f"training.epochs={EPOCHS}"),
    "optimizer.config.learning_rate=0.002",
]
FLAGS = [part for change in SMALL for part in ("--set", change)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert fit.main(["--log-dir", str(folder), *FLAGS]) == 0
    evaluated = pd.read_csv(folder / "history.csv").dropna(subset="val_accuracy").sort_values(["val_accuracy", "epoch"])
    best = evaluated.iloc[-1]
    share, low, high = (f"{best[name]:.1%}" for name in ("val_accuracy", "val_accuracy_low", "val_accuracy_high"))
    which = "the last." if best["epoch"] == EPOCHS else f"not the last. Take it home: python scripts/export.py {folder}"
    which = f"of 2 epochs: {share} (95 % interval {low} to {high}) after epoch {best['epoch']:.0f}, {which}"
    assert f"best held-out accuracy {which}" in said.getvalue()
    return folder


def assert_same(folder, expected):
    """Everything but seconds, and what depends on them."""
    found, wanted = (pd.read_csv(path / "history.csv") for path in (folder, expected))
    assert wanted["reward"].nunique() == EPOCHS and wanted["grad_norm"].gt(0).all()  # there was something to learn
    same = [name for name in wanted if not of_the_machine(name)]
    assert list(found) == list(wanted)
    pd.testing.assert_frame_equal(found[same], wanted[same], check_exact=True)
    for name in ("completions.jsonl", "held_out_before.jsonl", "behaviours.csv"):
        assert (folder / name).read_text() == (expected / name).read_text()
    assert arrays(folder / "adapters.lora.h5") == arrays(expected / "adapters.lora.h5")
    assert events(folder) == events(expected)
    found, wanted = (json.loads((path / "summary.json").read_text()) for path in (folder, expected))
    assert {**found, "wall_seconds": 0, "preset": ""} == {**wanted, "wall_seconds": 0, "preset": ""}


def trained(folder):
    return len(pd.read_csv(folder / "history.csv"))


def arrays(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "dtype") else {}))
    return found


def events(folder):
    """`(run, tag, step, value)` of all that TensorBoard shows, in order; values only where they are no times."""
    found = []
    for path in sorted(folder.glob("**/events*"), key=lambda path: (path.parent, path.name)):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                timed = re.search("second|mfu|memory|compiles", value.tag)
                content = "" if timed else value.tensor.SerializeToString()
                found.append((path.parent.name, value.tag, event.step, content))
    return sorted(found, key=lambda entry: entry[:3])


def at_epoch(monkeypatch, callback, method, epoch, act):
    """Lets `act()` happen as the `method` of a callback is called in an epoch, which is counted from 0."""
    original = getattr(callback, method)

    def replaced(self, index, logs=None):
        if index == epoch:
            act()
        original(self, index, logs)

    monkeypatch.setattr(callback, method, replaced)


@pytest.fixture
def interruptible():
    """Ctrl-C is not ignored, as it is in a shell's background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_run_that_is_stopped_in_every_way(uninterrupted, tmp_path, monkeypatch, capsys, interruptible):
    """By the time limit before and after the first epoch, by a disk that is full as a checkpoint is written, by Ctrl-C
    in a rollout, by SIGTERM after an update, and by its own last epoch; then by the command that began another run."""
    folder = tmp_path / "run"
    go_on = f"Go on: python scripts/fit.py --resume --log-dir {folder}\n"
    assert fit.main(["--log-dir", str(folder), *FLAGS, "--epochs", str(EPOCHS // 2), "--max-hours", "1e-6"]) == 0
    assert f"Stopped by time; nothing has been trained yet. {go_on}" in capsys.readouterr().out
    assert not (folder / "held_out_before.jsonl").exists() and not (folder / "saved_epochs" / "1").exists()

    limits, on_epoch_end = resource.getrlimit(resource.RLIMIT_FSIZE), CheckpointCallback.on_epoch_end

    def limited(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))  # bytes of a file
        try:
            on_epoch_end(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointCallback, "on_epoch_end", limited)
        assert fit.main(["--resume", "--log-dir", str(folder)]) == 1
    said = capsys.readouterr().err
    assert f": A checkpoint cannot be written in {folder}/saved_epochs: " in said and said.count("\n") == 1
    assert "File too large" in said and said.endswith(go_on) and not (folder / "saved_epochs" / "1").exists()

    with monkeypatch.context() as patch:
        patch.setattr(time_limit_callback, "_MARGIN", 1e6)
        assert fit.main(["--resume", "--log-dir", str(folder), "--max-hours", "9"]) == 0
    assert f"Stopped by time; what was trained is saved. {go_on}" in capsys.readouterr().out and trained(folder) == 1
    for number, callback, method, epochs in [
        (signal.SIGINT, RolloutCallback, "on_epoch_begin", 1),
        (signal.SIGTERM, EvaluateCallback, "on_epoch_end", 2),
    ]:
        with monkeypatch.context() as patch:
            at_epoch(patch, callback, method, 1, lambda number=number: os.kill(os.getpid(), number))
            assert fit.main(["--resume", "--log-dir", str(folder), "--max-hours", "1"]) == 128 + number
        said = capsys.readouterr().out
        assert f"Stopped by {number.name}" in said and go_on in said
        assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
        assert trained(folder) == epochs
    assert fit.main(["--resume", "--log-dir", str(folder)]) == 0
    assert trained(folder) == EPOCHS // 2 and (folder / "summary.json").exists()
    assert fit.main(["--preset", "countdown_tiny", "--resume", "--log-dir", str(folder), *FLAGS]) == 0
    assert f"changed since the run began: training.epochs: {EPOCHS // 2} → {EPOCHS}" in capsys.readouterr().out
    assert pd.read_csv(folder / "history.csv")["compiles"].tolist()[EPOCHS // 2 :][1:] == [0]  # all in the first epoch
    assert_same(folder, uninterrupted)


REWARDS = """
def letters(problems, completions):
    return [len(set(completion)) for completion in completions]

def brevity(problem, completion):
    return -len(completion)
"""
TASKS = """tasks=[{name="countdown", num_numbers=3, max_number=20, template="compact", weight=2},
    {name="signs", template="compact"},
    {name="rows", file="rows.jsonl", prompt="question", answer_in="####", template="compact", label="words"}]"""
MIXED = [
    *(TASKS, "evaluation.puzzles=6", "rollouts.curriculum=none", "rollouts.refills=1"),
    *("rollouts.long_prompts=skip", "rollouts.max_prompt_length=60"),
    'rewards=[{name="letters",function="mine:letters",weight=0.1}, {name="brief",function="mine:brevity",weight=0},'
    '{name="good",judge="countdown_tiny",rubric="{prompt}{completion}",answers={1=1.0,2=0.0},max_length=96,weight=0.2}]',
    *("teacher.preset=countdown_tiny", "teacher.weight=0.1"),
]


def test_a_mixture_with_rewards_of_its_own_that_is_stopped(tmp_path, monkeypatch, interruptible):
    """A curve for each task; the recipe in the folder is the same from anywhere, and the file known by its checksum."""
    rows = [{"question": f"{'How many are ' * (i % 7)}{i}+1?", "answer": f"#### {i + 1}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "mine.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.load("countdown_tiny").override([*SMALL, *MIXED])
    with pytest.warns(UserWarning, match="problems to train on are left out: their prompts have more than 60 tokens"):
        Run(Experiment(recipe), "whole").fit()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_epoch(patch, RolloutCallback, "on_epoch_begin", 2, lambda: signal.raise_signal(signal.SIGINT))
        Run(Experiment(recipe), "stopped").fit()
    monkeypatch.chdir("/")
    folder = tmp_path / "stopped"
    Run(Experiment(Recipe.load(folder / "recipe.toml")), folder, resume=True).fit()
    assert_same(folder, tmp_path / "whole")

    history, names = pd.read_csv(folder / "history.csv"), ("countdown", "signs", "words")
    columns = {"train": [f"{kind}_{name}" for kind in ("accuracy", "mean_reward") for name in names]}
    columns |= {"train": [*columns["train"], "reward_letters", "reward_brief", "reward_good", "teacher_kl"]}
    columns |= {"validation": [f"accuracy_{name}" for name in names]}
    assert history[columns["train"]].notna().all(axis=None)
    others = 0.1 * history["reward_letters"] + 0.2 * history["reward_good"]
    assert (history["reward"] - (history["task_reward"] + others)).abs().max() < 1e-5
    assert history["teacher_kl"][1:].gt(0).all() and history["reward_good"].between(0.01, 0.99).all()
    assert history["val_reward_good"].notna().sum() == 2
    shares = history[columns["train"][3:6]].mul([0.5, 0.25, 0.25]).sum(axis=1)  # of four problems two, one and one
    assert (shares - history["reward"]).abs().max() < 1e-5
    evaluated = history[[f"val_{name}" for name in columns["validation"]]].dropna()
    assert len(evaluated) == 2 and (evaluated.mean(axis=1) - history["val_accuracy"].dropna()).abs().max() < 1e-6
    shown = {(run, tag) for run, tag, _, _ in events(folder)}
    assert {(run, f"epoch_{name}") for run in columns for name in columns[run]} <= shown
    sources = json.loads((folder / "sources.json").read_text())
    assert sources.keys() == {"model.preset", "tasks[2].file", "rewards[2].judge", "teacher.preset"}
    with pytest.raises(ValueError, match=r"not what the run began with.* by rewards\[2\].judge \(--set rewards"):
        check_sources(folder, Recipe.load(folder / "recipe.toml"), sources | {"rewards[2].judge": 1})
    page = (write_report(folder)).read_text()
    assert "countdown, signs, rows" in page
    numbers = evaluate(folder).numbers
    assert [row["task"] for row in numbers["by_label"]] == [*names] and [row["n"] for row in numbers["by_label"]] == [
        2
    ] * 3
    assert numbers["made_with"]["task"].startswith(
        "2 countdown(num_numbers=3, max_number=20) + 1 signs() + 1 rows(file="
    )

    (tmp_path / "rows.jsonl").write_text('{"question": "Other?", "answer": "#### 1"}\n' * 9)
    (tmp_path / "moved.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    again = Recipe.load(folder / "recipe.toml")
    check_log_dir(folder, again.override(f'tasks[2].file="{tmp_path / "moved.jsonl"}"'), resume=True)
    with pytest.raises(ValueError, match=re.escape("It would be another run")):
        check_log_dir(folder, again.override("tasks[2].weight=3"), resume=True)
    with pytest.raises(
        ValueError, match=re.escape("name the place where that lies, by tasks[2].file (--set tasks[2].")
    ):
        check_sources(folder, again, {"tasks[2].file": "another"})


ASKING = """
from keras_aha.tasks import Countdown, Observation, Score

class Asking(Countdown):
    max_turns, turn_ends, calls, stop_at = 4, (" no\\n",), 0, None

    def respond(self, problem, turns):
        type(self).calls += len(turns) == 2
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return Observation(f"{len(turns)} of {len(turns[-1].text)}", "<", ">\\n", tool="asked")

    def score(self, problem, completion):
        return Score(sum(map(str.isdigit, completion)) / 100, False, "digits")
"""


def test_a_run_that_is_stopped_between_two_turns(tmp_path, monkeypatch):
    (tmp_path / "asking.py").write_text(ASKING)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = Recipe.load("countdown_tiny").override(
        [*SMALL, "task.name=asking:Asking", "task.num_numbers=3", "task.max_number=20", "task.template=compact"]
        + ["turns.max_observation_length=8", "rollouts.max_completion_length=40"]
    )
    run = Run(experiment := Experiment(recipe), tmp_path / "whole")
    assert experiment.rollouts.turns == experiment.evaluation.turns == TurnLimits(max_observation_length=8)
    run.fit()
    from asking import Asking

    monkeypatch.setattr(Asking, "stop_at", Asking.calls * 2 // 3)
    monkeypatch.setattr(Asking, "calls", 0)
    with pytest.raises(KeyboardInterrupt):
        Run(Experiment(recipe), tmp_path / "stopped").fit()
    monkeypatch.setattr(Asking, "stop_at", None)
    folder = tmp_path / "stopped"
    assert 0 < trained(folder) < EPOCHS
    Run(Experiment(Recipe.load(folder / "recipe.toml")), folder, resume=True).fit()
    assert_same(folder, tmp_path / "whole")
    history = pd.read_csv(folder / "history.csv")
    assert history[["turns", "tool_calls", "observation_tokens"]].gt(0).all(axis=None)
    again = Recipe.load(folder / "recipe.toml")
    check_log_dir(folder, again.override(["turns.response_seconds=3", "turns.response_workers=4"]), resume=True)
    with pytest.raises(ValueError, match="It would be another run.*turns.max_observation_length: 8 → 9"):
        check_log_dir(folder, again.override("turns.max_observation_length=9"), resume=True)


def test_a_run_whose_updates_are_all_skipped_is_not_finished(uninterrupted, tmp_path, monkeypatch, capsys):
    """As from the fourth epoch on; the third one of these is not the last."""
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    original = UtilizationCallback.on_epoch_end

    def skipped(self, epoch, logs=None):
        original(self, epoch, logs)
        logs["skipped_updates"] = 1.0

    monkeypatch.setattr(UtilizationCallback, "on_epoch_end", skipped)
    with pytest.warns(UserWarning, match=f"stops after epoch {EPOCHS + 3}"):
        assert fit.main(["--resume", "--log-dir", str(folder), "--epochs", str(EPOCHS + 4)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].partition(": ")[2].startswith("No update could be made")
    assert trained(folder) == EPOCHS + 3
    assert json.loads((folder / "summary.json").read_text())["epochs"] == EPOCHS


def kill_in_checkpoint():
    """Lets this process be killed as the third rollout begins: all of the second checkpoint is written, though not by
    its name."""
    rename, begin, written = os.rename, RolloutCallback.on_epoch_begin, threading.Event()

    def wait_before_rename(source, *args, **settings):
        if "2.orbax-checkpoint-tmp" in str(source):
            written.set()
            time.sleep(600)
        rename(source, *args, **settings)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            written.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        begin(self, epoch, logs)

    os.rename, RolloutCallback.on_epoch_begin = wait_before_rename, on_epoch_begin


@pytest.mark.slow
def test_a_process_that_is_killed_as_it_writes_a_checkpoint(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, __file__, "--log-dir", str(folder), *FLAGS]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": str(SCRIPTS.parent)})
    assert done.returncode == -signal.SIGKILL and saved_epochs(folder) == 1, done.stderr
    assert trained(folder) == 2 and list(folder.glob("saved_epochs/2*tmp*"))
    assert fit.main(["--resume", "--log-dir", str(folder)]) == 0
    assert_same(folder, uninterrupted)


def test_a_disk_that_is_full_and_checkpoints_that_are_damaged(uninterrupted, tmp_path, capfd):
    """The last file cannot be written, as all that is written to /dev/full fails like that."""
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    for name in ("summary.json", "held_out_after.jsonl"):
        (folder / name).unlink()
    (folder / "summary.json.part").symlink_to("/dev/full")
    assert fit.main(["--resume", "--log-dir", str(folder)]) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert "No space left on device" in said and f"Go on: python scripts/fit.py --resume --log-dir {folder}" in said
    assert not (folder / "summary.json").exists()
    tables = [(path / "held_out_after.jsonl").read_text() for path in (folder, uninterrupted)]
    assert tables[0] == tables[1]  # made anew, as nothing was left to train

    for path in folder.glob("saved_epochs/*/arrays/**/*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    assert fit.main(["--resume", "--log-dir", str(folder)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and len(said) < 800
    assert ": No checkpoint can be restored; begin a new run. Received: log_dir=" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_run_began(number, tmp_path, monkeypatch, capsys, interruptible):
    monkeypatch.setattr(Experiment, "__init__", lambda *args: os.kill(os.getpid(), number))
    assert fit.main(["--log-dir", str(tmp_path / "run"), *FLAGS]) == 128 + number
    said = capsys.readouterr()
    assert said.out == f"Stopped by {number.name} before the run began: the same command begins it.\n" and not said.err
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler) and not list(tmp_path.iterdir())


# === What is there already ===


def test_a_finished_run_stays_as_it_is(uninterrupted, capsys):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.glob("**/*")}
    assert fit.main(["--resume", "--log-dir", str(uninterrupted)]) == 0
    assert "is finished: 4 epochs" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.glob("**/*")} == before


@pytest.mark.parametrize(
    "flags", [["--log-dir", "RUN", *FLAGS, "--seed", "5"], ["--epochs=3", *FLAGS, "--log-dir=RUN"]]
)
def test_a_runs_folder_is_not_begun_again(flags, uninterrupted, tmp_path, capsys):
    """Both commands in the sentence do what it says; the second keeps all flags, and takes a folder that is free."""
    folder = tmp_path / "a run"
    folder.symlink_to(uninterrupted)
    Path(f"{folder}-2").symlink_to("nowhere")
    with pytest.raises(SystemExit) as exit:
        fit.main(argv := [flag.replace("RUN", str(folder)) for flag in flags])
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.count("\n") == 1
    going_on, another = re.fullmatch(r".* Go on: (.*); begin another: (.*)\. Received: --log-dir .*\n", said).groups()
    command, script, *going_on = shlex.split(going_on)
    assert (command, script) == ("python", "scripts/fit.py") and fit.main(going_on) == 0
    assert f"{folder} is finished" in capsys.readouterr().out
    another = fit.parse(shlex.split(another)[2:])
    assert vars(another) == vars(fit.parse(argv)) | {"log_dir": Path(f"{folder}-3")}
    assert fit.find_run(another, [])[2] == Path(f"{folder}-3")


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--set", "optimizer.config.learning_rate=0.1"], "It would be another run. Go on with the recipe.toml in"),
        (["--set", "evaluation.puzzles=5"], "evaluation.puzzles: 4 → 5"),
        (["--preset", "countdown_tiny"], "rollouts.group_size: 4 → 16"),
        (["--epochs", "3"], "has 4 epochs already. Received: training.epochs=3"),
    ],
)
def test_what_would_be_another_run_is_refused(flags, sentence, uninterrupted, capsys):
    with pytest.raises(SystemExit) as exit:
        fit.main(["--resume", "--log-dir", str(uninterrupted), *flags])
    assert exit.value.code == 2 and sentence in capsys.readouterr().err


def test_the_base_of_a_run_may_move_and_another_is_refused(uninterrupted, tmp_path):
    folder, moved, other = (tmp_path / name for name in ("run", "moved", "other"))
    shutil.copytree(uninterrupted, folder)
    shutil.copytree(presets_folder() / "countdown_tiny", moved)
    shutil.copytree(moved, other)
    with h5py.File(other / "model.weights.h5", "r+") as file:
        file["layers/rms_normalization/vars/0"][0] += 0.01
    recipe = Recipe.load(folder / "recipe.toml")
    changes = check_log_dir(folder, recipe.override(f'model.preset="{moved}"'), resume=True)
    assert changes == [f"model.preset: 'countdown_tiny' → '{moved}'"]
    Run(Experiment(recipe.override(f'model.preset="{moved}"')), folder, resume=True)
    with pytest.raises(
        ValueError, match=r"not what the run began with.*name the place .*Received: model.preset='.*other'"
    ):
        Run(Experiment(recipe.override(f'model.preset="{other}"')), folder, resume=True)
    (folder / "sources.json").unlink()  # a run that does not know what it began with
    with pytest.raises(ValueError, match="It would be another run.*Received: model.preset"):
        check_log_dir(folder, recipe.override(f'model.preset="{moved}"'), resume=True)
    assert Recipe.load(folder / "recipe.toml") == recipe


def test_python_keeps_a_folder_too(uninterrupted):
    """As the script does, and before anything is written."""
    recipe = Recipe.load(uninterrupted / "recipe.toml")
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.glob("**/*")}
    with pytest.raises(ValueError, match="holds a run: go on with it by resume=True, or choose another log_dir"):
        Run(Experiment(recipe), uninterrupted)
    with pytest.raises(ValueError, match="It would be another run"):
        Run(Experiment(recipe.override("training.seed=1")), uninterrupted, resume=True)
    with pytest.raises(ValueError, match="is there already, and is kept"):
        Run(Experiment(recipe), uninterrupted.parent, resume=True)
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.glob("**/*")} == before


def test_a_folder_that_another_process_writes_is_left_alone(uninterrupted, tmp_path, capsys):
    """Another process, as the kernel sees it; a report takes nothing from it. A notebook's cell may be run again."""
    folder, out = shutil.copytree(uninterrupted, tmp_path / "run"), tmp_path / "out"
    out.mkdir()
    experiment = Experiment(recipe := Recipe.load(folder / "recipe.toml"))
    acts = {
        folder: [lambda: Run(experiment, folder, resume=True), lambda: CheckpointCallback(folder).restore(None)],
        out: [lambda: Run(experiment, out), lambda: prime_preset(recipe, out), lambda: export(folder, out)],
    }
    for path in acts:
        with open(path / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write("process 1 on a")
            file.flush()
            for act in acts[path]:
                with pytest.raises(ValueError, match=f"{path} is in use by process 1 on a: wait until it has ended"):
                    act()
            for flags in ([], ["--resume"]):
                with pytest.raises(SystemExit):
                    fit.main(["--log-dir", str(path), *flags])
                assert "in use by process 1 on a" in capsys.readouterr().err
            assert path == out or write_report(path).exists()
    Run(experiment, folder, resume=True).fit()
    assert not (folder / ".lock").exists()
    interrupted = Run(experiment, folder, resume=True)
    Run(experiment, folder, resume=True).fit()
    assert (folder / ".lock").exists() and interrupted.stopped_by is None  # as that one is still there


if __name__ == "__main__":
    kill_in_checkpoint()
    sys.exit(fit.main(sys.argv[1:]))
