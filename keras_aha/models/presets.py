"""A keras-hub preset: found by its name, handle or folder, and read, with errors for the user."""

import contextlib
import os
import warnings
from pathlib import Path

from keras_aha.files import local_path, presets_folder
from keras_aha.names import suggestion

import keras
import keras_hub
import tensorflow as tf

# TensorFlow reads text for tokenizers and writes TensorBoard's files; it would take a GPU's memory for itself.
try:
    for _kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], _kind)
except RuntimeError:
    warnings.warn("TensorFlow was used before keras_aha, and holds memory: import keras_aha first.", stacklevel=2)

_KAGGLE = (
    "KAGGLE_USERNAME and KAGGLE_KEY (from https://www.kaggle.com/settings) of an account that has accepted their terms "
    "at https://www.kaggle.com/models/keras/gemma2"
)
_HANDLES = ("kaggle://", "hf://", "modelscope://")
_HUGGING_FACE = "HF_TOKEN of an account that has accepted their terms at https://huggingface.co"


def find_preset(preset: str, key: str = "model.preset") -> str:
    """What keras-hub calls `preset`: an absolute path, one of its own names, or a handle.

    It raises ValueError if it is none of them; the message names the nearest, and `key`, a recipe's.
    """
    built_in = keras_hub.models.CausalLM.presets
    if preset.startswith(_HANDLES) or preset in built_in:
        return preset
    for folder in (presets_folder() / preset, local_path(preset, "preset")):
        if os.path.isdir(folder):
            return str(folder.resolve())
    if "/" in preset or "\\" in preset:
        raise ValueError(
            "There is no such folder; a preset's is the one that holds its config.json, as save_to_preset, Kaggle and "
            "Hugging Face write it. Of one that has moved, name the new place "
            f"(--set {key}=FOLDER). Received: preset={preset!r}"
        )
    shipped = [path.name for path in presets_folder().iterdir() if path.is_dir()]
    raise ValueError(
        f"No preset has that name{suggestion(preset, [*built_in, *shipped], '{!r}')}. A folder that save_to_preset "
        f"wrote is named by its path. Received: preset={preset!r}"
    )


def load_preset(kind: type, preset: str, **kwargs):
    """`kind.from_preset(…, **kwargs)` of what `find_preset` finds, such as of `keras_hub.tokenizers.Tokenizer`.

    Raises:
        ValueError: an unknown preset, or one that cannot be downloaded or read.
    """
    found = find_preset(preset)
    try:
        return kind.from_preset(found, **kwargs)
    except Exception as error:  # kagglehub, huggingface_hub, requests, h5py, json: each raises its own
        reason = " ".join(str(error).split())[:200]
        received = f"Received: preset={preset!r}, {type(error).__name__}: {reason}"
        sentence = "The folder is no preset that keras-hub can load"
        if not Path(found).is_absolute():
            needs = _HUGGING_FACE if preset.startswith("hf://") else _KAGGLE
            sentence = f"The preset could not be downloaded, which needs a network and, for Gemma's weights, {needs}"
        raise ValueError(f"{sentence}. {received}") from error


def load_tokenizer(preset: str) -> keras_hub.tokenizers.Tokenizer:
    """The tokenizer of a preset, without the weights; errors are those of `load_preset`."""
    return load_preset(keras_hub.tokenizers.Tokenizer, preset)


@contextlib.contextmanager
def own_dtype(kind: type, dtype):
    """Lets the layers of a backbone of class `kind`, made in the block, have its dtype, what Keras takes as a policy.

    keras-hub's SmolLM3 does not hand it on to them, so that they take Keras's default, which is changed meanwhile. With
    other models nothing happens.
    """
    before = keras.config.dtype_policy()
    if issubclass(kind, keras_hub.models.SmolLM3Backbone):
        keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
