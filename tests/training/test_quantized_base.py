"""Adapters over a base in 8 and 4 bits, against floats made by hand of the integers and scales that Keras stored."""

import re
import warnings

from keras_aha.decoding import generate_with_cache, row_keys
from keras_aha.losses import GRPOLoss
from keras_aha.models.internals import without_values
from keras_aha.models.policy import load_policy
from keras_aha.models.quantization import abstract_quantized, quantize_base
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.experiment import Experiment
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.log_probs import completion_log_probs

import jax
import keras
import numpy as np
import pytest
from conftest import ALL_LINEAR, randomize

LENGTH, GROUP = 10, 2
SHAPE = dict(num_layers=1, intermediate_dim=512)  # its last linear has 256 inputs, which are two blocks of int4
# The axes of a kernel that meet the inputs.
INPUT_AXES = (
    dict.fromkeys(ALL_LINEAR, (0,)) | dict.fromkeys(["query", "key", "value"], (1,)) | {"attention_output": (0, 1)}
)


def floats(layer, shape, input_axes):
    """The kernel that a quantized layer stands for, float64."""
    stored, scale = layer._kernel.numpy(), np.float64(layer.kernel_scale.numpy())
    if layer.quantization_mode == "int8":
        return stored / scale.reshape([1 if axis in input_axes else size for axis, size in enumerate(shape)])
    low, high = ((stored & 15) ^ 8) - 8, stored >> 4  # two signed numbers a byte
    numbers = np.stack([low, high], axis=-1).reshape(len(stored), -1)[:, : scale.shape[1]]
    block = np.arange(len(stored)) // 128
    return ((numbers - np.float64(layer.kernel_zero.numpy())[block]) * scale[block]).reshape(shape)


