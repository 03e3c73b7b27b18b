"""Decoding: token ids in, token ids and log-probs out."""

from keras_aha.decoding.generate import Completions, Sampling, generate
from keras_aha.decoding.sampling import row_keys

__all__ = ["Completions", "Sampling", "generate", "row_keys"]
