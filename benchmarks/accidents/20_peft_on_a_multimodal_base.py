"""Adapters of a text model beside the base on the hub, which sees too: they match its layers, and change what it says.

github.com/vllm-project/vllm/issues/34186, github.com/huggingface/transformers/issues/39763
"""

import json

from keras_aha.models import hugging_face
from keras_aha.models.tiny_gemma import vocabulary
from keras_aha.runs.export.peft_folder import write_peft
from keras_aha.runs.export.transformers_folder import write_transformers

import keras_hub
import numpy as np

IDS = [2, 12, 18, 116, 19, 13, 22, 14, 6, 24, 182, 16]
SHAPE = dict(num_layers=6, num_query_heads=4, num_key_value_heads=2, hidden_dim=16, intermediate_dim=32, head_dim=8)
SHAPE |= dict(use_post_attention_norm=True, use_post_ffw_norm=True, use_sliding_window_attention=True)
SHAPE |= dict(sliding_window_size=4, global_rope_scaling_factor=8.0, image_size=28)
VISION = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
VISION |= dict(image_size=28, patch_size=14)


def check(folder):
    try:
        import peft
        import torch
        import transformers
    except ImportError as error:
        raise ImportError('It needs transformers, PEFT and PyTorch: pip install -e ".[interop]"') from error
    policy = adapted_policy()
    write_transformers(policy, folder / "text", [1])
    config = json.loads((folder / "text" / "config.json").read_text())
    both = transformers.Gemma3Config(text_config=config, vision_config=VISION, mm_tokens_per_image=1)
    base = transformers.Gemma3ForConditionalGeneration(both)
    text = transformers.Gemma3ForCausalLM.from_pretrained(folder / "text", dtype="float32")
    base.model.language_model.load_state_dict(text.model.state_dict())
    base.save_pretrained(folder / "base")  # as google/gemma-3-4b-pt is

    name = hugging_face.base_class_name("gemma3_4b_text", policy.backbone)
    write_peft(policy.backbone, folder / "peft", str(folder / "base"), name)
    model = getattr(transformers, name).from_pretrained(folder / "base", dtype="float32").eval()
    with torch.no_grad():
        before = model(torch.tensor([IDS])).logits[0].numpy()
        model = peft.PeftModel.from_pretrained(model, folder / "peft").eval()
        after = model(torch.tensor([IDS])).logits[0].numpy()
        drawn = model.generate(input_ids=torch.tensor([IDS]), max_new_tokens=2, do_sample=False)
    assert not [path for path, _ in model.named_parameters() if "vision_tower" in path and "lora_" in path]
    assert drawn[0, len(IDS)] == after[-1].argmax()
    error, effect = np.abs(after - logits(policy)).max(), np.abs(after - before).max()
    assert error < 1e-4 < 0.1 < effect, (error, effect)
    return f"{name} with the adapters has Keras's logits to {error:.0e}; they change them by up to {effect:.1f}"


def adapted_policy():
    """A random Gemma 3 as from 4B on, with the vocabulary of the embedded model and random adapters."""
    tokenizer = keras_hub.models.Gemma3Tokenizer(vocabulary(), has_vision_tokens=False)
    backbone = keras_hub.models.Gemma3Backbone(tokenizer.vocabulary_size(), **SHAPE)
    backbone.enable_lora(2, target_layer_names=["query", "value", "attention_output", "ffw_gating"])
    generator = np.random.default_rng(0)
    for variable in backbone.variables:
        variable.assign(generator.normal(0.0, 0.3, variable.shape))
    return keras_hub.models.Gemma3CausalLM(keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer), backbone)


def logits(policy):
    inputs = {"token_ids": np.array([IDS]), "padding_mask": np.ones((1, len(IDS)), "int32")}
    return np.asarray(policy.backbone.token_embedding(policy.backbone(inputs), reverse=True))[0]
