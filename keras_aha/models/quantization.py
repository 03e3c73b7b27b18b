"""Weights in 8 and 4 bits: of a rollout, or of a frozen base that adapters are trained on.

A rollout's weights in int8 are half the bytes of bfloat16, a quarter of float32's.

A decode step reads every weight for one token a row, so on an accelerator its time is their bytes. Training keeps its
float weights; a second backbone, which holds no values, has the layers that compute with int8:

    quantized = QuantizedBackbone(policy.backbone)
    to_int8 = jax.jit(quantized.values)
    weights = to_int8(merged)                                    # once a rollout
    with keras.StatelessScope(zip(quantized.backbone.variables, weights)):
        quantized.backbone(...)                                  # or its layers, inside another jit

Completions then have the log-probs of the int8 weights and not of the policy's. The ratio of the two is for a clip or
an importance weight to deal with, as is any difference between sampler and trainer.

A frozen base is quantized for good, by `quantize_base`, before its adapters are made. There is one policy then, which
is trained and sampled as it is.
"""

from keras_aha.models.internals import flatten_layers, scale_axes, set_value, stored_scale, without_values
from keras_aha.models.presets import own_dtype

import jax
import keras
from keras import layers, ops
from keras.dtype_policies import DTypePolicyMap, Int4DTypePolicy, QuantizedDTypePolicy
from keras.quantizers import Int4QuantizationConfig, Int8QuantizationConfig

# The layers of a transformer that Keras quantizes; it leaves their subclasses alone, and so does this.
_LINEARS = (layers.Dense, layers.EinsumDense)
_EMBEDDINGS = (layers.Embedding, layers.ReversibleEmbedding)
_QUANTIZED_LAYERS = (*_LINEARS, *_EMBEDDINGS)
_INT4 = Int4QuantizationConfig()


class QuantizedBackbone:
    """An int8 twin of a backbone, and the values of its variables for given values of the backbone's.

    Keras quantizes `Dense`, `EinsumDense` and embeddings by their absolute maximum, with one scale for each output
    feature, in an embedding for each token (LLM.int8(), arXiv:2208.07339, §2.1). Norms and biases stay as they are.
    `values` does what `quantize("int8")` of each layer does, to the bit, but as a pure function of arrays.

    Activations stay float, for which Keras has an `Int8QuantizationConfig` without activation quantizer. With them in
    int8 too, Keras's default, the KL to the float policy is three times as large (on the embedded model in float32,
    0.0017 against 0.0005 nats a token, where bfloat16 has 0.0004), the log-probs of decoding and of one forward over
    the same tokens are up to 0.2 apart instead of 0.00004, and a decode step reads no fewer bytes.

    The twin can only be called inside a `StatelessScope`, because it holds no values. A `keras.Model` may keep a
    `QuantizedBackbone` as an attribute: it does not track the twin's variables.

    Args:
        backbone: a built `keras_hub.models.Backbone`, such as a `GemmaBackbone` or a text-only `Gemma3Backbone`, in
            float32, bfloat16 or mixed_bfloat16, with adapters or without. It is only read.
        mode: "int8".
        quantize_activations: whether the inputs of a layer become int8 as well, with a scale for each row, so that
            products are of integers.

    Attributes:
        backbone: the twin, without adapters.

    Raises:
        ValueError: for another mode, or a backbone that is quantized already.
    """

    def __init__(self, backbone, mode: str = "int8", quantize_activations: bool = False):
        if mode != "int8":
            raise ValueError(f"A rollout's weights can be quantized to 'int8' only. Received: mode={mode!r}")
        quantized = [layer.path for layer in flatten_layers(backbone) if layer.quantization_mode is not None]
        if quantized:
            raise ValueError(
                "The backbone is quantized already, so its weights are no plain numbers. "
                f"Received: backbone={backbone.name}, with the quantized layer {quantized[0]}"
            )
        self.backbone = abstract_quantized(backbone, mode, quantize_activations)
        for variable in self.backbone.variables:
            set_value(variable, jax.ShapeDtypeStruct(variable.shape, variable.dtype))
        positions = {id(variable): position for position, variable in enumerate(backbone.variables)}
        self._size = len(positions)
        self._kept = []  # (position, variable of the twin)
        self._quantized = []  # (position, layer of the twin, attributes of the int8 weight and its scale, axis)
        for layer, twin in zip(flatten_layers(backbone), flatten_layers(self.backbone), strict=True):
            if type(layer) not in _QUANTIZED_LAYERS:
                pairs = zip(_own_variables(layer), _own_variables(twin), strict=True)
                self._kept += [(positions[id(variable)], copy) for variable, copy in pairs]
                continue
            if getattr(layer, "bias", None) is not None:
                self._kept.append((positions[id(layer.bias)], twin.bias))
            for weight, scale, axis in _quantized_weights(twin):
                self._quantized.append((positions[id(getattr(layer, weight))], twin, weight, scale, axis))

    def values(self, values: list) -> list:
        """Quantizes. Pure, so it may run inside `jax.jit`.

        Args:
            values: of the variables of the backbone that was passed, in the order of its `variables`, adapters merged
                into the kernels (see `lora.merged_kernels`); the adapters' own values are not read.

        Returns:
            The values of the twin's `variables`, in their order: int8 weights, scales in the weights' dtype, and the
            rest as it came.

        Raises:
            ValueError: if there are more or fewer values than variables.
        """
        if len(values) != self._size:
            raise ValueError(f"The backbone has {self._size} variables. Received: {len(values)} values")
        results = {id(variable): values[position] for position, variable in self._kept}
        for position, layer, weight, scale, axis in self._quantized:
            pair = _quantize(layer, values[position], axis)
            results |= zip((id(getattr(layer, weight)), id(getattr(layer, scale))), pair, strict=True)
        return [results[id(variable)] for variable in self.backbone.variables]


