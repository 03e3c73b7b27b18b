"""Nothing that a run reads is ever run as code, and no credentials leave the environment."""

import ast
import base64
import json
import marshal
import os
import pickle
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from keras_aha.models.lora import check_adapters
from keras_aha.tasks.countdown_file import read_puzzles

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "keras_aha").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])
sys.path.insert(0, str(ROOT / "scripts"))
import fit  # noqa: E402

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "enable_unsafe_deserialization"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "joblib", "shelve", "subprocess"}
SAFE = {"allow_pickle": False, "safe_mode": True, "shell": False, "trust_remote_code": False}


def dangers(source: str) -> list[str]:
    """What in a source could run what was read from a file as code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            is_method = isinstance(function, ast.Attribute)  # `re.compile`, and what Keras and XLA compile
            if name in FORBIDDEN_CALLS and not (name == "compile" and is_method):
                found.append(name)
            for argument in node.keywords:
                safe = isinstance(argument.value, ast.Constant) and argument.value.value is SAFE.get(argument.arg)
                found += [argument.arg] if argument.arg in SAFE and not safe else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_can_run_what_it_reads(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "def f():\n    exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "import pickle",
        "def f():\n    from joblib import load",
        "import marshal as m",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "keras.saving.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "os.system(command)",
        "import subprocess",
        "run(command, shell=True)",
    ],
)
def test_the_check_sees_dangers(source):
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    "source", ["re.compile(text)", "model.compile()", "np.load(path, allow_pickle=False)", "ast.literal_eval(text)"]
)
def test_the_check_lets_others_be(source):
    assert dangers(source) == []


# === Hostile files ===


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that hostile code would make; `evil` is a module on the path that does so when it is imported."""
    marker = tmp_path / "marker"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield marker
    assert not marker.exists()


def hostile_lambda(marker):
    """A Keras Lambda layer as Keras saves it, whose code makes the marker when it is called."""
    function = eval(f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]")  # noqa: S307
    code = base64.b64encode(marshal.dumps(function.__code__)).decode()
    function = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    config = {"name": "x", "function": function, "output_shape": [1]}
    return {"module": "keras.layers", "class_name": "Lambda", "config": config, "registered_name": None}


def outside(marker):
    return {"module": "evil", "class_name": "Evil", "config": {}, "registered_name": "evil>Evil"}


def of_the_system(marker):
    return {"module": "os", "class_name": "system", "config": {"command": f"touch {marker}"}, "registered_name": "x"}


def functional(marker):
    """A whole Keras model of one hostile layer, which keras-hub takes as a backbone."""
    layer = hostile_lambda(marker) | {
        "name": "x",
        "build_config": {"input_shape": [None, 1]},
        "inbound_nodes": [],
    }
    config = {"name": "model", "trainable": True, "layers": [layer]}
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": "Sequential"}


