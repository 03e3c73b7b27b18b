"""FSDP: gathers weights that are split along "batch" layer by layer, while they are used (arXiv:2304.11277).

This and `training/linear_gradients.py` both replace the `call` of linear layers. `gathering` is entered second and
wraps the other: a kernel is gathered, the product is computed with the whole kernel, and the kernel is let go.
"""

import contextlib

from keras_aha.models.internals import flatten_layers, layout_of, replaced_calls

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec
from keras import layers


@contextlib.contextmanager
def gathering(model, scope: keras.StatelessScope, micro_batch):
    """Gathers each linear layer's weights from the devices of "batch" when it is called, and then lets go of them.

    Left to itself, XLA moves activations between devices as well. If a block's activations are computed again in the
    backward pass, so are its gathered weights: of a large model no more than a block's are whole at a time. Embeddings,
    which are used at both ends, are gathered once. If no weights are split along "batch", nothing happens.

    Args:
        model: a Keras layer or model, to be traced in the block.
        scope: the `keras.StatelessScope` that holds the values of its variables.
        micro_batch: an array that differs from one micro-batch to the next. Weights are made to depend on it, or XLA
            would gather all of them once, before the loop over micro-batches.
    """
    split = [layer for layer in flatten_layers(model) if layer.built and _split_variables([layer])]
    embeddings = _split_variables(layer for layer in split if isinstance(layer, layers.Embedding))
    linears = [layer for layer in split if isinstance(layer, (layers.Dense, layers.EinsumDense))]
    kernels = _split_variables(linears)

    def make(layer, call):
        def call_gathered(*args, **kwargs):
            with _gathered(_split_variables([layer]), scope):
                return call(*args, **kwargs)

        return call_gathered

    with _gathered(embeddings, scope), _restored(kernels, scope):  # embeddings before that loop, which does no harm
        values = [scope.get_current_value(kernel) for kernel in kernels]
        values, _ = jax.lax.optimization_barrier((values, micro_batch))
        for pair in zip(kernels, values, strict=True):
            scope.add_update(pair)
        with replaced_calls(linears, make):
            yield


def as_split(variables, values) -> list:
    """Values, such as gradients, laid out as their variables are; for use inside a jit."""
    return [
        value if layout is None else jax.lax.with_sharding_constraint(value, layout.backend_layout)
        for layout, value in zip(map(layout_of, variables), values, strict=True)
    ]


def _split_variables(holders) -> list:
    variables = [variable for layer in holders for variable in layer.variables]
    return [variable for variable in variables if layout_of(variable) and "batch" in layout_of(variable).axes]


@contextlib.contextmanager
def _restored(variables, scope):
    """Afterwards the variables have the values they had: what was made in one trace is of no use in the next."""
    before = [(variable, scope.get_current_value(variable)) for variable in variables]
    try:
        yield
    finally:
        for pair in before:
            scope.add_update(pair)


@contextlib.contextmanager
def _gathered(variables, scope):
    """The variables are whole along "batch" while the block is traced."""
    with _restored(variables, scope):
        for variable in variables:
            split = layout_of(variable).backend_layout
            axes = [None if axis == "batch" else axis for axis in layout_of(variable).axes]
            # Said to be split first: else XLA takes them to be whole in `jax.checkpoint`'s barrier too, and keeps those
            # of the forward pass for the backward one.
            value = jax.lax.with_sharding_constraint(scope.get_current_value(variable), split)
            whole = NamedSharding(split.mesh, PartitionSpec(*axes))
            scope.add_update((variable, jax.lax.with_sharding_constraint(value, whole)))
        yield