@pytest.fixture(scope="module", params=("int8", "int4"))
def policy(request, make_policy):
    """A Gemma, quantized, with random adapters, for reading only."""
    policy = make_policy("gemma", **SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of layers that Keras cannot quantize
        quantize_base(policy.backbone, request.param)
    policy.backbone.enable_lora(2, target_layer_names=ALL_LINEAR)
    randomize(policy.trainable_variables, 1)
    return policy


@pytest.fixture(scope="module")
def dequantized(policy, make_policy):
    """The same in floats."""
    other = make_policy("gemma", lora_rank=2, **SHAPE)
    for layer, twin in zip(policy.backbone._flatten_layers(), other.backbone._flatten_layers(), strict=True):
        if layer.name == "token_embedding":
            twin._embeddings.assign(layer._embeddings.numpy() / layer.embeddings_scale.numpy()[:, None])
        elif layer.name in ALL_LINEAR:
            twin._kernel.assign(floats(layer, twin._kernel.shape, INPUT_AXES.get(layer.name, (0,))))
    for adapters, copy in zip(policy.trainable_variables, other.trainable_variables, strict=True):
        copy.assign(adapters.numpy())  # its own array, as a step donates them
    return other


@pytest.fixture(scope="module")
def prompt(policy, prompts):
    return GRPOModel(policy).tokenize(prompts)


@pytest.fixture(scope="module")
def completions(policy, prompt):
    return GRPOModel(policy).generate(
        *prompt, group_size=GROUP, max_completion_length=LENGTH, stop_tokens=tuple("abcdef"), seed=1
    )


def live_tokens(completions):
    return np.arange(completions.token_ids.shape[1]) < completions.lengths[:, None]


def teacher_forced(policy, prompt, completions):
    live = live_tokens(completions)
    ones = np.ones(len(live), "float32")
    forward = jax.jit(lambda *arrays: completion_log_probs(policy, *arrays, ones)[0])
    return np.asarray(forward(*prompt, completions.token_ids)) * live


def test_kernels_are_integers_and_only_adapters_are_trained(policy):
    assert policy.backbone.get_layer("token_embedding").quantization_mode == "int8"  # of int4 too
    kernels = {v.path for v in policy.backbone.variables if v.path.endswith("/kernel")}
    adapters = {path.removesuffix("kernel") + f"lora_kernel_{x}" for path in kernels for x in "ab"}
    assert adapters == {variable.path for variable in policy.trainable_variables} and len(kernels) == 7
    layer = policy.backbone.get_layer("decoder_block_0").ffw_linear
    size = {"int8": 256 * 16, "int4": 256 * 8}[layer.quantization_mode]
    assert (layer._kernel.dtype, layer._kernel.value.nbytes) == ("int8", size)


@pytest.mark.parametrize(
    "mode, make, equation, input_axes",
    (
        ("int4", lambda: keras.layers.Dense(5, use_bias=False), "bti,io->bto", (0,)),
        ("int8", lambda: keras.layers.EinsumDense("bti,nih->btnh", (None, 2, 4)), "bti,nih->btnh", (1,)),
        ("int4", lambda: keras.layers.EinsumDense("bti,nih->btnh", (None, 2, 4)), "bti,nih->btnh", (1,)),
    ),
)
def test_gradients_of_a_layer(mode, make, equation, input_axes):
    layer, rng = make(), np.random.default_rng(2)
    x = rng.normal(size=(2, 3, 200))
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    randomize(layer.variables, 0)
    shape, scale = layer.kernel.shape, 3.0 / 2
    quantize_base(model, mode)
    assert layer.quantization_mode == mode
    layer.enable_lora(2, lora_alpha=3.0)
    a, b = layer.lora_kernel_a, layer.lora_kernel_b
    randomize([a, b], 1)

    def call(x, *adapters):
        with keras.StatelessScope(zip((a, b), adapters, strict=True)):
            return layer(x)

    y, vjp = jax.vjp(call, x.astype("float32"), a.value, b.value)
    upstream = rng.normal(size=y.shape)
    gradients = vjp(upstream.astype("float32"))

    inputs, kernel, outputs = re.split(",|->", equation)
    a, b = np.float64(a.numpy()), np.float64(b.numpy())
    whole = floats(layer, shape, input_axes) + scale * a @ b
    by_kernel = np.einsum(f"{inputs},{outputs}->{kernel}", x, upstream)
    by_b = scale * np.einsum("nr,no->ro", a.reshape(-1, 2), by_kernel.reshape(-1, shape[-1]))
    expected = np.einsum(f"{outputs},{kernel}->{inputs}", upstream, whole), scale * by_kernel @ b.T, by_b
    np.testing.assert_allclose(y, np.einsum(equation, x, whole), atol=1e-4)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert np.linalg.norm(gradient - wanted) < 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("tie_weights", (True, False))
def test_a_gradient_comes_through_the_logits(tie_weights):
    layer = keras.layers.ReversibleEmbedding(7, 16, tie_weights=tie_weights)
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, layer(inputs))
    randomize(layer.variables, 0)
    quantize_base(model, "int4")
    if tie_weights:
        weights = layer._embeddings.numpy() / np.float64(layer.embeddings_scale.numpy())[:, None]
    else:
        weights = (layer.reverse_embeddings.numpy() / np.float64(layer.reverse_embeddings_scale.numpy())).T
    hidden, upstream = np.random.default_rng(1).normal(size=(3, 16)), np.random.default_rng(2).normal(size=(3, 7))
    logits, vjp = jax.vjp(lambda x: layer(x, reverse=True), hidden.astype("float32"))
    np.testing.assert_allclose(logits, hidden @ weights.T, atol=1e-5)
    np.testing.assert_allclose(vjp(upstream.astype("float32"))[0], upstream @ weights, atol=1e-5)


def test_a_step_is_that_of_the_dequantized_model(policy, dequantized, prompt, completions, one_batch):
    live = live_tokens(completions)
    batch = dict(zip(("prompt_ids", "prompt_mask"), prompt, strict=True), completion_ids=completions.token_ids)
    batch["completion_mask"] = live.astype("float32")
    batch |= dict(old_log_probs=completions.log_probs, sampler_log_probs=completions.log_probs)
    batch["advantages"] = np.random.default_rng(3).normal(size=len(live)).astype("float32")
    batch["temperature"] = np.ones(len(live), "float32")
    kls, updates = [], []
    for trained in (policy, dequantized):
        adapters = [variable.numpy() for variable in trained.trainable_variables]
        base = [variable.numpy() for variable in trained.non_trainable_variables]
        model = GRPOModel(trained)
        model.compile(keras.optimizers.SGD(1.0), GRPOLoss(kl_coef=0.1))
        kls += model.fit(one_batch(batch), verbose=0).history["kl"]
        for variable, before in zip(trained.non_trainable_variables, base, strict=True):
            np.testing.assert_array_equal(variable, before)
        updates.append([v.numpy() - before for v, before in zip(trained.trainable_variables, adapters, strict=True)])
        for variable, before in zip(trained.trainable_variables, adapters, strict=True):
            variable.assign(before)
    assert kls[0] > 0.01  # to the reference, which is the quantized base
    np.testing.assert_allclose(*kls, rtol=1e-3)
    for update, wanted in zip(*updates, strict=True):
        assert np.linalg.norm(wanted) > 1e-3
        assert np.linalg.norm(update - wanted) < 1e-3 * np.linalg.norm(wanted)


