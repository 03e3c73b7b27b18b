"""`Decoder.read_completions` against keras-hub's own call: hidden states, and gradients of all weights and adapters."""

from keras_aha.decoding import decoder_for

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras.src.backend.common import dtypes

PROMPTS, LENGTH, GROUP, NEW = 3, 12, 4, 9
SHORT, WITHIN, LONG = 4, 15, 100  # windows: shorter than the prompt, ending within a completion, longer than all
CASES = [("gemma", None, GROUP), ("gemma", None, 1)]
CASES += [(f"gemma_{n}", window, GROUP) for n in (2, 3, 4) for window in (SHORT, WITHIN, LONG)]
CASES += [(f"gemma_{n}", WITHIN, 1) for n in (2, 3, 4)]
FOUR_LAYERS = dict(num_layers=4, sliding_window_pattern=2, num_kv_shared_layers=2)  # of Gemma 4, all kinds of them


@pytest.fixture(scope="module")
def texts():
    """`(prompt_ids, prompt_mask, completion_ids)`, prompts of 12, 9 and 4 tokens."""
    rng = np.random.default_rng(0)
    mask = (np.arange(LENGTH) >= np.array([[0], [3], [8]])).astype("int32")
    prompt_ids, completion_ids = (rng.integers(1, 180, shape) for shape in (mask.shape, (PROMPTS * GROUP, NEW)))
    return prompt_ids.astype("int32") * mask, mask, completion_ids.astype("int32")


def with_gradients(backbone, read):
    """Hidden states by `read`, and the gradients of a weighted sum of them by all variables."""
    variables = [v for v in backbone.variables if v.dtype != "int32"]

    def weighted_sum(values):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            hidden = read()
        return jnp.sum(hidden * np.random.default_rng(1).normal(size=hidden.shape).astype(hidden.dtype)), hidden

    gradients, hidden = jax.jit(jax.grad(weighted_sum, has_aux=True))(
        [v.value.astype(backbone.compute_dtype) for v in variables]
    )
    return hidden, dict(zip([v.path for v in variables], gradients, strict=True))


def by_keras_hub(backbone, prompt_ids, prompt_mask, completion_ids):
    prompts = (np.repeat(x, GROUP, axis=0) for x in (prompt_ids, prompt_mask))
    token_ids, mask = (np.hstack(pair) for pair in zip(prompts, (completion_ids, completion_ids > 0), strict=True))
    positions = np.broadcast_to(np.arange(token_ids.shape[1]), token_ids.shape)
    inputs = {"token_ids": token_ids, "padding_mask": mask.astype("int32"), "position_ids": positions}
    inputs = {name: jnp.asarray(inputs[name]) for name in backbone.input}
    return with_gradients(backbone, lambda: backbone(inputs)[:, LENGTH - 1 : -1])


def by_decoder(backbone, prompt_ids, prompt_mask, completion_ids, group_size=GROUP):
    """With a prompt for each `group_size` rows."""
    ids, mask = (np.repeat(x, GROUP // group_size, axis=0) for x in (prompt_ids, prompt_mask))
    read = decoder_for(backbone).read_completions
    return with_gradients(backbone, lambda: read(ids, np.argmax(mask, axis=1), completion_ids))


def assert_equal(found, expected, tolerance):
    (hidden, gradients), (expected_hidden, expected_gradients) = found, expected
    np.testing.assert_allclose(hidden, expected_hidden, rtol=0, atol=tolerance)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in expected_gradients.values()))
    for path, gradient in expected_gradients.items():
        assert np.linalg.norm(gradients[path] - gradient) < tolerance * norm, path


@pytest.fixture
def backbone_in_float64(make_policy, monkeypatch):
    """A function; all that Keras and keras-hub compute in float32, whatever the dtype, is in float64 here too."""
    cast = keras.ops.cast
    monkeypatch.setattr(keras.ops, "cast", lambda x, dtype: cast(x, "float64" if dtype == "float32" else dtype))
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")

    def make(shape, **architecture):
        backbone = make_policy(shape, lora_rank=2, dtype="float64", **architecture).backbone
        for layer in backbone.transformer_layers:
            object.__setattr__(layer.attention, "softmax", keras.layers.Softmax(dtype="float64"))
        return backbone

    with jax.enable_x64(True):
        yield make


@pytest.mark.parametrize("shape, window, group_size", CASES)
def test_is_what_keras_hub_computes(shape, window, group_size, backbone_in_float64, texts):
    architecture = {"sliding_window_size": window} if window else {}
    backbone = backbone_in_float64(shape, **architecture, **(FOUR_LAYERS if shape == "gemma_4" else {}))
    found = by_decoder(backbone, *texts, group_size)
    assert found[0].dtype == "float64"
    assert_equal(found, by_keras_hub(backbone, *texts), 1e-12)


@pytest.mark.parametrize("shape", ("gemma", "gemma_2", "gemma_3", "gemma_4"))
def test_in_float32(shape, make_policy, texts):
    backbone = make_policy(shape, lora_rank=2, **(FOUR_LAYERS if shape == "gemma_4" else {})).backbone
    assert_equal(by_decoder(backbone, *texts), by_keras_hub(backbone, *texts), 1e-5)
