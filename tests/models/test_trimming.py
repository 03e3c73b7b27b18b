import sys
from pathlib import Path

from keras_aha.models.lora import load_adapters, save_adapters
from keras_aha.models.policy import load_policy
from keras_aha.models.trimming import trim_vocabulary

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model
from tiny_models import tiny_policy

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import trim as script  # noqa: E402

TEXT = "Use 9 1 4 each once.\n<think>\n9-1=8, no thing"
EXTRA = {"th": 1, "in": 1, "\u0449\u043e": 1, "<unused1>": 3, "thin": 1, "ei": 1}  # text → type: normal text is 1


def wide_policy(shape):
    """A tiny policy with some more pieces."""
    old = tiny_policy(shape).preprocessor.tokenizer
    vocabulary = sentencepiece_model.ModelProto.FromString(old.proto)
    for i, (text, kind) in enumerate(EXTRA.items()):
        vocabulary.pieces.add(piece=text, type=kind, score=-i)
    policy = tiny_policy(shape, vocabulary_size=len(vocabulary.pieces))
    tokenizer = type(old).from_config(old.get_config() | {"proto": vocabulary.SerializeToString()})
    policy.preprocessor = type(policy.preprocessor)(tokenizer, sequence_length=256)
    return policy


def logits(policy, ids):
    ids = np.asarray([ids])
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids), "position_ids": np.arange(ids.size)[None]}
    hidden = policy.backbone({name: inputs[name] for name in policy.backbone.input})
    return np.asarray(policy.backbone.token_embedding(hidden, reverse=True))


@pytest.mark.parametrize("shape", ["gemma", "gemma_3", "gemma_4"])
def test_logits_of_what_is_kept_are_as_before(shape):
    """Single letters stay, marks that are used, and the first pieces of ASCII text; found by their texts."""
    policy = wide_policy(shape)
    before = policy.preprocessor.tokenizer
    pieces = [before.id_to_token(i) for i in range(before.vocabulary_size())]
    letters = sum(len(piece) == 1 and not piece.isdigit() for piece in pieces)  # numbers are marks here
    trimmed = trim_vocabulary(policy, pieces=letters + 3)
    after = trimmed.preprocessor.tokenizer
    kept = [pieces.index(after.id_to_token(i)) for i in range(after.vocabulary_size())]
    assert {*pieces} - {pieces[i] for i in kept} == {"\u0449\u043e", "<unused1>", "ei"} and kept == sorted(kept)
    ids = np.asarray(after(TEXT))
    assert np.asarray(kept)[ids].tolist() == list(before(TEXT)) and pieces.index("thin") in before(TEXT)
    np.testing.assert_allclose(logits(trimmed, ids), logits(policy, np.asarray(kept)[ids])[..., kept], atol=1e-6)


def test_adapters_fit_both(tmp_path):
    """Those of the trimmed policy are loaded into the whole one; and what has adapters is refused."""
    whole, trimmed = tiny_policy("gemma"), trim_vocabulary(wide_policy("gemma"), pieces=10)
    trained = tiny_policy("gemma", lora_rank=2)
    for policy in (whole, trimmed):
        policy.backbone.enable_lora(2, target_layer_names=["query", "value"])
    for variable in trimmed.backbone.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    save_adapters(trimmed.backbone, tmp_path / "adapters.lora.h5")
    load_adapters(whole.backbone, tmp_path / "adapters.lora.h5")
    for ours, theirs in zip(whole.trainable_variables, trimmed.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="neither adapters nor quantized"):
        trim_vocabulary(trained)
    with pytest.raises(ValueError, match="SentencePiece.* Received: a Qwen3Tokenizer"):
        trim_vocabulary(tiny_policy("qwen_3"))
    with pytest.raises(ValueError, match="pieces=0"):
        trim_vocabulary(whole, pieces=0)


def test_script(tmp_path, capsys):
    """It writes a preset that loads, and never over another folder."""
    wide_policy("gemma_3").save_to_preset(str(tmp_path / "whole"))
    arguments = [str(tmp_path / "whole"), str(tmp_path / "small"), "--pieces", "1"]
    assert script.main(arguments) == 0
    assert f"--set model.preset={tmp_path / 'small'}" in capsys.readouterr().out
    policy = load_policy(str(tmp_path / "small"), lora_rank=0)
    size = policy.preprocessor.tokenizer.vocabulary_size()
    assert size == policy.backbone.vocabulary_size == tiny_policy("gemma_3").backbone.vocabulary_size
    with pytest.raises(SystemExit):
        script.main(arguments)
