"""What people get wrong, as a table: each is one sentence, exit code 2, before any long work, and nothing is written.

Unless a case is about weights, its preset has none: a check that came after they are loaded would not be heard.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from keras_aha.models.lora import save_adapters

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import ALL_LINEAR

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import evaluate  # noqa: E402
import fit  # noqa: E402
import plan  # noqa: E402
import prime  # noqa: E402

SMALL = [
    *("rollouts.prompts_per_epoch=2", "rollouts.group_size=2", "rollouts.max_completion_length=8"),
    *("task.max_number=10", "evaluation.puzzles=3", "evaluation.samples=2", "lora.rank=2"),
    *("training.micro_batch_size=none", "priming.steps=2", "priming.batch_size=2"),
]
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(autouse=True)
def surroundings():
    """As they were, for the tests of other files: `plan.py` sets them up for a process of its own."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def folder(make_policy, tmp_path_factory):
    """A folder with a preset, the same without its weights, and broken files of each kind."""
    folder = tmp_path_factory.mktemp("bad")
    make_policy().save_to_preset(str(folder / "preset"))
    shutil.copytree(folder / "preset", folder / "weightless", ignore=shutil.ignore_patterns("*.h5"))
    for name, content in {**RECIPES, **PUZZLES}.items():
        write(folder / name, content)
    (folder / "dir.csv").mkdir()
    (folder / "dir.toml").mkdir()
    (folder / "empty").mkdir()
    write(folder / "file", "mine")
    write(folder / "other" / "recipe.toml", REQUIRED)  # a run on other puzzles than the embedded recipe's
    write(folder / "full" / "file", "mine")
    pd.DataFrame({"nums": [[1, 2]] * 50, "target": [3] * 50}).to_parquet(folder / "good.parquet")
    good = (folder / "good.parquet").read_bytes()
    write(folder / "truncated.parquet", good[: len(good) // 2])
    write(folder / "scratched.parquet", good[:4] + bytes(byte ^ 85 for byte in good[4:60]) + good[60:])
    pd.DataFrame({"nums": [{"a": 1}], "target": [3]}).to_parquet(folder / "types.parquet")
    write_adapters(make_policy, folder)
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


# === Recipes ===

RECIPES = {
    "text.toml": "hello",
    "binary.toml": b"\xff\xfe\x00",
    "nothing.toml": "",
    "section.toml": REQUIRED + "[modle]\n",
    "key.toml": REQUIRED + "[rollouts]\ngroup_sise = 4\n",
    "type.toml": REQUIRED + '[rollouts]\ngroup_size = "4"\n',
    "bounds.toml": REQUIRED + "[rollouts]\ngroup_size = 1\n",
    "lacking.toml": '[model]\npreset = "weightless"\n',
    "nan.toml": REQUIRED + "[rollouts]\ntemperature = nan\n",
    "inf.toml": REQUIRED + "[rollouts]\ntemperature = inf\n",
    "overflow.toml": REQUIRED + "[rollouts]\ntemperature = 1e400\n",
    "huge.toml": REQUIRED + "[rollouts]\ngroup_size = 100000000000000000000\n",
    "digits.toml": REQUIRED + f"[rollouts]\ngroup_size = {'9' * 5000}\n",
    "date.toml": REQUIRED + "[training]\nseed = 2026-01-01\n",
    "deep.toml": REQUIRED + f"[priming]\nhabits = {'{a = ' * 3000}1{'}' * 3000}\n",
    "nested.toml": REQUIRED + f"[priming]\nhabits = {'{a = ' * 99}1{'}' * 99}\n",
    "twice.toml": REQUIRED + '[task]\nname = "countdown"\n',
}


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("nowhere.toml", "cannot be read: No such file or directory"),
        ("text.toml", "is not valid TOML: Expected '='"),
        ("binary.toml", "is not valid TOML: 'utf-8' codec can't decode"),
        ("nothing.toml", "The recipe lacks model.preset"),
        ("dir.toml", "cannot be read: Is a directory"),
        ("section.toml", "Unknown section [modle]; the nearest is [model]"),
        ("key.toml", "Unknown key rollouts.group_sise; the nearest is rollouts.group_size"),
        ("type.toml", "rollouts.group_size must be an integer. Received: rollouts.group_size='4'"),
        ("bounds.toml", "rollouts.group_size must be at least 2"),
        ("lacking.toml", "The recipe lacks task.name"),
        ("nan.toml", "rollouts.temperature must be a number. Received: rollouts.temperature=nan"),
        ("inf.toml", "rollouts.temperature must be a number"),
        ("overflow.toml", "rollouts.temperature must be a number"),
        ("huge.toml", "rollouts.group_size must be a number of 32 bits"),
        ("digits.toml", "is not valid TOML: Exceeds the limit (4300 digits)"),
        ("date.toml", "training.seed must be an integer"),
        ("deep.toml", "is not valid TOML: maximum recursion depth exceeded"),
        ("nested.toml", "holds more than 50 tables or lists in each other"),
        ("twice.toml", "is not valid TOML: Cannot declare ('task',) twice"),
    ],
)
def test_recipes(name, sentence, capfd):
    assert sentence in refused(fit.main, ["--preset", name, "--log-dir", "new"], capfd)


