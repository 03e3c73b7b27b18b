"""`Decoder`: what the segment loop needs of a model."""

import abc
from typing import NamedTuple

from keras_aha.decoding.attention import attend
from keras_aha.decoding.cache import held_positions, write
from keras_aha.models.head import float32_logits
from keras_aha.models.lora import using_merged

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
    """Runs the layers of a keras-hub backbone with a cache; a subclass writes down the model in `forward`.

    Prompts are left-padded, so that all rows are at one index. RoPE is relative: this is exact if padding is masked.

    Args:
        backbone: a built backbone; its variables are read at call time, so that a `StatelessScope` can replace them.
    """

    def __init__(self, backbone):
        self.backbone = backbone

    @property
    def cached_layers(self) -> list:
        """The layers that have keys and values."""
        return self.backbone.transformer_layers

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The sliding window of each cached layer, in tokens; `None` for a layer that sees everything."""
        attentions = [layer.attention for layer in self.cached_layers]
        return tuple(a.sliding_window_size if a.use_sliding_window_attention else None for a in attentions)

    def ring_sizes(self, slots: int) -> tuple[int, ...]:
        """How many of `slots` positions each cached layer keeps: no more than its window."""
        return tuple(slots if window is None else min(slots, window) for window in self.windows)

    @abc.abstractmethod
    def forward(self, token_ids, position, attend):
        """The backbone's forward; the caller computes the attention.

        Args:
            token_ids: `(B, t)` int32.
            position: int32 scalar, of the first of them.
            attend: called once a layer, in order, as `attend(attention, query, key, value)`: keras-hub's attention
                layer, a scaled query `(B, t, N, H)`, key and value `(B, t, K, H)`, query and key rotated. It returns
                `(B, t, N, H)`. A layer that reads what cached layer i has calls `attend(attention, query, layer=i)`.

        Returns:
            Final hidden states `(B, t, D)`.
        """

    def logits(self, hidden):
        """`(B, D)` → `(B, V)` float32, soft-capped as the model says."""
        return float32_logits(self.backbone.token_embedding, hidden)

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
        age = positions[:, None] - positions
        cache = []

        def attend_to_prompt(attention, query, key=None, value=None, layer=None):
            if layer is None:
                layer = len(cache)
                cache.append((jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)))
            window = self.windows[layer]
            visible = (age >= 0) & (positions >= starts[:, None, None])
            if window is not None:
                visible &= age < window
            return attend(attention, query, [(*cache[layer], visible)])

        return self.forward(token_ids, position, attend_to_prompt)[:, -1], tuple(cache)

    def step(self, token_ids, index, starts, cache, prompt: Prompt | None = None):
        """Reads one token a row.

        Args:
            token_ids: `(B,)` int32.
            index: int32 scalar, the position of these tokens.
            starts: `(B,)` int32, the position of each row's first token.
            cache: rings of K and V of each layer, written below `index`.
            prompt: the prompts, if `cache` has completions only.

        Returns:
            `(hidden, cache)`: final hidden states `(B, D)`, and the cache with these tokens' K and V.
        """
        new_cache = []

        def attend_to_cache(attention, query, key=None, value=None, layer=None):
            if layer is None:
                layer = len(new_cache)
                new = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
                new_cache.append(tuple(write(*pair, index) for pair in zip(cache[layer], new, strict=True)))
            keys, values = new_cache[layer]
            oldest = starts if prompt is None else jnp.maximum(starts, prompt.length)
            # A ring of a layer with a window is no longer than the window: what it holds is in sight.
            parts = [(keys, values, _at_least(held_positions(keys.shape[2], index), oldest))]
            if prompt is not None:
                parts.insert(0, self._prompt_part(prompt, layer, index, starts))
            return attend(attention, query, parts)

        return self.forward(token_ids[:, None], index, attend_to_cache)[:, 0], tuple(new_cache)

    def _prompt_part(self, prompt, layer, index, starts):
        keys, values = prompt.cache[layer]
        oldest = starts if self.windows[layer] is None else jnp.maximum(starts, index - self.windows[layer] + 1)
        return keys, values, _at_least(held_positions(keys.shape[2], prompt.length - 1), oldest)

    def using(self, weights):
        """Runs the backbone on `weights`, its values with those of `lora.adapted_values`."""
        return using_merged(self.backbone, list(zip(self.backbone.variables, weights, strict=True)))


def _at_least(positions, oldest):
    """Which of `positions` `(S,)` each row sees, `(B, 1, S)`: none before `oldest` `(B,)`."""
    return positions >= oldest[:, None, None]
