"""Gemma2-2B without values, for programs that are only compiled."""

from keras_aha.models.abstract_backbone import abstract_backbone
from keras_aha.models.internals import without_values

VOCABULARY = 256_000


def gemma2_2b(layers: int = 26):
    """The backbone in bfloat16, without values, with as many of its layers."""
    backbone = abstract_backbone("gemma2_2b_en", "bfloat16")
    with without_values():
        return type(backbone).from_config(backbone.get_config() | {"num_layers": layers})
