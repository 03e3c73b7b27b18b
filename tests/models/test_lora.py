import contextlib

from keras_aha.models import lora

import jax
import keras
import keras_hub
import numpy as np
import pytest

ALL_LINEAR = ["query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear"]
INPUTS = {
    "token_ids": np.random.default_rng(0).integers(1, 64, (3, 7)),
    "padding_mask": np.array([[1] * 7, [0, 0] + [1] * 5, [0] * 6 + [1]]),
}


def tiny_backbone(dtype="float32"):
    return keras_hub.models.GemmaBackbone(
        vocabulary_size=64,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=16,
        intermediate_dim=32,
        head_dim=8,
        dtype=dtype,
    )


def randomize_adapters(layer, seed=0):
    rng = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        if variable.name.startswith("lora_"):  # a bias stays trainable too
            variable.assign(rng.normal(0, 0.3, variable.shape))


def adapted_backbone(dtype="float32", seed=0):
    """A tiny Gemma whose seven linear layers carry random adapters, and its outputs before it had any."""
    backbone = tiny_backbone(dtype)
    base = outputs(backbone)
    backbone.enable_lora(4, target_layer_names=ALL_LINEAR)
    randomize_adapters(backbone, seed)
    return backbone, base


def outputs(backbone):
    return np.asarray(backbone(INPUTS))


# === Adapters off ===


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_fresh_adapters_change_nothing(dtype):
    backbone = tiny_backbone(dtype)
    base = outputs(backbone)
    backbone.enable_lora(4, target_layer_names=ALL_LINEAR)
    np.testing.assert_array_equal(outputs(backbone), base)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_adapters_off_is_the_base_model(dtype):
    backbone, base = adapted_backbone(dtype)
    on = outputs(backbone)
    assert np.abs(on - base).max() > 0.1
    with lora.adapters_off(backbone) as same:
        assert same is backbone
        np.testing.assert_array_equal(outputs(backbone), base)
    np.testing.assert_array_equal(outputs(backbone), on)


def test_adapters_off_in_one_jit():
    backbone, _ = adapted_backbone()
    base, on = jax.jit(lambda: reference_and_policy(backbone))()
    with lora.adapters_off(backbone):
        expected = jax.jit(lambda: backbone(INPUTS))()
    np.testing.assert_array_equal(base, expected)
    assert np.abs(np.asarray(on - base)).max() > 0.1


def reference_and_policy(backbone):
    with lora.adapters_off(backbone):
        reference = backbone(INPUTS)
    return reference, backbone(INPUTS)


def test_adapters_off_nests_and_survives_exceptions():
    backbone, base = adapted_backbone()
    on = outputs(backbone)
    with lora.adapters_off(backbone):
        with pytest.raises(RuntimeError), lora.adapters_off(backbone.get_layer("decoder_block_0")):
            raise RuntimeError
        np.testing.assert_array_equal(outputs(backbone), base)
    np.testing.assert_array_equal(outputs(backbone), on)


def test_adapters_off_reaches_part_of_a_model():
    backbone, base = adapted_backbone()
    with lora.adapters_off(backbone.get_layer("decoder_block_0")):
        half = outputs(backbone)
    assert np.abs(half - base).max() > 0.01 and np.abs(half - outputs(backbone)).max() > 0.01


def test_has_adapters():
    backbone = tiny_backbone()
    assert not lora.has_adapters(backbone)
    with lora.adapters_off(backbone):
        pass
    backbone.enable_lora(2)
    assert lora.has_adapters(backbone)
    with lora.adapters_off(backbone):
        assert lora.has_adapters(backbone)
    assert not lora.has_adapters(backbone.token_embedding)


def test_alpha_multiplies_the_adapters():
    backbone, _ = adapted_backbone()
    query = backbone.get_layer("decoder_block_0").attention.query_dense
    added = query.kernel - query._kernel
    lora.set_alpha(backbone, 12.0)  # the rank, which it was, is 4
    np.testing.assert_allclose(query.kernel - query._kernel, 3 * added, atol=1e-6)
    merged = {variable.path: value for variable, value in lora.merged_kernels(backbone)}
    np.testing.assert_allclose(merged[query._kernel.path], query.kernel, atol=1e-6)


def test_enable_lora_knows_all_seven_linear_layers():
    backbone, _ = adapted_backbone()
    adapters = {variable.path for variable in backbone.trainable_variables}
    kernels = {variable.path for variable, _ in lora.merged_kernels(backbone)}
    assert len(kernels) == 2 * 7
    assert adapters == {path.removesuffix("kernel") + f"lora_kernel_{x}" for path in kernels for x in "ab"}


# === Adapters merged ===


@pytest.mark.parametrize("dtype, tolerance", (("float32", 2e-6), ("bfloat16", 0.1)))
def test_merged_kernels_are_the_adapted_model(dtype, tolerance):
    backbone, _ = adapted_backbone(dtype)
    on = outputs(backbone)
    merged = lora.merged_kernels(backbone)
    with lora.adapters_off(backbone), keras.StatelessScope(state_mapping=merged):
        off = outputs(backbone)
    np.testing.assert_allclose(off.astype("float32"), on.astype("float32"), atol=tolerance, rtol=tolerance)
    for variable, value in merged:
        assert (value.shape, value.dtype) == (variable.shape, variable.dtype)


