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
    embeddings = _split_variables(_of_kind(model, (layers.Embedding, layers.ReversibleEmbedding)))
    linears = [layer for layer in _of_kind(model, (layers.Dense, layers.EinsumDense)) if _split_variables([layer])]
    kernels = _split_variables(linears)
    before = [(variable, scope.get_current_value(variable)) for variable in [*embeddings, *kernels]]
    _gather(embeddings, scope)  # before that loop, which does no harm
    values, _ = jax.lax.optimization_barrier(([scope.get_current_value(kernel) for kernel in kernels], micro_batch))
    _update(scope, zip(kernels, values, strict=True))
    calls = [vars(layer).get("call") for layer in linears]  # there may be one of `linear_gradients`
    for layer in linears:
        layer.call = functools.partial(_call_gathered, layer.call, _split_variables([layer]), scope)
    try:
        yield model
    finally:
        _update(scope, before)  # what was made in one trace is of no use in the next
        for layer, call in zip(linears, calls, strict=True):
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


def _split_variables(holders):
    variables = [variable for layer in holders for variable in layer.variables]
    return [variable for variable in variables if variable._layout and "batch" in variable._layout.axes]


def _call_gathered(call, variables, scope, *args, **kwargs):
    before = [(variable, scope.get_current_value(variable)) for variable in variables]
    _gather(variables, scope)
    try:
        return call(*args, **kwargs)
    finally:
        _update(scope, before)


def _gather(variables, scope):
    for variable in variables:
        split = variable._layout.backend_layout
        axes = [None if axis == "batch" else axis for axis in variable._layout.axes]
        # Said to be split first: XLA takes whole weights to be whole in `jax.checkpoint`'s barrier too, and so would
        # keep those of the forward pass for the backward one.
        value = jax.lax.with_sharding_constraint(scope.get_current_value(variable), split)
        whole = NamedSharding(split.mesh, PartitionSpec(*axes))
        scope.add_update((variable, jax.lax.with_sharding_constraint(value, whole)))


def _update(scope, pairs):
    for pair in pairs:
        scope.add_update(pair)