@pytest.mark.parametrize("script", [evaluate, plan, prime], ids=lambda script: script.__name__)
def test_other_scripts_read_recipes_likewise(script, capfd):
    argv = {
        evaluate: ["weightless", "--recipe", "nan.toml"],
        plan: ["--preset", "nan.toml"],
        prime: ["--preset", "nan.toml", "--out", "new"],
    }
    assert "rollouts.temperature must be a number" in refused(script.main, argv[script], capfd)


# === --set ===


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("=", "A change to a recipe is written section.key=value. Received: '='"),
        ("training.seed", "A change to a recipe is written section.key=value"),
        ("seed=1", "A change to a recipe is written section.key=value"),
        ("training.seed=", "What follows the = is no value of TOML. Received: 'training.seed='"),
        ("training.seed=[1", "What follows the = is no value of TOML"),
        (f"training.seed={'9' * 5000}", "What follows the = is no value of TOML"),
        (f"priming.habits={'[' * 3000}", "What follows the = is no value of TOML"),
        ("a.b=1", "Unknown section [a]"),
        ("rollouts.group_size=1e3", "must be an integer"),
        ("rollouts.max_completion_length=2147483647", "A rollout must have fewer than 2**31 tokens"),
        ("rollouts.max_completion_length=1000000000000", "must be a number of 32 bits"),
        ("rollouts.refills=1000000000", "rollouts.refills must be from 0 to 100"),
        ("rollouts.temperature=1e-300", "must be a number of 32 bits"),
        ("rollouts.temperature=0", "must be above 0"),
        ("rollouts.top_p=2", "must be above 0 and at most 1"),
        ("rollouts.stop_tokens=[1]", "must be a list of strings"),
        ('rollouts.stop_strings=[""]', "must be texts, none of them empty"),
        ("rollouts.overlong_buffer=9", "must be 1 to 8 tokens"),
        ("rollouts.max_prompt_length=9", "tokens, more than the limit"),
        ("rollouts.reward_seconds=0", "must be above 0"),
        ("rollouts.on_reward_error=ignore", 'must be "skip" or "stop"'),
        ("training.seed=4294967296", "must be a number of 32 bits"),
        ("training.micro_batch_size=3", "must divide the 4 rows of a step: choose 2 or 4"),
        ("evaluation.puzzles=600000", "An evaluation must have at most a million completions"),
        ("evaluation.puzzles=5000", "distinct held-out problems"),
        ("lora.rank=5000", "lora.rank must be from 0 to 4096"),
        ("lora.alpha=1e300", "must be a number of 32 bits"),
        ('lora.target=["quary"]', "no layer 'quary' to adapt; the nearest is 'query'"),
        ("lora.target=[]", "No layer was adapted"),
        ("lora.target=query", "must be a list of strings"),
        ("loss.clip_range=[0.1]", "must be a number or a pair of numbers"),
        ("loss.clip_range=1e-400", "must be above 0"),
        ("loss.delta=0.1", "`delta` must be a number above 1.2"),
        ("model.dtype=float7", "A policy computes in one of float32, bfloat16, float16"),
        ("model.dtype=float64", "A policy computes in one of"),
        ("model.dtype=int8", "A policy computes in one of"),
        ("model.quantization=int2", 'must be "int8", "int4" or "none"'),
        ("model.preset=countdwon_tiny", "No preset has that name; the nearest is"),
        ("model.preset=no/such/folder", "There is no such folder"),
        ("task.name=count", "No task is called 'count'"),
        ("task.max_number=0", "max_number must be an integer from 1"),
        ("task.max_number=99999999999999999999999", "Countdown draws no puzzle to train on"),
        ("task.num_numbers=[2, 99]", "num_numbers must be from 2 to 6"),
        ("task.seed=1.5", "seed must be an integer"),
        ("task.template=none", "A template is one of"),
        ("task.puzzles=3", "[task] does not hold what countdown takes"),
        ("optimizer.class_name=Adamm", "the nearest is Adam."),
        ("optimizer.config.learning_rate=-1.0", "its learning rate is below 0"),
        ("optimizer.config.beta_2=5.0", "makes weights that are not finite"),
        ("optimizer.config.weight_decay=much", "The optimizer cannot take a step"),
        ('optimizer.config.learning_rate={class_name="CosineDecay", config=3}', "A schedule is a table"),
        ("distribution.model=0", "must be at least 1"),
        ("distribution.weights=half", 'must be "auto" or "whole" or "split"'),
    ],
)
def test_changes_of_a_recipe(change, sentence, capfd):
    assert sentence in refused(fit.main, [*flags(change), "--log-dir", "new"], capfd)


