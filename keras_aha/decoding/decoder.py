"""`Decoder`: a Gemma written down once, for rollouts with a cache and for training."""

import abc
import functools
from typing import NamedTuple

from keras_aha.decoding.attention import attend
from keras_aha.decoding.cache import held_positions, write
from keras_aha.decoding.self_attention import by_head, chunked_attention, self_attention
from keras_aha.models.head import float32_logits
from keras_aha.models.internals import is_rematerialised
from keras_aha.models.lora import using_merged

import jax
import jax.numpy as jnp


class Prompt(NamedTuple):
    """P prompts that have been read; the G rows of a group share one.

    Attributes:
        cache: each layer's K and V, rings `(P, K, up to L, H)` that hold positions 0 to L − 1.
        length: L, int32 scalar.
    """

    cache: tuple
    length: int


class Decoder(abc.ABC):
    """Runs the layers of a keras-hub backbone; a subclass writes down the model: `embed`, `project` and `finish`.

    Prompts are left-padded, so that rows begin at one index; those that speak in turns then go on at their own. RoPE is
    relative: this is exact if padding is masked.

    Args:
        backbone: a built backbone; its variables are read at call time, so that a `StatelessScope` can replace them.
    """

    def __init__(self, backbone):
        self.backbone = backbone

    # === The model ===

    @abc.abstractmethod
    def embed(self, token_ids):
        """`(B, t)` → what goes into the first layer `(B, t, D)`, and a list of what each layer is given besides."""

    @abc.abstractmethod
    def project(self, layer, x, positions):
        """A layer's input → `(query, (key, value))`.

        Args:
            layer: one of `backbone.transformer_layers`.
            x: `(B, t, D)`.
            positions: `(t,)` or `(B, t)` int32.

        Returns:
            A scaled query `(B, t, N, H)`, key and value `(B, t, K, H)`, query and key rotated; `(query, None)` if the
            layer reads the keys and values of an earlier one.
        """

    @abc.abstractmethod
    def finish(self, layer, x, attended, extra):
        """The rest of a layer: its input `(B, t, D)`, what it attended to `(B, t, N, H)` → its output `(B, t, D)`."""

    def source(self, number: int) -> int:
        """The number of the layer whose keys and values layer `number` reads: its own, or an earlier one's."""
        return number

    def forward(self, token_ids, positions, attend, cache=None):
        """The backbone's forward; the caller computes the attention.

        Blocks that Keras would compute again in the backward pass (`keras.RematScope`) are computed again here too.

        Args:
            token_ids: `(B, t)` int32.
            positions: `(t,)` or `(B, t)` int32.
            attend: called in each layer as `attend(layer, i, query, keys, values)`: a scaled query `(B, t, N, H)`, and
                what layer i holds. It returns `(B, t, N, H)`, or in the last layer fewer of the t: the last ones.
            cache: rings of K and V of each cached layer `(B, K, S, H)`, into which those of the one token are written.
                `None` holds what is computed here and nothing else, `(B, t, K, H)`.

        Returns:
            `(hidden, cache)`: final hidden states, as many as `attend` returned, and what each cached layer holds.
        """
        x, extras = self.embed(token_ids)
        held = []
        for number, (layer, extra) in enumerate(zip(self.backbone.transformer_layers, extras, strict=True)):
            source = self.source(number)
            earlier = held[source] if source < number else cache and cache[number]
            block = functools.partial(self._block, layer, positions, functools.partial(attend, layer, source))
            x, pair = (jax.checkpoint(block) if is_rematerialised(layer) else block)(x, extra, earlier)
            held += [pair] if source == number else []
        return self.backbone.layer_norm(x), tuple(held)

    def _block(self, layer, positions, attend, x, extra, held):
        query, new = self.project(layer, x, positions)
        if new is not None and held is not None:
            new = tuple(write(ring, by_head(z), positions[..., 0]) for ring, z in zip(held, new, strict=True))
        held = held if new is None else new
        attended = attend(query, *held)
        unused = x.shape[1] - attended.shape[1]
        x, extra = jax.tree.map(lambda z: jnp.split(z, [unused], axis=1)[1], (x, extra))
        return self.finish(layer, x, attended, extra), held

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The sliding window of each layer that has keys and values, in tokens; `None` if it sees everything."""
        layers = [layer for i, layer in enumerate(self.backbone.transformer_layers) if self.source(i) == i]
        attentions = [layer.attention for layer in layers]
        return tuple(a.sliding_window_size if a.use_sliding_window_attention else None for a in attentions)

    def logits(self, hidden):
        """`(B, D)` → `(B, V)` float32, soft-capped as the model says."""
        return float32_logits(self.backbone.token_embedding, hidden)

    def using(self, weights):
        """Runs the backbone on `weights`, its values with those of `lora.adapted_values`."""
        return using_merged(self.backbone, list(zip(self.backbone.variables, weights, strict=True)))

    # === What it is used for ===

    def ring_sizes(self, slots: int) -> tuple[int, ...]:
        """How many of `slots` positions each cached layer keeps: no more than its window."""
        return tuple(slots if window is None else min(slots, window) for window in self.windows)

    def prefill(self, token_ids, starts, position):
        """Reads prompts.

        Args:
            token_ids: `(P, L)` int32, left-padded.
            starts: `(P,)` int32, the position of each prompt's first token.
            position: int32 scalar, of the first column.

        Returns:
            `(hidden, cache)`: final hidden states at the last position `(P, D)`; each layer's K and V `(P, K, L, H)`.
        """
        positions = position + jnp.arange(token_ids.shape[1])

        def attend_to_prompt(layer, i, query, keys, values):
            query = query[:, -1:] if self._is_last(layer) else query
            return chunked_attention(layer.attention, query, keys, values, positions, starts, self.windows[i])

        hidden, cache = self.forward(token_ids, positions, attend_to_prompt)
        return hidden[:, 0], jax.tree.map(by_head, cache)

    def step(self, token_ids, index, starts, cache, prompt: Prompt | None = None):
        """Reads one token a row.

        Args:
            token_ids: `(B,)` int32.
            index: int32 scalar, the position of these tokens, or `(B,)`, one a row.
            starts: `(B,)` int32, the position of each row's first token.
            cache: rings of K and V of each layer, written below `index`.
            prompt: the prompts, if `cache` has completions only.

        Returns:
            `(hidden, cache)`: final hidden states `(B, D)`, and the cache with these tokens' K and V.
        """
        positions = jnp.expand_dims(index, -1)

        def attend_to_cache(layer, i, query, keys, values):
            held = held_positions(keys.shape[2], index)
            if prompt is None:
                parts = [(keys, values, held)]
            else:
                prompt_keys, prompt_values = prompt.cache[i]
                of_prompt = held_positions(prompt_keys.shape[2], prompt.length - 1)
                written = jnp.where(held < prompt.length, -1, held)
                parts = [(prompt_keys, prompt_values, of_prompt), (keys, values, written)]
            return attend(layer.attention, query, parts, positions, starts, self.windows[i])

        hidden, cache = self.forward(token_ids[:, None], positions, attend_to_cache, cache)
        return hidden[:, 0], cache

    def read_completions(self, prompt_ids, starts, completion_ids):
        """Reads given completions, as `prefill` and `step` would; each prompt once for its G completions.

        A prompt and its completions are one row of tokens, so that a layer multiplies all of them at once. All are
        shifted by one: a completion begins with its prompt's last token, which predicts its first.

        Args:
            prompt_ids: `(P, L)` int32, left-padded.
            starts: `(P,)` int32, the column of each prompt's first token.
            completion_ids: `(P · G, C)` int32.

        Returns:
            The hidden states that predict the completions' tokens, `(P · G, C, D)`.
        """
        (prompts, length), (rows, new) = prompt_ids.shape, completion_ids.shape
        group = rows // prompts
        inputs = jnp.hstack([jnp.repeat(prompt_ids[:, -1:], group, axis=0), completion_ids[:, :-1]])
        token_ids = jnp.hstack([jnp.roll(prompt_ids, 1, axis=1), inputs.reshape(prompts, -1)])
        positions = jnp.arange(length + new) - 1  # the first column is nobody's

        def attend_to_tree(layer, i, query, keys, values):
            def attended(query, keys, values, last, starts):
                arrays = query, keys, values, positions[:last], starts
                return self_attention(layer.attention, *arrays, self.windows[i])

            def of_rows(prompt, own):  # (P, L, K, H) and (P, G · C, K, H) → (P · G, L + C, K, H)
                return jnp.hstack([jnp.repeat(prompt, group, axis=0), own.reshape(rows, new, *own.shape[2:])])

            if group == 1:
                query = jnp.split(query, [length], axis=1)[1] if self._is_last(layer) else query
                return attended(query, keys, values, length + new, starts)
            # Not by slices, whose gradient is a sum of padded arrays: with it XLA's code ended the process on CPU.
            prompt, own = zip(*(jnp.split(x, [length], axis=1) for x in (query, keys, values)), strict=True)
            query, *pair = own[0].reshape(rows, new, *query.shape[2:]), *map(of_rows, prompt[1:], own[1:])
            output = attended(query, *pair, length + new, jnp.repeat(starts, group)).reshape(own[0].shape)
            if self._is_last(layer):
                return output
            return jnp.hstack([attended(*prompt, length, starts), output])

        token_positions = jnp.hstack([positions[:length], jnp.tile(positions[length:], group)])
        return self.forward(token_ids, token_positions, attend_to_tree)[0].reshape(rows, new, -1)

    def _is_last(self, layer) -> bool:
        return layer is self.backbone.transformer_layers[-1]
