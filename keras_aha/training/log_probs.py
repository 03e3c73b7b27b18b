"""Log-probs of given completions under a `CausalLM`, without ever holding `(B, T, V)` logits."""

from typing import NamedTuple

from keras_aha.decoding import decoder_for
from keras_aha.distribution.distribute import batch_parts
from keras_aha.losses import kl_divergence
from keras_aha.models.head import float32_logits
from keras_aha.models.internals import flatten_layers

import jax
import jax.numpy as jnp
import keras_hub

_CHUNK_ELEMENTS = 2**26  # logits held at a time on each device: 256 MiB in float32


class TeacherStates(NamedTuple):
    """What a teacher's distributions at all positions follow from: `hidden` `(B, C, D)`, and how it is unembedded."""

    hidden: jax.Array
    unembedding: object
    temperature: float
    exact: bool


def completion_log_probs(
    policy, prompt_ids, prompt_mask, completion_ids, temperature, entropy_gradient: bool = False, teacher=None
):
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
        teacher: `TeacherStates` for the same tokens, or None.

    Returns:
        `(log_probs, entropy)`, both `(B, C)` float32, in nats, of the full softmax at that temperature. With a teacher
        `(log_probs, entropy, kl)`: KL(policy ‖ teacher) at each position with its gradient, exact or sampled.

    Raises:
        ValueError: what `check_positions` raises.
    """
    check_positions(policy)
    hidden = hidden_states(policy, prompt_ids, prompt_mask, completion_ids)
    unembedding = policy.backbone.token_embedding

    def log_probs_of(hidden, targets, teacher_hidden=None):
        log_softmax = jax.nn.log_softmax(float32_logits(unembedding, hidden) / temperature[:, None, None])
        log_probs = jnp.take_along_axis(log_softmax, targets[..., None], axis=-1)[..., 0]
        fixed = log_softmax if entropy_gradient else jax.lax.stop_gradient(log_softmax)
        outputs = log_probs, -jnp.sum(jnp.exp(fixed) * fixed, axis=-1)
        return outputs if teacher is None else (*outputs, _of_teacher(teacher, teacher_hidden, targets, log_softmax))

    has_gradient = (True, entropy_gradient) if teacher is None else (True, entropy_gradient, teacher.exact)
    frozen = not any(variable.trainable for variable in unembedding.variables)
    log_probs_of = _linearized(log_probs_of, has_gradient) if frozen else jax.checkpoint(log_probs_of)
    inputs = (hidden, completion_ids) if teacher is None else (hidden, completion_ids, teacher.hidden)
    logits = policy.backbone.vocabulary_size * (1 if teacher is None else 2)  # at a position
    chunks = tuple(_split(x, logits) for x in inputs)
    _, outputs = jax.lax.scan(lambda _, chunk: (None, log_probs_of(*chunk)), None, chunks)
    shape = len(completion_ids), -1
    outputs = tuple(jnp.moveaxis(x, 0, 1).reshape(shape)[:, : completion_ids.shape[1]] for x in outputs)
    if teacher is None or teacher.exact:
        return outputs
    log_probs, entropy, teacher_log_probs = outputs
    return log_probs, entropy, kl_divergence(log_probs, teacher_log_probs, "k1+")


def _of_teacher(teacher, hidden, targets, log_softmax):
    """Σᵥ π(v) (log π(v) − log π_T(v)) at each position if it is exact, else log π_T of the target, `(B, C)`."""
    logits = jax.lax.stop_gradient(float32_logits(teacher.unembedding, hidden))
    teacher_log_softmax = jax.nn.log_softmax(logits / teacher.temperature)
    if teacher.exact:
        return jnp.sum(jnp.exp(log_softmax) * (log_softmax - teacher_log_softmax), axis=-1)
    return jnp.take_along_axis(teacher_log_softmax, targets[..., None], axis=-1)[..., 0]


def hidden_states(policy, prompt_ids, prompt_mask, completion_ids):
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


def _linearized(log_probs_of, has_gradient):
    """The same function; its outputs' gradients to `hidden` are taken at once, while the logits are there.

    Each position depends on its own hidden state alone, so what the backward pass needs is one vector a position and
    output, as large as the hidden state, and the logits are computed once and not twice. Nothing else gets a gradient.
    """

    def forward(hidden, *others):
        outputs, pull = jax.vjp(lambda hidden: log_probs_of(hidden, *others), hidden)
        one, zero = jnp.ones_like(outputs[0]), jnp.zeros_like(outputs[0])
        ones = [tuple(one if i == j else zero for j in range(len(outputs))) for i in range(len(outputs))]
        directions = [pull(x)[0] if is_on else None for x, is_on in zip(ones, has_gradient, strict=True)]
        return outputs, (directions, [None] * len(others))

    def backward(residuals, gradients):
        directions, nothing = residuals
        terms = [d * g[..., None].astype(d.dtype) for d, g in zip(directions, gradients, strict=True) if d is not None]
        return sum(terms), *nothing

    function = jax.custom_vjp(log_probs_of)
    function.defvjp(forward, backward)
    return function


def _split(x, vocabulary_size: int):
    """`(B, C, …)` → `(chunks, B, C / chunks, …)`, zero-padded at the end of C."""
    batch, length = x.shape[:2]
    size = min(length, max(1, _CHUNK_ELEMENTS * batch_parts() // (batch * vocabulary_size)))
    x = jnp.pad(x, [(0, 0), (0, -length % size)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, -1, size, *x.shape[2:]), 1, 0)
