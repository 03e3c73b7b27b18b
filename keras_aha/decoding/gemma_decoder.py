"""`GemmaDecoder`: Gemma, CodeGemma and Gemma 2."""

from keras_aha.decoding.attention import scaled
from keras_aha.decoding.decoder import Decoder
from keras_aha.models.internals import rotate

import jax.numpy as jnp
import keras


class GemmaDecoder(Decoder):
    """Runs a `keras_hub.models.GemmaBackbone`; Gemma 2 (arXiv:2408.00118) adds norms, soft caps and windows."""

    def embed(self, token_ids):
        return embed(self.backbone, token_ids), [None] * self.backbone.num_layers

    def project(self, layer, x, positions):
        attention, x = layer.attention, layer.pre_attention_norm(x)
        query, key = (rotate(attention, z, positions) for z in self.query_and_key(attention, x))
        return scaled(attention, query), (key, attention.value_dense(x))

    def finish(self, layer, x, attended, extra):
        y = layer.attention.output_dense(attended)
        x = x + (layer.post_attention_norm(y) if layer.use_post_attention_norm else y)
        y = feed_forward(layer, layer.pre_ffw_norm(x))
        return x + (layer.post_ffw_norm(y) if layer.use_post_ffw_norm else y)

    def query_and_key(self, attention, x):
        """Of an attention layer's inputs, before their rotation."""
        return attention.query_dense(x), attention.key_dense(x)


def embed(backbone, token_ids):
    """`(B, t)` → `(B, t, D)`, what goes into the first layer."""
    x = backbone.token_embedding(token_ids)
    return x * jnp.sqrt(backbone.hidden_dim).astype(x.dtype)


def feed_forward(layer, x):
    """The gated network of a layer."""
    return layer.ffw_linear(keras.activations.gelu(layer.gating_ffw(x), approximate=True) * layer.gating_ffw_2(x))
