"""A full disk, a folder that cannot be written, checkpoints that are damaged: what is said, and what is kept."""

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.runs.check_folder import check_new_folder, check_writable

import pytest

FIT = Path(__file__).parents[2] / "scripts" / "fit.py"
sys.path.insert(0, str(FIT.parent))
import fit  # noqa: E402

FLAGS = [
    *("--set", "rollouts.prompts_per_epoch=4", "--set", "rollouts.group_size=4"),
    *("--set", "rollouts.max_completion_length=16", "--set", "evaluation.puzzles=2", "--set", "evaluation.samples=2"),
    *("--set", "training.completion_lengths=1", "--set", "training.micro_batch_size=none", "--epochs", "1"),
]


@pytest.fixture(scope="module")
def tiny(make_policy, tmp_path_factory):
    """Flags for a tiny preset."""
    preset = tmp_path_factory.mktemp("presets") / "tiny"
    make_policy().save_to_preset(str(preset))
    return ["--set", f"model.preset={json.dumps(str(preset))}", "--set", "lora.rank=2"]


NOBODY = 65534


@pytest.mark.parametrize("path, sentence", [("run", "Nothing can be written into"), ("run/new", "cannot be made, as")])
def test_a_folder_that_cannot_be_written(path, sentence):
    """Nor by a superuser, who becomes someone else for a moment."""
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:  # as pytest's, or $TMPDIR, may be closed to others
        os.chmod(parent, 0o755)
        folder = Path(parent, "run")
        folder.mkdir(mode=0o555)
        user = os.geteuid()
        try:
            os.seteuid(user or NOBODY)
            with pytest.raises(ValueError, match=f"{sentence}.*Received: log_dir="):
                check = check_writable if path == "run" else check_new_folder
                check(Path(parent, path), "log_dir")
        finally:
            os.seteuid(user)
        assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def failed(tiny, tmp_path_factory):
    """A run of one epoch whose files may have 512 bytes as its checkpoint is written: `(folder, what it says)`."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    limits, on_epoch_end = resource.getrlimit(resource.RLIMIT_FSIZE), CheckpointCallback.on_epoch_end

    def limited(self, epoch, logs=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
        try:
            on_epoch_end(self, epoch, logs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr(CheckpointCallback, "on_epoch_end", limited)
        assert fit.main(["--log-dir", str(folder), *FLAGS, *tiny]) == 1
    assert not (folder / "checkpoints" / "1").exists()
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def run(failed):
    """The folder of that run, which has gone on."""
    folder, _ = failed
    assert fit.main(["--resume", "--log-dir", str(folder)]) == 0
    assert len((folder / "history.csv").read_text().splitlines()) == 2 and (folder / "checkpoints" / "1").exists()
    return folder


def test_a_checkpoint_that_cannot_be_written(failed):
    folder, said = failed
    assert f": A checkpoint cannot be written in {folder}/checkpoints: " in said and said.count("\n") == 1
    assert "File too large" in said and said.endswith(f". Go on: python scripts/fit.py --resume --log-dir {folder}\n")


def test_a_disk_that_is_full(run, tmp_path, capfd):
    """The last file cannot be written, as all that is written to /dev/full fails like that."""
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "summary.json").unlink()
    (folder / "summary.json.part").symlink_to("/dev/full")
    assert fit.main(["--resume", "--log-dir", str(folder)]) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert "No space left on device" in said and f"Go on: python scripts/fit.py --resume --log-dir {folder}" in said
    assert not (folder / "summary.json").exists()


def test_all_checkpoints_are_damaged(run, tmp_path, capfd):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "summary.json").unlink()
    for path in (folder / "checkpoints" / "1" / "arrays").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    assert fit.main(["--resume", "--log-dir", str(folder)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and len(said) < 800
    assert ": No checkpoint can be restored; begin a new run. Received: log_dir=" in said