@pytest.fixture(scope="module")
def preset(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "preset"
    make_policy().save_to_preset(str(folder))
    return folder


def refused(folder, tmp_path, capfd):
    changes = ["rollouts.prompts_per_epoch=2", "evaluation.puzzles=3", "training.micro_batch_size=none"]
    flags = [part for change in [*changes, f'model.preset="{folder}"'] for part in ("--set", change)]
    with pytest.raises(SystemExit) as exit:
        fit.main([*flags, "--log-dir", str(tmp_path / "run")])
    out, err = capfd.readouterr()
    assert exit.value.code == 2 and out == "" and err.count("\n") == 1
    assert "The folder is no preset that keras-hub can load" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("hostile", [hostile_lambda, outside, of_the_system])
@pytest.mark.parametrize("name", ["config.json", "task.json", "tokenizer.json"])
def test_a_preset_of_hostile_classes(hostile, name, preset, marker, tmp_path, capfd):
    shutil.copytree(preset, tmp_path / "preset")
    (tmp_path / "preset" / name).write_text(json.dumps(hostile(marker)))
    refused(tmp_path / "preset", tmp_path, capfd)


def test_a_preset_of_a_hostile_model(preset, marker, tmp_path, capfd):
    shutil.copytree(preset, tmp_path / "preset", ignore=shutil.ignore_patterns("task.json"))
    (tmp_path / "preset" / "config.json").write_text(json.dumps(functional(marker)))
    refused(tmp_path / "preset", tmp_path, capfd)


@pytest.mark.parametrize("hostile", [hostile_lambda, outside, of_the_system])
@pytest.mark.parametrize("key", ["dropout", "name", "hidden_dim"])
def test_a_preset_of_hostile_values(hostile, key, preset, marker, tmp_path, capfd):
    """Inside of a Gemma's own config."""
    shutil.copytree(preset, tmp_path / "preset")
    for name in ("config.json", "task.json"):
        content = json.loads((preset / name).read_text())
        config = content["config"]["backbone"]["config"] if name == "task.json" else content["config"]
        config[key] = hostile(marker)
        (tmp_path / "preset" / name).write_text(json.dumps(content))
    refused(tmp_path / "preset", tmp_path, capfd)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_pickled_weights_are_not_read(preset, marker, tmp_path, capfd):
    """As older folders of Hugging Face have them."""
    folder = tmp_path / "preset"
    folder.mkdir()
    config = dict(model_type="gemma", vocab_size=202, num_hidden_layers=2, num_attention_heads=2, head_dim=8)
    config |= dict(num_key_value_heads=1, hidden_size=16, intermediate_size=16, rms_norm_eps=1e-6)
    config |= dict(architectures=["GemmaForCausalLM"])
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}))
    shutil.copy(next(preset.rglob("*.spm")), folder / "tokenizer.model")
    shutil.copy(tmp_path / "modules" / "evil.py", folder / "evil.py")
    for name in ("pytorch_model.bin", "model.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Evil(marker)))
        refused(folder, tmp_path, capfd)


def test_pickles_by_other_names(gemma, marker, tmp_path):
    """Where adapters and puzzles are read."""
    hostile = pickle.dumps(Evil(marker))
    for name in ("adapters.lora.h5", "puzzles.csv", "puzzles.parquet"):
        (tmp_path / name).write_bytes(hostile)
    with pytest.raises(ValueError, match="The file holds no adapters"):
        check_adapters(gemma.backbone, tmp_path / "adapters.lora.h5")
    for name in ("puzzles.csv", "puzzles.parquet"):
        with pytest.raises(ValueError, match="The puzzle file"):
            read_puzzles(tmp_path / name)


def test_templates_are_no_code(marker, tmp_path, capfd):
    """A format string may reach into objects: `{numbers.__class__}`."""
    with pytest.raises(SystemExit) as exit:
        fit.main(["--set", "task.template='{numbers.__class__.__init__}'", "--log-dir", str(tmp_path / "run")])
    assert exit.value.code == 2
    assert "no others. Received: template=" in capfd.readouterr().err


# === Credentials ===

SECRETS = {"KAGGLE_KEY": "secret-kaggle-4711", "HF_TOKEN": "hf_secret4711"}
DOWNLOADS = """
import sys
sys.path.insert(0, sys.argv[1])
import evaluate
for preset in ("kaggle://keras/gemma2/keras/gemma2_2b_en", "hf://keras/gemma2_2b_en"):
    try:
        evaluate.main([preset, "--recipe", "countdown_tiny"])
    except SystemExit as exit:
        print("exit", exit.code)
"""


class Closed(BaseHTTPRequestHandler):
    """Refuses everyone, and keeps what was shown to it."""

    shown: ClassVar[list[str]] = []

    def do_GET(self):
        self.shown.append(str(self.headers))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def closed():
    """The address of a server that refuses all credentials."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_that_fails_tells_no_credentials(closed, tmp_path):
    """In a process of its own, as kagglehub and huggingface_hub read them when they are imported."""
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        **SECRETS,
        "KAGGLE_USERNAME": "someone",
        "HTTPS_PROXY": closed,  # Kaggle's address is fixed; nothing of this leaves the machine
        "NO_PROXY": "127.0.0.1",
        "HF_ENDPOINT": closed,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "KAGGLEHUB_VERBOSITY": "debug",
    }
    command = [sys.executable, "-c", DOWNLOADS, str(ROOT / "scripts")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout == "exit 2\nexit 2\n", done.stderr
    assert done.stderr.count("The preset could not be downloaded") == 2 and "Traceback" not in done.stderr
    assert "Bearer hf_secret4711" in "".join(Closed.shown)  # so it has been used
    told = done.stdout + done.stderr
    told += "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert not [secret for secret in SECRETS.values() if secret in told]
