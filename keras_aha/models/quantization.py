"""Weights in 8 and 4 bits: an int8 copy for rollouts, or a frozen base that adapters are trained on.

A decode step reads every weight for one token a row, so on an accelerator its time is the bytes of the weights. In int8
they are half of bfloat16's and a quarter of float32's. Training keeps its float weights. Rollouts use a second
backbone, which holds no values:

    quantized = QuantizedBackbone(policy.backbone)
    weights = jax.jit(quantized.values)(merged)                  # once a rollout
    with keras.StatelessScope(zip(quantized.backbone.variables, weights)):
        quantized.backbone(...)                                  # or its layers, inside another jit

Completions then have the log-probs of the int8 weights, not of the policy's. `clip_range` and `importance_cap` of
`GRPOLoss` bound what that does, as any difference between sampler and trainer. With `quantize_base` there is one
policy, which is trained and sampled as it is.
"""

from keras_aha.models import internals
from keras_aha.models.abstract_backbone import copy_backbone
from keras_aha.models.internals import flatten_layers

import jax
import keras
from keras import layers, ops
from keras.dtype_policies import DTypePolicyMap, Int4DTypePolicy, QuantizedDTypePolicy
from keras.quantizers import Int4QuantizationConfig, Int8QuantizationConfig

# The layers of a transformer that Keras quantizes. It leaves their subclasses alone, so types are compared exactly.
_LINEARS = (layers.Dense, layers.EinsumDense)
_EMBEDDINGS = (layers.Embedding, layers.ReversibleEmbedding)
_INT8 = Int8QuantizationConfig(activation_quantizer=None)
_INT4 = Int4QuantizationConfig()


class QuantizedBackbone:
    """An int8 copy of a backbone, and the values of its variables for given values of the backbone's.

    Keras quantizes `Dense`, `EinsumDense` and embeddings by their absolute maximum, with one scale for each output
    feature, in an embedding for each token (LLM.int8(), arXiv:2208.07339, §2.1). Norms and biases stay as they are.
    `values` does what `quantize("int8")` of each layer does, to the bit, but as a pure function of arrays.

    Activations stay float. In int8, which is Keras's default, the KL to the float policy is three times as large (on
    the embedded model in float32 0.0017 against 0.0005 nats a token; bfloat16 has 0.0004), the log-probs of decoding
    and of one forward over the same tokens are up to 0.2 apart instead of 0.00004, and a decode step reads as many
    bytes.

    The original, which is only read, is a built `keras_hub.models.Backbone`, such as a `GemmaBackbone` or a text-only
    `Gemma3Backbone`, in float32, bfloat16 or mixed_bfloat16, with adapters or without. `backbone` is the copy, without
    adapters. It holds no values, so it can only be called inside a `StatelessScope`. A `keras.Model` may keep a
    `QuantizedBackbone` as an attribute: it does not track the copy's variables.

    Raises:
        ValueError: for another mode than "int8", or a backbone that is quantized already.
    """

    def __init__(self, backbone, mode: str = "int8"):
        if mode != "int8":
            raise ValueError(f"A rollout's weights can be quantized to 'int8' only. Received: mode={mode!r}")
        quantized = [layer.path for layer in flatten_layers(backbone) if layer.quantization_mode is not None]
        if quantized:
            raise ValueError(
                "The backbone is quantized already: sample from it as it is. "
                f"Received: backbone={backbone.name}, with the quantized layer {quantized[0]}"
            )
        self.backbone = abstract_quantized(backbone, mode)
        for variable in self.backbone.variables:
            internals.set_value(variable, jax.ShapeDtypeStruct(variable.shape, variable.dtype))
        positions = {id(variable): position for position, variable in enumerate(backbone.variables)}
        self._size = len(positions)
        self._copies = []  # (position of a value, the copy's variable that takes it as it is)
        self._quantized = []  # (position of a value, the copy's layer, its int8 variable, its scale, axes of a scale)
        for layer, copy in zip(flatten_layers(backbone), flatten_layers(self.backbone), strict=True):
            if type(layer) in (*_LINEARS, *_EMBEDDINGS):
                weights = zip(_weights(layer), _weights(copy), _scales(copy), strict=True)
                self._quantized += [(positions[id(v)], copy, int8, *scale) for v, int8, scale in weights]
                pairs = [(layer.bias, copy.bias)] if type(layer) in _LINEARS and layer.bias is not None else []
            else:
                pairs = zip(_own_variables(layer), _own_variables(copy), strict=True)
            self._copies += [(positions[id(variable)], other) for variable, other in pairs]

    def values(self, values: list) -> list:
        """Quantizes. Pure, so it may run inside `jax.jit`. Raises ValueError unless there is a value for each variable.

        Args:
            values: of the variables of the backbone that was passed, in the order of its `variables`, adapters merged
                into the kernels (see `lora.merged_kernels`). The adapters' own values are not read.

        Returns:
            The values of the copy's `variables`, in their order: int8 weights, scales in the weights' dtype, and the
            rest as it came.
        """
        if len(values) != self._size:
            raise ValueError(
                f"`values` must be those of the backbone's {self._size} variables. Received: {len(values)} values"
            )
        results = {id(variable): values[position] for position, variable in self._copies}
        for position, layer, int8, scale, axes in self._quantized:
            results[id(int8)], results[id(scale)] = _quantize(layer, values[position], axes)
        return [results[id(variable)] for variable in self.backbone.variables]


