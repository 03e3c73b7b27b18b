"""The slow path: samples through the model's own `call_with_cache`, for a keras-hub `CausalLM` without a `Decoder`.

`call_with_cache` has all rows at one index and masks no padding, so prompts are padded on the right. The loop begins
where the shortest prompt ends. A row whose prompt goes on reads its own tokens, whatever is drawn for it. What its
padding left in the cache is overwritten before a query can see it.
"""

import functools
import inspect
import weakref
from typing import NamedTuple

from keras_aha.decoding.completions import Completions, empty_completions
from keras_aha.decoding.generate import prompt_starts, shares_of_a_group
from keras_aha.decoding.jitted_steps import SEGMENT
from keras_aha.decoding.sampling import FULL_SOFTMAX, Sampling, sample
from keras_aha.models.head import float32_logits
from keras_aha.models.internals import empty_cache, flatten_layers
from keras_aha.models.lora import using_merged

import jax
import jax.numpy as jnp
import keras_hub
import numpy as np

_CACHE_SLOTS = 3  # axis of keras-hub's cache, (rows, layers, 2, slots, heads, head dim)


class _State(NamedTuple):
    """What changes from token to token, for B rows of T = L + C tokens."""

    index: jax.Array  # () int32, column of the next token
    token_ids: jax.Array  # (B, T) int32, the prompt and then what was sampled
    log_probs: jax.Array  # (B, T) float32, of what was sampled
    lengths: jax.Array  # (B,) int32, tokens sampled
    cache: jax.Array  # of T - 1 slots: the last token is not read
    alive: jax.Array  # (B,) bool
    automaton: jax.Array  # (B,) int32, state of the stop table


