"""The int8 copy of a backbone is what Keras's own `quantize` makes of it, to the bit."""

import functools
import warnings

from keras_aha.models.lora import merged_kernels
from keras_aha.models.quantization import QuantizedBackbone

import jax
import keras
import keras_hub
import numpy as np
import pytest
from keras.quantizers import Int8QuantizationConfig
from tiny_models import ALL_LINEAR, randomize

INPUTS = {
    "token_ids": np.random.default_rng(0).integers(1, 64, (3, 7)),
    "padding_mask": np.array([[1] * 7, [0, 0] + [1] * 5, [0] * 6 + [1]]),
}


class OtherLayers(keras_hub.models.Backbone):
    """What no Gemma has: a `Dense`, a bias, an embedding that is not reversible and one that is not tied, a seed."""

    def __init__(self, dtype=None, **kwargs):
        self.token_embedding = keras.layers.ReversibleEmbedding(64, 16, tie_weights=False, dtype=dtype, name="tokens")
        # The layers whose dtype is given here, because Keras asks the policy for that of their path.
        self.positions = keras.layers.Embedding(2, 16, dtype=dtype, name="positions")
        self.dense = keras.layers.Dense(16, dtype=dtype, name="dense")
        self.einsum = keras.layers.EinsumDense("btd,df->btf", (None, 16), bias_axes="f", dtype=dtype, name="einsum")
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in INPUTS}
        x = self.token_embedding(inputs["token_ids"]) + self.positions(inputs["padding_mask"])
        outputs = keras.layers.Dropout(0.1)(self.einsum(self.dense(x)))
        self.token_embedding(outputs, reverse=True)
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)


class Case:
    """A float backbone, its values before and after `QuantizedBackbone`, and the model that Keras quantizes."""

    def __init__(self, backbone):
        self.backbone = backbone
        self.before = [np.asarray(value) for value in own_values(backbone)]
        self.quantized = QuantizedBackbone(backbone)
        self.merged = merged_values(backbone)
        self.to_int8 = jax.jit(self.quantized.values)
        self.values = self.to_int8(self.merged)
        self.keras = quantized_by_keras(backbone, self.merged)

    @functools.cached_property
    def outputs(self):
        return outputs(self.quantized.backbone, self.values)


@pytest.fixture(scope="module")
def gemma_2_case(make_policy):
    return Case(make_policy("gemma_2", num_layers=1, lora_rank=2).backbone)


@pytest.fixture(scope="module", params=["gemma_2", "gemma_3", "bfloat16"])
def case(request, make_policy):
    """One layer each, as most of the time goes into compiling."""
    if request.param == "gemma_2":
        return request.getfixturevalue("gemma_2_case")
    if request.param == "gemma_3":
        return Case(make_policy("gemma_3", num_layers=1, lora_rank=2).backbone)
    backbone = OtherLayers(dtype="bfloat16")
    randomize(backbone.weights, 0)
    return Case(backbone)


def merged_values(backbone):
    merged = {id(variable): value for variable, value in merged_kernels(backbone)}
    return [merged.get(id(variable), variable.value) for variable in backbone.variables]


def quantized_by_keras(backbone, merged):
    """A model without adapters that has the merged values, after Keras's own `quantize`."""
    model = type(backbone).from_config(backbone.get_config())
    pairs = zip(backbone.variables, merged, strict=True)
    values = [value for variable, value in pairs if not variable.name.startswith("lora_")]
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
    with warnings.catch_warnings(action="ignore"):  # of each layer that has nothing to quantize
        model.quantize(config=Int8QuantizationConfig(activation_quantizer=None))
    return model


def outputs(backbone, values):
    """Hidden states, and logits through the embedding in reverse; in one jit, as eagerly it takes seconds."""

    @jax.jit
    def forward(values):
        with keras.StatelessScope(list(zip(backbone.variables, values, strict=True))):
            hidden = backbone(INPUTS)
            return hidden, backbone.token_embedding(hidden, reverse=True)

    return [np.asarray(x, "float32") for x in forward(values)]


def own_values(backbone):
    return [variable.value for variable in backbone.variables]


def by_path(variables, values):
    # The name of a seed is counted up.
    return {v.path: np.asarray(x) for v, x in zip(variables, values, strict=True) if "seed" not in v.path}


def test_values_are_those_of_keras_to_the_bit(case):
    found = by_path(case.quantized.backbone.variables, case.values)
    expected = by_path(case.keras.variables, own_values(case.keras))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == value.dtype, path
        assert (value.dtype == "int8") == path.endswith(("kernel", "embeddings")), path
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_forward_is_that_of_the_quantized_model(case):
    for x, y in zip(case.outputs, outputs(case.keras, own_values(case.keras)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_int8_is_near_float(gemma_2_case):
    case = gemma_2_case
    expected = outputs(case.backbone, own_values(case.backbone))[1]  # adapters on
    error = np.abs(jax.nn.log_softmax(case.outputs[1]) - jax.nn.log_softmax(expected))
    assert 0 < error.mean() < 0.05


def test_the_copy_holds_no_values_and_is_not_tracked(case):
    assert not any(isinstance(variable._value, jax.Array) for variable in case.quantized.backbone.variables)
    with pytest.raises(TypeError, match="ShapeDtypeStruct"):
        case.quantized.backbone(INPUTS)
    model = keras.Model()
    model.quantized = case.quantized
    assert model.variables == []


def test_the_backbone_is_only_read(case):
    assert all(layer.quantization_mode is None for layer in case.backbone._flatten_layers())
    for variable, before in zip(case.backbone.variables, case.before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable.value), before)


def test_adapters_act_through_merged_kernels_alone(gemma_2_case):
    case = gemma_2_case
    without = case.to_int8(own_values(case.backbone))
    for variable, x, y in zip(case.quantized.backbone.variables, case.values, without, strict=True):
        assert np.array_equal(x, y) != (variable.path.split("/")[-2] in ALL_LINEAR), variable.path

    adapters = [variable.name.startswith("lora_") for variable in case.backbone.variables]
    others = [x + 1 if adapter else x for x, adapter in zip(case.merged, adapters, strict=True)]
    assert sum(adapters) == 2 * len(ALL_LINEAR)
    for x, y in zip(case.to_int8(others), case.values, strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_cannot_be_quantized(gemma_2_case):
    with pytest.raises(ValueError, match="'int8' only. Received: mode='int4'"):
        QuantizedBackbone(gemma_2_case.backbone, mode="int4")
    with pytest.raises(ValueError, match="quantized already.*token_embedding"):
        QuantizedBackbone(gemma_2_case.keras)
    with pytest.raises(ValueError, match="variables. Received: 3 values"):
        gemma_2_case.quantized.values(gemma_2_case.merged[:3])
