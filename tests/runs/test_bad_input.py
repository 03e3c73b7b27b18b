"""What people get wrong: one sentence, before any long work; so presets have weights only where these are the case."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from keras_aha.models.lora import save_adapters
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.check_folder import check_new_folder, check_writable

import h5py
import numpy as np
import pytest
from conftest import ALL_LINEAR, SMALL

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import evaluate  # noqa: E402
import fit  # noqa: E402
import plan  # noqa: E402
import prime  # noqa: E402
import report  # noqa: E402

PRESET, CHATML = ["weightless", "--recipe", "countdown_tiny"], ["--set", "task.template=chatml"]
MIXED = ["--set", 'priming.tasks=[{name="signs", habits={hope=1}}]']
PRIMED, PROCESS = ["--set", "priming.adapters=true"], ["--num-processes", "1", "--process-id"]
REQUIRED = '[model]\npreset = "weightless"\n[task]\nname = "countdown"\n'
PROC = "/proc/keras-aha" if sys.platform == "linux" else "file/keras-aha"  # where not even a superuser may write


def flags(*changes, preset="weightless"):
    return [part for change in [*SMALL, f'model.preset="{preset}"', *changes] for part in ("--set", change)]


def refused(main, argv, capfd) -> str:
    """What `main` says as it ends with exit code 2; it must be a line, and the files here must be as they were."""
    before = files()
    with pytest.raises(SystemExit) as exit:
        main(argv)
    out, err = capfd.readouterr()
    assert exit.value.code == 2 and out == ""
    assert err.count("\n") == 1 and len(err) < 700 and "Traceback" not in err
    assert files() == before
    return err


def files():
    return {path: path.is_file() and (path.stat().st_size, path.stat().st_mtime_ns) for path in Path().rglob("*")}


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(autouse=True)
def surroundings():
    """As they were: `plan.py` sets them up for a process of its own."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def folder(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make_policy().save_to_preset(str(folder / "preset"))
    shutil.copytree(folder / "preset", folder / "weightless", ignore=shutil.ignore_patterns("*.h5"))
    (folder / "empty").mkdir()
    (folder / "dir.toml").mkdir()
    write(folder / "file", "mine")
    write(folder / "bad.toml", REQUIRED + "[rollouts]\ntemperature = nan\n")
    write(folder / "other" / "recipe.toml", REQUIRED)
    (folder / "other" / "saved_epochs" / "1").mkdir(parents=True)
    write(folder / "full" / "file", "mine")
    write(folder / "few.csv", "nums,target\n1 2,3\n")
    write_adapters(make_policy, folder)
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


# === Commands ===


