"""What the sampler must do: the log-probs of the model's own forward, and which token a key draws, in float64."""

import functools

import jax
import keras
import numpy as np


@functools.partial(jax.jit, static_argnums=0)
def _forward(policy, weights, inputs):
    with keras.StatelessScope(list(zip(policy.backbone.variables, weights, strict=True))):
        return policy(inputs)


def forward_log_probs(policy, prompts, completions, temperature=1.0, weights=None):
    """Log-probs of all tokens at each place of each completion, `(B, C, V)`, by keras-hub's forward without a cache.

    `prompts` are `(token_ids, padding_mask)`, left-padded; here all padding is behind a row.
    """
    length = completions.token_ids.shape[1]
    live = np.arange(length) < completions.lengths[:, None]
    rows = [np.repeat(x, len(live) // len(prompts[0]), axis=0) for x in prompts]
    firsts = rows[1].sum(axis=1)  # tokens of each prompt
    token_ids = np.hstack([rows[0], completions.token_ids])
    columns = (np.arange(token_ids.shape[1] - 1) + (rows[1].shape[1] - firsts)[:, None]) % token_ids.shape[1]
    inputs = {"token_ids": token_ids, "padding_mask": np.hstack([rows[1], live]).astype("int32")}
    inputs = {name: np.take_along_axis(x, columns, axis=1) for name, x in inputs.items()}
    if "position_ids" in policy.backbone.input:
        inputs["position_ids"] = np.broadcast_to(np.arange(columns.shape[1], dtype="int32"), columns.shape)
    logits = _forward(policy, weights or [v.value for v in policy.backbone.variables], inputs)
    places = firsts[:, None] - 1 + np.arange(length)
    logits = np.take_along_axis(np.asarray(logits, "float64"), places[..., None], axis=1) / (temperature or 1.0)
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def assert_log_probs(completions, all_log_probs, atol=1e-5):
    """That the completions' log-probs are those of their tokens, and 0 after the end."""
    log_probs = np.take_along_axis(all_log_probs, completions.token_ids[..., None], axis=-1)[..., 0]
    live = np.arange(log_probs.shape[1]) < completions.lengths[:, None]
    np.testing.assert_allclose(completions.log_probs, np.where(live, log_probs, 0.0), atol=atol)


def uniforms(keys, length):
    """The two random numbers of each row's key at each position, `(B, length, 2)`."""

    def of_row(key):
        return jax.vmap(lambda position: jax.random.uniform(jax.random.fold_in(key, position), (2,)))(np.arange(length))

    return np.asarray(jax.jit(jax.vmap(of_row))(keys), "float64")


def drawn(probabilities, uniform):
    """`(…, V)` and `(…, 2)` → the token, and how far the nearer number is from one that would draw another, `(…)`."""
    size = probabilities.shape[-1]
    width = 2 ** int(np.log2(size) / 2)
    padded = np.zeros((*probabilities.shape[:-1], -(-size // width) * width))
    padded[..., :size] = probabilities
    blocks = padded.reshape(*probabilities.shape[:-1], -1, width)
    block, margin = _invert(blocks.sum(axis=-1), uniform[..., 0])
    inside, other = _invert(np.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :], uniform[..., 1])
    return block * width + inside, np.minimum(margin, other)


def _invert(weights, uniform):
    bounds = np.cumsum(weights, axis=-1) / weights.sum(axis=-1, keepdims=True)
    away = np.abs(bounds[..., :-1] - uniform[..., None]).min(axis=-1, initial=1.0)
    return np.sum(bounds <= uniform[..., None], axis=-1), away
