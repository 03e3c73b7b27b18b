"""A run → folders that keras-hub, transformers and PEFT load (`export`)."""

from keras_aha.runs.export.export import FORMATS, export

__all__ = ["FORMATS", "export"]