@pytest.mark.parametrize(
    "script, argv, sentence",
    [
        (fit, ["--recipe", "bad.toml"], "rollouts.temperature must be a number"),
        (fit, ["--preset", "dir.toml"], "cannot be read: Is a directory"),
        (fit, ["--preset", "x" * 5000], "No recipe is called 'xxx"),
        (fit, ["--set", "="], "A change to a recipe is written section.key=value. Received: '='"),
        (fit, CHATML, "set task.template=gemma, its family's, or one without marks, such as plain. Received: a prompt"),
        (fit, ["--set", "task.max_number=0"], "[task]: max_number must be an integer from 1"),
        (fit, ["--set", "task.puzzles=few.csv"], "[evaluation.puzzles]: `n` must be at most 0"),
        (fit, ["--set", 'rewards=[{name="a", function="nowhere:f"}]'], "The module of rewards[0].function cannot be"),
        (
            fit,
            ["--set", 'rewards=[{name="a", function="json:lods"}]'],
            "has no function 'lods'; the nearest is json:lo",
        ),
        (fit, ["--set", "optimizer.class_name=Adamm"], "the nearest is Adam."),
        (fit, ["--set", "loss.delta=0.1"], "`delta` must be a number above 1.2"),
        (fit, ["--set", "training.micro_batch_size=3"], "the 4 rows of a step: choose 2 or 4. Received: micro_batch_"),
        (fit, ["--set", 'lora.target=["token_embedding"]'], "no layer 'token_embedding' to adapt"),  # not saved
        (fit, ["--set", "model.preset=no/such/folder"], "[model]: There is no such folder"),
        (fit, ["--set", "rollouts.max_prompt_length=9"], "tokens, more than the limit"),
        (fit, ["--set", 'lora.target=["quary"]'], "no layer 'quary' to adapt; the nearest is 'query'"),
        (fit, ["--epochs", "9" * 5000], "argument --epochs: needs an integer from 1"),
        (fit, ["--max-hours", "nan"], "needs a number above 0. Received: 'nan'"),
        (fit, ["--log-dir", "file"], "file is there already, and is kept: choose another log_dir. Received: log_dir="),
        (fit, ["--log-dir", "full"], "full is there already, and is kept"),
        (fit, ["--log-dir", "file/new"], "is no folder to write to"),
        (fit, ["--log-dir", PROC], "is no folder to write to"),
        (fit, ["--log-dir", "x" * 300], "File name too long"),
        (evaluate, [], "the following arguments are required: TARGET"),
        (evaluate, ["other", "--recipe", "countdown_tiny"], "A run has its own recipe: leave the other one out"),
        (
            evaluate,
            ["weightless"],
            "No recipe belongs to a preset of the name 'weightless': name the one whose task and",
        ),
        (evaluate, ["weightless", "--puzzles", "0"], "argument --puzzles: needs an integer from 1"),
        (evaluate, ["weightless", "--json", "full"], "full cannot be written"),
        (evaluate, ["weightless", "--json", "new", "--csv", "new"], "Two files cannot have one name"),
        (evaluate, ["weightless", "--wait-word", "Hmm"], "give both. Received: --wait-word Hmm"),
        (evaluate, [*PRESET, "--wait", "1", "--wait-word", "Wäit"], "the vocabulary can write, without </think>"),
        (evaluate, [*PRESET, "--against", "nowhere"], "[model]: No preset has that name"),
        (evaluate, [*PRESET, "--against", "other"], "choose them by `recipe`, or by changes to [task] and"),
        (
            evaluate,
            [*PRESET, *CHATML],
            "no tokens <|im_end|>, <|im_start|>, so the model would read them letter by letter",
        ),
        (evaluate, ["empty", *PRESET[1:]], "[model]: The folder is no preset that keras-hub can load"),
        (evaluate, ["file"], "Received: preset='file'"),
        (prime, ["--out", "full"], "full is there already, and is kept: choose another out"),
        (prime, ["--out", "new", "--set", "priming.habits={patience = 3}"], "unexpected keyword argument 'patience'"),
        (prime, ["--out", "new", "--set", "priming.habits={max_attempts=-1}"], "Received: priming.habits="),
        (prime, ["--out", "new", "--set", "priming.habits={}", *MIXED], "'hope'. Received: priming.tasks[0].habits="),
        (
            prime,
            ["--out", "new", *CHATML],
            "set task.template=gemma, its family's, or one without marks, such as plain",
        ),
        (prime, ["--out", "new", "--new", *CHATML], "set task.template=gemma, its family's, or one without marks"),
        (prime, ["--out", "new", *PRIMED, "--new"], "priming.adapters trains those of [lora]"),
        (prime, ["--out", "new", *PRIMED, "--set", "lora.rank=0"], "priming.adapters trains those of [lora]"),
        (prime, ["--out", "new", *PRIMED, "--set", "model.quantization=int8"], "priming.adapters trains those of [lor"),
        (fit, ["--num-processes", "2"], "need --coordinator, --num-processes, --process-id, all three"),
        (fit, ["--coordinator", "a:1", *PROCESS, "1"], "is below --num-processes"),
        (fit, ["--multi-host", "--process-id", "0"], "leave one or the other out. Received: --process-id 0 --multi-"),
        (fit, ["--coordinator", "a:99999", *PROCESS, "0"], "its port from 1 to 65535. Received: coordinator='a:99999'"),
        (report, ["empty"], "A report is about a run that has trained one epoch or more; the folder has no"),
        (plan, ["--preset", "bad.toml"], "rollouts.temperature must be a number"),
        (plan, ["--topology", "v5e-3"], "There is no slice of that size"),
        (plan, ["--price-per-chip-hour", "inf"], "A price must be 0 or more"),
        (plan, ["--json", "file/new"], "file/new cannot be written"),
    ],
)
def test_a_command_refuses_in_a_sentence(script, argv, sentence, capfd):
    log_dir = ["--log-dir", "new"] if script is fit and "--log-dir" not in argv else []
    assert sentence in refused(script.main, [*(flags() if script in (fit, prime) else []), *log_dir, *argv], capfd)


