"""Weights that are split along "batch" are whole only while they are used."""

import contextlib
import functools

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec
from keras import layers


@contextlib.contextmanager
def gathering(model, scope: keras.StatelessScope, micro_batch):
    """Gathers each linear layer's weights from the devices of "batch" when it is called, and then lets go of them.

    This is fully sharded data parallelism (FSDP, arXiv:2304.11277). Left to itself, XLA moves activations between
    devices as well. Inside a block whose activations are computed again in the backward pass, so are gathered weights:
    of a large model no more than a block's are whole at a time. Embeddings, which are used at both ends, are gathered
    once. Without a distribution, or where it does not split weights along "batch", nothing happens.

    Args:
        model: a Keras layer or model, to be traced in the block.
        scope: the `keras.StatelessScope` that holds the values of its variables.
        micro_batch: an array that differs from one micro-batch to the next. Weights are made to depend on it, or XLA
            would gather all of them once, before the loop over micro-batches.

    Yields:
        `model`.
    """
    for embedding in _of_kind(model, (layers.Embedding, layers.ReversibleEmbedding)):
        _gather(_split_variables(embedding), scope)  # before that loop, which does no harm
    linears = [layer for layer in _of_kind(model, (layers.Dense, layers.EinsumDense)) if _split_variables(layer)]
    split = [variable for layer in linears for variable in _split_variables(layer)]
    values, _ = jax.lax.optimization_barrier(([scope.get_current_value(variable) for variable in split], micro_batch))
    for pair in zip(split, values, strict=True):
        scope.add_update(pair)
    before = [vars(layer).get("call") for layer in linears]  # there may be a call of `linear_gradients`
    for layer in linears:
        layer.call = functools.partial(_call_gathered, layer.call, _split_variables(layer), scope)
    try:
        yield model
    finally:
        for layer, call in zip(linears, before, strict=True):
            del layer.call
            if call is not None:
                layer.call = call


def as_split(variables, values) -> list:
    """Values, such as gradients, laid out as their variables are; for use inside a jit."""
    return [
        value if variable._layout is None else jax.lax.with_sharding_constraint(value, variable._layout.backend_layout)
        for variable, value in zip(variables, values, strict=True)
    ]


def _of_kind(model, kinds):
    return [layer for layer in model._flatten_layers() if isinstance(layer, kinds) and layer.built]


def _split_variables(layer):
    return [variable for variable in layer.variables if variable._layout and "batch" in variable._layout.axes]


def _call_gathered(call, variables, scope, *args, **kwargs):
    before = _gather(variables, scope)
    try:
        return call(*args, **kwargs)
    finally:
        for pair in before:
            scope.add_update(pair)


def _gather(variables, scope):
    """Makes variables whole in `scope`; returns `(variable, value)` pairs of what was there."""
    before = [(variable, scope.get_current_value(variable)) for variable in variables]
    for variable, value in before:
        layout = variable._layout.backend_layout
        axes = [None if axis == "batch" else axis for axis in variable._layout.axes]
        whole = jax.lax.with_sharding_constraint(value, NamedSharding(layout.mesh, PartitionSpec(*axes)))
        scope.add_update((variable, whole))
    return before
