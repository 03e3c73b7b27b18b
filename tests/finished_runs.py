"""Folders of finished runs for tests of what is exported: tiny random policies, adapters that are far from 0."""

import json

from keras_aha.callbacks.run_folder import SUMMARY
from keras_aha.models import lora
from keras_aha.models.lora import ADAPTERS
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.check_files import PRESET, SOURCES
from keras_aha.runs.sources import source_checksums
from keras_aha.runs.trained_policy import load_trained

import numpy as np
from conftest import ALL_LINEAR, randomize

SHAPES = ("gemma", "gemma_2", "gemma_3")
MEASURED = dict(accuracy=0.25, greedy_accuracy=0.5, n=8, samples=2, ci95=[0.125, 0.375], format_rate=0.75)
MEASURED |= dict(mean_completion_length=20.5, lenient_accuracy=0.625)


def make_run(make_policy, folder, shape="gemma", rank=2, **values):
    """Writes what an export reads of a run, and returns its folder; `values` are the recipe's: `task__name="…"`."""
    policy, preset, run = make_policy(shape), folder / "base", folder / "run"
    policy.save_to_preset(str(preset))
    run.mkdir()
    changes = {"model__preset": str(preset), "lora__rank": rank, "lora__alpha": 3.0 if rank else "none"} | values
    lines = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    recipe = Recipe.load("countdown_tiny").override(lines)
    recipe.dump(run / RECIPE)
    (run / SOURCES).write_text(json.dumps(source_checksums(recipe, build_policy(recipe))))
    if rank:
        policy.backbone.enable_lora(rank, target_layer_names=ALL_LINEAR)
        randomize(policy.trainable_variables, seed=1)
        lora.save_adapters(policy.backbone, run / ADAPTERS)
    else:
        randomize(policy.backbone.variables, seed=2)
        policy.save_to_preset(str(run / PRESET))
    summary = dict(seed=0, epochs=recipe.training.epochs, wall_seconds=60.0, generated_tokens=1000, devices="1 × cpu")
    summary |= dict(heldout_before=MEASURED, heldout_after=MEASURED | {"accuracy": 0.375, "ci95": [0.25, 0.5]})
    (run / SUMMARY).write_text(json.dumps(summary))
    return run


def trained(run):
    """The policy of a run, adapters on."""
    return load_trained(Recipe.load(run / RECIPE), run)


def logits(policy, tokens):
    """`(T, V)`, by Keras."""
    ids = np.asarray(tokens)[None]
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    return np.asarray(policy.backbone.token_embedding(policy.backbone(inputs), reverse=True))[0]