OWN_TASKS = """
import sys
import keras_aha as aha

class Rows(aha.tasks.DrawnTask):
    def draw(self, rng):
        return {"a": rng.randrange(1000)}
    def prompt(self, problem):
        return "abc"
    def score(self, problem, completion):
        return aha.tasks.Score(0.0, False, "wrong_value")

class Messages(Rows):
    def prompt(self, problem):
        return [{"role": "user"}]

class Bytes(Rows):
    def prompt(self, problem):
        return b"abc"

class Floats(Rows):
    def score(self, problem, completion):
        return 0.25

class Labels(Rows):
    def labels(self, problem):
        return ["hard"]

class Raises(Rows):
    def __init__(self):
        {}["file"]

class Draws(Rows):
    def draw(self, rng):
        return [][0]

class Exits(Rows):
    def prompt(self, problem):
        sys.exit("no")

class Nameless(Rows):
    def draw(self, rng):
        return object()

class Canonical(Rows):
    def canonical(self, problem):
        return 7

class Ends(Rows):
    def problem(self, index):
        return [{"a": 1}, {"a": 2}][index]

class Unequal(Rows):
    def held_out(self, n):
        return iter([self.problem(0)])
"""


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("Messages", "[task]: `Messages.prompt` must return a text. Received: [{'role': 'user'}], for {'a': "),
        ("Bytes", "`Bytes.prompt` must return a text. Received: b'abc', for {'a': "),
        ("Floats", "`Floats.score` must return a Score(reward, correct, verdict) of keras_aha.tasks whose reward is a"),
        ("Labels", "`Labels.labels` must return a dictionary. Received: ['hard'], for {'a': "),
        ("Raises", "own_tasks:Raises cannot be made of the section's keys: KeyError('file')"),
        ("Draws", "`Draws.held_out` must return a task of that length. Received: it raised IndexError('list index out"),
        ("Exits", "`Exits.prompt` must return a text. Received: it raised SystemExit('no') in line 39 of "),
        ("Nameless", "`Nameless.canonical` must return a tuple with a text of its own"),
        ("Canonical", "`Canonical.held_out` must return"),
        ("Ends", "`Ends.problem` must return a problem for each number from 0 on. Received: it raised IndexError"),
        ("Unequal", "`Unequal.held_out` must return a task of that length. Received: <list_iterator"),
    ],
)
def test_a_task_of_the_users_own_is_refused_in_a_sentence(name, sentence, folder, monkeypatch, capfd):
    """With its class, its method, the problem and what was expected; before weights are loaded."""
    write(folder / "own_tasks.py", OWN_TASKS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys.modules[__name__], "SMALL", [change for change in SMALL if "task" not in change])
    assert sentence in refused(fit.main, [*flags(f"task.name=own_tasks:{name}"), "--log-dir", "new"], capfd)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (f"[rollouts]\ngroup_size = {'9' * 5000}\n", "is not valid TOML: Exceeds the limit (4300 digits)"),
        (f"[priming]\nhabits = {'{a = ' * 3000}1{'}' * 3000}\n", "is not valid TOML: maximum recursion depth exceeded"),
        (f"[priming]\nhabits = {'{a = ' * 99}1{'}' * 99}\n", "holds more than 50 tables or lists in each other"),
    ],
)
def test_recipes_that_are_hard_to_read(content, sentence, tmp_path):
    write(tmp_path / "hard.toml", REQUIRED + content)
    with pytest.raises(ValueError) as error:
        Recipe.load(tmp_path / "hard.toml")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "check, path, sentence",
    [(check_writable, "run", "Nothing can be written into"), (check_new_folder, "run/new", "cannot be made, as")],
)
def test_a_folder_that_cannot_be_written(check, path, sentence):
    """Nor by a superuser, who becomes someone else for a moment."""
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:  # as pytest's, or $TMPDIR, may be closed to others
        os.chmod(parent, 0o755)
        folder = Path(parent, "run")
        folder.mkdir(mode=0o555)
        user = os.geteuid()
        try:
            os.seteuid(user or 65534)
            with pytest.raises(ValueError, match=f"{sentence}.*Received: log_dir="):
                check(Path(parent, path), "log_dir")
        finally:
            os.seteuid(user)
        assert not list(folder.iterdir())


