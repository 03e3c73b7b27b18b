"""A disk that is full, a folder that cannot be written, checkpoints that are damaged: what is said, and what is kept.

Where something may be mounted, on file systems of their own too.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback

import pytest

FIT = Path(__file__).parents[1] / "scripts" / "fit.py"
sys.path.insert(0, str(FIT.parent))
import fit  # noqa: E402

FLAGS = [
    *("--set", "rollouts.prompts_per_epoch=4", "--set", "rollouts.group_size=4"),
    *("--set", "rollouts.max_completion_length=16", "--set", "evaluation.puzzles=2", "--set", "evaluation.samples=2"),
    *("--set", "training.completion_lengths=1", "--set", "training.micro_batch_size=none", "--epochs", "3"),
]
SCRIPT = """
set -u
mount -t tmpfs -o size=600k tmpfs "$DISK"
"$@" --logdir "$DISK/run"; echo "full: $?"
mount -o remount,ro "$DISK"
"$@" --logdir "$DISK/run" --resume; echo "read-only: $?"
mount -o remount,rw,size=100m "$DISK"
"$@" --logdir "$DISK/run" --resume > /dev/null; echo "again: $?"
tail -n 1 "$DISK/run/history.csv"; ls "$DISK/run"
"""


def may_mount() -> bool:
    return (
        shutil.which("unshare")
        and not subprocess.run(
            ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True
        ).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="nothing may be mounted here")
def test_a_full_disk_then_a_read_only_one_then_room(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(FIT.parents[1]), "DISK": str(tmp_path)}
    command = ["unshare", "-rm", "sh", "-c", SCRIPT, "sh", sys.executable, str(FIT), *FLAGS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "full: 1\n" in done.stdout, done
    assert "read-only: 2\n" in done.stdout, done
    assert "again: 0\n3," in done.stdout and "summary.json" in done.stdout, done
    assert "Traceback" not in done.stderr
    full, read_only = done.stderr.splitlines()
    assert "No space left on device" in full and f"--resume --logdir {tmp_path}/run" in full
    assert "Nothing can be written into" in read_only


# === Without mounting anything ===

NOBODY = 65534


def test_a_folder_that_cannot_be_written(capsys):
    """Nor by a superuser, who becomes someone else for a moment."""
    with tempfile.TemporaryDirectory() as parent:  # and not pytest's, which is closed to others
        os.chmod(parent, 0o755)
        folder = Path(parent, "run")
        folder.mkdir()
        shutil.copy(FIT.parents[1] / "presets" / "countdown_tiny.toml", folder / "recipe.toml")
        os.chmod(folder, 0o555)
        user = os.geteuid()
        try:
            os.seteuid(user or NOBODY)
            for flags in (["--logdir", str(folder), "--resume"], ["--logdir", str(folder / "new")]):
                with pytest.raises(SystemExit) as exit:
                    fit.main(flags)
                assert exit.value.code == 2
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)
        said = capsys.readouterr()
        assert [path.name for path in folder.iterdir()] == ["recipe.toml"] and not said.out
    going_on, beginning = said.err.splitlines()
    assert f"Nothing can be written into {folder}. Received: --logdir" in going_on
    assert f"{folder}/new cannot be made, as {folder} is no folder to write to. Received: --logdir" in beginning


@pytest.fixture(scope="module")
def run(make_policy, tmp_path_factory):
    """The folder of a run of one epoch, whose checkpoint could not be written at first: files could have 512 bytes."""
    preset, folder = tmp_path_factory.mktemp("presets") / "tiny", tmp_path_factory.mktemp("runs") / "run"
    make_policy().save_to_preset(str(preset))
    limits, on_epoch_end = resource.getrlimit(resource.RLIMIT_FSIZE), CheckpointCallback.on_epoch_end

    def limited(self, epoch, logs=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
        on_epoch_end(self, epoch, logs)

    flags = [*FLAGS[:-1], "1", "--set", f"model.preset={json.dumps(str(preset))}", "--set", "lora.rank=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointCallback, "on_epoch_end", limited)
        try:
            assert fit.main(["--logdir", str(folder), *flags]) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return folder


def test_a_checkpoint_that_does_not_fit(run, capfd):
    assert not (run / "checkpoints" / "1").exists() and (run / "history.csv").exists()
    assert fit.main(["--resume", "--logdir", str(run)]) == 0
    assert (run / "checkpoints" / "1").exists() and (run / "summary.json").exists()
    assert len((run / "history.csv").read_text().splitlines()) == 2


def test_a_disk_that_is_full(run, tmp_path, capfd):
    """The last file cannot be written, as all that is written to /dev/full fails like that."""
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "summary.json").unlink(missing_ok=True)
    (folder / "summary.json.part").symlink_to("/dev/full")
    assert fit.main(["--resume", "--logdir", str(folder)]) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert "No space left on device" in said and f"Go on: python scripts/fit.py --resume --logdir {folder}" in said
    (folder / "summary.json.part").unlink()
    assert fit.main(["--resume", "--logdir", str(folder)]) == 0
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 1


def test_all_checkpoints_are_damaged(run, tmp_path, capfd):
    folder = shutil.copytree(run, tmp_path / "run")
    if not (folder / "checkpoints" / "1").exists():
        assert fit.main(["--resume", "--logdir", str(folder)]) == 0
    (folder / "summary.json").unlink()
    for path in (folder / "checkpoints" / "1" / "arrays").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    capfd.readouterr()
    assert fit.main(["--resume", "--logdir", str(folder)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and len(said) < 800
    assert said.startswith("fit.py: No checkpoint can be restored; begin a new run. Received: folder=")
