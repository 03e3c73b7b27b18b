"""Model flops: what the mathematics of a pass needs (PaLM, arXiv:2204.02311, appendix B).

Divided by what the device could have done in that time, they are its utilisation. Padding, and activations computed
again to save memory, are no model flops.
"""

import math

from keras_aha.models.internals import embeddings_variable, flatten_layers, kernel_variable

import numpy as np
from keras import layers

_QUERIES = ("query", "q_proj")  # names of the layer, the latter in SmolLM3


def forward_flops(backbone, lengths, completion_lengths, share=1.0) -> float:
    """Model flops of one forward pass, two for each multiply-add.

    Counted are, for each token, the kernels of `Dense` and `EinsumDense` layers and their adapters where those are on,
    x·A and then ·B; for each token and each token up to it, scores and values of attention, so that what a causal mask
    hides is left out, but not what a sliding window hides; and for each completion token the unembedding. Left out are
    norms, activation functions and all else that is no matrix product, adapters of embeddings, and the experts of a
    mixture.

    Args:
        backbone: a `keras_hub.models.Backbone` with a `token_embedding`, such as a `GemmaBackbone`.
        lengths: `(B,)`, tokens of each row, its completion included, its padding not.
        completion_lengths: `(B,)`, those of its completion.
        share: `(B,)` or a number, of its prompt that counts for a row: 1 / G if G rows share one that is read once.
    """
    return _flops(backbone, lengths, completion_lengths, share, backward=False)


def update_flops(backbone, lengths, completion_lengths, share=1.0) -> float:
    """Model flops of a forward and a backward pass; arguments and what is counted as in `forward_flops`.

    A product with trained weights costs three times its forward, and so does attention; one with frozen weights twice,
    as it needs no gradient of the weights.
    """
    return _flops(backbone, lengths, completion_lengths, share, backward=True)


def _flops(backbone, lengths, completion_lengths, share, backward: bool) -> float:
    lengths = np.asarray(lengths, "float64")
    prompts, left_out = lengths - completion_lengths, 1.0 - np.asarray(share)
    tokens = np.sum(lengths - left_out * prompts)
    pairs = np.sum(lengths * (lengths + 1) / 2 - left_out * prompts * (prompts + 1) / 2)

    def passes(trained: bool) -> int:
        return 2 + trained if backward else 1

    total = 0.0  # multiply-adds
    for layer in flatten_layers(backbone):
        if not isinstance(layer, (layers.Dense, layers.EinsumDense)):
            continue
        shape, features = _kernel_shape(layer), _output_features(layer)
        total += tokens * math.prod(shape) * passes(kernel_variable(layer).trainable)
        if layer.lora_enabled:
            total += tokens * layer.lora_rank * (math.prod(shape[:-1]) + features) * passes(True)
        if layer.name in _QUERIES:  # its features are all heads', which scores and values have too
            total += 2 * pairs * features * passes(True)
    embedding = backbone.token_embedding
    unembedding = embeddings_variable(embedding) if embedding.tie_weights else embedding.reverse_embeddings
    size = embedding.input_dim * embedding.output_dim
    total += np.sum(completion_lengths) * size * passes(unembedding.trainable)
    return float(2 * total)


def _kernel_shape(layer) -> tuple[int, ...]:
    """As it was before quantization, which packs two numbers of an int4 kernel into a byte."""
    if isinstance(layer, layers.Dense):
        return layer.input_spec.axes[-1], layer.units
    return tuple(layer.original_kernel_shape if layer.quantization_mode == "int4" else kernel_variable(layer).shape)


def _output_features(layer) -> int:
    if isinstance(layer, layers.Dense):
        return layer.units
    operands, output = layer.equation.split("->")
    axes = zip(operands.split(",")[1], _kernel_shape(layer), strict=True)
    return math.prod(size for axis, size in axes if axis in output)
