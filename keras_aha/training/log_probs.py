"""Log-probs of given completions under a `CausalLM`, without ever holding `(B, T, V)` logits."""

from keras_aha.decoding import decoder_for
from keras_aha.distribution.distribute import batch_parts
from keras_aha.models.head import float32_logits
from keras_aha.models.internals import flatten_layers

import jax
import jax.numpy as jnp
import keras_hub

_CHUNK_ELEMENTS = 2**26  # logits held at a time on each device: 256 MiB in float32


def completion_log_probs(policy, prompt_ids, prompt_mask, completion_ids, temperature, entropy_gradient: bool = False):
    """Log-prob of each completion token, and the entropy of the distribution it was drawn from.

    A Gemma reads each prompt once for its G completions. Only the positions that predict completion tokens are
    unembedded, chunk by chunk. Where the embedding is trained, the backward pass computes the logits of each chunk
    again.

    Args:
        policy: a keras-hub `CausalLM`; its variables are read at call time, so it may be inside a `StatelessScope`.
        prompt_ids, prompt_mask: `(P, L)`, left-padded.
        completion_ids: `(B, C)`, G = B / P completions of each prompt in adjacent rows.
        temperature: `(B,)` float32, divides the logits.
        entropy_gradient: whether the entropy has one.

    Returns:
        `(log_probs, entropy)`, both `(B, C)` float32, in nats, of the full softmax at that temperature.

    Raises:
        ValueError: what `check_positions` raises.
    """
    check_positions(policy)
    hidden, targets = _hidden_states(policy, prompt_ids, prompt_mask, completion_ids), completion_ids
    unembedding = policy.backbone.token_embedding
    vocabulary_size = policy.backbone.vocabulary_size

    def log_probs_of(hidden, targets):
        logits = float32_logits(unembedding, hidden)
        log_softmax = jax.nn.log_softmax(logits / temperature[:, None, None])
        log_probs = jnp.take_along_axis(log_softmax, targets[..., None], axis=-1)[..., 0]
        fixed = log_softmax if entropy_gradient else jax.lax.stop_gradient(log_softmax)
        return log_probs, -jnp.sum(jnp.exp(fixed) * fixed, axis=-1)

    frozen = not any(variable.trainable for variable in unembedding.variables)
    log_probs_of = _linearized(log_probs_of, entropy_gradient) if frozen else jax.checkpoint(log_probs_of)
    chunks = _split(hidden, vocabulary_size), _split(targets, vocabulary_size)
    _, outputs = jax.lax.scan(lambda _, chunk: (None, log_probs_of(*chunk)), None, chunks)
    return tuple(jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)[:, : targets.shape[1]] for x in outputs)


def _hidden_states(policy, prompt_ids, prompt_mask, completion_ids):
    """What predicts each token of the completions, `(B, C, D)`; a model without a `Decoder` computes it by itself."""
    decoder = decoder_for(policy.backbone)
    if decoder is not None:
        return decoder.read_completions(prompt_ids, jnp.argmax(prompt_mask, axis=1), completion_ids)
    group, length = len(completion_ids) // len(prompt_ids), prompt_ids.shape[1]
    token_ids, padding_mask = (jnp.repeat(x, group, axis=0) for x in (prompt_ids, prompt_mask))
    token_ids = jnp.hstack([token_ids, completion_ids])
    padding_mask = jnp.hstack([padding_mask, jnp.ones_like(completion_ids)])  # nothing looks ahead to what is padding
    return policy.backbone({"token_ids": token_ids, "padding_mask": padding_mask})[:, length - 1 : -1]


def check_positions(policy) -> None:
    """Raises ValueError if `policy` has embeddings of absolute positions, which padding on the left would shift."""
    if any(isinstance(layer, keras_hub.layers.PositionEmbedding) for layer in flatten_layers(policy.backbone)):
        raise ValueError(
            "A policy with embeddings of absolute positions cannot be trained: prompts are padded on the left. "
            f"Received: policy={type(policy).__name__}"
        )


def _linearized(log_probs_of, entropy_gradient):
    """The same function; its gradient to `hidden` is taken at once, while the logits are there.

    Each position depends on its own hidden state alone, so what the backward pass needs is one vector a position, as
    large as the hidden state, and the logits are computed once and not twice. The unembedding gets no gradient.
    """

    def forward(hidden, targets):
        outputs, pull = jax.vjp(lambda hidden: log_probs_of(hidden, targets), hidden)
        one, zero = jnp.ones_like(outputs[0]), jnp.zeros_like(outputs[0])
        return outputs, [pull((one, zero))[0], pull((zero, one))[0] if entropy_gradient else None]

    def backward(directions, gradients):
        terms = [d * g[..., None].astype(d.dtype) for d, g in zip(directions, gradients, strict=True) if d is not None]
        return sum(terms), None

    function = jax.custom_vjp(log_probs_of)
    function.defvjp(forward, backward)
    return function


def _split(x, vocabulary_size: int):
    """`(B, C, …)` → `(chunks, B, C / chunks, …)`, zero-padded at the end of C."""
    batch, length = x.shape[:2]
    size = min(length, max(1, _CHUNK_ELEMENTS * batch_parts() // (batch * vocabulary_size)))
    x = jnp.pad(x, [(0, 0), (0, -length % size)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, -1, size, *x.shape[2:]), 1, 0)