# === Puzzles ===

PUZZLES = {
    "columns.csv": "numbers,target\n1 2,3\n",
    "empty.csv": "",
    "header.csv": "nums,target\n",
    "garbage.csv": bytes(range(256)),
    "negative.csv": "nums,target\n-1 2,3\n",
    "types.csv": "nums,target\n1 2,three\n",
    "field.csv": f'nums,target\n"{"1 " * 100000}",3\n',
    "number.csv": f"nums,target\n{'9' * 30} 2,3\n",
    "quote.csv": 'nums,target\n"1 2,3\n',
    "null.csv": "nums,target\n1 \x002,3\n",
    "few.csv": "nums,target\n1 2,3\n",
    "garbage.parquet": bytes(range(256)),
    "empty.parquet": "",
    "puzzles.json": "[]",
}


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("nowhere.csv", "The puzzle file cannot be read"),
        ("dir.csv", "The puzzle file cannot be read"),
        ("columns.csv", "needs the columns nums and target"),
        ("empty.csv", "cannot be read: No columns to parse"),
        ("header.csv", "holds no puzzle"),
        ("garbage.csv", "The puzzle file cannot be read"),
        ("negative.csv", "Row 1 of the puzzle file needs 1 to 6 integers from 0"),
        ("types.csv", "Row 1 of the puzzle file needs an integer in target"),
        ("field.csv", "Row 1 of the puzzle file needs 1 to 6 integers"),
        ("number.csv", "Row 1 of the puzzle file needs 1 to 6 integers"),
        ("quote.csv", "The puzzle file cannot be read"),
        ("null.csv", "Row 1 of the puzzle file needs 1 to 6 integers"),
        ("few.csv", "distinct held-out problems"),
        ("garbage.parquet", "The puzzle file cannot be read"),
        ("empty.parquet", "The puzzle file cannot be read"),
        ("truncated.parquet", "The puzzle file cannot be read"),
        ("scratched.parquet", "The puzzle file cannot be read"),
        ("types.parquet", "Row 1 of the puzzle file needs 1 to 6 integers"),
        ("puzzles.json", "is a .csv or a .parquet file"),
    ],
)
@pytest.mark.parametrize("script", [fit, prime], ids=lambda script: script.__name__)
def test_puzzles(script, name, sentence, capfd):
    target = {fit: "--log-dir", prime: "--out"}[script]
    assert sentence in refused(script.main, [*flags(f"task.puzzles={name}"), target, "new"], capfd)


