"""Gemma and Gemma 2, one token at a time, from the layers of keras-hub's `GemmaBackbone`."""

import jax
import jax.numpy as jnp
import keras


class GemmaDecoder:
    """Drives a `GemmaBackbone`'s layers with K and V kept per layer as `(B, K, cache length, H)`.

    Keys stand at their index in the left-padded sequence. RoPE is relative, so an index that is the same for all rows
    is exact as long as padding is masked. Variables are read at call time, so that a `StatelessScope` can replace them.

    Args:
        backbone: a built `keras_hub.models.GemmaBackbone`.
    """

    def __init__(self, backbone):
        self.backbone = backbone

    def prefill(self, token_ids, padding_mask):
        """Reads prompts.

        Args:
            token_ids: `(P, L)` int32, left-padded.
            padding_mask: `(P, L)`, 1 at tokens.

        Returns:
            `(hidden, cache)`: final hidden states at the last position `(P, D)`; each layer's K and V `(P, K, L, H)`.
        """
        positions = jnp.arange(token_ids.shape[1])
        visible = (positions[:, None] >= positions) & (padding_mask[:, None, :] > 0)
        cache = []

        def attend(attention, x):
            query, keys, values = _project(attention, x, 0)
            cache.append((keys, values))
            return _attention(attention, query, keys, values, visible, positions)

        return self._forward(token_ids, attend)[:, -1], tuple(cache)

    def step(self, token_ids, key_mask, index, cache):
        """Reads one token a row.

        Args:
            token_ids: `(B,)` int32.
            key_mask: `(B, cache length)` bool, which cached positions hold tokens, `index` included.
            index: int32 scalar, the position of these tokens.
            cache: K and V of each layer, written up to `index`.

        Returns:
            `(hidden, cache)`: final hidden states `(B, D)`, and the cache with these tokens' K and V.
        """
        new_cache = []

        def attend(attention, x):
            query, key, value = _project(attention, x, index)
            keys, values = cache[len(new_cache)]
            keys = jax.lax.dynamic_update_slice_in_dim(keys, key, index, axis=2)
            values = jax.lax.dynamic_update_slice_in_dim(values, value, index, axis=2)
            new_cache.append((keys, values))
            return _attention(attention, query, keys, values, key_mask[:, None, :], index[None])

        return self._forward(token_ids[:, None], attend)[:, 0], tuple(new_cache)

    def logits(self, hidden):
        """`(B, D)` → `(B, V)` float32, soft-capped as the model says."""
        return self.backbone.token_embedding(hidden, reverse=True).astype("float32")

    def _forward(self, token_ids, attend):
        x = self.backbone.token_embedding(token_ids)
        x = x * jnp.sqrt(self.backbone.hidden_dim).astype(x.dtype)
        for layer in self.backbone.transformer_layers:
            y = layer.attention.output_dense(attend(layer.attention, layer.pre_attention_norm(x)))
            x = x + (layer.post_attention_norm(y) if layer.use_post_attention_norm else y)
            y = layer.pre_ffw_norm(x)
            y = layer.ffw_linear(keras.activations.gelu(layer.gating_ffw(y), approximate=True) * layer.gating_ffw_2(y))
            x = x + (layer.post_ffw_norm(y) if layer.use_post_ffw_norm else y)
        return self.backbone.layer_norm(x)


def _project(attention, x, start):
    """Query `(B, t, N, H)`, and key and value `(B, K, t, H)`, rotated from position `start` on."""
    query = attention._apply_rope(attention.query_dense(x), start)
    key = attention._apply_rope(attention.key_dense(x), start)
    return query, jnp.swapaxes(key, 1, 2), jnp.swapaxes(attention.value_dense(x), 1, 2)


def _attention(attention, query, keys, values, visible, query_positions):
    """Grouped-query attention; `visible` is `(B, t, keys)`, the result `(B, t, N, H)`."""
    if attention.use_sliding_window_attention:
        age = query_positions[:, None] - jnp.arange(keys.shape[2])
        visible = visible & (age < attention.sliding_window_size)
    batch, length, heads, head_dim = query.shape
    query = query * jnp.asarray(head_dim**-0.5, query.dtype)
    query = query.reshape(batch, length, keys.shape[1], -1, head_dim)
    logits = jnp.einsum("btkgh,bksh->bkgts", query, keys)
    if attention.logit_soft_cap is not None:
        logits = jnp.tanh(logits / attention.logit_soft_cap) * attention.logit_soft_cap
    weights = attention.softmax(logits, mask=visible[:, None, None])
    output = jnp.einsum("bkgts,bksh->btkgh", weights.astype(logits.dtype), values)
    return output.reshape(batch, length, heads, head_dim)
