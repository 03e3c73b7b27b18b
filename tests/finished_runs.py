"""Folders of finished runs for tests of what is exported: tiny random policies, adapters that are far from 0."""

import json

from keras_aha.callbacks.run_folder import SUMMARY
from keras_aha.models import lora
from keras_aha.models.lora import ADAPTERS
from keras_aha.models.tiny_gemma import vocabulary
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.experiment import PRESET, load_trained

import keras_hub
import numpy as np
from conftest import ALL_LINEAR, randomize

SHAPES = ("gemma", "gemma_2", "gemma_3")
# Five layers have the window and a sixth not; caps, windows and factors so small, or so large, that they bite.
GEMMA_3 = dict(
    vocabulary_size=202,
    image_size=8,
    num_layers=6,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=16,
    intermediate_dim=32,
    head_dim=8,
    use_post_attention_norm=True,
    use_post_ffw_norm=True,
    final_logit_soft_cap=2.0,
    use_sliding_window_attention=True,
    sliding_window_size=4,
    local_rope_scaling_factor=2.0,
    global_rope_scaling_factor=8.0,
)
MEASURED = dict(
    accuracy=0.25,
    greedy_accuracy=0.5,
    n=8,
    samples=2,
    ci95=[0.125, 0.375],
    format_rate=0.75,
    mean_completion_length=20.5,
)


def make_run(make_policy, folder, shape="gemma", rank=2, **values):
    """Writes what an export reads of a run, and returns its folder; `values` are the recipe's: `task__name="…"`."""
    policy = gemma_3() if shape == "gemma_3" else make_policy(shape)
    preset = folder / "base"
    policy.save_to_preset(str(preset))
    run = folder / "run"
    run.mkdir()
    changes = {"model__preset": str(preset), "lora__rank": rank, "lora__alpha": 3.0 if rank else "none"} | values
    lines = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    recipe = Recipe.load("countdown_tiny").override(lines)
    recipe.dump(run / RECIPE)
    if rank:
        policy.backbone.enable_lora(rank, target_layer_names=ALL_LINEAR)
        randomize(policy.trainable_variables, seed=1)
        lora.save_adapters(policy.backbone, run / ADAPTERS)
    else:
        randomize(policy.backbone.variables, seed=2)
        policy.save_to_preset(str(run / PRESET))
    summary = dict(seed=0, epochs=recipe.training.epochs, wall_seconds=60.0, generated_tokens=1000)
    summary |= dict(heldout_before=MEASURED, heldout_after=MEASURED | {"accuracy": 0.375, "ci95": [0.25, 0.5]})
    (run / SUMMARY).write_text(json.dumps(summary))
    return run


def gemma_3():
    tokenizer = keras_hub.models.Gemma3Tokenizer(proto=vocabulary(), has_vision_tokens=False)
    backbone = keras_hub.models.Gemma3Backbone(**GEMMA_3)
    randomize(backbone.variables, seed=0)
    return keras_hub.models.Gemma3CausalLM(
        backbone=backbone, preprocessor=keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer, sequence_length=64)
    )


def trained(run):
    """The policy of a run, adapters on."""
    return load_trained(Recipe.load(run / RECIPE), run)


def logits(policy, tokens):
    """`(T, V)`, by Keras."""
    ids = np.asarray(tokens)[None]
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    return np.asarray(policy.backbone.token_embedding(policy.backbone(inputs), reverse=True))[0]
