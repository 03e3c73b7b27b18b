"""`Gemma4Decoder`: Gemma 4."""

from keras_aha.decoding.decoder import Decoder
from keras_aha.decoding.gemma_decoder import embed, feed_forward
from keras_aha.models.internals import rotate

import jax.numpy as jnp
import keras


class Gemma4Decoder(Decoder):
    """Runs a `keras_hub.models.Gemma4Backbone` on text; its encoders of images and audio are not used.

    Unlike in Gemma 3, values are normalised too and queries are not scaled. Layers with a window have other heads and
    another RoPE than the rest. The last layers may read the keys and values of earlier ones. Each layer may have its
    own embedding of the tokens, and experts.

    Raises:
        ValueError: if the backbone's attention is bidirectional, or if it is an assistant, whose layers have no keys.
    """

    def __init__(self, backbone):
        if backbone.use_bidirectional_attention or backbone.num_kv_shared_layers == backbone.num_layers:
            raise ValueError(
                "A backbone with bidirectional attention, or an assistant's, cannot generate by itself. "
                f"Received: backbone={backbone.name}, with "
                f"use_bidirectional_attention={backbone.use_bidirectional_attention} and "
                f"num_kv_shared_layers={backbone.num_kv_shared_layers} of {backbone.num_layers}"
            )
        super().__init__(backbone)

    def source(self, number):
        layer = self.backbone.transformer_layers[number]
        return layer.kv_shared_layer_index if layer.is_kv_shared_layer else number

    def embed(self, token_ids):
        x = embed(self.backbone, token_ids)
        return x, self._embeddings(token_ids, x)

    def project(self, layer, x, positions):
        attention, x = layer.attention, layer.pre_attention_norm(x)
        query = rotate(attention, attention.query_norm(attention.query_dense(x)), positions)
        if layer.is_kv_shared_layer:
            return query, None
        key = attention.key_dense(x)
        value = attention.value_norm(key if attention.attention_k_eq_v else attention.value_dense(x))
        return query, (rotate(attention, attention.key_norm(key), positions), value)

    def finish(self, layer, x, attended, extra):
        x = x + layer.post_attention_norm(layer.attention.output_dense(attended))
        x = x + layer.post_ffw_norm(_feed_forward(layer, x))
        if extra is not None:  # the layer's own embedding of the tokens
            y = keras.activations.gelu(layer.per_layer_input_gate(x), approximate=True) * extra
            x = x + layer.post_per_layer_input_norm(layer.per_layer_up_proj(y))
        return x * keras.ops.cast(layer.layer_scalar, x.dtype)

    def _embeddings(self, token_ids, x):
        """Each layer's own embedding of the tokens, `(B, t, E)`; `None` for each if the model has none."""
        backbone, size = self.backbone, self.backbone.hidden_size_per_layer_input
        if not size:
            return [None] * backbone.num_layers
        embeddings = jnp.split(backbone.per_layer_token_embedding(token_ids) * size**0.5, backbone.num_layers, axis=-1)
        projected = backbone.per_layer_model_projection(x) * backbone.hidden_dim**-0.5
        projected = jnp.split(projected, backbone.num_layers, axis=-1)
        pairs = zip(projected, embeddings, strict=True)
        return [(backbone.per_layer_projection_norm(p) + embedding) * 2**-0.5 for p, embedding in pairs]


def _feed_forward(layer, x):
    y = feed_forward(layer, layer.pre_ffw_norm(x))
    if not layer.enable_moe_block:
        return y
    experts = layer.moe_expert_bank(layer.pre_ffw_norm_moe(x).reshape(-1, x.shape[-1]), layer.moe_router(x))
    return layer.post_ffw_norm_dense(y) + layer.post_ffw_norm_moe_path(experts.reshape(x.shape))