def quantize_base(backbone, mode: str) -> None:
    """Quantizes a backbone's weights in place, by Keras's own `quantize`, so that only adapters can be trained.

    `"int8"` is a number and a scale for each output feature, in an embedding for each token. `"int4"` packs two numbers
    of a linear layer into a byte, with a scale and a zero point for each 128 inputs (Keras's default), and leaves
    embeddings in int8: in 4 bits too, the KL of the embedded model to what it was is nearly twice as large, and its
    bytes are 5 % fewer. Norms and biases stay as they are.

    Activations stay float. With Keras's default for int8, which rounds them, no gradient would come through a tied
    embedding, as its logits would be a function of rounded numbers.

    The backbone is a built `keras_hub.models.Backbone` without adapters: call its `enable_lora` afterwards.
    """
    linear = _INT8 if mode == "int8" else _INT4
    backbone.quantize(config=_INT8, filters=lambda layer: type(layer) in _EMBEDDINGS)
    backbone.quantize(config=linear, filters=lambda layer: type(layer) in _LINEARS)


def abstract_quantized(backbone, mode: str):
    """What `quantize_base(backbone, mode)` makes of a backbone, in no memory: another one, without adapters.

    The backbone may be of any size; its values are not read. The new one's variables have a path, a shape and a dtype,
    and no value.
    """
    # keras-hub loads a quantized preset in this way: by a dtype policy for each layer. No float kernel is ever made.
    policies = {}
    for layer in flatten_layers(backbone):
        if type(layer) in _LINEARS and mode == "int4":
            policies[layer.path] = Int4DTypePolicy(f"int4/{_INT4.block_size}", layer.dtype_policy.name)
        elif type(layer) in (*_LINEARS, *_EMBEDDINGS):
            policies[layer.path] = QuantizedDTypePolicy("int8", layer.dtype_policy.name)
    dtype = DTypePolicyMap(backbone.dtype_policy, policies)
    with internals.without_values():
        copy = copy_backbone(backbone, dtype=dtype)
    for layer in flatten_layers(copy):
        if type(layer) in (*_LINEARS, *_EMBEDDINGS):
            layer.inputs_quantizer = None  # activations stay float
    return copy


def _own_variables(layer) -> list:
    """Those of `layer` that none of its sublayers has."""
    inner = {id(v) for sublayer in flatten_layers(layer, include_self=False) for v in sublayer.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def _weights(layer) -> list:
    """The variables of a layer, or of its copy, that are quantized."""
    if type(layer) in _LINEARS:
        return [internals.kernel_variable(layer)]
    is_untied = type(layer) is layers.ReversibleEmbedding and not layer.tie_weights
    return [internals.embeddings_variable(layer), *([layer.reverse_embeddings] if is_untied else [])]


def _scales(copy) -> list[tuple]:
    """The scale of each of the `_weights`, and the axes of the weight over which it is shared."""
    if type(copy) is layers.EinsumDense:
        return [(copy.kernel_scale, internals.scale_axes(copy))]
    if type(copy) is layers.Dense:
        return [(copy.kernel_scale, 0)]
    is_untied = len(_weights(copy)) == 2
    return [(copy.embeddings_scale, -1), *([(copy.reverse_embeddings_scale, 0)] if is_untied else [])]


def _quantize(layer, weight, axes) -> tuple:
    """`(int8 weight, scale)`, as `layer.quantize("int8")` lays them out."""
    # In float32, because there NumPy does it so: it promotes a bfloat16 maximum when Keras's epsilon is added.
    quantized, scale = keras.quantizers.abs_max_quantize(ops.cast(weight, "float32"), axes)
    scale, is_einsum = ops.cast(scale, layer.variable_dtype), type(layer) is layers.EinsumDense
    return quantized, internals.stored_scale(layer, scale) if is_einsum else ops.squeeze(scale, axes)
