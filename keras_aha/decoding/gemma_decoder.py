"""Gemma, CodeGemma and Gemma 2."""

from keras_aha.decoding.attention import scaled
from keras_aha.decoding.decoder import Decoder
from keras_aha.models.internals import rotate

import jax.numpy as jnp
import keras


class GemmaDecoder(Decoder):
    """Drives a `keras_hub.models.GemmaBackbone`; Gemma 2 (arXiv:2408.00118) adds post-norms, soft caps, windows."""

    def forward(self, token_ids, position, attend):
        x = self.backbone.token_embedding(token_ids)
        x = x * jnp.sqrt(self.backbone.hidden_dim).astype(x.dtype)
        for layer in self.backbone.transformer_layers:
            attention = layer.attention
            y = layer.pre_attention_norm(x)
            query = rotate(attention, attention.query_dense(y), position)
            key = rotate(attention, attention.key_dense(y), position)
            y = attention.output_dense(attend(attention, scaled(attention, query), key, attention.value_dense(y)))
            x = x + (layer.post_attention_norm(y) if layer.use_post_attention_norm else y)
            y = layer.pre_ffw_norm(x)
            y = layer.ffw_linear(keras.activations.gelu(layer.gating_ffw(y), approximate=True) * layer.gating_ffw_2(y))
            x = x + (layer.post_ffw_norm(y) if layer.use_post_ffw_norm else y)
        return self.backbone.layer_norm(x)
