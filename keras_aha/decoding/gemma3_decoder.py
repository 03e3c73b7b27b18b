"""Gemma 3."""

from keras_aha.decoding.attention import scaled
from keras_aha.decoding.decoder import Decoder
from keras_aha.models.internals import rotate

import jax.numpy as jnp
import keras


class Gemma3Decoder(Decoder):
    """Decodes text with a `keras_hub.models.Gemma3Backbone` (arXiv:2503.19786); its vision encoder is left alone.

    Beside Gemma 2 there are norms of queries and keys, and RoPE with one base for layers with a window and another for
    those without.

    Args:
        backbone: see `Decoder`.

    Raises:
        ValueError: if the backbone's attention is bidirectional, as EmbeddingGemma's is.
    """

    def __init__(self, backbone):
        if backbone.use_bidirectional_attention:
            raise ValueError(
                "A backbone with bidirectional attention makes embeddings and cannot generate. "
                f"Received: backbone={backbone.name}, with use_bidirectional_attention=True"
            )
        super().__init__(backbone)

    def forward(self, token_ids, position, attend):
        x = self.backbone.token_embedding(token_ids)
        x = x * jnp.sqrt(self.backbone.hidden_dim).astype(x.dtype)
        for layer in self.backbone.transformer_layers:
            attention = layer.attention
            y = layer.pre_attention_norm(x)
            query, key = attention.query_dense(y), attention.key_dense(y)
            if attention.use_query_key_norm:
                query, key = attention.query_norm(query), attention.key_norm(key)
            query, key = rotate(attention, query, position), rotate(attention, key, position)
            y = attention.output_dense(attend(attention, scaled(attention, query), key, attention.value_dense(y)))
            x = x + (layer.post_attention_norm(y) if layer.use_post_attention_norm else y)
            y = layer.pre_ffw_norm(x)
            y = layer.ffw_linear(keras.activations.gelu(layer.gating_ffw(y), approximate=True) * layer.gating_ffw_2(y))
            x = x + (layer.post_ffw_norm(y) if layer.use_post_ffw_norm else y)
        return self.backbone.layer_norm(x)