# === Presets ===


def edited(name):
    """A change of a JSON file of keras-hub's by a function of what it holds."""

    def edit(folder, change):
        content = json.loads((folder / name).read_text())
        change(content)
        write(folder / name, json.dumps(content))

    return edit


def scratch(folder, start, stop):
    path = folder / "model.weights.h5"
    content = bytearray(path.read_bytes())
    content[start:stop] = (byte ^ 255 for byte in content[start:stop])
    path.write_bytes(content)


def put_nan(folder):
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        file["layers/gemma_decoder_block/ffw_linear/vars/0"][0] = np.nan


def as_hugging_face(folder, weights=None, **changes):
    vocabulary = next(folder.rglob("*.spm")).read_bytes()
    shutil.rmtree(folder)
    config = dict(model_type="gemma", vocab_size=202, num_hidden_layers=2, num_attention_heads=2, head_dim=8)
    config |= dict(num_key_value_heads=1, hidden_size=16, intermediate_size=16, rms_norm_eps=1e-6)
    config |= dict(architectures=["GemmaForCausalLM"])
    write(folder / "config.json", json.dumps(config | changes))
    write(folder / "tokenizer.model", vocabulary)
    if weights is not None:
        write(folder / "model.safetensors", weights)


HEADER = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
TENSORS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(4)
CONFIG, TASK = edited("config.json"), edited("task.json")


@pytest.mark.parametrize(
    "break_it, sentence",
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: write(folder / "config.json", "{"), "JSONDecodeError"),
        (lambda folder: write(folder / "config.json", b"\xff"), "UnicodeDecodeError"),
        (lambda folder: write(folder / "config.json", "[]"), "Unrecognized format for config.json"),
        (lambda folder: CONFIG(folder, lambda x: x["config"].update(hidden_dim="x")), "must be a positive integer"),
        (lambda folder: CONFIG(folder, lambda x: x["config"].update(hidden_dim=10**12)), "OverflowError"),
        (lambda folder: CONFIG(folder, lambda x: x["config"].update(num_layers=3)), "config.json describes a model of"),
        (lambda folder: TASK(folder, lambda x: x.update(registered_name="keras_hub>Nothing")), "no preset"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda folder: shutil.rmtree(folder / "assets"), "vocabulary.spm"),
        (lambda folder: write(next(folder.rglob("*.spm")), b"garbage"), "no preset"),
        (lambda folder: (folder / "model.weights.h5").unlink(), "model.weights"),
        (lambda folder: os.truncate(folder / "model.weights.h5", 50_000), "truncated file"),
        (lambda folder: os.truncate(folder / "model.weights.h5", 0), "file signature not found"),
        (lambda folder: scratch(folder, 0, 1), "file signature not found"),
        (lambda folder: scratch(folder, 600, 1200), "bad local heap signature"),
        (put_nan, "weights are not finite"),
        (lambda folder: as_hugging_face(folder), "`model.safetensors` doesn't exist"),
        (lambda folder: as_hugging_face(folder, TENSORS[:7] + b"\x7f" + TENSORS[8:]), "header too large"),
        (lambda folder: as_hugging_face(folder, TENSORS[:-6]), "invalid header length"),
        (lambda folder: as_hugging_face(folder, TENSORS), "does not contain tensor model.embed_tokens.weight"),
        (lambda folder: as_hugging_face(folder, TENSORS, model_type="other"), "no converter for huggingface"),
    ],
)
def test_presets(break_it, sentence, folder, tmp_path, capfd):
    shutil.copytree(folder / "preset", tmp_path / "preset")
    break_it(tmp_path / "preset")
    said = refused(fit.main, [*flags(preset=tmp_path / "preset"), "--log-dir", "new"], capfd)
    assert sentence in said and "Received: model.preset=" in said