# === Presets and adapters ===


@pytest.mark.parametrize(
    "break_it, sentence",
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: write(folder / "config.json", b"\xff"), "UnicodeDecodeError"),
        (lambda folder: shutil.rmtree(folder / "assets"), "vocabulary.spm"),
        (lambda folder: os.truncate(folder / "model.weights.h5", 50_000), "truncated file"),
        (lambda folder: write(folder / "config.json", '{"model_type": "other"}'), "no converter for huggingface"),
    ],
)
def test_presets(break_it, sentence, folder, tmp_path):
    shutil.copytree(folder / "preset", tmp_path / "preset")
    break_it(tmp_path / "preset")
    recipe = Recipe.load("countdown_tiny").override([*SMALL, f'model.preset="{tmp_path / "preset"}"'])
    with pytest.raises(ValueError) as error:
        build_policy(recipe)
    assert sentence in str(error.value) and "[model]: " in str(error.value) and "Received: preset=" in str(error.value)


def write_adapters(make_policy, folder):
    policy = make_policy()
    policy.backbone.enable_lora(2, target_layer_names=ALL_LINEAR)
    save_adapters(policy.backbone, folder / "good.lora.h5")
    for name in ("nan", "numbers", "rank_of_text"):
        shutil.copy(folder / "good.lora.h5", folder / f"{name}.lora.h5")
    good = (folder / "good.lora.h5").read_bytes()
    write(folder / "scratched.lora.h5", good[:300] + bytes(byte ^ 255 for byte in good[300:1500]) + good[1500:])
    with h5py.File(folder / "nan.lora.h5", "r+") as file:
        next(file["lora"][name] for name in file["lora"] if name.isdigit())["vars/lora_kernel_a"][0] = np.nan
    with h5py.File(folder / "numbers.lora.h5", "r+") as file:
        del file["lora"]
        file["lora"] = np.zeros(3)
    with h5py.File(folder / "rank_of_text.lora.h5", "r+") as file:
        del file["lora/vars/rank"]
        file["lora/vars/rank"] = "two"


@pytest.mark.parametrize(
    "start, sentence",
    [
        ("nowhere", "There are no adapters to start from"),
        ("full", "There are no adapters to start from"),
        ("scratched.lora.h5", "The file holds no adapters"),
        ("numbers.lora.h5", "The file holds no adapters"),
        ("rank_of_text.lora.h5", "The file holds no adapters"),
        ("nan.lora.h5", "values that are not finite"),
        ("good.lora.h5", "model.weights"),  # they are taken: what is missed next is the weights
    ],
)
def test_adapters(start, sentence):
    recipe = Recipe.load("countdown_tiny").override([*SMALL, "model.preset=weightless", f"lora.start={start}"])
    with pytest.raises(ValueError) as error:
        build_policy(recipe)
    assert sentence in str(error.value)


# === Meshes ===

MESHES = [
    (["distribution.batch=3"], "must be the number of devices, which is 8"),
    (["distribution.model=8"], ": `model` must divide the number of query heads, which is 2, and of devices"),
    (["distribution.rollout_model=4"], ": `rollout_model` must divide the number of query heads, which is 2"),
    (["rollouts.prompts_per_epoch=3"], "The 6 completions of a step cannot be split into 8 equal parts"),
    (["rollouts.prompts_per_epoch=8", "model.quantization=int4"], "Kernels in 4 bits are packed into matrices"),
]


def on_eight_devices():
    """Runs in a child process: the flags of each mesh by `fit.main`, what it says on stderr and how it ends."""
    for changes, _ in MESHES:
        try:
            fit.main([*flags(*changes), "--log-dir", "new"])
        except SystemExit as exit:
            print(f"exit {exit.code}", file=sys.stderr)


def test_meshes(folder):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    before = files()
    child = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0 and child.stdout == "", child.stderr
    lines = [line for line in child.stderr.splitlines() if line.startswith((Path(__file__).name, "exit"))]
    assert lines[1::2] == ["exit 2"] * len(MESHES), child.stderr
    for (_, sentence), line in zip(MESHES, lines[::2], strict=True):
        assert sentence in line
    assert files() == before


if __name__ == "__main__":
    on_eight_devices()
