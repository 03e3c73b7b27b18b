"""Gemma2-2B without values, for programs that are only compiled."""

import keras
import keras_hub

VOCABULARY = 256_000


def gemma2_2b(layers: int = 26):
    """The backbone in bfloat16, without values; the numbers are those of the preset `gemma2_2b_en`."""
    with keras.StatelessScope(initialize_variables=False):
        return keras_hub.models.GemmaBackbone(
            vocabulary_size=VOCABULARY,
            num_layers=layers,
            num_query_heads=8,
            num_key_value_heads=4,
            hidden_dim=2304,
            intermediate_dim=18432,  # gate and up together
            head_dim=256,
            use_post_ffw_norm=True,
            use_post_attention_norm=True,
            attention_logit_soft_cap=50.0,
            final_logit_soft_cap=30.0,
            use_sliding_window_attention=True,
            sliding_window_size=4096,
            dtype="bfloat16",
        )
