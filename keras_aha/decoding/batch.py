"""`Batch`: the rows that are being decoded, and the completions of all rows so far."""

import weakref

from keras_aha.decoding import jitted_steps
from keras_aha.decoding.buckets import Bucket, all_buckets, smallest
from keras_aha.decoding.completions import empty_completions
from keras_aha.decoding.decoder import Prompt
from keras_aha.decoding.jitted_steps import Rows, Settings, State
from keras_aha.decoding.placement import Placement
from keras_aha.decoding.turn_taking import TurnTaking

import jax
import jax.numpy as jnp
import numpy as np

SHARED_PROMPT = 64  # a group shares one cache of its prompt if it has so many tokens or more
_NEVER = np.iinfo("int32").max
_ASKING = 8  # a segment of rows that speak in turns ends if this part of them has stopped


class Batch:
    """Rows on the accelerator, in one of a few buckets, and their completions on the host.

    If the weights lie on a mesh, each part of it holds as many rows as the others, and a row never leaves its part.
    Rows are all at one index; if they speak in turns, and wait for answers, each is at its own.

    Args:
        decoder, weights, keys, group_size, max_completion_length, max_rows, answers: see `generate`.
        token_ids: `(P, L)` int32 NumPy, left-padded prompts.
        starts: `(P,)` int32 NumPy, the column of each prompt's first token.
        placement: of the rows.
    """

    def __init__(
        self,
        decoder,
        weights,
        *,
        token_ids,
        starts,
        keys,
        group_size: int,
        max_completion_length: int,
        max_rows: int | None,
        placement: Placement,
        answers=None,
    ):
        self.decoder, self.weights = decoder, weights
        self.prompt_ids, self.prompt_starts, self.keys = token_ids, starts, keys
        self.group_size, self.max_completion_length = group_size, max_completion_length
        self.cache_dtype = cache_dtype(decoder.backbone)
        count, self.prompt_length = token_ids.shape
        rows = count * group_size

        self.placement, parts = placement, placement.parts
        self.read = -(-count // parts) * parts  # prompts; the others wait for free places
        if max_rows is not None and max_rows < rows:
            self.read = min(self.read, max(1, max_rows // group_size // parts) * parts)
        self.admitted = max(1, self.read // parts // 4) * parts  # so many are read at a time
        buckets = all_buckets(self.read // parts * group_size, max_completion_length)
        self.buckets = [bucket._replace(rows=bucket.rows * parts) for bucket in buckets]
        self.queued = self.waiting > 0
        if self.queued:  # rows will be at different places in their completions: every bucket has room for all
            self.buckets = [bucket for bucket in self.buckets if bucket.new_tokens == max_completion_length]
        self.bucket = smallest(self.buckets, self.read * group_size, 1)

        self.completions = empty_completions(rows, max_completion_length)
        self.turns = None if answers is None else TurnTaking(answers, self.completions)
        self._begin()

    @property
    def waiting(self) -> int:
        """Prompts that are not read yet."""
        return max(0, len(self.prompt_ids) - self.read)

    @property
    def open(self):
        """`(R,)` bool, the places of rows that are alive, or go on when they are answered."""
        return self.alive if self.turns is None else self.alive | (self.turns.asked[self.ids] & self.has_row)

    @property
    def unfinished(self) -> int:
        """Rows that are alive or waiting."""
        return int(np.sum(self.open)) + self.waiting * self.group_size

    def decode(self, settings: Settings, sampling) -> None:
        """Runs a segment. It ends early if `admit`, `rearrange` or `answer` has something to do."""
        parts = self.placement.parts
        fewer = max((bucket.rows for bucket in self.buckets if bucket.rows < self.bucket.rows), default=0)
        floor = (self.bucket.rows - self.admitted * self.group_size if self.waiting else fewer) // parts
        if self.turns is not None:  # some rows may wait to go on
            most = self.placement.most(self.alive)
            floor = max(0, most - max(1, most // _ASKING))
        until = _NEVER if self.queued else self.prompt_length + self.bucket.new_tokens
        settings = settings._replace(floor=floor, until=until)
        decoder = weakref.ref(self.decoder)
        self.state, sampled = jitted_steps.segment(
            decoder, sampling, self.weights, self.state, self.rows, self.prompt, settings, parts=parts
        )
        self._record(sampled, len(settings.stop_table) - 1)

    def answer(self) -> None:
        """Lets rows that are answered go on; waits for an answer if nothing else can be done."""
        if self.turns is None:
            return
        rows = self.turns.take(wait=not self.alive.any() and not self._has_places)
        if rows:
            self.revive(np.flatnonzero(np.isin(self.ids, rows) & self.has_row))

    def revive(self, places) -> None:
        """Lets the rows at `places` go on."""
        index, automaton = np.array(self.state.index), np.array(self.state.automaton)
        self.alive = self.alive.copy()  # a program may still hold the array
        self.alive[places], automaton[places] = True, 0
        index, alive, automaton = self.placement.rows((index, self.alive, automaton))
        self.state = self.state._replace(index=index, alive=alive, automaton=automaton)
        self._set_rows()

    @property
    def _has_places(self) -> bool:
        """Whether prompts wait, and there are places enough to read some."""
        count = self.admitted * self.group_size
        most = (self.bucket.rows - count) // self.placement.parts
        return self.waiting > 0 and self.placement.most(self.open) <= most

    def admit(self) -> None:
        """Reads waiting prompts into the places of dead rows, if there are enough."""
        if not self._has_places:
            return
        count = self.admitted * self.group_size
        places = self.placement.first(~self.open, count // self.placement.parts)
        prompts = self.read + np.arange(self.admitted)
        ids, alive = self._rows_of(prompts)
        self.read = min(self.read + self.admitted, len(self.prompt_ids))
        within = self._within_parts(places)
        index = int(self.state.index) if self.turns is None else self.prompt_length
        position = index - self.prompt_length
        hidden, columns = self._prefill(prompts, position)

        def put(ring, x, size):
            return jitted_steps.admit_columns(ring, x, position, within, group_size=self.group_size)

        self._replace_cache(self.prompt_length + self.bucket.new_tokens, put, columns)
        old = dict(hidden=self.state.hidden, alive=self.state.alive, automaton=self.state.automaton)
        new = dict(hidden=hidden) | self.placement.rows(dict(alive=alive, automaton=np.zeros(count, "int32")))
        if self.turns is not None:
            old["index"], new["index"] = self.state.index, self.placement.rows(np.full(count, index, "int32"))
        self.state = self.state._replace(**jitted_steps.admit(old, new, within))
        places = places.ravel()
        self.alive[places], self.ids[places], self.firsts[places], self.has_row[places] = alive, ids, index, alive
        self._set_rows()

    def rearrange(self) -> None:
        """Moves the living to a bucket with fewer rows if enough have died, to a longer one if the cache is full."""
        if self.waiting or not self.open.any():
            return
        index = self.state.index if self.turns is None else np.max(np.array(self.state.index)[self.open])
        new_tokens = 1 if self.queued else min(int(index) - self.prompt_length + 1, self.max_completion_length)
        most = self.placement.most(self.open) * self.placement.parts
        bucket = smallest(self.buckets, most, new_tokens)
        if bucket != self.bucket:
            self.move_to(bucket)

    def move_to(self, bucket: Bucket) -> None:
        """Moves to another bucket; if it has fewer rows, only those that are alive or will be come along."""
        if bucket.rows < self.bucket.rows:
            self._shrink(bucket)
        else:
            self._grow(bucket)
        self.bucket = bucket

    def _shrink(self, bucket):
        """Takes the rows that are open to fewer places. From now on each has its own prompt in its cache."""
        count = bucket.rows // self.placement.parts
        places = self.placement.first(self.open, count)  # if too few are open, some of them twice
        living = self.open.reshape(len(places), -1).sum(axis=1, keepdims=True)
        self.has_row = (np.arange(count) < living).ravel()  # the copies are dead
        self.alive = self.alive[places.ravel()] & self.has_row
        self.ids, self.firsts = self.ids[places.ravel()], self.firsts[places.ravel()]
        self._set_rows()
        places, index = self._within_parts(places), self.state.index
        prompt_places = prompt_length = None
        if self.prompt is not None:
            prompt_places = self.ids.reshape(-1, count) // self.group_size
            prompt_places = self._within_parts(prompt_places, of=self.bucket.rows // self.group_size)
            prompt_length = self.prompt.length

        def take(ring, prompts, size):
            return jitted_steps.take_ring(ring, places, index, prompts, prompt_places, prompt_length, size=size)

        self._replace_cache(self.prompt_length + bucket.new_tokens, take)
        self.prompt = None
        moved = dict(hidden=self.state.hidden, automaton=self.state.automaton)
        moved |= {} if self.turns is None else {"index": self.state.index}
        moved = jitted_steps.take_rows(moved, places)
        self.state = self.state._replace(alive=self.placement.rows(self.alive), **moved)

    def _grow(self, bucket):
        """Makes the cache longer. Prompts that are shared stay so."""
        index = self.state.index
        slots = bucket.new_tokens + (0 if self.prompt else self.prompt_length)
        self._replace_cache(slots, lambda ring, prompts, size: jitted_steps.resize(ring, index, size=size))

    def _replace_cache(self, slots, new_ring, beside=None):
        """Puts `new_ring(ring, x, size)` in the place of each ring; x is of `beside`, by default of shared prompts."""
        sizes = self.decoder.ring_sizes(slots)
        beside = beside or (self.prompt.cache if self.prompt else [(None, None)] * len(sizes))
        old, new = list(self.state.cache), []
        self.state = self.state._replace(cache=())
        for size, others in zip(sizes, beside, strict=True):
            layer = old.pop(0)  # nothing else holds it: its memory is free before the next layer's rings are made
            new.append(tuple(new_ring(*rings, size) for rings in zip(layer, others, strict=True)))
        self.state = self.state._replace(cache=tuple(new))

    def _begin(self):
        prompts = np.arange(self.read)
        self.ids, self.alive = self._rows_of(prompts)
        self.has_row = self.alive.copy()  # places of rows, and not there for the shape
        self.read = min(self.read, len(self.prompt_ids))
        self.firsts = np.full(len(self.ids), self.prompt_length, "int32")
        self._set_rows()
        self.prompt = None
        shared = self.group_size > 1 and self.prompt_length >= SHARED_PROMPT and not self.queued
        hidden, columns = self._prefill(prompts, 0)
        sizes = self.decoder.ring_sizes(self.prompt_length + (0 if shared else self.bucket.new_tokens))
        columns, cache = list(columns), []
        for size in sizes:
            layer, settings = columns.pop(0), dict(size=size, group_size=1 if shared else self.group_size)
            cache.append(tuple(jitted_steps.ring_of_columns(x, 0, **settings) for x in layer))
        cache = tuple(cache)
        if shared:
            self.prompt = Prompt(cache, self.prompt_length)
            sizes = self.decoder.ring_sizes(self.bucket.new_tokens)
            cache = self.placement.empty_cache(cache, len(self.ids), sizes)
        alive, automaton = self.placement.rows((self.alive, np.zeros(len(self.ids), "int32")))
        index = jnp.int32(self.prompt_length) if self.turns is None else self.placement.rows(self.firsts.copy())
        self.state = State(index, hidden, cache, alive, automaton)

    def _rows_of(self, prompts):
        """The rows of prompts, and which of them exist: some prompts may be there for the shape only."""
        rows = len(self.completions.lengths)
        ids = (prompts[:, None] * self.group_size + np.arange(self.group_size)).ravel()
        return np.minimum(ids, rows - 1), ids < rows

    def _within_parts(self, places, of: int | None = None):
        """`(parts, n)` places among `of`, by default the rows, as places within their part."""
        each = (of or self.bucket.rows) // len(places)
        places = places - np.arange(len(places))[:, None] * each
        return self.placement.rows(np.clip(places, 0, each - 1).astype("int32"))  # rows for the shape may be elsewhere

    def _set_rows(self):
        starts = self.prompt_starts[self.ids // self.group_size] + self.firsts - self.prompt_length
        turns = None if self.turns is None else self.turns.of(self.ids)
        self.rows = self.placement.rows(Rows(self.keys[self.ids], starts, self.firsts, turns))

    def _prefill(self, prompts, position):
        """Of the rows of prompts `hidden`, and of the prompts the columns of their cache."""
        prompts = np.minimum(prompts, len(self.prompt_ids) - 1)
        starts = self.prompt_starts[prompts] + np.int32(position)
        arrays = self.placement.rows((self.prompt_ids[prompts], starts))
        decoder, settings = weakref.ref(self.decoder), dict(dtype=self.cache_dtype)
        hidden, columns = jitted_steps.prefill(decoder, self.weights, *arrays, jnp.int32(position), **settings)
        return self.placement.rows(jnp.repeat(hidden, self.group_size, axis=0)), columns

    def _record(self, sampled, stop_state):
        """Appends a segment to the completions of its rows."""
        before, self.alive = self.alive, np.array(self.state.alive)
        segment_ids = np.asarray(sampled.token_ids)
        row, column = np.nonzero(segment_ids >= 0)
        ids, completions = self.ids[row], self.completions
        nth = np.cumsum(segment_ids >= 0, axis=1)[row, column] - 1  # of the row's own tokens in this segment
        place = ids, completions.lengths[ids] + nth
        completions.token_ids[place] = segment_ids[row, column]
        completions.log_probs[place] = np.asarray(sampled.log_probs)[row, column]
        np.add.at(completions.lengths, ids, 1)
        spoke = np.unique(row)
        stopped = np.asarray(self.state.automaton) == stop_state
        completions.stopped[self.ids[spoke]] = stopped[spoke]
        if self.turns is not None:
            self.turns.ask(self.ids[before & ~self.alive & stopped])


def cache_dtype(backbone) -> str:
    """Of keys and values: bfloat16 on accelerators, and the model's on CPU."""
    return backbone.compute_dtype if jax.default_backend() == "cpu" else "bfloat16"
