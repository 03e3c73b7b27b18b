"""A preset that sees or hears is loaded without the encoders it does not need, and sampled and trained as text."""

import keras_aha as aha
from keras_aha.models.abstract_backbone import abstract_backbone, copy_backbone
from keras_aha.models.tiny_gemma import vocabulary

import keras_hub
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2
from tiny_models import SHAPES

# Encoders of images of 16 × 16, whose features are as many as the hidden ones of the shapes
ENCODER = dict(image_size=16, patch_size=4, pool_size=2, num_heads=2, num_layers=1, intermediate_dim=16, output_dim=16)


def proto(*tokens):
    """The embedded model's vocabulary with special tokens of its own."""
    model = sentencepiece_model_pb2.ModelProto.FromString(vocabulary())
    for token in tokens:
        model.pieces.add(piece=token, score=0.0, type=sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED)
    return model.SerializeToString(), len(model.pieces)


def gemma_3():
    serialized, size = proto("<img>", "<start_of_image>", "<end_of_image>")
    encoder = keras_hub.models.Gemma3VisionEncoder(**ENCODER, hidden_dim=8)
    shape = SHAPES["gemma_3"] | dict(num_layers=2, image_size=16, vision_encoder=encoder, vocabulary_size=size)
    return keras_hub.models.Gemma3CausalLM(
        keras_hub.models.Gemma3CausalLMPreprocessor(keras_hub.models.Gemma3Tokenizer(serialized)),
        keras_hub.models.Gemma3Backbone(**shape),
    )


def gemma_4():
    serialized, size = proto("<|image>", "<|image|>", "<image|>", "<|video|>")
    encoder = keras_hub.models.Gemma4VisionEncoder(**ENCODER, hidden_dim=16, head_dim=8, num_key_value_heads=2)
    shape = SHAPES["gemma_4"] | dict(image_size=16, vision_encoder=encoder, vocabulary_size=size)
    shape |= dict(num_layers=2, sliding_window_pattern=2, num_kv_shared_layers=0)
    return keras_hub.models.Gemma4CausalLM(
        keras_hub.models.Gemma4CausalLMPreprocessor(keras_hub.models.Gemma4Tokenizer(serialized)),
        keras_hub.models.Gemma4Backbone(**shape),
    )


@pytest.mark.parametrize("make", (gemma_3, gemma_4))
def test_the_encoder_is_left_out(make, tmp_path, prompts):
    whole, preset = make(), str(tmp_path / "preset")
    whole.save_to_preset(preset)
    policy = aha.load_policy(preset, lora_rank=2)
    text = policy.backbone
    assert text.text_only_model and not whole.backbone.text_only_model
    saved = {variable.path: variable for variable in whole.backbone.variables}
    frozen = text.non_trainable_variables
    assert 0 < len(frozen) < len(saved)
    for variable in frozen:
        np.testing.assert_array_equal(variable, saved[variable.path])
    abstract = abstract_backbone(preset, "float32")
    assert {v.path: v.shape for v in abstract.variables} == {v.path: v.shape for v in frozen}

    model = aha.GRPOModel(policy, completion_lengths=1)
    token_ids, padding_mask = model.tokenize(prompts)
    completions = model.generate(token_ids, padding_mask, group_size=1, max_completion_length=4, stop_tokens=())
    rows = [np.hstack(pair) for pair in ((token_ids, completions.token_ids), (padding_mask, np.ones((3, 4), "int32")))]
    live = np.arange(4) < completions.lengths[:, None]
    np.testing.assert_allclose(completions.log_probs, model.log_probs(*rows, 4) * live, atol=1e-4)


def test_a_cap_of_logits_that_stands_in_task_json_alone_counts(tmp_path):
    """As keras-hub applies it: `Gemma4CausalLM` has an argument of its own."""
    whole = gemma_4()
    assert whole.backbone.final_logit_soft_cap == 2.0
    backbone = copy_backbone(whole.backbone, final_logit_soft_cap=None)
    capped = keras_hub.models.Gemma4CausalLM(whole.preprocessor, backbone, final_logit_cap=0.5)
    for policy, cap in ((whole, 2.0), (capped, 0.5)):
        policy.save_to_preset(str(tmp_path / str(cap)))
        loaded = aha.load_policy(str(tmp_path / str(cap)), lora_rank=0)
        assert loaded.backbone.token_embedding.logit_soft_cap == loaded.backbone.final_logit_soft_cap == cap
