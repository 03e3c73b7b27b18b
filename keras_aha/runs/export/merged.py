"""The policy of a run as plain float weights, its adapters multiplied into the kernels."""

import math

from keras_aha.models import lora
from keras_aha.models.internals import flatten_layers
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_policy import build_policy

import keras
import keras_hub
from keras import ops


def merge(policy, recipe: Recipe) -> keras_hub.models.CausalLM:
    """A policy of `load_trained` that computes what it did, in float weights; its adapters are 0, or there are none.

    Where the base is not quantized it is `policy` itself. Else it is another one, whose weights are what the quantized
    layers compute with, and not the floats that those were made of: the adapters were trained beside the former. Then
    it is one of Gemma, Gemma 2 or Gemma 3, whose layers have no biases.
    """
    if recipe.model.quantization is None:
        lora.merge(policy)
        return policy
    merged = build_policy(recipe, adapters=False)
    layers = zip(flatten_layers(policy.backbone), flatten_layers(merged.backbone), strict=True)
    for layer, plain in layers:
        if layer.quantization_mode is not None:
            (weight,) = plain.weights
            weight.assign(_effective_weight(layer, weight.shape))
    return merged


def _effective_weight(layer, shape):
    """What a quantized layer makes of each token, or of each unit vector: rows of its weight, adapters in it."""
    if isinstance(layer, keras.layers.Embedding):
        return layer(ops.arange(shape[0]))
    if isinstance(layer, keras.layers.Dense):
        return layer(ops.eye(shape[0]))
    equation, outputs = layer.equation.split("->")  # "btd,ndh->btnh", after batch and time
    inputs, kernel = equation.split(",")
    inputs, outputs = inputs[2:], outputs[2:]
    sizes = dict(zip(kernel, shape, strict=True))
    inner = [sizes[letter] for letter in inputs]
    rows = layer(ops.reshape(ops.eye(math.prod(inner)), (1, -1, *inner)))
    return ops.einsum(f"{inputs}{outputs}->{kernel}", ops.reshape(rows, [sizes[x] for x in inputs + outputs]))
