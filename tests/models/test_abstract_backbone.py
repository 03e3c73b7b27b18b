"""The oracle is the number of parameters that keras-hub publishes with each preset, and that others have counted."""

import json
import math
import tomllib
from pathlib import Path

from keras_aha import models
from keras_aha.models.abstract_backbone import abstract_backbone, copy_backbone, known_presets, scale_queries
from keras_aha.models.internals import without_values
from keras_aha.models.quantization import QuantizedBackbone
from keras_aha.models.tiny_gemma import tiny_gemma

import jax
import keras
import keras_hub
import numpy as np
import pytest
from tiny_models import SHAPES, outputs

PUBLISHED = {name: facts["metadata"]["params"] for name, facts in keras_hub.models.CausalLM.presets.items()}
# Gemma 4's model card: an encoder of images of about 150 (small models) or 550 million, one of audio of about 300.
GEMMA_4_ENCODERS = {"2b": 0.45e9, "4b": 0.45e9, "a4b": 0.55e9, "31b": 0.55e9}
TABLES = tomllib.loads(Path(models.__file__).with_name("architectures.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=TABLES)
def known(request):
    """Presets of one architecture, and its backbone."""
    presets = TABLES[request.param]["presets"]
    return presets, abstract_backbone(presets[0], "bfloat16")


def test_parameters_are_those_published(known):
    presets, backbone = known
    for preset in presets:
        if preset.startswith("gemma4"):  # in the digits that are published, which count the encoders
            unit = 1e9 if PUBLISHED[preset] > 1e10 else 1e8
            whole = backbone.count_params() + GEMMA_4_ENCODERS[preset.split("_")[-1]]
            assert whole == pytest.approx(PUBLISHED[preset], abs=unit / 2)
        elif preset + "_text" in PUBLISHED:  # this one counts the encoder of images, which a policy is loaded without
            assert backbone.count_params() == PUBLISHED[preset + "_text"] < PUBLISHED[preset]
        else:
            assert backbone.count_params() == PUBLISHED[preset]


def test_every_variable_has_a_dtype_and_no_value(known):
    _, backbone = known
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])  # Keras gives values to variables that wait for one
    frequencies = {v.path for v in backbone.variables if v.name == "inv_freq"}  # of SmolLM3, always in float32
    assert {v.dtype for v in backbone.variables if v.path not in frequencies} == {"bfloat16"}
    assert all(variable._value is None for variable in backbone.variables)


def test_a_preset_is_in_one_table():
    presets = [preset for table in TABLES.values() for preset in table["presets"]]
    assert sorted(presets) == sorted(known_presets()) == sorted(set(presets))


@pytest.mark.parametrize(
    "preset, trainable, total",
    [("gemma2_2b_en", 5_857_280, 2_620_199_168), ("gemma2_9b_en", 29_073_408, 9_270_779_392)],
)
def test_adapters_are_counted_as_others_have(preset, trainable, total):
    backbone = abstract_backbone(preset, "bfloat16")
    with without_values():
        backbone.enable_lora(8)  # on query and value
    assert sum(math.prod(variable.shape) for variable in backbone.trainable_variables) == trainable
    assert backbone.count_params() == total


def test_variables_that_wait_for_their_values_get_them():
    with keras.StatelessScope():
        late = keras.layers.Dense(2)
        late.build((None, 3))
        abstract_backbone("gemma3_270m", "bfloat16")
    assert late.kernel._value is not None


def shapes(backbone):
    return {variable.path: (tuple(variable.shape), variable.dtype) for variable in backbone.variables}


def test_a_folder_is_read_from_its_own_config(gemma_2, tmp_path):
    folder = tmp_path / "gemma2_2b_en"  # a path is no name
    gemma_2.save_to_preset(str(folder))
    whole = keras_hub.models.Backbone.from_preset(str(folder), dtype="bfloat16")
    assert shapes(abstract_backbone(str(folder), "bfloat16")) == shapes(whole)
    embedded = abstract_backbone("countdown_tiny", "float32")
    assert embedded.count_params() == tiny_gemma().backbone.count_params()


def test_a_folder_of_hugging_face_is_read_from_its_own_config(tmp_path):
    config = dict(architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", vocab_size=50, sliding_window=4)
    config |= dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, query_pre_attn_scalar=8)
    config |= dict(hidden_size=16, intermediate_size=24, head_dim=8)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    backbone = abstract_backbone(str(tmp_path), "bfloat16")
    assert type(backbone) is keras_hub.models.Gemma3Backbone
    attention = 16 * (4 * 8) * 2 + 16 * 8 * 2 + 8 * 2  # query and output, key and value, norms of query and key
    assert backbone.count_params() == 50 * 16 + 2 * (attention + 3 * 16 * 24 + 4 * 16) + 16


def test_a_handle_that_ends_in_a_known_name_needs_no_download():
    for handle in ("kaggle://keras/gemma2/keras/gemma2_2b_en/2", "kaggle://keras/gemma2/keras/gemma2_2b_en"):
        assert shapes(abstract_backbone(handle, "float32")) == shapes(abstract_backbone("gemma2_2b_en", "float32"))


def test_an_unknown_preset_is_told_the_nearest():
    with pytest.raises(ValueError, match="the nearest is 'gemma2_2b_en'.*Received: preset='gemma2_2b_e'"):
        abstract_backbone("gemma2_2b_e", "float32")


# === Copies ===


SCALED = dict(num_layers=1, head_dim=32, attention_logit_soft_cap=None, query_head_dim_normalize=False)  # as 27B


@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_computes_the_same(shape, make_policy):
    backbone = scale_queries(make_policy(shape, **(SCALED if shape in ("gemma_2", "gemma_3") else {})).backbone)
    copy = copy_backbone(backbone)
    for variable, source in zip(copy.variables, backbone.variables, strict=True):
        variable.assign(source)
    np.testing.assert_array_equal(outputs(copy), outputs(backbone))


@pytest.mark.parametrize("shape", ["gemma_2", "gemma_3"])
def test_the_copy_in_int8_is_nearer_to_its_original_than_another_scale_of_queries(shape, make_policy):
    backbone = make_policy(shape, **SCALED).backbone
    other, expected = outputs(backbone), outputs(scale_queries(backbone))
    quantized = QuantizedBackbone(backbone)
    values = jax.jit(quantized.values)([variable.value for variable in backbone.variables])
    with keras.StatelessScope(list(zip(quantized.backbone.variables, values, strict=True))):
        found = outputs(quantized.backbone)
    assert np.abs(found - expected).mean() < 0.1 * np.abs(other - expected).mean()


def test_backbones_are_copied_in_one_place():
    """`from_config` alone loses what was set on layers."""
    sources = {p.name: p.read_text(encoding="utf-8") for p in Path(models.__file__).parents[1].rglob("*.py")}
    assert [name for name, text in sources.items() if ".from_config(" in text] == ["abstract_backbone.py"]
