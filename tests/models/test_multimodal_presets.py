"""A preset that sees or hears is loaded without the encoders it does not need, and trained."""

from keras_aha.models.abstract_backbone import abstract_backbone
from keras_aha.models.tiny_gemma import vocabulary
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.experiment import Experiment
from keras_aha.runs.run import Run

import keras_hub
import numpy as np
import pandas as pd
import pytest
from sentencepiece import sentencepiece_model_pb2

SHAPE = dict(
    num_layers=2,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=16,
    intermediate_dim=32,
    head_dim=8,
    image_size=16,
    sliding_window_size=4,
)


def proto(*tokens):
    """The embedded model's vocabulary with special tokens of its own."""
    model = sentencepiece_model_pb2.ModelProto.FromString(vocabulary())
    for token in tokens:
        model.pieces.add(piece=token, score=0.0, type=sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED)
    return model.SerializeToString(), len(model.pieces)


def gemma_3():
    serialized, size = proto("<img>", "<start_of_image>", "<end_of_image>")
    encoder = keras_hub.models.Gemma3VisionEncoder(
        image_size=16,
        patch_size=4,
        num_heads=2,
        hidden_dim=8,
        num_layers=1,
        intermediate_dim=16,
        output_dim=16,
        pool_size=2,
    )
    return keras_hub.models.Gemma3CausalLM(
        keras_hub.models.Gemma3CausalLMPreprocessor(keras_hub.models.Gemma3Tokenizer(serialized)),
        keras_hub.models.Gemma3Backbone(vocabulary_size=size, vision_encoder=encoder, **SHAPE),
    )


def gemma_4():
    serialized, size = proto("<|image>", "<|image|>", "<image|>", "<|video|>")
    encoder = keras_hub.models.Gemma4VisionEncoder(
        image_size=16,
        patch_size=4,
        pool_size=2,
        num_layers=1,
        num_heads=2,
        head_dim=8,
        num_key_value_heads=2,
        hidden_dim=16,
        intermediate_dim=16,
        output_dim=16,
    )
    return keras_hub.models.Gemma4CausalLM(
        keras_hub.models.Gemma4CausalLMPreprocessor(keras_hub.models.Gemma4Tokenizer(serialized)),
        keras_hub.models.Gemma4Backbone(vocabulary_size=size, vision_encoder=encoder, **SHAPE),
    )


@pytest.mark.parametrize("make", (gemma_3, gemma_4))
def test_trains_without_the_encoder(make, tmp_path):
    whole = make()
    whole.save_to_preset(str(tmp_path / "preset"))
    recipe = Recipe.from_dict(
        {
            "model": {"preset": str(tmp_path / "preset")},
            "lora": {"rank": 2},
            "task": {"name": "countdown", "num_numbers": 3, "max_number": 10, "template": "compact"},
            # Completions of different lengths, whose penalties are all the signal there is.
            "rollouts": {
                "prompts_per_epoch": 2,
                "group_size": 4,
                "max_completion_length": 8,
                "stop_tokens": list("abcdefghijklmnop"),
                "overlong_buffer": 7,
            },
            "training": {"epochs": 1},
            "evaluation": {"puzzles": 2, "samples": 1},
        }
    )
    text = build_policy(recipe, adapters=False).backbone
    assert text.text_only_model and not whole.backbone.text_only_model
    for name in ("token_embedding", "decoder_block_1", "final_normalization"):
        for loaded, saved in zip(text.get_layer(name).weights, whole.backbone.get_layer(name).weights, strict=True):
            np.testing.assert_array_equal(loaded, saved)

    abstract = abstract_backbone(recipe.model.preset, "float32")
    assert {v.path: v.shape for v in abstract.variables} == {v.path: v.shape for v in text.variables}

    Run(Experiment(recipe), tmp_path / "run").fit()
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert 0 < history["sampler_gap"].item() < 1e-4  # the decoder and keras-hub's forward are the same policy
