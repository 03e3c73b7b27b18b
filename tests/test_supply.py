"""Nothing that a run reads is run as code, but for what the tool `python` shuts in, and no credentials leave the
environment; most of it is held by ruff."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from keras_aha.models.policy import load_policy

import pytest

ROOT = Path(__file__).parents[1]
UNSAFE = r"(?<![\w.])(__import__|(?<!def )compile)\(|(allow_pickle|trust_remote_code)=(?!False)|safe_mode=(?!True)"


def test_no_source_turns_a_protection_off():
    sources = [*(ROOT / "keras_aha").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    assert [path.name for path in sources if re.search(UNSAFE, path.read_text(encoding="utf-8"))] == []


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch marker",)


def test_hostile_presets_run_nothing(make_policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = {"module": "os", "class_name": "system", "config": {"command": "touch marker"}, "registered_name": "x"}
    make_policy().save_to_preset("preset")
    folders = ["hugging face"]
    for name in ("config.json", "task.json", "tokenizer.json"):
        folders.append(shutil.copytree("preset", f"hostile {name}"))
        Path(folders[-1], name).write_text(json.dumps(evil))
    Path("hugging face").mkdir()
    config = dict(model_type="gemma", vocab_size=202, num_hidden_layers=2, num_attention_heads=2, head_dim=8)
    config |= dict(num_key_value_heads=1, hidden_size=16, intermediate_size=16, rms_norm_eps=1e-6)
    Path("hugging face", "config.json").write_text(json.dumps(config | {"architectures": ["GemmaForCausalLM"]}))
    shutil.copy(next(Path("preset").rglob("*.spm")), Path("hugging face", "tokenizer.model"))
    Path("hugging face", "model.safetensors").write_bytes(pickle.dumps(Evil()))
    for folder in folders:
        with pytest.raises(ValueError, match="The folder is no preset that keras-hub can load"):
            load_policy(str(tmp_path / folder))
    assert not Path("marker").exists()


SECRETS = {"KAGGLE_KEY": "secret-kaggle-4711", "HF_TOKEN": "hf_secret4711"}
DOWNLOADS = """
from keras_aha.models.policy import load_policy
for preset in ("kaggle://keras/gemma2/keras/gemma2_2b_en", "hf://keras/gemma2_2b_en"):
    try:
        load_policy(preset)
    except ValueError as error:
        print(error)
"""


class Closed(BaseHTTPRequestHandler):
    """Refuses everyone, and keeps what was shown to it."""

    headers_seen: ClassVar[list[str]] = []

    def do_GET(self):
        self.headers_seen.append(str(self.headers))
        self.send_error(401)

    do_HEAD = do_POST = do_GET


def test_a_download_that_fails_tells_no_credentials(tmp_path):
    """In a process of its own, as kagglehub and huggingface_hub read them when they are imported."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        closed = f"http://127.0.0.1:{server.server_port}"
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            **{**SECRETS, "KAGGLE_USERNAME": "someone", "KAGGLEHUB_VERBOSITY": "debug"},
            # Kaggle's address is fixed. Nothing of this leaves the machine.
            **{"HTTPS_PROXY": closed, "NO_PROXY": "127.0.0.1", "HF_ENDPOINT": closed},
            **{"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        }
        command = [sys.executable, "-c", DOWNLOADS]
        child = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        server.shutdown()
    assert child.stdout.count("The preset could not be downloaded") == 2, child.stderr
    assert "KAGGLE_USERNAME and KAGGLE_KEY (from https://" in child.stdout and child.stdout.count("\n") == 2
    assert "Bearer hf_secret4711" in "".join(Closed.headers_seen)  # so it has been used
    files = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [secret for secret in SECRETS.values() if secret in child.stdout + child.stderr + "".join(files)]
