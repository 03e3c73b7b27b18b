"""Reward models in Hugging Face's form, written by hand and by transformers itself."""

import json
import shutil

from keras_aha.models.special_tokens import prompt_ids
from keras_aha.runs.export.transformers_folder import write_transformers
from keras_aha.tasks.multiplication import Multiplication
from keras_aha.training.judges.reward_model import RewardModel, is_reward_model

import ml_dtypes
import numpy as np
import pytest
from finished_runs import SHAPES
from safetensors.numpy import load_file, save_file

TASK = Multiplication(template="compact")
TEXTS = ["Use 3 4", "7", "to make 12 and 9 and 31", "yes no", " no"]
PROBLEMS = [TASK.problem(i % 2) for i in range(len(TEXTS))]
CONFIG, FILE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write(folder, policy, score):
    """As `GemmaForSequenceClassification.save_pretrained` does, the weights in two files."""
    write_transformers(policy, folder, [1])
    config = json.loads((folder / CONFIG).read_text())
    name = config["architectures"][0].replace("Gemma3", "Gemma3Text").replace("CausalLM", "SequenceClassification")
    (folder / CONFIG).write_text(json.dumps(config | {"architectures": [name]}))
    (folder / FILE).rename(folder / FIRST)
    save_file({"score.weight": score}, folder / SECOND)
    places = dict.fromkeys(load_file(folder / FIRST), FIRST) | {"score.weight": SECOND}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def judge_of(folder, **settings):
    return RewardModel(TASK, folder, **dict(max_length=40, batch_size=4) | settings)


def texts(policy):
    rows = [TASK.prompt(problem) + text for problem, text in zip(PROBLEMS, TEXTS, strict=True)]
    return prompt_ids(policy.preprocessor.tokenizer, rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_number_is_the_last_hidden_state_times_the_head(make_policy, tmp_path, shape):
    policy = make_policy(shape)
    score = np.random.default_rng(0).normal(size=(1, policy.backbone.hidden_dim)).astype(ml_dtypes.bfloat16)
    folder, expected = write(tmp_path / "model", policy, score), []
    for row in texts(policy):
        ids = np.array([row + [7] * (40 - len(row))])  # nothing looks ahead: one program for all lengths
        hidden = policy.backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
        expected.append(np.asarray(hidden, "float64")[0, len(row) - 1] @ score[0].astype("float64"))
    numbers = judge_of(folder)(PROBLEMS, TEXTS)
    np.testing.assert_allclose(numbers, expected, atol=1e-4)
    assert np.ptp(numbers) > 0.5 and is_reward_model(folder) and is_reward_model(str(folder))
    ranks = judge_of(folder, ranks=True)([PROBLEMS[0]] * 2, TEXTS[:2])
    assert sorted(ranks) == [0, 1]


def test_what_is_no_reward_model(make_policy, tmp_path):
    policy = make_policy("gemma")
    width = policy.backbone.hidden_dim
    folder = write(tmp_path / "model", policy, np.ones((1, width), "float32"))
    with pytest.raises(ValueError, match=r"reads one completion: leave \{other\} out"):
        judge_of(folder, rubric="{completion}{other}")
    save_file({"score.weight": np.ones((2, width), "float32")}, folder / SECOND)
    with pytest.raises(ValueError, match="`score.weight` of one label.* ValueError: it has 2 labels"):
        judge_of(folder)
    (folder / INDEX).unlink()
    with pytest.raises(ValueError, match="whose safetensors hold `score.weight` .*FileNotFoundError"):
        judge_of(folder)
    shutil.copy(folder / FIRST, folder / FILE)
    with pytest.raises(ValueError, match="whose safetensors hold `score.weight` .*SafetensorError"):
        judge_of(folder)
    save_file(load_file(folder / FIRST) | {"score.weight": np.ones((1, width), "float32")}, folder / FILE)
    assert len(judge_of(folder)(PROBLEMS, TEXTS)) == len(TEXTS)  # of one file
    for wrong in ([], "x", *({"architectures": names} for names in (["GemmaForCausalLM"], [], None))):
        (folder / CONFIG).write_text(json.dumps(wrong))
        assert not is_reward_model(folder)
    assert not any(map(is_reward_model, (tmp_path, tmp_path / "none", "countdown_tiny", "hf://a/b")))
    with pytest.raises(ValueError, match="`architectures` of one …ForSequenceClassification. Received: preset="):
        judge_of(folder)


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_has_the_same_logits(make_policy, tmp_path, shape):
    torch = pytest.importorskip("torch", reason="needs `pip install -e '.[interop]'`")
    transformers = pytest.importorskip("transformers", reason="needs `pip install -e '.[interop]'`")
    policy, ours, theirs = make_policy(shape), tmp_path / "ours", tmp_path / "theirs"
    write(ours, policy, np.random.default_rng(0).normal(size=(1, policy.backbone.hidden_dim)).astype("float32"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(ours, num_labels=1, dtype="float32").eval()
    model.save_pretrained(theirs, max_shard_size="20KB")  # several files and an index
    shutil.copy(ours / "tokenizer.model", theirs)
    with torch.no_grad():
        expected = [model(torch.tensor([row])).logits[0].item() for row in texts(policy)]
    assert type(model).__name__.endswith("ForSequenceClassification") and (theirs / INDEX).exists()
    for folder in (ours, theirs):
        np.testing.assert_allclose(judge_of(folder)(PROBLEMS, TEXTS), expected, atol=1e-4)
