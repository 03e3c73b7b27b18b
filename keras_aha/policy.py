"""A recipe's policy: a preset found, loaded, and given adapters."""

import json
from pathlib import Path

from keras_aha import lora
from keras_aha.recipe import Recipe, presets_folder
from keras_aha.recipe_sections import RecipeError, nearest

import keras
import keras_hub

_KAGGLE = (
    "KAGGLE_USERNAME and KAGGLE_KEY (from https://www.kaggle.com/settings) of an account that has accepted their terms "
    "at https://www.kaggle.com/models/keras/gemma2"
)
# Models that see or hear as well. A policy is loaded without those encoders, which cost memory and want inputs.
_ENCODERS = {
    keras_hub.models.Gemma3CausalLM: ("vision_encoder",),
    keras_hub.models.Gemma4CausalLM: ("vision_encoder", "audio_encoder"),
}
_HUGGING_FACE = "HF_TOKEN of an account that has accepted their terms at https://huggingface.co"


def build_policy(recipe: Recipe, adapters: bool = True) -> keras_hub.models.CausalLM:
    """Loads the policy of `[model]` and enables the adapters of `[lora]`.

    Args:
        recipe: its sections `model` and `lora` are read.
        adapters: `False` leaves `[lora]` alone: every weight is trainable.

    Raises:
        RecipeError: an unknown preset or dtype, a preset that cannot be loaded, or no such layers to adapt.
    """
    try:
        keras.DTypePolicy(recipe.model.dtype)
    except (ValueError, TypeError):
        raise RecipeError(
            f"Keras knows no such dtype; usual are float32 and bfloat16. Received: model.dtype={recipe.model.dtype!r}"
        ) from None
    policy = _load_text_model(recipe)
    if adapters and recipe.lora.rank:
        _enable_lora(policy.backbone, recipe.lora)
    return policy


def load_tokenizer(recipe: Recipe) -> keras_hub.tokenizers.Tokenizer:
    """The tokenizer of `[model]`, without the weights.

    Raises:
        RecipeError: an unknown preset, or one that cannot be loaded.
    """
    return _load(keras_hub.tokenizers.Tokenizer, recipe.model.preset)


def is_download(recipe: Recipe) -> bool:
    """Whether `[model]` names a preset of keras-hub or a handle, and no folder here.

    Raises:
        RecipeError: an unknown preset.
    """
    return not Path(_find(recipe.model.preset)).is_absolute()


def with_absolute_preset(recipe: Recipe) -> Recipe:
    """The recipe, its preset an absolute path where it is a folder of the user's.

    Raises:
        RecipeError: an unknown preset.
    """
    if is_download(recipe) or (presets_folder() / recipe.model.preset).is_dir():
        return recipe
    return recipe.override(f"model.preset={json.dumps(_find(recipe.model.preset))}")


def _find(preset: str) -> str:
    """What keras-hub calls `preset`: an absolute path, one of its own names, or a handle."""
    built_in = keras_hub.models.CausalLM.presets
    if "://" in preset or preset in built_in:
        return preset
    for folder in (presets_folder() / preset, Path(preset)):
        if preset and folder.is_dir():
            return str(folder.resolve())
    shipped = [path.name for path in presets_folder().iterdir() if path.is_dir()]
    raise RecipeError(
        f"No preset has that name; the nearest is {nearest(preset, [*built_in, *shipped])!r}, and a folder that "
        f"save_to_preset wrote is named by its path. Received: model.preset={preset!r}"
    )


def _load_text_model(recipe: Recipe) -> keras_hub.models.CausalLM:
    model = recipe.model
    tokenizer = load_tokenizer(recipe)
    for kind, encoders in _ENCODERS.items():
        if tokenizer.backbone_cls is kind.backbone_cls:
            backbone = _load(kind.backbone_cls, model.preset, dtype=model.dtype, **dict.fromkeys(encoders))
            return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer))
    return _load(keras_hub.models.CausalLM, model.preset, dtype=model.dtype)


def _load(kind, preset: str, **kwargs):
    found = _find(preset)
    try:
        return kind.from_preset(found, **kwargs)
    except Exception as error:  # kagglehub, huggingface_hub, requests, h5py, json: each raises its own
        reason = " ".join(str(error).split())[:200]
        received = f"Received: model.preset={preset!r}, {type(error).__name__}: {reason}"
        sentence = "The folder is no preset that keras-hub can load"
        if not Path(found).is_absolute():
            needs = _HUGGING_FACE if preset.startswith("hf://") else _KAGGLE
            sentence = f"The preset could not be downloaded, which needs a network and, for Gemma's weights, {needs}"
        raise RecipeError(f"{sentence}. {received}") from error


def _enable_lora(backbone, section) -> None:
    adaptable = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)
    names = {layer.name for layer in backbone._flatten_layers() if isinstance(layer, adaptable)}
    for name in section.target:
        if name not in names:
            raise RecipeError(
                f"The policy has no layer {name!r} to adapt; the nearest is {nearest(name, sorted(names))!r}. "
                f"Received: lora.target={list(section.target)}"
            )
    backbone.enable_lora(section.rank, target_layer_names=list(section.target))
    if not lora.has_adapters(backbone):
        raise RecipeError("No layer was adapted: name some, or set lora.rank=0. Received: lora.target=[]")
