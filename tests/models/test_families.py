"""Other families than Gemma prime, train, go on and are evaluated by recipe alone, through the same scripts."""

import json
import shutil
import sys
from pathlib import Path

import keras_aha as aha
from keras_aha import planner
from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.callbacks.history_callback import of_the_machine
from keras_aha.losses import GRPOLoss
from keras_aha.models import lora
from keras_aha.models.policy import abstract_policy
from keras_aha.models.special_tokens import TURN_ENDS, prompt_ids, stop_token_ids, token_id, turn_end_id
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.experiment import Experiment
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.policy_sampler import PolicySampler

import h5py
import keras
import keras_hub
import numpy as np
import pandas as pd
import pytest
from distribution.test_distribute import named
from tiny_models import OTHER_TARGETS, tiny_policy, tiny_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import evaluate  # noqa: E402
import fit  # noqa: E402
import prime  # noqa: E402

# Rewards differ, as a buffer for lengths punishes all but the shortest completions.
ROLLOUTS = dict(prompts_per_epoch=2, group_size=4, max_prompt_length=32, max_completion_length=16, overlong_buffer=15)
SMALL = {
    "task": dict(name="countdown", num_numbers=3, max_number=10, template="compact"),
    "rollouts": dict(**ROLLOUTS, stop_strings=list("0123")),
    "optimizer": dict(config=dict(learning_rate=0.01)),
    "training": dict(completion_lengths=1),
    "evaluation": dict(puzzles=2, samples=2, every=9),
    "priming": dict(steps=2, batch_size=2, habits=dict(max_attempts=2)),
}


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Family → the folder of a tiny preset."""
    folder = tmp_path_factory.mktemp("families")
    for family in OTHER_TARGETS:
        tiny_policy(family).save_to_preset(str(folder / family))
    return {family: str(folder / family) for family in OTHER_TARGETS}


def recipe_of(presets, family):
    lora = {"rank": 2, "target": OTHER_TARGETS[family]}
    return Recipe.from_dict(SMALL | {"model": {"preset": presets[family]}, "lora": lora})


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """The folder of a run as it was when its first epoch had been saved: a copy."""
    save, copy = CheckpointCallback.on_epoch_end, tmp_path / "begun"

    def saved(self, epoch, logs=None):
        save(self, epoch, logs)
        if (tmp_path / "run").exists() and not copy.exists():  # a priming has epochs, too
            shutil.copytree(tmp_path / "run", copy)

    monkeypatch.setattr(CheckpointCallback, "on_epoch_end", saved)
    return copy


@pytest.mark.filterwarnings("ignore:.*is sampled by way of its call_with_cache:UserWarning")
@pytest.mark.parametrize(
    "family, changes",
    [
        ("llama_3", ["training.epochs=1", "lora.rank=0", "loss.kl_coef=0.1"]),  # the reference is a copy
        ("qwen_3", ["training.epochs=1"]),  # primed before; it has no token to begin with
        ("smollm_3", ["training.epochs=2"]),  # goes on from its first epoch, and is evaluated
    ],
)
def test_a_recipe_trains(family, changes, presets, begun, tmp_path):
    written, run = tmp_path / "family.toml", tmp_path / "run"
    recipe = recipe_of(presets, family).override(changes)
    recipe.dump(written)
    if family == "qwen_3":
        assert prime.main(["--preset", str(written), "--out", str(tmp_path / "primed")]) == 0
        recipe.override(f"model.preset={json.dumps(str(tmp_path / 'primed'))}").dump(written)
    assert fit.main(["--preset", str(written), "--log-dir", str(run)]) == 0
    history = pd.read_csv(run / "history.csv")
    assert history["grad_norm"].gt(0).all() and history["skipped_updates"].eq(0).all()
    assert history["sampler_gap"].max() < 1e-4  # left-padded and right-padded prompts are one policy
    assert history["completion_length"].between(1, 15.9).all()  # its stop strings are found
    if family == "smollm_3":
        check_it_goes_on(run, begun, history)
        # No completion has an end to wait at.
        assert evaluate.main([str(run), "--wait", "1", "--json", str(tmp_path / "numbers.json")]) == 0
        summary, evaluated = (json.loads(p.read_text()) for p in (run / "summary.json", tmp_path / "numbers.json"))
        assert evaluated["accuracy"] == summary["heldout_after"]["accuracy"]


def check_it_goes_on(run, begun, history):
    assert fit.main(["--resume", "--log-dir", str(begun)]) == 0
    resumed = pd.read_csv(begun / "history.csv")
    same = [name for name in history if not of_the_machine(name)]
    pd.testing.assert_frame_equal(resumed[same], history[same], check_exact=True)
    assert arrays(begun / "adapters.lora.h5") == arrays(run / "adapters.lora.h5")


def arrays(path):
    """Name → bytes of each array in an HDF5 file, whose own bytes hold times."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, x: found.update({name: x[()].tobytes()} if isinstance(x, h5py.Dataset) else {}))
    return found


# === Tokens ===


