"""`load_policy`: what plain arguments give, and what is refused before weights are loaded."""

import functools
import json
import re
import shutil

import keras_aha as aha
from keras_aha.models import lora, policy
from keras_aha.models.policy import abstract_policy

import h5py
import keras
import numpy as np
import pytest
from models.test_multimodal_presets import gemma_4
from tiny_models import ALL_LINEAR, OTHER_TARGETS, SHAPES, outputs, randomize, tiny_policy


@pytest.fixture(scope="module")
def made(make_policy):
    return make_policy("gemma_2")


@pytest.fixture(scope="module")
def folders(made, make_policy, tmp_path_factory):
    """A tiny Gemma 2 as keras-hub writes it, and a tiny Gemma as Hugging Face does."""
    root = tmp_path_factory.mktemp("input")
    made.save_to_preset(str(root / "keras"))
    gemma = make_policy("gemma")
    gemma.save_to_preset(str(root / "gemma"))
    gemma.export_to_transformers(str(root / "hf"))
    config = root / "hf" / "config.json"
    written = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(written | {"architectures": ["GemmaForCausalLM"]}), encoding="utf-8")  # left out
    return root


@pytest.fixture(scope="module")
def preset(folders):
    return str(folders / "keras")


@pytest.fixture(scope="module")
def adapters(preset, tmp_path_factory):
    """A file of adapters of rank 2, and what they are."""
    trained, path = aha.load_policy(preset, lora_rank=2), tmp_path_factory.mktemp("run") / lora.ADAPTERS
    randomize(trained.trainable_variables, 0)
    lora.save_adapters(trained.backbone, path)
    return path, [np.asarray(variable) for variable in trained.trainable_variables]


def facts(loaded):
    return [(v.path, tuple(v.shape), v.dtype, v.trainable) for v in loaded.backbone.variables]


# === What is loaded ===


@pytest.mark.parametrize("kind, is_relative", [("gemma", False), ("hf", True)])
def test_weights_are_those_of_the_folder(folders, made, kind, is_relative, monkeypatch):
    monkeypatch.chdir(folders)
    loaded = aha.load_policy(kind if is_relative else str(folders / kind), dtype="bfloat16")
    expected = aha.load_policy(str(folders / "gemma"), lora_rank=0)
    frozen = {variable.path: variable for variable in loaded.backbone.non_trainable_variables}
    assert frozen.keys() == {variable.path for variable in expected.trainable_variables}  # without adapters, all
    for variable in expected.trainable_variables:
        assert frozen[variable.path].dtype == "bfloat16"
        np.testing.assert_array_equal(frozen[variable.path], variable.value.astype("bfloat16"))
    np.testing.assert_array_equal(*(model.preprocessor.tokenizer("make 12") for model in (loaded, made)))


def test_adapters_are_on_all_linears_by_default(preset):
    loaded = aha.load_policy(preset, dtype="bfloat16")
    adapted = lora.adapted_layers(loaded.backbone)
    assert sorted(layer.name for layer in adapted) == sorted(2 * ALL_LINEAR)
    assert {(layer.lora_rank, lora.scale(layer)) for layer in adapted} == {(16, 1.0)}
    assert {variable.dtype for variable in loaded.trainable_variables} == {"float32"}
    assert len(loaded.trainable_variables) == 2 * len(adapted)


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_quantization_rank_alpha_and_layers_are_chosen(preset, quantization):
    chosen = dict(lora_rank=2, lora_alpha=3.0, lora_targets=("query",))
    loaded = aha.load_policy(preset, quantization=quantization, **chosen)
    modes = {layer.name: layer.quantization_mode for layer in loaded.backbone.transformer_layers[1]._flatten_layers()}
    assert {modes[name] for name in ALL_LINEAR} == {quantization}
    adapted = lora.adapted_layers(loaded.backbone)
    assert [(layer.name, layer.lora_rank, lora.scale(layer)) for layer in adapted] == 2 * [("query", 2, 1.5)]


@pytest.mark.parametrize("arguments", [{}, {"lora_rank": 0}, {"quantization": "int4", "lora_targets": ("query",)}])
def test_the_abstract_policy_has_the_same_variables(preset, arguments):
    abstract = abstract_policy(preset, dtype="bfloat16", **arguments)
    assert facts(abstract) == facts(aha.load_policy(preset, dtype="bfloat16", **arguments))
    assert all(variable._value is None for variable in abstract.variables)


