"""`GRPOModel`: text in and out, what it does of Keras and what it refuses, LoRA off, full fine-tuning."""

import gc
import weakref

from keras_aha.decoding import Completions
from keras_aha.losses import GRPOLoss
from keras_aha.models import lora
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.log_probs import completion_log_probs
from keras_aha.training.rollout_dataset import RolloutDataset

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


def test_prompts_that_cannot_be(model, prompts):
    with pytest.raises(ValueError, match="Received: 13 tokens, limit 12"):
        model.tokenize(prompts, length=12)
    with pytest.raises(ValueError, match=r"must hold a text or more. Received: prompts=\[\]"):
        model.sample([])


def test_sample_is_generate_on_texts(model, prompts):
    settings = dict(max_completion_length=12, temperature=0.9, stop_tokens=tuple("abcdefghijklmnop"), seed=1)
    texts = model.sample(prompts, 3, **settings, stop_strings=("12",), top_k=20)
    completions = model.generate(*model.tokenize(prompts), group_size=3, **settings, stop_strings=("12",), top_k=20)
    assert [len(group) for group in texts] == [3, 3, 3]
    assert sum(texts, []) == model.detokenize(completions, settings["stop_tokens"])
    assert len(set(sum(texts, []))) > 3
    assert model.sample(prompts[0], 3, **settings, stop_strings=("12",), top_k=20) == texts[0]  # one text, one list
    assert len(model.sample(prompts[1:2], max_completion_length=4)[0]) == 1


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
        ["<end_of_turn>"],
    )
    assert model.detokenize(completions) == ["a</answer>", "a</answer>", "a", "<end_of_turn>a", "ab", ""]
    whole = ["a</answer>", "a</answer><end_of_turn>", "a", "<end_of_turn>a", "a", "<end_of_turn>"]
    assert model.detokenize(completions, stop_tokens=("b", "<turn|>")) == whole


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


# === Keras ===


def test_a_model_that_is_deleted_leaves_the_memory(make_policy, prompts, rows):
    """Although its programs and its stop table were cached."""
    model = GRPOModel(make_policy("gemma", num_layers=1, lora_rank=2))
    model.sample(prompts, max_completion_length=2, stop_strings=("x",))
    model.log_probs(*rows, LENGTH)
    alive = weakref.ref(model), weakref.ref(model.policy)
    del model
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(loss="mse"), "`loss` must be a GRPOLoss. Received: loss='mse'"),
        (dict(metrics=["mae"]), r"RolloutCallback\(rewards=…\)`, with weight 0. Received: metrics=\['mae'\]"),
        (dict(weighted_metrics=["mae"]), "Received: weighted_metrics="),
        (dict(loss_weights=[2.0]), "Received: loss_weights="),
        (dict(optimizer=keras.optimizers.Adam(gradient_accumulation_steps=2)), "micro_batch_size=….*steps=2"),
        (dict(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())), "use bfloat16"),
    ],
)
def test_what_compile_refuses(gemma, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        GRPOModel(gemma).compile(**settings)


CALL_INSTEAD = {
    "evaluate": r"EvaluateCallback\(task.held_out\(256\)\).evaluate\(model\)",
    "test_on_batch": "EvaluateCallback",
    "predict": r"model.sample\(prompts\)",
    "predict_on_batch": r"model\(inputs\)",
    "train_on_batch": r"fit\(rollouts.dataset, callbacks=\[rollouts\]\)",
    "save": "policy.save_to_preset.*CheckpointCallback",
    "export": "policy.save_to_preset",
    "save_weights": "save_lora_weights",
    "load_weights": r"CheckpointCallback\(log_dir\)",
    "quantize": "load_policy",
    "fit": r"fit\(rollouts.dataset, callbacks=\[rollouts\]\).*Received: x='int8'",
}


@pytest.mark.parametrize("method", CALL_INSTEAD)
def test_what_has_no_meaning_says_what_to_call(gemma, method):
    with pytest.raises((NotImplementedError, ValueError), match=CALL_INSTEAD[method]):
        getattr(GRPOModel(gemma), method)("int8")


def test_without_adapters_weights_are_saved_as_in_keras(make_policy, tmp_path):
    model, other = (GRPOModel(make_policy("gemma", seed, num_layers=1)) for seed in (0, 1))
    model.save_weights(tmp_path / "x.weights.h5")
    other.load_weights(tmp_path / "x.weights.h5")
    for variable, value in zip(other.policy.variables, model.policy.variables, strict=True):
        np.testing.assert_array_equal(variable, value)


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
    """And fresh adapters too, whose B is 0."""
    base = log_probs_of(make_policy("gemma", seed=3), rows)
    fresh = log_probs_of(make_policy("gemma", seed=3, lora_rank=2, fresh_adapters=True), rows)
    np.testing.assert_array_equal(fresh, base)
    policy = make_policy("gemma", seed=3, lora_rank=2)
    assert np.abs(log_probs_of(policy, rows) - base).max() > 1e-2
    with lora.adapters_off(policy):
        np.testing.assert_array_equal(log_probs_of(policy, rows), base)


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
    with pytest.raises(ValueError, match=r"must call `compile\(\)`"):
        model.fit(one_batch(None))
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


# === A forgotten callback, and how a step is run ===


class SetBatch(keras.callbacks.Callback):
    """Sets the batch of an epoch, as `RolloutCallback` does."""

    def __init__(self, updates, batch):
        super().__init__()
        self.dataset, self.batch = RolloutDataset(updates), batch

    def on_epoch_begin(self, epoch, logs=None):
        self.dataset.batch = self.batch


def test_a_forgotten_callback_is_an_error_and_costs_no_weights(make_policy, batch_of):
    policy = make_policy("gemma", num_layers=1, lora_rank=2)
    model, rollouts = GRPOModel(policy), SetBatch(1, batch_of(policy))
    model.compile("sgd")
    for _ in range(2):  # before the first rollout, and when there is one of another `fit`
        with pytest.raises(ValueError, match=r"`fit\(rollouts.dataset, callbacks=\[rollouts\]\)`"):
            model.fit(rollouts.dataset, verbose=0)
        model.fit(rollouts.dataset, callbacks=[rollouts], verbose=0)
    assert model.optimizer.iterations == 2
    with pytest.raises(NotImplementedError, match="takes the place of `validation_data`"):
        model.fit(rollouts.dataset, callbacks=[rollouts], validation_data=rollouts.dataset)


def test_a_step_is_the_same_however_it_is_run(make_policy, batch_of):
    updates = []
    for settings in ({}, {"run_eagerly": True}, {"jit_compile": False}, {"steps_per_execution": 2}):
        policy = make_policy("gemma", num_layers=1, lora_rank=2)
        model, rollouts = GRPOModel(policy, micro_batch_size=1), SetBatch(3, batch_of(policy))
        model.compile(keras.optimizers.SGD(0.1), **settings)
        model.fit(rollouts.dataset, callbacks=[rollouts], verbose=0)
        assert model.optimizer.iterations == 3
        updates.append([np.asarray(variable) for variable in model.trainable_variables])
    for other in updates[1:]:
        for value, expected in zip(other, updates[0], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
