"""`GRPOModel`: text in and out, what it does of Keras and what it refuses, LoRA off, full fine-tuning."""

import gc
import weakref

from keras_aha.decoding import Completions
from keras_aha.losses import GRPOLoss
from keras_aha.training import grpo_model
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.log_probs import completion_log_probs
from keras_aha.training.rollout import split_texts
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
    texts = split_texts(*rows, LENGTH).values()
    return jax.jit(lambda *texts: completion_log_probs(policy, *texts, np.ones(2, "float32"))[0])(*texts)


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
    for longer, array in zip(model.tokenize(prompts, length=16), (token_ids, padding_mask), strict=True):
        np.testing.assert_array_equal(longer, np.pad(array, [(0, 0), (3, 0)]))
    with pytest.raises(ValueError, match="Received: 13 tokens, limit 12"):
        model.tokenize(prompts, length=12)
    with pytest.raises(ValueError, match=r"must hold a text or more. Received: prompts=\[\]"):
        model.sample([])


def test_sample_is_generate_on_texts(model, prompts):
    settings = dict(max_completion_length=12, temperature=0.9, stop_tokens=tuple("abcdefghijklmnop"), seed=1)
    settings |= dict(stop_strings=("12",), top_k=20)
    texts = model.sample(prompts, 3, **settings)
    completions = model.generate(*model.tokenize(prompts), group_size=3, **settings)
    assert [len(group) for group in texts] == [3, 3, 3]
    assert sum(texts, []) == model.detokenize(completions, settings["stop_tokens"])
    assert len(set(sum(texts, []))) > 3
    assert model.sample(prompts[0], 3, **settings) == texts[0]  # one text, one list
    assert len(model.sample(prompts[1:2], max_completion_length=4)[0]) == 1


def test_detokenize_keeps_a_stop_string_and_drops_a_stop_token(model):
    """The tokenizer's end token always stops; an id beyond its vocabulary, which Gemma's embedding has, is no text."""
    rows = [["a", "</answer>"], ["a", "</answer>", "<end_of_turn>"], ["a", "<eos>"], ["<end_of_turn>", "a"], ["a", "b"]]
    token_ids = np.full((7, 3), model.tokenizer.vocabulary_size() + 7, "int32")
    for ids, row in zip(token_ids, [*rows, ["<end_of_turn>"]], strict=False):
        ids[: len(row)] = [model.tokenizer.token_to_id(piece) for piece in row]
    lengths = np.array([2, 3, 2, 2, 2, 1, 1])
    completions = Completions(token_ids, np.zeros((7, 3), "float32"), lengths, np.full(7, True), token_ids < 0)
    assert model.detokenize(completions) == ["a</answer>", "a</answer>", "a", "<end_of_turn>a", "ab", "", ""]
    whole = ["a</answer>", "a</answer><end_of_turn>", "a", "<end_of_turn>a", "a", "<end_of_turn>", ""]
    assert model.detokenize(completions, stop_tokens=("b", "<turn|>")) == whole


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
        (dict(loss_weights=[2.0]), "Received: loss_weights="),
        (dict(optimizer=keras.optimizers.Adam(gradient_accumulation_steps=2)), "micro_batch_size=….*steps=2"),
        (dict(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())), "scales the loss by itself"),
        (dict(optimizer=keras.optimizers.SGD(use_ema=True)), "the policy that is saved is the one that was measured"),
        (dict(optimizer=keras.optimizers.SGD(loss_scale_factor=2.0**15)), "`loss_scale_factor` must be left out"),
        (dict(optimizer=keras.optimizers.SGD(clipnorm=0.0)), "`clipnorm` must be above 0, or left out. Received: clip"),
        (dict(optimizer=keras.optimizers.SGD(clipvalue=-1.0)), "`clipvalue` must be above 0"),
    ],
)
def test_what_compile_refuses(gemma, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        GRPOModel(gemma).compile(**settings)


def test_a_global_policy_of_float16_is_refused(gemma):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ValueError, match="leave a global float16 policy of `keras.config.set_dtype_policy` out"):
            GRPOModel(gemma).compile("adam")
    finally:
        keras.config.set_dtype_policy("float32")


FIT = r"fit\(rollouts.dataset, callbacks=\[rollouts\]\)"
CALL_INSTEAD = dict(
    evaluate=r"EvaluateCallback\(task.held_out\(256\)\).evaluate\(model\)", predict=r"model.sample\(prompts\)"
)
CALL_INSTEAD |= dict(test_on_batch="EvaluateCallback", predict_on_batch=r"model\(inputs\)", train_on_batch=FIT)
CALL_INSTEAD |= dict(save="policy.save_to_preset.*CheckpointCallback", export="policy.save_to_preset")
CALL_INSTEAD |= dict(save_weights="save_lora_weights", load_weights=r"CheckpointCallback\(log_dir\)")
CALL_INSTEAD |= dict(quantize="load_policy", fit=f"{FIT}.*Received: x='int8'")


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


def test_log_probs(model, rows):
    expected = np.where(rows[1][:, -LENGTH:], log_probs_of(model.policy, rows), 0.0)
    np.testing.assert_allclose(model.log_probs(*rows, LENGTH), expected, atol=1e-5)


