"""Weights that are split along "batch" are whole only while they are used."""

import contextlib
import functools

from keras_aha.models.internals import flatten_layers, layout_of, replaced_calls

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
    embeddings = _split_variables(_of_kind(model, (layers.Embedding, layers.ReversibleEmbedding)))
    linears = [layer for layer in _of_kind(model, (layers.Dense, layers.EinsumDense)) if _split_variables([layer])]
    kernels = _split_variables(linears)
    before = [(variable, scope.get_current_value(variable)) for variable in [*embeddings, *kernels]]
    _gather(embeddings, scope)  # before that loop, which does no harm
    values, _ = jax.lax.optimization_barrier(([scope.get_current_value(kernel) for kernel in kernels], micro_batch))
    _update(scope, zip(kernels, values, strict=True))
    try:
        with replaced_calls(linears, lambda layer, call: functools.partial(_call_gathered, call, [layer], scope)):
            yield model
    finally:
        _update(scope, before)  # what was made in one trace is of no use in the next


def as_split(variables, values) -> list:
    """Values, such as gradients, laid out as their variables are; for use inside a jit."""
    return [
        value if layout is None else jax.lax.with_sharding_constraint(value, layout.backend_layout)
        for layout, value in zip(map(layout_of, variables), values, strict=True)
    ]


def _of_kind(model, kinds):
    return [layer for layer in flatten_layers(model) if isinstance(layer, kinds) and layer.built]


def _split_variables(holders):
    variables = [variable for layer in holders for variable in layer.variables]
    return [variable for variable in variables if layout_of(variable) and "batch" in layout_of(variable).axes]


def _call_gathered(call, layers, scope, *args, **kwargs):
    variables = _split_variables(layers)
    before = [(variable, scope.get_current_value(variable)) for variable in variables]
    _gather(variables, scope)
    try:
        return call(*args, **kwargs)
    finally:
        _update(scope, before)


def _gather(variables, scope):
    for variable in variables:
        split = layout_of(variable).backend_layout
        axes = [None if axis == "batch" else axis for axis in layout_of(variable).axes]
        # Said to be split first: XLA takes whole weights to be whole in `jax.checkpoint`'s barrier too, and so would
        # keep those of the forward pass for the backward one.
        value = jax.lax.with_sharding_constraint(scope.get_current_value(variable), split)
        whole = NamedSharding(split.mesh, PartitionSpec(*axes))
        scope.add_update((variable, jax.lax.with_sharding_constraint(value, whole)))


def _update(scope, pairs):
    for pair in pairs:
        scope.add_update(pair)
