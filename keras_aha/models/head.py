"""`float32_logits`: the head of a language model, whose logits are never rounded to bfloat16.

Between 16 and 32 a bfloat16 logit has a spacing of 0.125, up to 0.06 nats a token, and Gemma 2 caps its logits at 30.
ScaleRL (arXiv:2510.13786) measured what a float32 head alone is worth in training.
"""

from keras_aha.models.internals import embeddings_variable

import jax
import jax.numpy as jnp
from keras import ops


def float32_logits(embedding, hidden):
    """What `embedding(hidden, reverse=True)` gives, with the product, the soft cap and the gradients in float32.

    The product takes its inputs in the embedding's dtype: no float32 copy of the table is made.

    Args:
        embedding: a `keras.layers.ReversibleEmbedding`, tied or not, in float or in int8. Quantized otherwise, it
            computes by itself, and only the result is float32.
        hidden: `(…, D)`, in the dtype that the model computes in.

    Returns:
        `(…, V)` float32.
    """
    is_int8 = embedding.quantization_mode == "int8"
    if embedding.quantization_mode is not None and not is_int8:
        return embedding(hidden, reverse=True).astype("float32")
    if not embedding.tie_weights:
        table = jnp.swapaxes(ops.convert_to_tensor(embedding.reverse_embeddings), 0, 1)
        scale = embedding.reverse_embeddings_scale if is_int8 else None
    elif is_int8:
        table, scale = embeddings_variable(embedding), embedding.embeddings_scale
    else:
        table, scale = embedding.embeddings, None
    logits = _product(*(ops.cast(x, embedding.compute_dtype) for x in (hidden, table)))
    if scale is not None:
        logits = logits / ops.cast(scale, "float32")
    cap = embedding.logit_soft_cap
    return logits if cap is None else jnp.tanh(logits / cap) * cap


@jax.custom_vjp
def _product(hidden, table):
    return jnp.matmul(hidden, table.T, preferred_element_type="float32")


def _forward(hidden, table):
    return _product(hidden, table), (hidden, table)


def _backward(arguments, gradient):
    hidden, table = arguments
    gradient = gradient.astype(table.dtype)  # or JAX would copy the table to float32 for the product
    rows = list(range(hidden.ndim - 1))
    by_hidden = jnp.matmul(gradient, table, preferred_element_type="float32")
    by_table = jnp.tensordot(gradient, hidden, (rows, rows), preferred_element_type="float32")
    return by_hidden.astype(hidden.dtype), by_table.astype(table.dtype)


_product.defvjp(_forward, _backward)