def test_log_probs_hold_no_more_rows_than_a_micro_batch(model, rows, monkeypatch):
    """Nor if it does not divide them."""
    sizes, split = [], grpo_model.micro_batches
    monkeypatch.setattr(grpo_model, "micro_batches", lambda batch, n: sizes.append(n) or split(batch, n))
    monkeypatch.setattr(model, "micro_batch_size", 2)
    five = [np.concatenate([array] * 3)[:5] for array in rows]
    expected = np.concatenate([model.log_probs(*rows, LENGTH)] * 3)[:5]
    np.testing.assert_allclose(model.log_probs(*five, LENGTH), expected, atol=1e-6)
    assert sizes[-1] == 2


def test_only_a_decoder_reads_a_prompt_for_several_rows(make_policy, gemma):
    shape = dict(rows=8, group_size=4, prompt_length=64, completion_length=8)
    assert GRPOModel(gemma).rows_per_prompt(**shape) == 4
    assert GRPOModel(gemma, micro_batch_size=2).rows_per_prompt(**shape) == 2
    assert GRPOModel(make_policy("llama_3")).rows_per_prompt(**shape) == 1


def batch_of(rows, policy, **changes):
    """Two completions, one good and one bad, on which `policy` is on-policy."""
    old_log_probs = np.asarray(log_probs_of(policy, rows))
    batch = split_texts(*rows, LENGTH) | dict(temperature=np.ones(2, "float32"))
    batch |= dict(old_log_probs=old_log_probs, sampler_log_probs=old_log_probs)
    batch["completion_mask"] = rows[1][:, -LENGTH:].astype("float32")
    return batch | {"advantages": np.array([1.0, -1.0], "float32")} | changes


def test_without_adapters_every_weight_learns(make_policy, rows, one_batch):
    policy = make_policy("gemma", num_layers=1)
    model = GRPOModel(policy)
    with pytest.raises(ValueError, match=r"must call `compile\(\)`"):
        model.fit(one_batch(None))
    model.compile(keras.optimizers.SGD(0.1), loss=GRPOLoss(kl_coef=0.1))
    weights = [np.asarray(variable) for variable in policy.backbone.variables]
    batch = batch_of(rows, policy)
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


@pytest.mark.parametrize(
    "changes",
    ({"old_log_probs": np.full((2, LENGTH), -1e6, "float32")}, {"advantages": np.array([np.inf, -1.0], "float32")}),
)
def test_an_update_that_is_not_finite_is_skipped(make_policy, one_batch, rows, changes):
    policy = make_policy("gemma", num_layers=1, lora_rank=2)
    model = GRPOModel(policy)
    model.compile(keras.optimizers.Adam(0.1), loss=GRPOLoss())
    good = batch_of(rows, policy)
    model.fit(one_batch(good), verbose=0)
    variables = [*model.trainable_variables, *model.optimizer.variables]
    values = [np.asarray(variable) for variable in variables]
    history = model.fit(one_batch(batch_of(rows, policy, **changes)), epochs=2, verbose=0).history
    assert history["skipped_updates"] == [1.0, 1.0] and np.isnan(history["loss"]).all()  # a mean of nothing
    assert model.optimizer.iterations == 3  # the clock goes on, or the same rollout would come again
    for variable, value in zip(variables, values, strict=True):
        if variable is not model.optimizer.iterations:
            np.testing.assert_array_equal(variable, value)
    assert model.fit(one_batch(good), verbose=0).history["skipped_updates"] == [0.0]
    assert np.any(np.asarray(variables[0]) != values[0])


class SetBatch(keras.callbacks.Callback):
    """Sets the batch of an epoch, as `RolloutCallback` does."""

    def __init__(self, updates, batch):
        super().__init__()
        self.dataset, self.batch = RolloutDataset(updates), batch

    def on_epoch_begin(self, epoch, logs=None):
        self.dataset.batch = self.batch


def test_a_forgotten_callback_is_an_error_and_costs_no_weights(make_policy, rows):
    policy = make_policy("gemma", num_layers=1, lora_rank=2)
    model, rollouts = GRPOModel(policy), SetBatch(1, batch_of(rows, policy))
    model.compile("sgd")
    for _ in range(2):  # before the first rollout, and when there is one of another `fit`
        with pytest.raises(ValueError, match=r"`fit\(rollouts.dataset, callbacks=\[rollouts\]\)`"):
            model.fit(rollouts.dataset, verbose=0)
        model.fit(rollouts.dataset, callbacks=[rollouts], verbose=0)
    assert model.optimizer.iterations == 2
    with pytest.raises(NotImplementedError, match="takes the place of `validation_data`"):
        model.fit(rollouts.dataset, callbacks=[rollouts], validation_data=rollouts.dataset)


def test_a_step_is_the_same_however_it_is_run(make_policy, rows):
    updates = []
    for settings in ({}, {"run_eagerly": True}, {"jit_compile": False}, {"steps_per_execution": 2}):
        policy = make_policy("gemma", num_layers=1, lora_rank=2)
        model, rollouts = GRPOModel(policy, micro_batch_size=1), SetBatch(3, batch_of(rows, policy))
        model.compile(keras.optimizers.SGD(0.1), **settings)
        model.fit(rollouts.dataset, callbacks=[rollouts], verbose=0)
        assert model.optimizer.iterations == 3
        updates.append([np.asarray(variable) for variable in model.trainable_variables])
    for other in updates[1:]:
        for value, expected in zip(other, updates[0], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
