import contextlib

from keras_aha.models import lora

import jax
import keras
import numpy as np
import pytest
from tiny_models import ALL_LINEAR, randomize

INPUTS = {
    "token_ids": np.random.default_rng(0).integers(1, 64, (3, 7)),
    "padding_mask": np.array([[1] * 7, [0, 0] + [1] * 5, [0] * 6 + [1]]),
}


def randomize_adapters(layer, seed=0):
    adapters = [variable for variable in layer.trainable_variables if variable.name.startswith("lora_")]
    randomize(adapters, seed)  # and not a bias, which stays trainable too


@pytest.fixture
def adapted(make_policy):
    """A function: a tiny Gemma whose linear layers carry random adapters, and its outputs before it had any."""

    def make(dtype="float32", seed=0):
        backbone = make_policy("gemma", dtype=dtype).backbone
        base = outputs(backbone)
        backbone.enable_lora(4, target_layer_names=ALL_LINEAR)
        np.testing.assert_array_equal(outputs(backbone), base)  # fresh adapters change nothing
        randomize_adapters(backbone, seed)
        return backbone, base

    return make


def outputs(backbone):
    return np.asarray(backbone(INPUTS))


# === Adapters off ===


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_adapters_off_is_the_base_model(adapted, dtype):
    backbone, base = adapted(dtype)
    on = outputs(backbone)
    assert np.abs(on - base).max() > 0.1
    with lora.adapters_off(backbone) as same:
        assert same is backbone and lora.has_adapters(backbone)
        np.testing.assert_array_equal(outputs(backbone), base)
        with pytest.raises(RuntimeError), lora.adapters_off(backbone.get_layer("decoder_block_0")):
            raise RuntimeError
        np.testing.assert_array_equal(outputs(backbone), base)
    np.testing.assert_array_equal(outputs(backbone), on)


def test_adapters_off_in_one_jit(adapted):
    backbone, _ = adapted()

    def reference_and_policy():
        with lora.adapters_off(backbone):
            reference = backbone(INPUTS)
        return reference, backbone(INPUTS)

    base, on = jax.jit(reference_and_policy)()
    with lora.adapters_off(backbone):
        np.testing.assert_array_equal(base, jax.jit(lambda: backbone(INPUTS))())
    assert np.abs(np.asarray(on - base)).max() > 0.1


def test_adapters_off_reaches_part_of_a_model(adapted):
    backbone, base = adapted()
    with lora.adapters_off(backbone.get_layer("decoder_block_0")):
        half = outputs(backbone)
    assert np.abs(half - base).max() > 0.01 and np.abs(half - outputs(backbone)).max() > 0.01


def test_has_adapters(make_policy):
    backbone = make_policy("gemma").backbone
    with lora.adapters_off(backbone):
        assert not lora.has_adapters(backbone) and lora.merged_kernels(backbone) == []
    backbone.enable_lora(2)
    assert lora.has_adapters(backbone) and not lora.has_adapters(backbone.token_embedding)


# === Adapters merged ===


@pytest.mark.parametrize("dtype, tolerance", (("float32", 1e-5), ("bfloat16", 0.1)))
def test_adapted_values_are_the_adapted_model(adapted, dtype, tolerance):
    backbone, _ = adapted(dtype)
    on, values = outputs(backbone), lora.adapted_values(backbone)
    with lora.using_merged(backbone, values):
        found = outputs(backbone)
    np.testing.assert_allclose(found.astype("float32"), on.astype("float32"), atol=tolerance, rtol=tolerance)
    merged = dtype == "float32"
    assert {variable.name for variable, _ in values} == ({"kernel"} if merged else {"lora_kernel_a", "lora_kernel_b"})
    layers = [variable.path.split("/")[-2] for variable, _ in values]
    assert sorted(layers) == sorted((2 if merged else 4) * ALL_LINEAR)
    assert all(value.shape == variable.shape and value.dtype == dtype for variable, value in values)


@pytest.mark.parametrize(
    "make, inputs, settings",
    (
        (lambda: keras.layers.Dense(5), np.ones((2, 3), "float32"), {}),
        (lambda: keras.layers.EinsumDense("bd,ndh->bnh", (2, 4)), np.ones((2, 3), "float32"), {}),
        (lambda: keras.layers.Embedding(7, 4), np.array([[0, 3, 6]]), {}),
        (lambda: keras.layers.ReversibleEmbedding(7, 4), np.array([[0, 3, 6]]), {}),
        (lambda: keras.layers.ReversibleEmbedding(7, 4), np.ones((1, 4), "float32"), {"reverse": True}),
    ),
)
def test_every_kind_of_layer(make, inputs, settings):
    layer = make()
    if settings:
        layer.build()
    base = np.asarray(layer(inputs, **settings))
    layer.enable_lora(rank=4, lora_alpha=3.0)
    randomize_adapters(layer)
    on = np.asarray(layer(inputs, **settings))
    assert np.abs(on - base).max() > 0.01
    with lora.adapters_off(layer):
        np.testing.assert_array_equal(layer(inputs, **settings), base)
        values = lora.adapted_values(layer)  # all the same
    with lora.using_merged(layer, values):
        np.testing.assert_allclose(layer(inputs, **settings), on, atol=1e-6)
    lora.merge(layer)  # for good, and the adapters are 0
    np.testing.assert_allclose(layer(inputs, **settings), on, atol=1e-6)
    with lora.adapters_off(layer):
        np.testing.assert_allclose(layer(inputs, **settings), on, atol=1e-6)


def test_merged_kernels_read_the_values_of_a_scope(adapted):
    backbone, _ = adapted()
    expected = [np.asarray(value) for _, value in lora.merged_kernels(backbone)]
    variables = backbone.trainable_variables
    values = [variable.value for variable in variables]
    for variable in variables:
        variable.assign(np.zeros(variable.shape))

    @jax.jit
    def merge(values):
        with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
            return [value for _, value in lora.merged_kernels(backbone)]

    for found, wanted in zip(merge(values), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("are_on", (True, False))
def test_adapters_of_quantized_layers_stay_beside_their_kernels(are_on):
    model = keras.Sequential([keras.layers.Dense(6, name="quantized"), keras.layers.Dense(4, name="float")])
    x = np.ones((2, 8), "float32")
    model(x)
    model.layers[0].quantize("int8")
    for layer in model.layers:
        layer.enable_lora(rank=2)
    randomize_adapters(model)
    on = np.asarray(model(x))
    values = lora.adapted_values(model)
    assert [variable.name for variable, _ in values] == ["lora_kernel_a", "lora_kernel_b", "kernel"]
    switches = contextlib.nullcontext() if are_on else lora.adapters_off(model)
    with switches:
        with lora.using_merged(model, values):
            np.testing.assert_allclose(model(x), on, atol=1e-5)
        assert [layer.lora_enabled for layer in model.layers] == [are_on] * 2


# === Adapters saved; what a file must not hold: test_policy.py and runs/test_bad_input.py ===


def test_without_adapters_none_are_saved_or_loaded(adapted, make_policy, tmp_path):
    plain, path = make_policy("gemma").backbone, tmp_path / "adapters.lora.h5"
    with pytest.raises(ValueError, match=r"no adapters.* Received: backbone="):
        lora.save_adapters(plain, path)
    lora.save_adapters(adapted()[0], path)
    with pytest.raises(ValueError, match="no adapters"):
        lora.load_adapters(plain, path)