def generate_with_cache(
    policy,
    weights,
    token_ids,
    padding_mask,
    keys,
    *,
    group_size: int,
    max_completion_length: int,
    stop_table,
    temperature: float = 1.0,
    sampling: Sampling = FULL_SOFTMAX,
    max_rows: int | None = None,
    on_segment=None,
    offsets=None,
    limits=None,
) -> Completions:
    """Does what `generate` does, with the same arguments but for these.

    Args:
        policy: a `keras_hub.models.CausalLM`.
        weights: the values of `policy.backbone.variables`, in that order, adapters merged.
        max_rows: rows decoded at a time, in one batch after the other: waiting prompts take no places of finished rows.
        offsets: `(B,)` int32, tokens of each completion that stand in its prompt, for its keys; `None` is 0.
        limits: `(B,)` int32, tokens at which each row is cut before C; `None` is C.

    Raises:
        ValueError: if a prompt is empty or not left-padded, or if the model cannot be decoded like this, or not so far.
    """
    check_policy(policy)
    token_ids = np.asarray(token_ids, "int32")
    prompt_length = token_ids.shape[1]
    _check_positions(policy, prompt_length + max_completion_length - 1)
    shares = shares_of_a_group(len(token_ids), group_size, 1, max_rows)
    token_ids, starts = (np.repeat(x, shares, axis=0) for x in (token_ids, prompt_starts(padding_mask)))
    group_size //= shares
    columns = (np.arange(prompt_length) + starts[:, None]) % prompt_length
    prompts = np.take_along_axis(token_ids, columns, axis=1)  # padded on the right
    settings = jnp.asarray(stop_table), temperature
    offsets = np.zeros(len(keys), "int32") if offsets is None else offsets
    limits = np.full(len(keys), max_completion_length, "int32") if limits is None else limits

    completions = empty_completions(len(prompts) * group_size, max_completion_length)
    prompts_at_once = max(1, (max_rows or len(keys)) // group_size)
    for prompt in range(0, len(prompts), prompts_at_once):
        batch = slice(prompt, prompt + prompts_at_once)
        rows = slice(prompt * group_size, min(batch.stop, len(prompts)) * group_size)
        firsts = np.repeat(prompt_length - starts[batch], group_size)  # column of each completion's first token
        state = _begin(weakref.ref(policy), weights, prompts[batch], firsts, max_completion_length)
        while state.alive.any():
            state = _segment(
                weakref.ref(policy),
                sampling,
                weights,
                state,
                keys[rows],
                firsts,
                offsets[rows],
                limits[rows],
                *settings,
            )
            completions.lengths[rows] = state.lengths
            if on_segment is not None:
                alive = int(state.alive.sum()) + len(completions.lengths) - rows.stop
                on_segment(alive, int(completions.lengths.sum()))
        live = np.arange(max_completion_length) < completions.lengths[rows, None]
        columns = firsts[:, None] + np.arange(max_completion_length)
        for name in ("token_ids", "log_probs"):
            sampled = np.take_along_axis(np.asarray(getattr(state, name)), columns, axis=1)
            getattr(completions, name)[rows] = np.where(live, sampled, 0)
        completions.stopped[rows] = np.asarray(state.automaton) == len(stop_table) - 1
    return completions


@functools.partial(jax.jit, static_argnames=("policy", "max_completion_length"))
def _begin(policy, weights, prompts, firsts, max_completion_length):
    """Reads each prompt once, and repeats its cache for its group."""
    policy = policy()
    with _using(policy, weights):
        _, cache = empty_cache(policy, prompts)
    rows, group_size = len(firsts), len(firsts) // len(prompts)
    padding = [(0, 0)] * cache.ndim
    padding[_CACHE_SLOTS] = 0, max_completion_length - 1
    token_ids = jnp.pad(jnp.repeat(prompts, group_size, axis=0), ((0, 0), (0, max_completion_length)))
    return _State(
        index=jnp.min(firsts),
        token_ids=token_ids,
        log_probs=jnp.zeros(token_ids.shape),
        lengths=jnp.zeros(rows, "int32"),
        cache=jnp.repeat(jnp.pad(cache, padding), group_size, axis=0),
        alive=jnp.ones(rows, bool),
        automaton=jnp.zeros(rows, "int32"),
    )


@functools.partial(jax.jit, static_argnames=("policy", "sampling"), donate_argnames=("state",))
def _segment(policy, sampling, weights, state, keys, firsts, offsets, limits, stop_table, temperature):
    """Up to `SEGMENT` more tokens a row."""
    policy = policy()
    until = state.index + SEGMENT
    last_state = len(stop_table) - 1

    def unfinished(state):
        return (state.index < until) & jnp.any(state.alive)

    def next_token(state):
        index = state.index
        newest = jax.lax.dynamic_slice_in_dim(state.token_ids, index - 1, 1, axis=1)
        with _using(policy, weights):
            _, hidden, cache = policy.call_with_cache(newest, state.cache, index - 1)
            logits = float32_logits(policy.backbone.token_embedding, hidden[:, 0])
        position = index - firsts  # in the completion; negative in a prompt
        drawn, log_probs = sample(logits, keys, position + offsets, temperature, sampling)
        speaks = state.alive & (position >= 0)
        token_ids = jnp.where(speaks, drawn, state.token_ids[:, index])
        automaton = jnp.where(speaks, stop_table[state.automaton, token_ids].astype("int32"), state.automaton)
        return _State(
            index + 1,
            state.token_ids.at[:, index].set(token_ids),
            state.log_probs.at[:, index].set(log_probs),
            state.lengths + speaks,
            cache,
            state.alive & (automaton != last_state) & (position + 1 < limits),
            automaton,
        )

    return jax.lax.while_loop(unfinished, next_token, state)


def _using(policy, weights):
    """Runs the model on `weights`, its values with those of `lora.adapted_values`."""
    return using_merged(policy.backbone, list(zip(policy.backbone.variables, weights, strict=True)))


def check_policy(policy) -> None:
    """Raises ValueError if `generate_with_cache` cannot decode a `CausalLM`, however short its completions."""
    for name, arguments in {
        "_build_cache": ["token_ids"],
        "call_with_cache": ["token_ids", "cache", "cache_update_index"],
    }.items():
        parameters = list(inspect.signature(getattr(policy, name, lambda: None)).parameters)
        if parameters != arguments:
            raise ValueError(
                f"{type(policy).__name__} cannot be decoded: its `{name}` must take {arguments} and no more, as in "
                f"models whose past is keys and values only. Received: policy={policy}, where it takes {parameters}"
            )
    if isinstance(policy, keras_hub.models.GPTNeoXCausalLM):
        raise ValueError(
            "GPTNeoXCausalLM cannot be decoded: keras-hub rotates its cached queries as if they were at position 0 "
            f"(github.com/keras-team/keras-hub/pull/2870). Received: policy={policy}"
        )


def _check_positions(policy, positions):
    layers = flatten_layers(policy.backbone)
    limits = [layer.sequence_length for layer in layers if isinstance(layer, keras_hub.layers.PositionEmbedding)]
    if positions > min(limits, default=positions):
        raise ValueError(
            f"{type(policy).__name__} cannot be decoded so far: it has embeddings for {min(limits)} positions only. "
            f"Received: prompts and completions that need {positions}"
        )
