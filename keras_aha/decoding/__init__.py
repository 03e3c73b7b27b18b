"""Decoding: token ids in, token ids and log-probs out."""

from keras_aha.decoding.answers import Answers
from keras_aha.decoding.completions import Completions
from keras_aha.decoding.decoder import Decoder
from keras_aha.decoding.gemma3_decoder import Gemma3Decoder
from keras_aha.decoding.gemma4_decoder import Gemma4Decoder
from keras_aha.decoding.gemma_decoder import GemmaDecoder
from keras_aha.decoding.generate import generate
from keras_aha.decoding.sampling import Sampling, row_keys
from keras_aha.decoding.slow_path import check_policy, generate_with_cache
from keras_aha.decoding.slow_turns import generate_turns_with_cache

import keras_hub

__all__ = [
    "Answers",
    "Completions",
    "Decoder",
    "Sampling",
    "check_policy",
    "decoder_for",
    "generate",
    "generate_turns_with_cache",
    "generate_with_cache",
    "row_keys",
]


def decoder_for(backbone) -> Decoder | None:
    """The decoder of a backbone's architecture; `None` if there is none: then use `generate_with_cache`."""
    if isinstance(backbone, keras_hub.models.GemmaBackbone):
        return GemmaDecoder(backbone)
    if isinstance(backbone, keras_hub.models.Gemma3Backbone):
        return Gemma3Decoder(backbone)
    if isinstance(backbone, keras_hub.models.Gemma4Backbone):
        return Gemma4Decoder(backbone)
    return None
