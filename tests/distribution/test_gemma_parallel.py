"""Where the variables of each Gemma lie, worked out by hand from their shapes. No device is needed for that."""

import math

from keras_aha.distribution.gemma_parallel import GemmaParallel
from keras_aha.models.abstract_backbone import abstract_backbone
from keras_aha.models.internals import without_values

import jax.numpy as jnp
import keras
import keras_hub
import numpy as np
import pytest
from tiny_models import ALL_LINEAR, SHAPES

BLOCK = "decoder_block_0/attention"


def parallel(batch, model, **settings):
    devices = np.array([f"cpu:{i}" for i in range(batch * model)])
    return GemmaParallel(keras.distribution.DeviceMesh((batch, model), ("batch", "model"), devices), **settings)


@pytest.fixture(scope="module")
def backbone():
    """A function: an abstract backbone with adapters."""

    def make(preset):
        result = abstract_backbone(preset, "bfloat16")
        with without_values():
            result.enable_lora(16, target_layer_names=ALL_LINEAR)
        return result

    return make


def axes(layouts, backbone):
    """Of each variable of block 0, and of the embeddings."""
    names = {v.path.removeprefix("decoder_block_0/").removeprefix("attention/"): v for v in backbone.variables}
    return {name: tuple(layouts.get_variable_layout(v).axes) for name, v in names.items() if "block" not in name}


def bytes_a_device(layouts, variables):
    sizes = dict(zip(layouts.device_mesh.axis_names, layouts.device_mesh.shape, strict=True))
    total = 0
    for variable in variables:
        parts = math.prod(sizes[axis] for axis in layouts.get_variable_layout(variable).axes if axis)
        total += math.prod(variable.shape) * jnp.dtype(variable.dtype).itemsize // parts
    return total


HEADS = {
    **{f"{name}/kernel": ("model", None, None) for name in ("query", "attention_output")},
    **{f"{name}/lora_kernel_a": ("model", None, None) for name in ("query", "attention_output")},
    **{f"{name}/lora_kernel_b": (None, None) for name in ("query", "attention_output", "ffw_linear")},
    "ffw_gating/kernel": (None, "model"),
    "ffw_gating/lora_kernel_a": (None, None),
    "ffw_gating/lora_kernel_b": (None, "model"),
    "ffw_linear/kernel": ("model", None),
    "ffw_linear/lora_kernel_a": ("model", None),
    "token_embedding/embeddings": ("model", None),
    "pre_attention_norm/scale": (None,),
}


@pytest.mark.parametrize("preset", ["gemma2_2b_en", "gemma3_4b_text"])
def test_heads_features_and_vocabulary_are_split_along_model(backbone, preset):
    found = axes(parallel(2, 4), backbone(preset))
    assert {name: found[name] for name in HEADS} == HEADS


@pytest.mark.parametrize(
    "preset, model, split", [("gemma2_2b_en", 4, True), ("gemma2_2b_en", 8, False), ("gemma_2b_en", 2, False)]
)
def test_key_value_heads_are_whole_where_they_cannot_be_split(backbone, preset, model, split):
    found = axes(parallel(8 // model, model), backbone(preset))
    for name in ("key/kernel", "value/kernel", "key/lora_kernel_a"):
        assert found[name] == ("model" if split else None, None, None)


def test_split_weights_are_split_along_batch_too_and_adapters_are_not(backbone):
    found = axes(parallel(4, 2, split_weights=True), backbone("gemma2_9b_en"))
    assert found["query/kernel"] == ("model", "batch", None)
    assert found["attention_output/kernel"] == ("model", None, "batch")
    assert found["ffw_gating_2/kernel"] == ("batch", "model")
    assert found["ffw_linear/kernel"] == ("model", "batch")
    assert found["token_embedding/embeddings"] == ("model", "batch")
    adapters = {name: layout for name, layout in found.items() if "lora" in name}
    assert len(adapters) == 2 * len(ALL_LINEAR)
    assert not any("batch" in layout for layout in adapters.values())


def test_bytes_of_a_device():
    """9,241,705,984 parameters of two bytes (keras-hub's count), in eight parts but for norms of 4 × 42 + 1 scales."""
    backbone = abstract_backbone("gemma2_9b_en", "bfloat16")
    norms = (4 * 42 + 1) * 3584
    expected = 2 * ((9_241_705_984 - norms) // 8 + norms)
    assert bytes_a_device(parallel(8, 1, split_weights=True), backbone.variables) == expected
    assert bytes_a_device(parallel(1, 8), backbone.variables) == expected
    assert bytes_a_device(parallel(8, 1), backbone.variables) == 2 * 9_241_705_984


def test_nothing_of_the_largest_gemma_is_whole_but_norms_and_adapters(backbone):
    largest = backbone("gemma2_27b_en")
    layouts = parallel(8, 1, split_weights=True)
    whole = [v for v in largest.variables if not any(layouts.get_variable_layout(v).axes)]
    assert {v.path.split("/")[-1] for v in whole} == {"scale", "lora_kernel_a", "lora_kernel_b"}
    assert bytes_a_device(layouts, largest.variables) < 8.5e9


def test_every_gemma_4_layer_has_a_layout():
    """Experts, and embeddings of layers, are not in keras-hub's map: they are whole."""
    with without_values():
        backbone = keras_hub.models.Gemma4Backbone(vocabulary_size=64, **SHAPES["gemma_4"])
    layouts = parallel(2, 4)
    assert all(len(layouts.get_variable_layout(v).axes) == len(v.shape) for v in backbone.variables)
    assert axes(layouts, backbone)["query/kernel"] == ("model", None, None)


def test_query_heads_that_cannot_be_split():
    sentence = "query heads, which is 12, and of devices, which is 8: choose 1 or 2 or 4. Received: model=8"
    with pytest.raises(ValueError, match=sentence):
        parallel(1, 8).layout(f"{BLOCK}/query/kernel", (12, 16, 8))


def test_the_table(backbone):
    table = parallel(4, 2, split_weights=True).describe(backbone("gemma2_2b_en")).splitlines()
    assert table[0].split("  ")[0] == "variable" and "split (4 batch × 2 model)" in table[0]
    query = next(line for line in table if line.startswith("decoder_block_*/attention/query/kernel"))
    # 26 × 8 × 2304 × 256 × 2 bytes / 8
    assert "26 ×" in query and "8 by model, 2304 by batch" in query and query.endswith("30.67 MB")
    key = next(line for line in table if line.startswith("decoder_block_*/attention/key/lora_kernel_b"))
    assert "whole" in key
    assert table[-1].startswith("all") and table[-1].endswith("GB")
