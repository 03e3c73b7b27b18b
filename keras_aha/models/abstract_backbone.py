"""A preset's backbone without weights. Architectures of many stand in `architectures.toml`: nothing is downloaded."""

import tomllib
from pathlib import Path

from keras_aha.models.dtype_policy import dtype_policy
from keras_aha.models.internals import flatten_layers, without_values
from keras_aha.models.presets import load_preset, own_dtype
from keras_aha.names import preset_name

import keras
import keras_hub

# Models that see or hear as well. A policy is loaded without those encoders, which cost memory and want inputs.
ENCODERS = {
    keras_hub.models.Gemma3Backbone: ("vision_encoder",),
    keras_hub.models.Gemma4Backbone: ("vision_encoder", "audio_encoder"),
}
_SCALING = (keras_hub.models.GemmaBackbone, keras_hub.models.Gemma3Backbone)  # see `scale_queries`


def abstract_backbone(preset: str, dtype: str) -> keras_hub.models.Backbone:
    """The text backbone of a preset, of any size, in no memory.

    Its variables have no values. They can be counted and laid out, and a `keras.StatelessScope` gives them values.
    `enable_lora` makes variables too, so it is called in `without_values`.

    Args:
        preset: a preset of `known_presets`, or a handle that ends in its name, for which nothing is downloaded or read;
            a folder, as keras-hub or Hugging Face writes them; or another name or handle, whose config.json keras-hub
            downloads.
        dtype: as `load_policy` takes it.

    Raises:
        ValueError: an unknown preset, or one that cannot be downloaded or read.
    """
    known = "://" in preset and not preset.startswith("hf://")  # where anyone's changed model may have the name
    name = preset_name(preset) if known else preset
    with without_values():
        if name in known_presets():
            return new_backbone(name, dtype)
        backbone = load_preset(keras_hub.models.Backbone, preset, load_weights=False, dtype=dtype)
        kind = type(backbone)
        policy = dtype_policy(kind, dtype)
        if kind in (*ENCODERS, keras_hub.models.SmolLM3Backbone) or policy != dtype:
            backbone = copy_backbone(backbone, dtype=policy, **dict.fromkeys(ENCODERS.get(kind, ())))
        return scale_queries(backbone)


def new_backbone(preset: str, dtype: str) -> keras_hub.models.Backbone:
    """The same of one of `known_presets`, its variables with values as before any training."""
    table = _known()[preset]
    kind = getattr(keras_hub.models, table.pop("class_name"))
    with own_dtype(kind, dtype):
        return scale_queries(kind(dtype=dtype_policy(kind, dtype), **table))


def copy_backbone(backbone: keras_hub.models.Backbone, **changes) -> keras_hub.models.Backbone:
    """Another backbone that computes what this one does, with `changes` of its config; it has new weights, no adapters.

    keras-hub's config alone loses what was set on layers afterwards, see `scale_queries`, and dtypes of layers that are
    not the backbone's own, see `dtype_policy`.
    """
    dtypes = {x.path: x.dtype_policy for x in flatten_layers(backbone) if x.dtype_policy != backbone.dtype_policy}
    if dtypes:
        changes = {"dtype": keras.dtype_policies.DTypePolicyMap(backbone.dtype_policy, dtypes)} | changes
    with own_dtype(type(backbone), changes.get("dtype", backbone.dtype_policy)):
        copy = type(backbone).from_config(backbone.get_config() | changes)
    if isinstance(backbone, _SCALING):
        for block, ours in zip(copy.transformer_layers, backbone.transformer_layers, strict=True):
            block.attention.query_head_dim_normalize = ours.attention.query_head_dim_normalize
    return copy


def scale_queries(backbone: keras_hub.models.Backbone) -> keras_hub.models.Backbone:
    """Has a Gemma's attention layers scale queries as the backbone's `query_head_dim_normalize` says, and returns it.

    keras-hub 0.32 does not pass it on, so that Gemma 2 27B and Gemma 3 27B would be computed with √head_dim,
    and not with the root of what their queries were scaled by in training: 144 and 168.
    """
    if isinstance(backbone, _SCALING):
        for block in backbone.transformer_layers:
            block.attention.query_head_dim_normalize = backbone.query_head_dim_normalize
    return backbone


def known_presets() -> list[str]:
    """The presets of keras-hub whose architecture is known without a download."""
    return list(_known())


def _known() -> dict[str, dict]:
    """Preset → its table: the backbone's class name and arguments."""
    tables = tomllib.loads(Path(__file__).with_name("architectures.toml").read_text(encoding="utf-8"))
    return {preset: table for table in tables.values() for preset in table.pop("presets")}
