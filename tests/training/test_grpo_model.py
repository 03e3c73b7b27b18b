"""`GRPOModel`: text in and out, what `compile` refuses, LoRA off, full fine-tuning."""

from keras_aha.decoding import Completions
from keras_aha.losses import GRPOLoss
from keras_aha.models import lora
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.log_probs import completion_log_probs

import jax
import keras
import numpy as np
import pytest

LENGTH = 8


@pytest.fixture(scope="module")
def model(gemma):
    return GRPOModel(gemma)


@pytest.fixture(scope="module")
def rows():
    """`(token_ids, padding_mask)`, prompts of 6 and 4 tokens, completions of 8 and 5."""
    token_ids = np.random.default_rng(0).integers(1, 200, (2, 6 + LENGTH)).astype("int32")
    columns = np.arange(6 + LENGTH)
    padding_mask = ((columns >= [[0], [2]]) & (columns < [[14], [11]])).astype("int32")
    return token_ids * padding_mask, padding_mask


def log_probs_of(policy, rows):
    """A program of its own: adapters are switched while tracing."""
    return jax.jit(lambda *rows: completion_log_probs(policy, *rows, LENGTH, np.ones(2, "float32"))[0])(*rows)


# === Text ===


def test_tokenize_pads_on_the_left_after_the_begin_token(model, prompts):
    token_ids, padding_mask = model.tokenize(prompts)
    assert token_ids.shape == padding_mask.shape == (3, 13)
    assert token_ids.dtype == padding_mask.dtype == "int32"
    for ids, mask, prompt in zip(token_ids, padding_mask, prompts, strict=True):
        length = mask.sum()
        assert list(mask) == [0] * (13 - length) + [1] * length
        assert not ids[mask == 0].any()
        assert ids[13 - length] == model.tokenizer.start_token_id
        assert model.tokenizer.detokenize(ids[14 - length :].tolist()) == prompt
    longer, longer_mask = model.tokenize(prompts, length=16)
    np.testing.assert_array_equal(longer[:, 3:], token_ids)
    assert not longer[:, :3].any() and not longer_mask[:, :3].any()


def test_a_prompt_over_the_limit_is_an_error(model, prompts):
    with pytest.raises(ValueError, match="Received: 13 tokens, limit 12"):
        model.tokenize(prompts, length=12)


def test_detokenize_leaves_the_stop_token_out(model, prompts):
    stops = tuple("abcdefghijklmnop")
    completions = model.generate(
        *model.tokenize(prompts), group_size=2, max_completion_length=12, stop_tokens=stops, seed=1
    )
    texts = model.detokenize(completions, stops)
    assert len(texts) == 6
    for text, ids, length, stopped in zip(
        texts, completions.token_ids, completions.lengths, completions.stopped, strict=True
    ):
        assert text == model.tokenizer.detokenize(ids[: length - 1 if stopped else length].tolist())
    assert 0 < completions.stopped.sum() < 6


def completions_of(model, *rows):
    """Completions of given pieces."""
    ids = [[model.tokenizer.token_to_id(piece) for piece in row] for row in rows]
    token_ids = np.zeros((len(ids), LENGTH), "int32")
    for row, pieces in zip(token_ids, ids, strict=True):
        row[: len(pieces)] = pieces
    lengths = np.array([len(row) for row in ids], "int32")
    return Completions(token_ids, np.zeros(token_ids.shape, "float32"), lengths, np.full(len(ids), True))


def test_detokenize_keeps_a_stop_string_and_drops_a_stop_token(model):
    completions = completions_of(
        model,
        ["a", "</answer>"],
        ["a", "</answer>", "<end_of_turn>"],
        ["a", "<eos>"],  # the tokenizer's end token always stops
        ["<end_of_turn>", "a"],
        ["a", "b"],
    )
    assert model.detokenize(completions) == ["a</answer>", "a</answer>", "a", "<end_of_turn>a", "ab"]
    whole = ["a</answer>", "a</answer><end_of_turn>", "a", "<end_of_turn>a", "a"]
    assert model.detokenize(completions, stop_tokens=("b", "<turn|>")) == whole


def test_detokenize_of_a_stop_token_alone_is_empty(model):
    assert model.detokenize(completions_of(model, ["<eos>"], ["<end_of_turn>"])) == ["", ""]
    assert model.detokenize(completions_of(model, ["<eos>"])) == [""]


def test_ids_beyond_the_vocabulary_of_the_tokenizer_are_no_text(model):
    """Gemma's embedding has more rows than its tokenizer has pieces."""
    completions = completions_of(model, ["a", "b", "a"], ["a"])
    completions.token_ids[0, 1] = model.tokenizer.vocabulary_size()
    completions.token_ids[1, 0] = model.tokenizer.vocabulary_size() + 7
    assert model.detokenize(completions) == ["aa", ""]


def test_a_model_may_have_more_tokens_than_its_tokenizer(make_policy, prompts):
    size = make_policy().backbone.vocabulary_size
    model = GRPOModel(make_policy(vocabulary_size=size + 100, num_layers=1))
    completions = model.generate(*model.tokenize(prompts[:1]), group_size=8, max_completion_length=4)
    assert (completions.token_ids >= size).any()
    assert len(model.detokenize(completions)) == 8


def test_generate_takes_what_the_sampler_takes(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model._sampler, "generate", lambda *arguments, **settings: seen.append((arguments, settings)))
    model.generate("ids", "mask", min_p=0.1, stop_strings=("x",), max_rows=3)
    model.generate("ids")
    assert seen == [(("ids", "mask"), {"min_p": 0.1, "stop_strings": ("x",), "max_rows": 3}), (("ids", None), {})]


