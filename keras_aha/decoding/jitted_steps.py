"""Jitted steps: reading prompts, a segment of decode steps, and moving rows between shapes.

A program is compiled for a decoder, which it takes as a `weakref.ref`. JAX keeps static arguments for ever: a decoder
itself would keep its model, and the model's memory, after nobody uses it any more.
"""

import functools
from typing import NamedTuple

from keras_aha.decoding import cache as rings
from keras_aha.decoding.sampling import sample

import jax
import jax.numpy as jnp

SEGMENT = 64  # decode steps; after so many the host looks at what is left


class State(NamedTuple):
    """What changes from token to token, for R rows."""

    index: jax.Array  # () int32, the position of the token that `hidden` predicts; in turns (R,), one a row
    hidden: jax.Array  # (R, D)
    cache: tuple  # a layer: K and V, rings (R, K, slots, H)
    alive: jax.Array  # (R,) bool
    automaton: jax.Array  # (R,) int32, state of the stop table


class Turns(NamedTuple):
    """What rows read before they go on, and how far they may."""

    observations: jax.Array  # (R, F) int32, token ids, -1 after the end
    firsts: jax.Array  # (R,) int32, the observation's place in the completion
    limits: jax.Array  # (R,) int32, tokens of the completion at which the turn is cut


class Rows(NamedTuple):
    """What does not change, for R rows."""

    keys: jax.Array  # (R,)
    starts: jax.Array  # (R,) int32, position of the prompt's first token
    firsts: jax.Array  # (R,) int32, position of the completion's first token
    turns: Turns | None = None


class Settings(NamedTuple):
    """Numbers that a segment takes; none of them is compiled in."""

    stop_table: jax.Array  # (S, V) integers
    temperature: float
    max_completion_length: int
    until: int  # a segment ends before this position
    floor: int  # or when no part of the rows has more alive than this


class Sampled(NamedTuple):
    """The tokens of one segment, each `(R, SEGMENT)`; -1 where a row was dead, or read an observation."""

    token_ids: jax.Array
    log_probs: jax.Array


@functools.partial(jax.jit, static_argnames=("decoder", "dtype"))
def prefill(decoder, weights, token_ids, starts, position, *, dtype):
    """Reads each prompt once, from `position` on: `(hidden, cache)`, the cache as columns, see `ring_of_columns`."""
    decoder = decoder()
    with decoder.using(weights):
        hidden, cache = decoder.prefill(token_ids, starts, position)
    return hidden, jax.tree.map(lambda columns: columns.astype(dtype), cache)


@functools.partial(jax.jit, static_argnames=("decoder", "sampling", "parts"), donate_argnames=("state",))
def segment(decoder, sampling, weights, state, rows, prompt, settings, *, parts=1):
    """Up to `SEGMENT` more tokens a row: `(state, sampled)`."""
    decoder = decoder()
    first = state.index
    last_state = settings.stop_table.shape[0] - 1

    def unfinished(carry):
        state, _ = carry
        reached = state.index if rows.turns is None else jnp.max(jnp.where(state.alive, state.index, 0))
        in_reach = (jnp.max(state.index - first) < SEGMENT) & (reached < settings.until)
        return in_reach & (jnp.max(jnp.sum(state.alive.reshape(parts, -1), axis=1)) > settings.floor)

    def next_token(carry):
        state, sampled = carry
        position = state.index - rows.firsts
        with decoder.using(weights):
            logits = decoder.logits(state.hidden)
            token_ids, log_probs = sample(logits, rows.keys, position, settings.temperature, sampling)
            speaks, limits = state.alive, settings.max_completion_length
            if rows.turns is not None:
                speaks, token_ids, limits = _in_turns(rows.turns, position, state.alive, token_ids)
            token_ids = jnp.where(state.alive, token_ids, 0)
            hidden, cache = decoder.step(token_ids, state.index, rows.starts, state.cache, prompt)
        automaton = settings.stop_table[state.automaton, token_ids].astype("int32")
        column = jnp.max(state.index - first)  # of the rows that are alive: none was dead before
        sampled = Sampled(
            sampled.token_ids.at[:, column].set(jnp.where(speaks, token_ids, -1)),
            sampled.log_probs.at[:, column].set(log_probs),
        )
        automaton = jnp.where(speaks, automaton, state.automaton)
        alive = state.alive & (automaton != last_state) & (position + 1 < limits)
        index = state.index + (1 if rows.turns is None else state.alive)
        return State(index, hidden, cache, alive, automaton), sampled

    shape = (len(state.alive), SEGMENT)
    return jax.lax.while_loop(unfinished, next_token, (state, Sampled(jnp.full(shape, -1, "int32"), jnp.zeros(shape))))


def _in_turns(turns, position, alive, token_ids):
    """Which rows speak, and do not read an observation; the tokens of both; and how long completions may be."""
    place = position - turns.firsts
    read = jnp.take_along_axis(turns.observations, place[:, None], axis=1, mode="fill", fill_value=-1)[:, 0]
    reads = (place >= 0) & (read >= 0)
    return alive & ~reads, jnp.where(reads, read, token_ids), turns.limits


# === Moving rows: one array at a time, so that no second cache exists; and each within its part of the rows ===


@functools.partial(jax.jit, static_argnames=("size", "group_size"))
def ring_of_columns(columns, position, *, size, group_size):
    """A ring of `size` slots for each of the G completions of prompts, of their columns `(P, K, L, H)`."""
    return jnp.repeat(rings.from_columns(columns, position, size), group_size, axis=0)


@functools.partial(jax.jit, static_argnames=("size",))
def resize(ring, index, *, size):
    """All rows of a ring, in `size` slots."""
    return rings.resize(ring, size, index)


@functools.partial(jax.jit, static_argnames=("size",))
def take_ring(ring, places, index, prompts, prompt_places, prompt_length, *, size):
    """The rows at `places` `(parts, n)` of a ring, in `size` slots; each behind a copy of its prompt, if `prompts` has
    a ring of those that groups share."""
    ring, index = _take(ring, places), _take(index, places) if index.ndim else index
    if prompts is None:
        return rings.resize(ring, size, index)
    return rings.join(_take(prompts, prompt_places), ring, prompt_length, size, index)


@jax.jit
def take_rows(arrays, places):
    """The rows at `places` `(parts, n)` of each array."""
    return jax.tree.map(lambda x: _take(x, places), arrays)


@functools.partial(jax.jit, donate_argnames=("old",))
def admit(old, new, places):
    """Puts rows into the `places` `(parts, n)` of others, in every array of `old`."""
    return jax.tree.map(lambda x, y: _put(x, y, places), old, new)


@functools.partial(jax.jit, donate_argnames=("old",), static_argnames=("group_size",))
def admit_columns(old, columns, position, places, *, group_size):
    """The same in a ring, of what `ring_of_columns` makes."""
    new = ring_of_columns(columns, position, size=old.shape[2], group_size=group_size)
    return _put(old, new, places)


def _put(old, new, places):
    put_part = jax.vmap(lambda part, rows, new: part.at[rows].set(new))
    return put_part(_by_part(old, len(places)), places, _by_part(new, len(places))).reshape(old.shape)


def _take(array, places):
    """The rows at `places`, `(parts, n)`, counted from the first of each part: `(parts · n, …)`."""
    rows = jax.vmap(lambda part, rows: jnp.take(part, rows, axis=0))(_by_part(array, len(places)), places)
    return rows.reshape(-1, *array.shape[1:])


def _by_part(array, parts):
    return array.reshape(parts, -1, *array.shape[1:])
