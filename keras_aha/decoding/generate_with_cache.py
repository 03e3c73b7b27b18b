"""The slower path, for a keras-hub `CausalLM` without a `Decoder`: through the model's own `call_with_cache`.

There all rows are at one index and no padding is masked, so prompts are padded on the right. The loop begins where the
shortest one ends; a row whose prompt goes on reads its own tokens, whatever is drawn for it, and what its padding left
in the cache is written over before it comes into sight.
"""

import contextlib
import functools
import inspect
from typing import NamedTuple

from keras_aha.decoding.completions import Completions, no_completions
from keras_aha.decoding.generate import _starts
from keras_aha.decoding.jitted_steps import SEGMENT
from keras_aha.decoding.sampling import FULL_SOFTMAX, Sampling, sample
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
    entropy: jax.Array  # (B, T) float32
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
    max_rows: int | None = None,
    on_segment=None,
    **settings,
) -> Completions:
    """Does what `generate` does, with the same arguments but for these, and with no places taken by waiting prompts.

    Args:
        policy: a `keras_hub.models.CausalLM`.
        weights: the values of `policy.backbone.variables`, in that order, adapters merged.
        max_rows: rows decoded at a time, in one batch after the other.

    Raises:
        ValueError: if a prompt is empty or not left-padded, or if the model cannot be decoded like this, or not so far.
    """
    if not len(token_ids):
        return no_completions(settings["max_completion_length"], settings.get("sampling", FULL_SOFTMAX).entropy)
    prompts = max(1, max_rows // group_size) if max_rows else len(token_ids)
    parts, tokens = [], 0
    for first in range(0, len(token_ids), prompts):
        waiting = max(0, len(token_ids) - first - prompts) * group_size
        batch = slice(first, first + prompts)
        parts.append(
            _generate(
                policy,
                weights,
                token_ids[batch],
                padding_mask[batch],
                keys[first * group_size : (first + prompts) * group_size],
                group_size=group_size,
                on_segment=on_segment and (lambda alive, new, w=waiting, t=tokens: on_segment(alive + w, t + new)),
                **settings,
            )
        )
        tokens += int(parts[-1].lengths.sum())
    columns = zip(*parts, strict=True)
    return Completions(*(None if column[0] is None else np.concatenate(column) for column in columns))


def _generate(
    policy,
    weights,
    token_ids,
    padding_mask,
    keys,
    *,
    group_size,
    max_completion_length,
    stop_table,
    temperature=1.0,
    sampling: Sampling = FULL_SOFTMAX,
    on_segment=None,
) -> Completions:
    """All rows at a time."""
    prompt_length = np.shape(token_ids)[1]
    slots = prompt_length + max_completion_length - 1
    check_policy(policy)
    _check_positions(policy, slots)
    starts = _starts(np.asarray(padding_mask))
    columns = (np.arange(prompt_length) + starts[:, None]) % prompt_length
    prompts = np.take_along_axis(np.asarray(token_ids, "int32"), columns, axis=1)
    firsts = np.repeat(prompt_length - starts, group_size)  # column of each completion's first token

    rows = len(firsts)
    state = _State(
        index=jnp.int32(firsts.min()),
        token_ids=jnp.pad(jnp.repeat(prompts, group_size, axis=0), ((0, 0), (0, max_completion_length))),
        log_probs=jnp.zeros((rows, slots + 1)),
        entropy=jnp.zeros((rows, slots + 1)),
        lengths=jnp.zeros(rows, "int32"),
        cache=_prefill(policy, weights, prompts, group_size=group_size, slots=slots),
        alive=jnp.ones(rows, bool),
        automaton=jnp.zeros(rows, "int32"),
    )
    settings = keys, firsts, jnp.asarray(stop_table), temperature, max_completion_length
    alive = rows
    while alive:
        state = _segment(policy, sampling, weights, state, *settings)
        alive = int(jnp.sum(state.alive))
        if on_segment is not None:
            on_segment(alive, int(jnp.sum(state.lengths)))
    return _completions(state, firsts, max_completion_length, len(stop_table) - 1, sampling.entropy)


@functools.partial(jax.jit, static_argnames=("policy", "group_size", "slots"))
def _prefill(policy, weights, token_ids, *, group_size, slots):
    """Reads each prompt once, and repeats its cache for its group."""
    with _using(policy, weights):
        _, cache = empty_cache(policy, token_ids)
    padding = [(0, 0)] * cache.ndim
    padding[_CACHE_SLOTS] = 0, slots - token_ids.shape[1]
    return jnp.repeat(jnp.pad(cache, padding), group_size, axis=0)


@functools.partial(jax.jit, static_argnames=("policy", "sampling"), donate_argnames=("state",))
def _segment(policy, sampling, weights, state, keys, firsts, stop_table, temperature, max_completion_length):
    """Up to `SEGMENT` more tokens a row."""
    until = state.index + SEGMENT
    last_state = len(stop_table) - 1

    def unfinished(state):
        return (state.index < until) & jnp.any(state.alive)

    def next_token(state):
        index = state.index
        newest = jax.lax.dynamic_slice_in_dim(state.token_ids, index - 1, 1, axis=1)
        with _using(policy, weights):
            logits, _, cache = policy.call_with_cache(newest, state.cache, index - 1)
        position = index - firsts  # in the completion; negative in a prompt
        drawn = sample(logits[:, 0].astype("float32"), keys, position, temperature, sampling)
        speaks = state.alive & (position >= 0)
        token_ids = jnp.where(speaks, drawn[0], state.token_ids[:, index])
        automaton = jnp.where(speaks, stop_table[state.automaton, token_ids].astype("int32"), state.automaton)
        return _State(
            index + 1,
            state.token_ids.at[:, index].set(token_ids),
            state.log_probs.at[:, index].set(drawn[1]),
            state.entropy.at[:, index].set(drawn[2]),
            state.lengths + speaks,
            cache,
            state.alive & (automaton != last_state) & (position + 1 < max_completion_length),
            automaton,
        )

    return jax.lax.while_loop(unfinished, next_token, state)


def _completions(state, firsts, length, stop_state, entropy):
    positions = np.arange(length)
    lengths = np.array(state.lengths)

    def of_completions(array):
        array = np.take_along_axis(np.asarray(array), firsts[:, None] + positions, axis=1)
        return np.where(positions < lengths[:, None], array, 0)

    return Completions(
        of_completions(state.token_ids),
        of_completions(state.log_probs),
        lengths,
        np.asarray(state.automaton) == stop_state,
        of_completions(state.entropy) if entropy else None,
    )


@contextlib.contextmanager
def _using(policy, weights):
    """Runs the model on `weights`, into which its adapters are merged, but for those of quantized layers."""
    with using_merged(policy.backbone, list(zip(policy.backbone.variables, weights, strict=True))):
        yield


def check_policy(policy) -> None:
    """Raises ValueError where `generate_with_cache` cannot decode a `CausalLM`, however short its completions."""
    for name, arguments in {
        "_build_cache": ["token_ids"],
        "call_with_cache": ["token_ids", "cache", "cache_update_index"],
    }.items():
        found = list(inspect.signature(getattr(policy, name, lambda: None)).parameters)
        if found != arguments:
            raise ValueError(
                f"{type(policy).__name__} cannot be decoded: its `{name}` would have to take {arguments} and no more, "
                f"as where the past is keys and values only. Received: policy={policy}, where it takes {found}"
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