# === Configuration ===


def test_a_policy_may_be_wrapped_again(gemma):
    """As in a notebook, where a cell is run twice, or after the policy's own `generate`."""
    assert GRPOModel(gemma).policy is GRPOModel(gemma).policy


def test_only_a_grpo_loss(model):
    with pytest.raises(ValueError, match="GRPOLoss. Received: loss='mse'"):
        model.compile("sgd", loss="mse")


def test_metrics(model):
    model.compile("sgd")
    names = ["loss", "entropy", "ratio", "clip_fraction", "sampler_gap", "grad_norm", "skipped_updates"]
    assert [metric.name for metric in model.metrics] == names
    model.compile("sgd", loss=GRPOLoss(kl_coef=0.1))
    assert [metric.name for metric in model.metrics] == [*names, "kl"]
    model.compile("sgd", loss=GRPOLoss(importance_cap=2.0))
    assert [metric.name for metric in model.metrics] == [*names, "importance_weight"]


# === Log-probs and adapters ===


def test_lora_off_is_the_base_model_bit_for_bit(make_policy, rows):
    base = log_probs_of(make_policy("gemma", seed=3), rows)
    policy = make_policy("gemma", seed=3, lora_rank=2)
    assert np.abs(log_probs_of(policy, rows) - base).max() > 1e-2
    with lora.adapters_off(policy):
        np.testing.assert_array_equal(log_probs_of(policy, rows), base)


def test_fresh_adapters_are_the_base_model_bit_for_bit(make_policy, rows):
    base = log_probs_of(make_policy("gemma", seed=3), rows)
    fresh = log_probs_of(make_policy("gemma", seed=3, lora_rank=2, fresh_adapters=True), rows)
    np.testing.assert_array_equal(fresh, base)


def test_log_probs(model, rows):
    expected = np.where(rows[1][:, -LENGTH:], log_probs_of(model.policy, rows), 0.0)
    np.testing.assert_allclose(model.log_probs(*rows, LENGTH), expected, atol=1e-5)


# === Full fine-tuning ===


@pytest.fixture
def batch_of(rows):
    """A function that makes a batch of two completions, one good and one bad, on which a policy is on-policy."""

    def make(policy, **changes):
        old_log_probs = np.asarray(log_probs_of(policy, rows))
        batch = {
            "token_ids": rows[0],
            "padding_mask": rows[1],
            "completion_mask": rows[1][:, -LENGTH:].astype("float32"),
            "old_log_probs": old_log_probs,
            "sampler_log_probs": old_log_probs,
            "advantages": np.array([1.0, -1.0], "float32"),
            "temperature": np.ones(2, "float32"),
        }
        return batch | changes

    return make


def test_without_adapters_every_weight_learns(make_policy, rows, one_batch, batch_of):
    policy = make_policy("gemma", num_layers=1)
    model = GRPOModel(policy)
    model.compile(keras.optimizers.SGD(0.1), loss=GRPOLoss(kl_coef=0.1))
    weights = [np.asarray(variable) for variable in policy.backbone.variables]
    batch = batch_of(policy)
    logs = model.fit(one_batch(batch), epochs=2, verbose=0).history
    assert logs["ratio"][0] == pytest.approx(1.0, abs=1e-5)
    for variable, value in zip(policy.backbone.variables, weights, strict=True):
        assert np.any(value != np.asarray(variable)), variable.path
    change = np.asarray(log_probs_of(policy, rows)) - batch["old_log_probs"]
    change = np.sum(change * batch["completion_mask"], axis=1)
    assert change[0] > 0 > change[1]  # the better row has become likelier, the worse one less
    # The reference is a copy of what was there, made because of the KL.
    assert logs["kl"][0] == pytest.approx(0.0, abs=1e-6) and logs["kl"][1] > 1e-4
    for variable, value in zip(model.reference.backbone.variables, weights, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_no_reference_where_none_is_needed(make_policy, gemma):
    for policy, kl_coef in ((make_policy("gemma"), 0.0), (gemma, 0.1)):
        model = GRPOModel(policy)
        model.compile("sgd", loss=GRPOLoss(kl_coef=kl_coef))
        assert model.reference is None


# === What is not finite ===


@pytest.mark.parametrize(
    "changes",
    ({"old_log_probs": np.full((2, LENGTH), -1e6, "float32")}, {"advantages": np.array([np.inf, -1.0], "float32")}),
)
def test_an_update_that_is_not_finite_is_skipped(make_policy, one_batch, batch_of, changes):
    policy = make_policy("gemma", num_layers=1, lora_rank=2)
    model = GRPOModel(policy)
    model.compile(keras.optimizers.Adam(0.1), loss=GRPOLoss())
    good = batch_of(policy)
    model.fit(one_batch(good), verbose=0)
    variables = [*model.trainable_variables, *model.optimizer.variables]
    values = [np.asarray(variable) for variable in variables]
    history = model.fit(one_batch(batch_of(policy, **changes)), epochs=2, verbose=0).history
    assert history["skipped_updates"] == [1.0, 1.0] and np.isfinite(history["loss"]).all()
    assert model.optimizer.iterations == 3  # the clock goes on, or the same rollout would come again
    for variable, value in zip(variables, values, strict=True):
        if variable is not model.optimizer.iterations:
            np.testing.assert_array_equal(variable, value)
    assert model.fit(one_batch(good), verbose=0).history["skipped_updates"] == [0.0]
    assert np.any(np.asarray(variables[0]) != values[0])
