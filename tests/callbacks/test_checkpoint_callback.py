import shutil
import warnings
from pathlib import Path

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback, CheckpointError
from keras_aha.callbacks.stateful_callback import StatefulCallback
from keras_aha.distribution import processes
from keras_aha.runs.check_files import best_epoch
from keras_aha.runs.check_files import saved_epochs as last_epoch
from keras_aha.training.grpo_model import GRPOModel

import keras
import numpy as np
import pytest
import tensorflow as tf


def build(make_policy, seed=0, rank=2, optimizer=keras.optimizers.AdamW):
    model = GRPOModel(make_policy(seed=seed, lora_rank=rank))
    model.compile(optimizer(1e-3))
    return model


def change(model, epoch):
    """Other values in all that is trained and in the optimizer; they tell the epoch."""
    rng = np.random.default_rng(epoch)
    for variable in [*model.trainable_variables, *model.optimizer.variables]:
        variable.assign(rng.integers(1, 100, variable.shape).astype(variable.dtype))


def values(model):
    return [np.asarray(v.value) for v in [*model.trainable_variables, *model.optimizer.variables]]


def same(model, epoch):
    """Whether the model is as `change` left it."""
    found = values(model)
    change(model, epoch)
    return all(map(np.array_equal, found, values(model)))


class Remembering(StatefulCallback):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


class Other(Remembering):
    pass


def train(model, folder, epochs, val_accuracy=(), before=(), after=(), first=0, **settings):
    callbacks = [*before, CheckpointCallback(folder, **settings), *after]
    fit = keras.callbacks.CallbackList(callbacks, add_history=True, model=model, epochs=epochs)
    fit.on_train_begin()
    for epoch in range(first, epochs):
        change(model, epoch)
        logs = {"val_accuracy": val_accuracy[epoch]} if epoch < len(val_accuracy) else {}
        fit.on_epoch_end(epoch, logs)
    fit.on_train_end()
    assert min(model.history.history["checkpoint_seconds"]) > 0


@pytest.fixture(scope="module")
def model(make_policy):
    return build(make_policy)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """The folder of three epochs."""
    folder = tmp_path_factory.mktemp("saved")
    train(model, folder, 3)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def saved_epochs(folder):
    return sorted(int(path.name) for path in (folder / "saved_epochs").iterdir())


def test_what_is_restored_is_what_was_saved(make_policy, tmp_path):
    model = build(make_policy)
    assert CheckpointCallback(tmp_path).restore(model) == 0  # nothing is there
    train(model, tmp_path, 2, before=[Remembering(1), Other(2)], after=[Remembering(3)])
    change(model, 100)
    callback = CheckpointCallback(tmp_path)
    assert callback.restore(model) == 2 and same(model, 1)
    # Their order among callbacks of other kinds does not matter, nor what an earlier `fit` of the model had.
    others = Remembering(10), Remembering(11), Other(12)
    keras.callbacks.CallbackList([others[0], callback, *others[1:]], model=model, epochs=2).on_train_begin()
    callback.close()
    assert [other.number for other in others] == [1, 3, 2]


def test_the_last_and_the_best_are_kept(model, tmp_path):
    train(model, tmp_path, 6, val_accuracy=[0.1, 0.9, 0.9, 0.3], keep=2)
    assert saved_epochs(tmp_path) == [3, 5, 6] and best_epoch(tmp_path) == 3  # of the two best ones the later
    train(model, tmp_path, 9, val_accuracy=[0.0] * 6 + [0.8, float("nan")], first=6, keep=2)  # as a resumed run
    assert saved_epochs(tmp_path) == [3, 8, 9] and best_epoch(tmp_path) == 3
    train(model, tmp_path, 12, val_accuracy=[0.0] * 9 + [0.95], first=9, keep=1)
    assert saved_epochs(tmp_path) == [10, 12] and best_epoch(tmp_path) == 10
    with pytest.raises(ValueError, match="`keep` must be 1 or more. Received: keep=0"):
        CheckpointCallback(tmp_path, keep=0)


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("epochs", [0, 3])
def test_nothing_is_touched_that_is_not_the_runs_own(epochs, model, folder):
    """Beside the folder of runs, one of which lies in another one; and a `history.csv` of someone else."""
    outer = folder if epochs else folder.parent
    for name in ("inner", "run/inner", "train/run", "completions", "run2/train"):
        (outer / name / "train").mkdir(parents=True, exist_ok=True)
        with tf.summary.create_file_writer(str(outer / name / "train")).as_default():
            tf.summary.scalar("accuracy", 0.5, step=100)
    if not epochs:
        (outer / "history.csv").write_text("loss,epoch\n1.0,7\n")
        (outer / "completions.jsonl").write_text("x\n")
    before = contents(outer)
    callback = CheckpointCallback(outer)
    assert callback.restore(model) == epochs
    callback.close()
    assert contents(outer) == before