@pytest.mark.parametrize("name", ["empty", "full", "file", "nowhere"])
def test_what_is_no_preset_is_not_evaluated(name, capfd):
    assert f"Received: model.preset='{name}'" in refused(evaluate.main, [name], capfd)


# === Adapters ===


def write_adapters(make_policy, folder):
    for name, rank, width in [("good", 2, 16), ("rank", 4, 16), ("model", 2, 32)]:
        policy = make_policy(hidden_dim=width)
        policy.backbone.enable_lora(rank, target_layer_names=ALL_LINEAR)
        save_adapters(policy.backbone, folder / f"{name}.lora.h5")
    good = (folder / "good.lora.h5").read_bytes()
    write(folder / "truncated.lora.h5", good[: len(good) // 2])
    write(folder / "scratched.lora.h5", good[:300] + bytes(byte ^ 255 for byte in good[300:1500]) + good[1500:])
    write(folder / "text.lora.h5", "hello")
    for name in ("nan", "numbers", "rank_of_text"):
        shutil.copy(folder / "good.lora.h5", folder / f"{name}.lora.h5")
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
        ("text.lora.h5", "The file holds no adapters"),
        ("truncated.lora.h5", "The file holds no adapters"),
        ("scratched.lora.h5", "The file holds no adapters"),
        ("numbers.lora.h5", "The file holds no adapters"),
        ("rank_of_text.lora.h5", "The file holds no adapters"),
        ("rank.lora.h5", "have another rank than the backbone's: set it to 4"),
        ("model.lora.h5", "The file's adapters are those of another model"),
        ("nan.lora.h5", "values that are not finite"),
    ],
)
def test_adapters(start, sentence, capfd):
    assert sentence in refused(fit.main, [*flags(f"lora.start={start}"), "--log-dir", "new"], capfd)


def test_the_adapters_that_were_broken_were_good(capfd):
    """They are taken: what is missed next is the weights."""
    assert "model.weights" in refused(fit.main, [*flags("lora.start=good.lora.h5"), "--log-dir", "new"], capfd)


# === Flags ===