def test_queries_are_scaled_as_in_training(made, tmp_path):
    """As in models of 27B, whose config.json says so; keras-hub loads it and does not pass it on to its layers."""
    made.save_to_preset(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["query_head_dim_normalize"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "task.json").unlink()
    loaded = aha.load_policy(str(tmp_path))
    assert {block.attention.query_head_dim_normalize for block in loaded.backbone.transformer_layers} == {False}


def test_adapters_are_loaded_onto_the_same_reference(preset, adapters):
    path, values = adapters
    loaded = aha.load_policy(preset, lora_rank=2, adapters=path)
    for variable, value in zip(loaded.trainable_variables, values, strict=True):
        np.testing.assert_array_equal(variable, value)
    inputs = {"token_ids": np.ones((1, 3), "int32"), "padding_mask": np.ones((1, 3), "int32")}
    with lora.adapters_off(loaded) as reference:
        np.testing.assert_array_equal(reference(inputs), aha.load_policy(preset, lora_rank=0)(inputs))


@pytest.mark.parametrize("shape, quantization", [*((shape, None) for shape in SHAPES), ("qwen_2", "int8")])
def test_what_is_trained_is_what_is_saved_and_switched_off(shape, quantization, tmp_path):
    """Keras's `enable_lora` leaves biases of adapted layers trainable, as of Qwen 2's query."""
    made = tiny_policy(shape)
    made.save_to_preset(str(tmp_path / "base"))
    arguments = dict(lora_rank=2, lora_targets=OTHER_TARGETS.get(shape, ALL_LINEAR), quantization=quantization)
    load = functools.partial(aha.load_policy, str(tmp_path / "base"), **arguments)
    trained = load()
    with lora.adapters_off(trained) as reference:
        before = outputs(reference.backbone)
    randomize(trained.trainable_variables, 1)
    assert {variable.name for variable in trained.trainable_variables} == {"lora_kernel_a", "lora_kernel_b"}
    with lora.adapters_off(trained) as reference:
        np.testing.assert_array_equal(outputs(reference.backbone), before)
    assert np.abs(outputs(trained.backbone) - before).max() > 0.01
    lora.save_adapters(trained.backbone, tmp_path / lora.ADAPTERS)
    np.testing.assert_array_equal(outputs(load(adapters=tmp_path / lora.ADAPTERS).backbone), outputs(trained.backbone))


# === What is refused before weights are loaded ===


@pytest.fixture
def no_weights(monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(policy, "_load_text_model", load)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"preset": "gemma2/2"}, "There is no such folder; a preset's is the one that holds its config.json"),
        ({"dtype": "int8"}, "`dtype` must be one of float32, bfloat16, float16. Received: dtype='int8'"),
        ({"quantization": "int2"}, "`quantization` must be int8 or int4, or None. Received: quantization='int2'"),
        ({"quantization": "int4", "lora_rank": 0}, "set `lora_rank` above 0 or leave `quantization` out. Received: "),
        ({"lora_targets": ("quer",)}, "The policy has no layer 'quer' to adapt; the nearest is 'query'. Received:"),
        ({"lora_targets": ()}, "No layer was adapted: name some, or set lora_rank=0. Received: lora_targets=[]"),
    ],
)
def test_what_cannot_be(preset, no_weights, arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        aha.load_policy(**{"preset": preset} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"lora_rank": 4}, "another rank than the backbone's: set it to 2. Received: path="),
        ({"lora_targets": ("query",)}, "The file's adapters are not those of the backbone"),
        ({"lora_rank": 0}, "There are no adapters to load if every weight is trained"),
    ],
)
def test_adapters_that_do_not_fit(preset, adapters, no_weights, arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        aha.load_policy(**{"preset": preset, "lora_rank": 2, "adapters": adapters[0]} | arguments)
    assert "\n" not in str(error.value)


def test_adapters_of_a_model_of_other_shapes(make_policy, adapters, no_weights, tmp_path):
    make_policy("gemma_2", hidden_dim=24).save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="The file's adapters are those of another model.*which has the shapes"):
        aha.load_policy(str(tmp_path), lora_rank=2, adapters=adapters[0])


def test_a_file_of_something_else_is_no_adapters(preset, no_weights, tmp_path):
    (tmp_path / lora.ADAPTERS).write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="The file holds no adapters of a keras-hub model.* Received: path="):
        aha.load_policy(preset, lora_rank=2, adapters=tmp_path / lora.ADAPTERS)


def test_4_bits_on_several_devices(preset, no_weights):
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        with pytest.raises(ValueError, match="no layout on several devices: .* Received: quantization=.int4., "):
            aha.load_policy(preset, quantization="int4")
    finally:
        keras.distribution.set_distribution(None)


def test_a_quantized_gemma_4(no_weights, tmp_path):
    gemma_4().save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="keras-hub's Gemma4Backbone computes with its kernels past the scales"):
        aha.load_policy(str(tmp_path), quantization="int8", lora_targets=("query",))


# === What is refused afterwards ===


def test_weights_that_are_not_finite(preset, tmp_path):
    broken = shutil.copytree(preset, tmp_path / "broken")
    with h5py.File(broken / "model.weights.h5", "r+") as file:
        file["layers/reversible_embedding/vars/0"][0, 0] = np.nan
    with pytest.raises(ValueError, match="weights are not finite: it is broken. Received: .*token_embedding"):
        aha.load_policy(str(broken))


def test_a_folder_of_two_models(preset, make_policy, tmp_path):
    """keras-hub builds what task.json says, and everything is checked for what config.json says."""
    mixed = shutil.copytree(preset, tmp_path / "mixed")
    config = json.loads((mixed / "config.json").read_text())
    config["config"]["num_layers"] = 3
    (mixed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json describes a model of .* its task.json one of .* Received: "):
        aha.load_policy(str(mixed))