def test_an_older_runs_folder_is_still_its_own(model, folder):
    assert best_epoch(folder) is None
    (folder / "saved_epochs").rename(folder / "checkpoints")
    (folder / "history.csv").write_text("epoch,reward\n3,0.5\n4,0.5\n")
    assert last_epoch(folder) == 3
    train(model, folder, 5, first=CheckpointCallback(folder).restore(model))
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "history.csv"} and last_epoch(folder) == 5
    assert (folder / "history.csv").read_text() == "epoch,reward\n3,0.5\n"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_no_damage_to_any_file_goes_unnoticed(damage, model, saved, tmp_path):
    """Either all is as it was saved, as some files do not matter, or it is the epoch before, and that is said."""
    names = sorted(path.relative_to(saved) for path in (saved / "saved_epochs" / "3").glob("**/*") if path.is_file())
    epochs = []
    for i, name in enumerate(names):
        folder = shutil.copytree(saved, tmp_path / str(i))
        damage(folder / name)
        change(model, 100)
        with warnings.catch_warnings(record=True, action="always") as told:
            callback = CheckpointCallback(folder)
            epoch = callback.restore(model)
            callback.close()
        epochs.append(epoch)
        assert epoch in (2, 3) and same(model, epoch - 1), name
        said = [str(warning.message) for warning in told if "damaged" in str(warning.message)]
        if epoch == 2:
            assert "The checkpoint after epoch 3 is damaged" in said[0] and saved_epochs(folder) == [1, 2], name
    assert epochs.count(2) >= 3  # there are files that matter


@pytest.mark.parametrize("reason", ["Its checksums", "Another process cannot read it."])
def test_arrays_of_another_epoch_and_what_another_process_cannot_read(reason, model, folder, monkeypatch):
    """Arrays that orbax reads without complaint; a process that says so of the first checkpoint it is asked about."""
    if reason == "Its checksums":
        shutil.rmtree(folder / "saved_epochs" / "3" / "arrays")
        shutil.copytree(folder / "saved_epochs" / "1" / "arrays", folder / "saved_epochs" / "3" / "arrays")
    else:
        failures = iter([True, False])
        monkeypatch.setattr(processes, "any_of", lambda flag: next(failures) or flag)
    callback = CheckpointCallback(folder)
    with pytest.warns(UserWarning, match=f"epoch 3 is damaged and is removed; the run goes on from epoch 2. {reason}"):
        assert callback.restore(model) == 2
    callback.close()
    assert same(model, 1) and saved_epochs(folder) == [1, 2]


def test_where_all_are_damaged_nothing_is_touched(model, folder):
    for path in folder.glob("saved_epochs/*/record/metadata"):
        path.write_text("{}")
    change(model, 100)
    callback = CheckpointCallback(folder)
    with pytest.raises(CheckpointError, match=r"begin a new run. Received: .* after epochs \[1, 2, 3\]"):
        callback.restore(model)
    callback.close()
    assert saved_epochs(folder) == [1, 2, 3] and same(model, 100)


@pytest.mark.parametrize(
    "difference, said",
    [
        ({"rank": 3}, "of another model or optimizer.* Received: log_dir="),
        ({"optimizer": keras.optimizers.SGD}, "of another model or optimizer.* Received: log_dir="),
        ({"seed": 1}, "not those that the run began with: has the preset changed"),
    ],
)
def test_another_model_or_base(difference, said, make_policy, folder):
    other = build(make_policy, **difference)
    before = values(other)
    with pytest.raises(CheckpointError, match=said):
        CheckpointCallback(folder).restore(other)
    assert saved_epochs(folder) == [1, 2, 3] and all(map(np.array_equal, before, values(other)))
