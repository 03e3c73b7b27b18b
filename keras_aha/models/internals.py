"""All private names of Keras, keras-hub, JAX and orbax that keras-aha uses; no other file uses any.

Each function says why there is no public way, with a link. `tests/models/test_internals.py` fails if an upgrade takes
one of them away or changes what it does.
"""

import contextlib

import jax
import jax.numpy as jnp
import keras
from keras.src.backend.common import global_state

_PENDING = "uninitialized_variables"


def flatten_layers(layer, include_self: bool = True) -> list:
    """All layers inside a layer, itself first. `Model.layers` has the first level only.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py (`_flatten_layers`)
    """
    return list(layer._flatten_layers(include_self=include_self))


def kernel_variable(layer) -> keras.Variable:
    """The variable of a `Dense` or `EinsumDense` kernel, without adapters; `layer.kernel` is W + s · A B, an array.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/core/dense.py (`kernel`, `_kernel`)
    """
    return layer._kernel


def embeddings_variable(layer) -> keras.Variable:
    """The variable of an embedding's table, without adapters; `layer.embeddings` is the sum, an array.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/core/embedding.py (`embeddings`, `_embeddings`)
    """
    return layer._embeddings


def layout_of(variable):
    """The `TensorLayout` of a variable, `None` without a distribution. Keras has no public getter.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/jax/core.py (`Variable._layout`)
    """
    return variable._layout


def initialize_layout(variable) -> None:
    """Gives a variable that has no value the layout that Keras would give it with its value.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/jax/core.py (`Variable._initialize_layout`)
    """
    variable._initialize_layout()


def set_value(variable, value) -> None:
    """Gives a variable a value that its `assign` refuses: a `jax.ShapeDtypeStruct`, or an array laid out otherwise.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/common/variables.py (`Variable._value`)
    """
    variable._value = value


def scale_axes(layer) -> list[int]:
    """The axes of an `EinsumDense` kernel over which `quantize` shares a scale.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/core/einsum_dense.py (`_kernel_reduced_axes`)
    """
    return layer._kernel_reduced_axes


def stored_scale(layer, scale):
    """The scale of a quantized `EinsumDense` kernel, its axes in the order in which the layer stores them.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/core/einsum_dense.py (`_adjust_scale_for_quant`)
    """
    return layer._adjust_scale_for_quant(scale, "kernel")


def rotate(attention, x, positions):
    """Rotary embedding as an attention layer of Gemma applies it: `(B, t, N, H)` at positions `(t,)` or `(B, t)`.

    Layers of Gemma 3 and 4 have several, and only this method knows which. It counts from a number on; an array of
    them, which Keras adds as it would the number, places each token by itself.
    https://github.com/keras-team/keras-hub/blob/v0.32.0/keras_hub/src/models/gemma/gemma_attention.py (`_apply_rope`)
    """
    if positions.ndim == 2:
        return jax.vmap(lambda row, positions: rotate(attention, row[None], positions)[0])(x, positions)
    return attention._apply_rope(x, positions - jnp.arange(x.shape[1]))


def is_rematerialised(layer) -> bool:
    """Whether a layer was made in a `keras.RematScope` that names it. Keras reads that only where it calls the layer.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py (`rematerialized_call`)
    """
    return layer._remat_mode is not None and layer.name in layer._remat_mode.layer_names


def empty_cache(policy, token_ids):
    """The cache that a keras-hub `CausalLM` makes for `call_with_cache`: hidden states and keys and values.
    https://github.com/keras-team/keras-hub/blob/v0.32.0/keras_hub/src/models/causal_lm.py (`_build_cache`)
    """
    return policy._build_cache(token_ids)


@contextlib.contextmanager
def replaced_calls(layers, make):
    """Puts `make(layer, call)`, with the arguments of `call`, in place of each layer's `call` while the block lasts.

    Blocks may be nested: a block that is entered later wraps what an earlier one has put there. `Layer.__call__` looks
    `call` up on the instance, and Keras has no hook around it that could replace its inputs or its result.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py (`Layer.__call__`)
    """
    before = [(layer, vars(layer).get("call")) for layer in layers]
    for layer in layers:
        layer.call = make(layer, layer.call)
    try:
        yield
    finally:
        for layer, call in before:
            del layer.call  # the class has one
            if call is not None:
                layer.call = call


@contextlib.contextmanager
def without_values():
    """Variables that are made in the block have a shape and no value, now and later.

    `keras.StatelessScope(initialize_variables=False)` alone puts their values off: Keras keeps a list of variables that
    wait, and the next model that is built anywhere gives all of them values.
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/common/variables.py
    (`register_uninitialized_variable`)
    """
    before = global_state.get_global_attribute(_PENDING, [])
    global_state.set_global_attribute(_PENDING, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(_PENDING, before)


@contextlib.contextmanager
def as_if_on(devices, platform: str):
    """While tracing in the block, JAX answers as if it had these devices, and no others.

    keras-hub asks it which attention to compute, and our rollouts which dtype the cache has. They are `jax.Device`s,
    also of a topology that is only compiled for; `platform` is "tpu", "gpu" or "cpu".
    https://github.com/jax-ml/jax/blob/jax-v0.10.2/jax/_src/xla_bridge.py (`devices`, `default_backend`)
    """
    real = jax.devices, jax.default_backend
    jax.devices = lambda backend=None: list(devices) if backend is None else real[0](backend)
    jax.default_backend = lambda: platform
    try:
        yield
    finally:
        jax.devices, jax.default_backend = real


def count_no_bytes() -> None:
    """Lets orbax not ask tensorstore at each checkpoint, for its log, how many bytes it has written.

    What tensorstore 0.1.86 answers stays in memory as long as the process: 24 lists, some 50 KiB a checkpoint.
    https://github.com/google/orbax/blob/main/checkpoint/orbax/checkpoint/_src/serialization/tensorstore_utils.py
    (`get_tensorstore_raw_bytes`)
    """
    from orbax.checkpoint._src.serialization import tensorstore_utils  # heavy, and models need none

    tensorstore_utils.get_tensorstore_raw_bytes = lambda *args, **settings: 0
