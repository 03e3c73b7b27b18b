"""`Batch`: the rows that are being decoded, and what all of them have said so far."""

from keras_aha.decoding import jitted_steps
from keras_aha.decoding.buckets import Bucket, all_buckets, smallest
from keras_aha.decoding.completions import Completions
from keras_aha.decoding.decoder import Prompt
from keras_aha.decoding.jitted_steps import Rows, Settings, State
from keras_aha.decoding.placement import Placement

import jax
import jax.numpy as jnp
import numpy as np

SHARED_PROMPT = 64  # tokens from which on a group shares one cache of its prompt
_NEVER = np.iinfo("int32").max


class Batch:
    """Rows on the accelerator, in one of a few buckets, and their completions on the host.

    Where the weights lie on a mesh, each part of it holds as many rows as the others, and a row never leaves its part.

    Args:
        placement: of the rows; `None` is that of the weights.
        prompts: `(token_ids, starts)`, `(P, L)` and `(P,)` int32: left-padded, and the column of each first token.
        decoder, weights, keys, group_size, max_completion_length, max_rows, cache_dtype: see `generate`.
    """

    def __init__(
        self, decoder, weights, prompts, keys, group_size, max_completion_length, max_rows, cache_dtype, placement=None
    ):
        self.decoder, self.weights, self.keys = decoder, weights, keys
        self.prompt_ids, self.prompt_starts = prompts
        self.group_size, self.max_completion_length = group_size, max_completion_length
        on_cpu = jax.default_backend() == "cpu"
        self.cache_dtype = cache_dtype or (decoder.backbone.compute_dtype if on_cpu else "bfloat16")
        count, self.prompt_length = self.prompt_ids.shape
        rows = count * group_size

        self.placement = placement or Placement(weights)
        parts = self.placement.parts
        self.read = min(count, max(1, (max_rows or rows) // group_size))  # prompts; the others wait for free places
        self.read = -(-self.read // parts) * parts
        self.admitted = max(1, self.read // parts // 4) * parts  # so many are read at a time
        buckets = all_buckets(self.read // parts * group_size, max_completion_length)
        self.buckets = [bucket._replace(rows=bucket.rows * parts) for bucket in buckets]
        self.queued = self.waiting > 0
        if self.queued:  # rows will be at different places in their completions: every bucket has room for all
            self.buckets = [bucket for bucket in self.buckets if bucket.new_tokens == max_completion_length]
        self.bucket = smallest(self.buckets, self.read * group_size, 1)

        self.token_ids = np.zeros((rows, max_completion_length), "int32")
        self.log_probs = np.zeros((rows, max_completion_length), "float32")
        self.entropy = np.zeros((rows, max_completion_length), "float32")
        self.lengths = np.zeros(rows, "int32")
        self.stopped = np.zeros(rows, bool)
        self._start()

    @property
    def waiting(self) -> int:
        """Prompts that are not read yet."""
        return max(0, len(self.prompt_ids) - self.read)

    @property
    def unfinished(self) -> int:
        """Rows that are alive or waiting."""
        return int(np.sum(self.alive)) + self.waiting * self.group_size

    def decode(self, settings: Settings, sampling) -> None:
        """Runs a segment, which ends early where `admit` or `rearrange` has something to do."""
        parts = self.placement.parts
        fewer = max((bucket.rows for bucket in self.buckets if bucket.rows < self.bucket.rows), default=0)
        settings = settings._replace(
            floor=(self.bucket.rows - self.admitted * self.group_size if self.waiting else fewer) // parts,
            until=_NEVER if self.queued else self.prompt_length + self.bucket.new_tokens,
        )
        self.state, sampled = jitted_steps.segment(
            self.decoder, sampling, self.weights, self.state, self.rows, self.prompt, settings, parts=parts
        )
        self._record(sampled, len(settings.stop_table) - 1)

    def admit(self) -> None:
        """Reads waiting prompts into the places of dead rows, if there are enough."""
        count = self.admitted * self.group_size
        parts = self.placement.parts
        if not self.waiting or self.placement.most(self.alive) > (self.bucket.rows - count) // parts:
            return
        places = self.placement.first(~self.alive, count // parts)
        prompts = self.read + np.arange(self.admitted)
        ids, alive = self._rows_of(prompts)
        self.read = min(self.read + self.admitted, len(self.prompt_ids))
        index = int(self.state.index)
        hidden, cache = self._prefill(prompts, index - self.prompt_length)
        old = self.state.hidden, self.state.cache, self.state.alive, self.state.automaton
        new = hidden, cache, *self.placement.rows((alive, np.zeros(count, "int32")))
        self.state = State(self.state.index, *jitted_steps.admit(old, new, self._local(places)))
        places = places.ravel()
        self.alive[places], self.ids[places], self.firsts[places] = alive, ids, index
        self._set_rows()

    def rearrange(self) -> None:
        """Moves the living to a bucket with fewer rows if enough have died, to a longer one if the cache is full."""
        if self.waiting or not self.alive.any():
            return
        new_tokens = 1 if self.queued else int(self.state.index) - self.prompt_length + 1
        most = self.placement.most(self.alive) * self.placement.parts
        bucket = smallest(self.buckets, most, new_tokens)
        if bucket != self.bucket:
            self.move_to(bucket)

    def move_to(self, bucket: Bucket) -> None:
        """Moves to another bucket; where it has fewer rows, only those that are alive come along."""
        count = bucket.rows // self.placement.parts
        kept = np.arange(bucket.rows).reshape(-1, count)
        fewer = bucket.rows < self.bucket.rows
        if fewer:
            kept = self.placement.first(self.alive, count)  # repeats some where there are too few
            living = self.alive.reshape(len(kept), -1).sum(axis=1, keepdims=True)
            self.alive = (np.arange(count) < living).ravel()  # the copies are dead
            self.ids, self.firsts = self.ids[kept.ravel()], self.firsts[kept.ravel()]
            self._set_rows()
        kept = self._local(kept)
        prompt, self.prompt = (self.prompt, None) if fewer else (None, self.prompt)  # each row now has its own prompt
        sizes = self.decoder.ring_sizes(bucket.new_tokens + (0 if self.prompt else self.prompt_length))
        state, layers = self.state._replace(cache=None), list(self.state.cache)
        self.state, cache = state, []  # so that a layer's old rings are gone before the next one's new rings are made
        for size in sizes:
            old = layers.pop(0)
            if prompt is None:
                cache.append(tuple(jitted_steps.move(ring, kept, state.index, size=size) for ring in old))
            else:
                groups = self._local(self.ids.reshape(-1, count) // self.group_size, len(prompt.cache[0][0]))
                pairs = zip(prompt.cache[len(cache)], old, strict=True)
                cache.append(
                    tuple(
                        jitted_steps.join(*pair, kept, groups, prompt.length, state.index, size=size) for pair in pairs
                    )
                )
        hidden, automaton = jitted_steps.take_rows((state.hidden, state.automaton), kept)
        self.state = State(state.index, hidden, tuple(cache), self.placement.rows(self.alive), automaton)
        self.bucket = bucket

    def completions(self, entropy: bool) -> Completions:
        """What has been sampled."""
        return Completions(
            self.token_ids, self.log_probs, self.lengths, self.stopped, self.entropy if entropy else None
        )

    def _start(self):
        prompts = np.arange(self.read)
        self.ids, self.alive = self._rows_of(prompts)
        self.read = min(self.read, len(self.prompt_ids))
        self.firsts = np.full(len(self.ids), self.prompt_length, "int32")
        self._set_rows()
        self.prompt = None
        if self.group_size > 1 and self.prompt_length >= SHARED_PROMPT and not self.queued:
            hidden, cache = self._prefill(prompts, 0, shared=True)
            self.prompt = Prompt(cache, self.prompt_length)
            hidden = self.placement.rows(jnp.repeat(hidden, self.group_size, axis=0))
            cache = self._empty_cache(cache)
        else:
            hidden, cache = self._prefill(prompts, 0)
        alive, automaton = self.placement.rows((self.alive, np.zeros(len(self.ids), "int32")))
        self.state = State(jnp.int32(self.prompt_length), hidden, cache, alive, automaton)

    def _rows_of(self, prompts):
        """The rows of prompts, and which of them there are: some prompts may be there for the shape only."""
        ids = (prompts[:, None] * self.group_size + np.arange(self.group_size)).ravel()
        return np.minimum(ids, len(self.lengths) - 1), ids < len(self.lengths)

    def _local(self, places, size: int | None = None):
        """`(parts, n)` places among `size`, by default the rows, as places within their part."""
        each = (size or self.bucket.rows) // len(places)
        places = places - np.arange(len(places))[:, None] * each
        return self.placement.rows(np.clip(places, 0, each - 1).astype("int32"))  # rows for the shape may be elsewhere

    def _set_rows(self):
        starts = self.prompt_starts[self.ids // self.group_size] + self.firsts - self.prompt_length
        self.rows = self.placement.rows(Rows(self.keys[self.ids], starts, self.firsts))

    def _prefill(self, prompts, position, shared=False):
        prompts = np.minimum(prompts, len(self.prompt_ids) - 1)
        starts = self.prompt_starts[prompts] + np.int32(position)
        return jitted_steps.prefill(
            self.decoder,
            self.weights,
            *self.placement.rows((self.prompt_ids[prompts], starts)),
            jnp.int32(position),
            group_size=1 if shared else self.group_size,
            slots=self.prompt_length + (0 if shared else self.bucket.new_tokens),
            dtype=self.cache_dtype,
        )

    def _empty_cache(self, prompt_cache):
        sizes = self.decoder.ring_sizes(self.bucket.new_tokens)
        return tuple(
            tuple(self.placement.cache(len(self.ids), ring.shape[1], size, ring.shape[3], ring.dtype) for ring in layer)
            for layer, size in zip(prompt_cache, sizes, strict=True)
        )

    def _record(self, sampled, stop_state):
        """Appends a segment to the completions of its rows."""
        self.alive = np.array(self.state.alive)
        token_ids = np.asarray(sampled.token_ids)
        row, column = np.nonzero(token_ids >= 0)
        place = self.ids[row], self.lengths[self.ids[row]] + column
        self.token_ids[place] = token_ids[row, column]
        self.log_probs[place] = np.asarray(sampled.log_probs)[row, column]
        self.entropy[place] = np.asarray(sampled.entropy)[row, column]
        np.add.at(self.lengths, self.ids[row], 1)
        spoke = np.unique(row)
        self.stopped[self.ids[spoke]] = (np.asarray(self.state.automaton) == stop_state)[spoke]