@pytest.mark.parametrize(
    "script, argv, sentence",
    [
        (fit, ["--epochs", "-1"], "argument --epochs: needs an integer from 1 to 2147483647. Received: '-1'"),
        (fit, ["--epochs", "0"], "argument --epochs: needs an integer from 1"),
        (fit, ["--epochs", "9" * 5000], "argument --epochs: needs an integer from 1"),
        (fit, ["--seed", "1.5"], "argument --seed: needs an integer from 0"),
        (fit, ["--nope"], "unrecognized arguments: --nope"),
        (fit, ["--set"], "argument --set: expected one argument"),
        (fit, ["--preset", "countdwon_tiny"], "the nearest is 'countdown_tiny'"),
        (fit, ["--preset", "x" * 5000], "No recipe is called 'xxx"),
        (fit, ["--log-dir", "file"], "file is there already, and is kept"),
        (fit, ["--log-dir", "file/new"], "is no folder to write to"),
        (fit, ["--log-dir", PROC], "is no folder to write to"),
        (fit, ["--log-dir", "full"], "full is there already, and is kept"),
        (fit, ["--log-dir", "x" * 300], "File name too long"),
        (evaluate, [], "the following arguments are required: TARGET"),
        (evaluate, ["weightless", "--recipe", "nothing"], "No recipe is called 'nothing'"),
        (evaluate, ["weightless", "--puzzles", "0"], "argument --puzzles: needs an integer from 1"),
        (evaluate, ["weightless", "--seed", "999999999999"], "argument --seed: needs an integer from 0"),
        (evaluate, ["weightless", "--json", "full"], "full cannot be written"),
        (evaluate, ["weightless", "--json", "file/new"], "file/new cannot be written"),
        (evaluate, ["weightless", "--csv", PROC], "cannot be written"),
        (evaluate, ["weightless", "--json", "new", "--csv", "new"], "Two files cannot have one name"),
        (evaluate, ["weightless", "--parquet", "full"], "full cannot be written"),
        (evaluate, ["weightless", "--csv", "new", "--parquet", "new"], "Received: --csv new --parquet new"),
        (evaluate, ["weightless", "--wait", "0"], "argument --wait: needs an integer from 1"),
        (evaluate, ["weightless", "--wait-word", "Hmm"], "give both. Received: --wait-word Hmm"),
        (evaluate, ["weightless", "--wait", "1", "--wait-word", "Wäit"], "the vocabulary can write, without </think>"),
        (evaluate, ["weightless", "--wait", "1", "--wait-word", "</think>"], "Received: '</think>'"),
        (evaluate, ["weightless", "--against", "nowhere"], "Received: model.preset='nowhere'"),
        (evaluate, ["weightless", "--against", "other"], "choose them by --recipe, or [task] and [evaluation]"),
        (prime, [], "the following arguments are required: --out"),
        (prime, ["--out", "file"], "file is there already, and is kept"),
        (prime, ["--out", "full"], "full is there already, and is kept"),
        (prime, ["--out", PROC], "is no folder to write to"),
        (prime, ["--out", "new", "--set", "model.preset=nothing"], "No preset has that name"),
        (prime, ["--out", "new", "--set", "priming.habits={patience = 3}"], "unexpected keyword argument 'patience'"),
        (prime, ["--out", "new", "--seed", "x"], "argument --seed: needs an integer from 0"),
        (prime, ["--out", "new", "--set", "priming.habits={guess_rate='x'}"], "The task's worked solutions"),
        (prime, ["--out", "new", "--set", "priming.habits={max_attempts=-1}"], "Received: priming.habits="),
        (plan, ["--topology", "v5e-3"], "There is no slice of that size"),
        (plan, ["--topology", "abacus"], "No topology has that name"),
        (plan, ["--price-per-chip-hour", "x"], "argument --price-per-chip-hour: invalid float value"),
        (plan, ["--price-per-chip-hour", "inf"], "A price is 0 or more, and finite"),
        (plan, ["--json", "full"], "full cannot be written"),
        (plan, ["--json", "file/new"], "file/new cannot be written"),
        (plan, ["--json", PROC], "cannot be written"),
    ],
)
def test_flags(script, argv, sentence, capfd):
    assert sentence in refused(script.main, [*(flags() if script in (fit, prime) else []), *argv], capfd)


# === Meshes ===

MESHES = [
    (["distribution.batch=3"], "must be the number of devices, which is 8"),
    (["distribution.batch=16"], "must be the number of devices, which is 8"),
    (["distribution.model=16"], "must be the number of devices, which is 8"),
    (["distribution.model=8"], ": `model` must divide the number of query heads, which is 2, and of devices"),
    (["distribution.rollout_model=3"], "`rollout_model` must divide the devices of a process, which are 8"),
    (["distribution.rollout_model=4"], ": `rollout_model` must divide the number of query heads, which is 2"),
    (["rollouts.prompts_per_epoch=3"], "The 6 completions of a step cannot be split into 8 equal parts"),
    (["rollouts.prompts_per_epoch=8", "training.micro_batch_size=4"], "be a multiple of the 8 devices that split it"),
    (
        ["rollouts.prompts_per_epoch=8", "model.quantization=int4"],
        "Kernels in 4 bits are packed into matrices, for which there is no layout on several devices",
    ),
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
        "PYTHONPATH": str(ROOT),
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