def quantize_base(backbone, mode: str) -> None:
    """Quantizes a backbone's weights in place, by Keras's own `quantize`, so that only adapters can be trained.

    `"int8"` is a number and a scale for each output feature, in an embedding for each token. `"int4"` packs two numbers
    of a linear layer into a byte, with a scale and a zero point for each 128 inputs (Keras's default), and leaves
    embeddings in int8: with those in 4 bits too, the KL of the embedded model to what it was is nearly twice as large,
    and its bytes are 5 % fewer. Norms and biases stay as they are.

    Activations stay float. With Keras's default for int8, which rounds them, no gradient would come through a tied
    embedding, as its logits would be a function of rounded numbers.

    Args:
        backbone: a built `keras_hub.models.Backbone` without adapters: call its `enable_lora` afterwards.
        mode: "int8" or "int4".
    """
    int8 = Int8QuantizationConfig(activation_quantizer=None)
    linear = int8 if mode == "int8" else _INT4
    backbone.quantize(config=int8, filters=lambda layer: type(layer) in _EMBEDDINGS)
    backbone.quantize(config=linear, filters=lambda layer: type(layer) in _LINEARS)


def abstract_quantized(backbone, mode: str, quantize_activations: bool = False):
    """What `quantize_base` makes of a backbone, as another one of the same class and config, in no memory.

    Args:
        backbone: of any size, whose values are not read.
        mode: "int8" or "int4".
        quantize_activations: see `QuantizedBackbone`.

    Returns:
        A backbone without adapters, whose variables have a path, a shape and a dtype, and no value.
    """
    # As keras-hub loads a quantized preset: by a dtype policy for each layer. No float kernel is ever made.
    policies = {}
    for layer in flatten_layers(backbone):
        if type(layer) in _EMBEDDINGS or (type(layer) in _LINEARS and mode == "int8"):
            policies[layer.path] = QuantizedDTypePolicy("int8", layer.dtype_policy.name)
        elif type(layer) in _LINEARS:
            policies[layer.path] = Int4DTypePolicy(f"int4/{_INT4.block_size}", layer.dtype_policy.name)
    dtype = DTypePolicyMap(backbone.dtype_policy, policies)
    with without_values(), own_dtype(type(backbone), dtype):
        twin = type(backbone).from_config({**backbone.get_config(), "dtype": dtype})
    for layer in flatten_layers(twin):
        if type(layer) in _QUANTIZED_LAYERS and not quantize_activations:
            layer.inputs_quantizer = None
    return twin


def _own_variables(layer):
    """Those of `layer` that none of its sublayers has."""
    inner = {id(v) for sublayer in flatten_layers(layer, include_self=False) for v in sublayer.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def _quantized_weights(layer):
    """The attributes of each int8 weight and of its scale, and the axis or axes over which a scale is shared."""
    if isinstance(layer, layers.EinsumDense):
        return [("_kernel", "kernel_scale", scale_axes(layer))]
    if isinstance(layer, layers.Dense):
        return [("_kernel", "kernel_scale", 0)]
    weights = [("_embeddings", "embeddings_scale", -1)]
    if not getattr(layer, "tie_weights", True):
        weights.append(("reverse_embeddings", "reverse_embeddings_scale", 0))
    return weights


def _quantize(layer, weight, axis):
    """`(int8 weight, scale)`, as `layer.quantize("int8")` lays them out."""
    # In float32, as NumPy does it there: it promotes a bfloat16 maximum to which it adds Keras's epsilon.
    quantized, scale = keras.quantizers.abs_max_quantize(ops.cast(weight, "float32"), axis)
    scale = ops.cast(scale, weight.dtype)
    if isinstance(layer, layers.EinsumDense):
        return quantized, stored_scale(layer, scale)
    return quantized, ops.squeeze(scale, axis)