def test_merging_for_good_keeps_the_function_and_empties_the_adapters():
    backbone, _ = adapted_backbone("float32")
    embedding = keras.layers.Embedding(7, 4)
    embedding.build()
    embedding.enable_lora(rank=4)
    randomize_adapters(embedding)
    on, rows = outputs(backbone), embedding(np.arange(7))
    for model in (backbone, embedding):
        lora.merge(model)
    np.testing.assert_allclose(outputs(backbone), on, atol=1e-5)
    np.testing.assert_allclose(embedding(np.arange(7)), rows, atol=1e-6)
    with lora.adapters_off(backbone), lora.adapters_off(embedding):
        np.testing.assert_allclose(outputs(backbone), on, atol=1e-5)
        np.testing.assert_allclose(embedding(np.arange(7)), rows, atol=1e-6)


def test_merged_kernels_by_hand():
    layer = keras.layers.Dense(2, use_bias=False)
    layer.build((None, 3))
    layer.enable_lora(rank=1, lora_alpha=2.0)
    layer._kernel.assign([[1, 2], [3, 4], [5, 6]])
    layer.lora_kernel_a.assign([[1], [0], [-1]])
    layer.lora_kernel_b.assign([[10, 1]])
    ((variable, value),) = lora.merged_kernels(layer)
    assert variable is layer._kernel
    np.testing.assert_array_equal(value, [[21, 4], [3, 4], [-15, 4]])
    with lora.adapters_off(layer):  # there to be merged all the same
        np.testing.assert_array_equal(lora.merged_kernels(layer)[0][1], value)


@pytest.mark.parametrize(
    "make, inputs",
    (
        (lambda: keras.layers.Dense(5), np.ones((2, 3), "float32")),
        (lambda: keras.layers.EinsumDense("bd,ndh->bnh", (2, 4)), np.ones((2, 3), "float32")),
        (lambda: keras.layers.Embedding(7, 4), np.array([[0, 3, 6]])),
        (lambda: keras.layers.ReversibleEmbedding(7, 4), np.array([[0, 3, 6]])),
    ),
)
def test_every_kind_of_layer(make, inputs):
    layer = make()
    base = np.asarray(layer(inputs))
    layer.enable_lora(rank=4, lora_alpha=3.0)
    randomize_adapters(layer)
    on = np.asarray(layer(inputs))
    assert np.abs(on - base).max() > 0.01
    with lora.adapters_off(layer):
        np.testing.assert_array_equal(layer(inputs), base)
        with keras.StatelessScope(state_mapping=lora.merged_kernels(layer)):
            np.testing.assert_allclose(layer(inputs), on, atol=1e-6)


def test_merged_embedding_reaches_the_logits():
    layer = keras.layers.ReversibleEmbedding(7, 4)
    layer.build()
    layer.enable_lora(rank=4)
    randomize_adapters(layer)
    hidden = np.ones((1, 4), "float32")
    on = layer(hidden, reverse=True)
    with lora.adapters_off(layer), keras.StatelessScope(state_mapping=lora.merged_kernels(layer)):
        np.testing.assert_allclose(layer(hidden, reverse=True), on, atol=1e-6)


def test_merged_kernels_read_the_values_of_a_scope():
    backbone, _ = adapted_backbone()
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


def test_nothing_to_merge():
    assert lora.merged_kernels(tiny_backbone()) == []


@pytest.mark.parametrize("outside", (True, False))
def test_adapters_of_quantized_layers_stay_beside_their_kernels(outside):
    model = keras.Sequential([keras.layers.Dense(6, name="quantized"), keras.layers.Dense(4, name="float")])
    x = np.ones((2, 8), "float32")
    model(x)
    model.layers[0].quantize("int8")
    for layer in model.layers:
        layer.enable_lora(rank=2)
    randomize_adapters(model)
    on = np.asarray(model(x))
    merged = lora.merged_kernels(model)
    assert [variable.path for variable, _ in merged] == [model.layers[1]._kernel.path]
    switches = contextlib.nullcontext() if outside else lora.adapters_off(model)
    with switches:
        with lora.using_merged(model, merged):
            np.testing.assert_allclose(model(x), on, atol=1e-5)
        assert [layer.lora_enabled for layer in model.layers] == [outside] * 2


# === Adapters saved ===


def test_adapters_round_trip(tmp_path):
    first, _ = adapted_backbone(seed=1)
    lora.save_adapters(first, tmp_path / "adapters.lora.h5")
    second, _ = adapted_backbone(seed=2)
    lora.load_adapters(second, tmp_path / "adapters.lora.h5")
    for saved, loaded in zip(first.trainable_variables, second.trainable_variables, strict=True):
        np.testing.assert_array_equal(saved, loaded)
        assert np.asarray(loaded).any()


def test_adapters_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "adapters.lora.h5"
    with pytest.raises(ValueError, match=r"no adapters.* Received: backbone="):
        lora.save_adapters(tiny_backbone(), path)
    lora.save_adapters(adapted_backbone()[0], path)

    backbone = tiny_backbone()
    with pytest.raises(ValueError, match="no adapters"):
        lora.load_adapters(backbone, path)
    backbone.enable_lora(4)  # query and value only
    before = [np.asarray(variable) for variable in backbone.trainable_variables]
    with pytest.raises(ValueError, match=r"`target_layer_names`.* Received: path="):
        lora.load_adapters(backbone, path)
    for variable, value in zip(backbone.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)

    other_rank = tiny_backbone()
    other_rank.enable_lora(2, target_layer_names=ALL_LINEAR)
    with pytest.raises(ValueError, match="rank=4"):
        lora.load_adapters(other_rank, path)