@pytest.mark.parametrize(
    "family, begin, end, stops",
    [
        ("llama_3", ["<|begin_of_text|>"], "<|eot_id|>", ["<|end_of_text|>", "<|eot_id|>"]),
        ("qwen_3", [], "<|im_end|>", ["<|im_end|>", "<|im_end|>", "<|endoftext|>"]),
        ("smollm_3", [], "<|im_end|>", ["<|end_of_text|>", "<|im_end|>"]),
    ],
)
def test_special_tokens(family, begin, end, stops):
    tokenizer = tiny_tokenizer(family)
    (ids,) = prompt_ids(tokenizer, ["Use 44"])
    assert [tokenizer.id_to_token(i) for i in ids] == [*begin, "Use", "Ġ", "44"]
    assert tokenizer.id_to_token(turn_end_id(tokenizer)) == end
    assert [tokenizer.id_to_token(i) for i in stop_token_ids(tokenizer, TURN_ENDS)] == stops
    assert token_id(tokenizer, "no such token") is None


@pytest.mark.parametrize("call", [lambda tokenizer, token: stop_token_ids(tokenizer, [token]), turn_end_id])
def test_unknown_stop_tokens(call, gemma):
    for tokenizer in (gemma.preprocessor.tokenizer, tiny_tokenizer("qwen_3")):
        with pytest.raises(ValueError, match=r"^The vocabulary has no token '<stop>' .* Received: stop_token"):
            call(tokenizer, "<stop>")


# === Architectures ===


def test_layers_have_the_dtype_of_the_policy(presets):
    """keras-hub's SmolLM3 leaves its layers Keras's default."""
    arguments = dict(preset=presets["smollm_3"], dtype="bfloat16", lora_rank=0)
    for policy in (abstract_policy(**arguments), aha.load_policy(**arguments)):
        assert {v.dtype for v in policy.backbone.variables if v.name != "inv_freq"} == {"bfloat16"}
    assert keras.config.dtype_policy().name == "float32"


def test_a_reference_copy_counts_as_built():
    """Or `fit` would draw a batch before there is a rollout; keras-hub's SmolLM3 leaves some layers unbuilt."""
    with pytest.warns(UserWarning, match="call_with_cache"):
        model = GRPOModel(tiny_policy("smollm_3"))
    model.compile(loss=GRPOLoss(kl_coef=0.1))
    assert all(layer.built for layer in model._flatten_layers())


def test_adapters_alone_are_trained_of_a_model_of_ones_own():
    """Whose `enable_lora` left biases trainable."""
    policy = tiny_policy("qwen_2", lora_rank=2)
    names = {variable.name for variable in policy.trainable_variables}
    with pytest.warns(UserWarning, match="call_with_cache"):
        model = GRPOModel(policy)
    trained = {variable.name for variable in model.trainable_variables}
    assert trained == {"lora_kernel_a", "lora_kernel_b"} == names - {"bias"} != names


def test_each_layers_own_adapters_are_merged():
    """In keras-hub's SmolLM3 variables of different layers have one path."""
    policy = tiny_policy("smollm_3", lora_rank=2)
    kernels = {id(variable): kernel for variable, kernel in lora.merged_kernels(policy.backbone)}
    with pytest.warns(UserWarning, match="call_with_cache"):
        values = PolicySampler(policy).merged_values()
    assert len(kernels) == 10
    for variable, value in zip(policy.backbone.variables, values, strict=True):
        np.testing.assert_allclose(value, kernels.get(id(variable), variable.value), atol=1e-6)


# === What cannot be ===


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("rollouts.quantization=int8", "Only a Gemma's rollouts can be quantized"),
        ('rollouts.stop_tokens=["<stop>"]', "The vocabulary has no token '<stop>' to stop at"),
        ('lora.target=["ffw_gating"]', "no layer 'ffw_gating' to adapt; the nearest is 'feedforward_gate_dense'."),
    ],
)
def test_said_before_weights_are_loaded(change, sentence, presets):
    with pytest.raises(ValueError, match=f"{sentence}.* Received: "):
        Experiment(recipe_of(presets, "qwen_3").override(change))


def test_rows_are_split_and_weights_are_not(presets):
    for sizes in ({"model": 2}, {"rollout_model": 2}, {"weights": "split"}):
        sentence = "Only a Gemma's weights can be split.* Received: model=.* SmolLM3Backbone"
        with pytest.raises(ValueError, match=sentence):
            aha.distribute(**sizes, preset=presets["smollm_3"], devices=named(2))
    try:
        distribution = aha.distribute(preset=presets["smollm_3"], devices=named(2))
        assert distribution.device_mesh.shape == distribution.rollouts.device_mesh.shape == (2, 1)
    finally:
        keras.distribution.set_distribution(None)


def test_no_plan(presets):
    with pytest.raises(ValueError, match="A plan needs a decoder of our own.* Received: backbone=Llama3Backbone"):
        planner.plan(recipe_of(presets, "llama_3"), "t4x1")


def test_absolute_positions_cannot_be_trained():
    shape = dict(vocabulary_size=8, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4, max_sequence_length=8)
    policy = keras_hub.models.GPT2CausalLM(backbone=keras_hub.models.GPT2Backbone(**shape), preprocessor=None)
    with pytest.warns(UserWarning, match="call_with_cache"):
        model = GRPOModel(policy)
    with pytest.raises(ValueError, match="embeddings of absolute positions cannot be trained.* Received: policy=GPT2"):
        model.compile()
