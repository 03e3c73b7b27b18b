"""The segment loop: prompts in, completions and their log-probs out. Knows ids, neither text nor rewards."""

import contextlib
import functools
from typing import NamedTuple

from keras_aha.decoding.gemma_decoder import GemmaDecoder
from keras_aha.decoding.sampling import sample
from keras_aha.lora import adapters_off

import jax
import jax.numpy as jnp
import keras
import numpy as np

SEGMENT = 64  # tokens decoded in one jit; the cache grows by as much between two


class Completions(NamedTuple):
    """What was sampled, as NumPy arrays.

    Attributes:
        token_ids: `(B, C)` int32, 0 after the end of a completion.
        log_probs: `(B, C)` float32, 0 after the end.
        lengths: `(B,)` int32, tokens of each completion, its stop token included.
        stopped: `(B,)` bool, whether it ended with a stop token; otherwise it ran into the limit.
    """

    token_ids: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray
    stopped: np.ndarray


class _State(NamedTuple):
    """The loop between two tokens: `position` tokens are written, `hidden` predicts the next one."""

    position: jax.Array  # () int32
    hidden: jax.Array  # (B, D)
    cache: tuple  # a layer: K and V, (B, K, cache length, H)
    token_ids: jax.Array  # (B, C) int32
    log_probs: jax.Array  # (B, C) float32
    alive: jax.Array  # (B,) bool


class Sampling(NamedTuple):
    """The settings that a program is compiled for."""

    stop_token_ids: tuple[int, ...]
    top_k: int | None = None
    top_p: float | None = None


def generate(
    backbone, weights, token_ids, padding_mask, *, group_size, max_completion_length, temperature, sampling, keys
) -> Completions:
    """Samples `group_size` completions of each prompt; row p·G + g is completion g of prompt p.

    Args:
        backbone: a `GemmaBackbone`.
        weights: the values of `backbone.variables`, in that order, adapters merged.
        token_ids, padding_mask: `(P, L)` left-padded prompts.
        group_size: G.
        max_completion_length: C.
        temperature: float; 0 is greedy.
        sampling: `Sampling`.
        keys: `(B,)` from `row_keys`.
    """
    padding_mask = jnp.asarray(padding_mask, "int32")
    state = _prefill(backbone, group_size, weights, jnp.asarray(token_ids), padding_mask)
    prompt_mask = jnp.repeat(padding_mask > 0, group_size, axis=0)
    token_ids, log_probs = [], []
    for start in range(0, max_completion_length, SEGMENT):
        length = min(SEGMENT, max_completion_length - start)
        state = _segment(backbone, length, sampling, weights, state, prompt_mask, keys, temperature)
        token_ids.append(np.asarray(state.token_ids))
        log_probs.append(np.asarray(state.log_probs))
        if not np.any(state.alive):
            break
    rest = [(0, 0), (0, max_completion_length - sum(part.shape[1] for part in token_ids))]
    token_ids = np.pad(np.concatenate(token_ids, axis=1), rest)
    log_probs = np.pad(np.concatenate(log_probs, axis=1), rest)
    is_stop = np.isin(token_ids, sampling.stop_token_ids)
    stopped = is_stop.any(axis=1)
    lengths = np.where(stopped, is_stop.argmax(axis=1) + 1, max_completion_length)
    return Completions(token_ids, log_probs, lengths.astype("int32"), stopped)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prefill(backbone, group_size, weights, token_ids, padding_mask):
    """Reads each prompt once and repeats its state for its group."""
    with _variables_at(backbone, weights):
        hidden, cache = GemmaDecoder(backbone).prefill(token_ids, padding_mask)
    hidden, cache = jax.tree.map(lambda x: jnp.repeat(x, group_size, axis=0), (hidden, cache))
    rows = hidden.shape[0]
    nothing = jnp.zeros((rows, 0))
    return _State(jnp.int32(0), hidden, cache, nothing.astype("int32"), nothing, jnp.ones(rows, bool))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _segment(backbone, length, sampling, weights, state, prompt_mask, keys, temperature):
    """Up to `length` more tokens a row: stops early when every row has stopped."""
    rows, prompt_length = prompt_mask.shape
    start = state.position
    grow = [(0, 0), (0, 0), (0, length), (0, 0)]
    cache = jax.tree.map(lambda x: jnp.pad(x, grow), state.cache)
    key_mask = jnp.pad(prompt_mask, [(0, 0), (0, cache[0][0].shape[2] - prompt_length)])
    key_positions = jnp.arange(key_mask.shape[1])
    stops = jnp.asarray(sampling.stop_token_ids, "int32")

    def unfinished(state):
        return (state.position < start + length) & state.alive.any()

    def next_token(state):
        with _variables_at(backbone, weights):
            decoder = GemmaDecoder(backbone)
            logits = decoder.logits(state.hidden)
            tokens, log_probs = sample(logits, keys, state.position, temperature, sampling.top_k, sampling.top_p)
            tokens = jnp.where(state.alive, tokens, 0)
            index = prompt_length + state.position
            visible = key_mask | ((key_positions >= prompt_length) & (key_positions <= index))
            hidden, cache = decoder.step(tokens, visible, index, state.cache)
        column = state.position - start
        return _State(
            state.position + 1,
            hidden,
            cache,
            state.token_ids.at[:, column].set(tokens),
            state.log_probs.at[:, column].set(jnp.where(state.alive, log_probs, 0.0)),
            state.alive & ~jnp.isin(tokens, stops),
        )

    empty = jnp.zeros((rows, length))
    state = state._replace(cache=cache, token_ids=empty.astype("int32"), log_probs=empty)
    return jax.lax.while_loop(unfinished, next_token, state)


@contextlib.contextmanager
def _variables_at(backbone, weights):
    """Runs the backbone on `weights`, into which its adapters are merged already."""
    with adapters_off(backbone), keras.StatelessScope(list(zip(backbone.variables, weights, strict=True))):
        yield