def test_sampled_log_probs_are_those_of_the_trained_policy(policy, dequantized, prompt, completions):
    assert 0 < completions.stopped.sum() < len(completions.stopped)
    forced = teacher_forced(policy, prompt, completions)
    np.testing.assert_allclose(completions.log_probs, forced, atol=1e-4)
    np.testing.assert_allclose(forced, teacher_forced(dequantized, prompt, completions), atol=1e-4)


def test_another_architecture_by_way_of_its_cache(make_policy):
    policy = make_policy("qwen_3", num_layers=1, intermediate_dim=160, tie_word_embeddings=False, vocabulary_size=32)
    quantize_base(policy.backbone, "int4")
    policy.backbone.enable_lora(2, ["query", "value", "feedforward_output_dense"])
    randomize(policy.trainable_variables, 1)
    prompt = np.arange(10, dtype="int32").reshape(2, 5), np.ones((2, 5), "int32")
    completions = generate_with_cache(
        policy,
        [variable.value for variable in policy.backbone.variables],
        *(*prompt, row_keys(0, 0, np.arange(2 * GROUP))),
        **dict(group_size=GROUP, max_completion_length=LENGTH),
        stop_table=np.zeros((2, policy.backbone.vocabulary_size), "int8"),
    )
    np.testing.assert_allclose(completions.log_probs, teacher_forced(policy, prompt, completions), atol=1e-4)


@pytest.fixture(scope="module")
def preset(make_policy, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("presets") / "tiny")
    make_policy().save_to_preset(folder)
    return folder


def test_priming_has_floats_and_quantized_weights_need_adapters(preset):
    recipe = Recipe.load("countdown_tiny").override([f"model.preset={preset}", "model.quantization=int4"])
    assert all(variable.dtype == "float32" for variable in build_policy(recipe, adapters=False).weights)
    with pytest.raises(ValueError, match='set lora.rank above 0 or model.quantization="none". Received: model.'):
        Experiment(recipe.override("lora.rank=0"))
    with pytest.raises(ValueError, match="leave one of model.quantization and rollouts.quantization out."):
        Experiment(recipe.override("rollouts.quantization=int8"))


def test_4_bits_are_refused_on_a_mesh(preset, monkeypatch):
    mesh = keras.distribution.DataParallel(devices=["cpu:0"])
    monkeypatch.setattr(keras.distribution, "distribution", lambda: mesh)
    with pytest.raises(ValueError, match="no layout on several devices: .* Received: quantization=.int4., "):
        load_policy(preset, quantization="int4", lora_rank=2)


def test_gemma_4_is_refused_before_its_weights_are_loaded(tmp_path):
    from models.test_multimodal_presets import gemma_4

    gemma_4().save_to_preset(str(tmp_path))
    (tmp_path / "model.weights.h5").unlink()
    with pytest.raises(ValueError, match="keras-hub's Gemma4Backbone computes with its kernels past the scales"):
        load_policy(str(tmp_path), quantization="int4", lora_rank=2)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_without_values_the_variables_are_the_same(make_policy, mode):
    backbone = make_policy("gemma_2", num_layers=1).backbone
    twin = abstract_quantized(backbone, mode)
    quantize_base(backbone, mode)
    for layer in (backbone, twin):
        with without_values():
            layer.enable_lora(2, target_layer_names=["query", "ffw_linear"])

    def facts(layer):
        return {v.path: (tuple(v.shape), v.dtype, v.trainable) for v in layer.variables}

    assert facts(twin) == facts(backbone)
    for own, other in zip(twin._flatten_layers(False), backbone._flatten_layers(False), strict=True):
        assert own.quantization_mode == other.quantization_mode
        assert getattr(own, "inputs_quantizer", None) is getattr(other, "inputs_quantizer", None) is None
