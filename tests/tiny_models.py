"""Tiny random models of each family that keras-aha trains: one table of shapes, for all tests.

Nothing heavy is imported before a model is built, so that tests of tasks stay quick.
"""

import string

import numpy as np

ALL_LINEAR = ["query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear"]
_SMALL = dict(num_layers=2, num_query_heads=4, num_key_value_heads=2, hidden_dim=16, intermediate_dim=32)
_GEMMA_2 = dict(**_SMALL, head_dim=8, sliding_window_size=4, attention_logit_soft_cap=0.5, final_logit_soft_cap=2.0)
_NORMS = dict(use_post_attention_norm=True, use_post_ffw_norm=True, use_sliding_window_attention=True)
_ROPE = dict(local_rope_scaling_factor=2.0, global_rope_scaling_factor=8.0)
# Arguments of each backbone but for its vocabulary. Caps, windows and factors are so small, or so large, that they
# bite: a forward that left them out would be far off.
SHAPES = {
    "gemma": _SMALL | dict(num_query_heads=2, num_key_value_heads=1, head_dim=8),
    "gemma_2": dict(**_GEMMA_2, **_NORMS),
    # Five layers have the window, and a sixth has not.
    "gemma_3": dict(**_GEMMA_2, **_NORMS, **_ROPE, image_size=8) | dict(num_layers=6, attention_logit_soft_cap=None),
    # All that a Gemma 4 may have. The last three layers read the keys and values of layers 1 and 2. The layers' own
    # embeddings are wide: if one is near 0, its norm makes rounding large.
    "gemma_4": dict(**_GEMMA_2, **_ROPE, image_size=8, num_global_key_value_heads=1, global_head_dim=16)
    | dict(num_layers=6, sliding_window_pattern=3, num_kv_shared_layers=3, use_double_wide_mlp=True)
    | dict(enable_moe_block=True, num_experts=4, expert_intermediate_dim=8, num_experts_per_token=2)
    | dict(hidden_size_per_layer_input=16, global_rope_partial_rotary_factor=0.5),
    "llama_3": dict(**_SMALL, rope_max_wavelength=10_000),
    "qwen_2": dict(**_SMALL),  # its query, key and value have biases
    "qwen_3": dict(**_SMALL, rope_max_wavelength=10_000, head_dim=16),
    # Every other layer rotates; in the real model it is every fourth.
    "smollm_3": dict(num_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_dim=16, intermediate_dim=32)
    | dict(attention_bias=False, attention_dropout=0.0, mlp_bias=False, layer_norm_epsilon=1e-6)
    | dict(max_position_embeddings=1024, rope_theta=10_000.0, partial_rotary_factor=1.0)
    | dict(rope_layer_enabled_list=[True, False], layer_types=["full_attention"] * 2),
}
_NAMES = dict(gemma="Gemma", gemma_2="Gemma", gemma_3="Gemma3", gemma_4="Gemma4")
_NAMES |= dict(llama_3="Llama3", qwen_2="Qwen", qwen_3="Qwen3", smollm_3="SmolLM3")
_FEATURES = {"gemma_3": dict(has_vision_tokens=False)}
_FEATURES["gemma_4"] = dict(has_vision_tokens=False, has_video_tokens=False)
_GROUPED = ["query", "key", "value", "attention_output", "feedforward_gate_dense"]
OTHER_TARGETS = dict(
    llama_3=_GROUPED, qwen_2=_GROUPED, qwen_3=_GROUPED, smollm_3=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"]
)

_WORDS = ["Use", "Ġeach", "Ġonce", "Ġto", "Ġmake", "think", "answer", "Ġyes", "Ġno"]
_CHAT = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
# As keras-hub reads them from the families' own files; in those, too, they come after all other tokens.
_MARKS = {
    "llama_3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen_2": ["<|endoftext|>", *_CHAT],
    "qwen_3": ["<|endoftext|>", *_CHAT],
    "smollm_3": ["<|begin_of_text|>", "<|end_of_text|>", *_CHAT],
}


def tiny_policy(shape="gemma", seed=0, lora_rank=0, fresh_adapters=False, **architecture):
    """A random `CausalLM` of a shape of `SHAPES`, with `architecture` in its place; weights depend on `seed` alone.

    Adapters are random too; `fresh_adapters` have a B of 0, as before training.
    """
    import keras_hub

    kind, tokenizer = getattr(keras_hub.models, f"{_NAMES[shape]}CausalLM"), tiny_tokenizer(shape)
    # A model may know more tokens than its tokenizer, if its vocabulary is padded.
    size = tokenizer.vocabulary_size() + (3 if shape in _MARKS else 0)
    backbone = kind.backbone_cls(**{"vocabulary_size": size, **SHAPES[shape], **architecture})
    policy = kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer, sequence_length=256))
    randomize([v for v in backbone.variables if v.name != "inv_freq"], seed)  # SmolLM3's, which are no weights
    for variable in backbone.variables:
        if shape == "gemma_4" and "scal" in variable.name:  # it multiplies as it is; other Gemmas' by one more than it
            variable.assign(variable + 1)
    if lora_rank:
        backbone.enable_lora(lora_rank, target_layer_names=OTHER_TARGETS.get(shape, ALL_LINEAR))
        adapters = policy.trainable_variables
        randomize([v for v in adapters if not (fresh_adapters and v.name.endswith("kernel_b"))], seed + 1)
    return policy


def randomize(variables, seed):
    """Weights far from an initialiser's: norm scales that are not 0, logits of about unit variance."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(rng.normal(0.0, 0.3, variable.shape))


def outputs(backbone):
    """Final hidden states of one text."""
    ids = np.array([[2, 12, 18, 23, 19, 7]])
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids), "position_ids": np.arange(6)[None]}  # Gemma 4's
    return np.asarray(backbone({name: inputs[name] for name in backbone.input}))


def tiny_tokenizer(shape):
    """Of a Gemma, the vocabulary of the embedded model; of others bytes, numbers of two digits, words, and marks."""
    import keras_hub

    kind = getattr(keras_hub.tokenizers, f"{_NAMES[shape]}Tokenizer")
    if shape not in _MARKS:
        from keras_aha.models.tiny_gemma import vocabulary

        return kind(proto=vocabulary(), **_FEATURES.get(shape, {}))
    alphabet = [*map(chr, range(0x21, 0x7F)), "Ġ", "Ċ"]  # GPT-2 writes a space and a line break so
    merges = [f"{word[:n]} {word[n]}" for word in _WORDS for n in range(1, len(word))]
    merges += [f"{first} {second}" for first in string.digits[1:] for second in string.digits]
    pieces = dict.fromkeys([*alphabet, *(merge.replace(" ", "") for merge in merges), *_MARKS[shape]])
    ids = {piece: token_id for token_id, piece in enumerate(pieces)}
    return kind(vocabulary=ids, merges=list(dict.fromkeys(merges)), unsplittable_tokens=_MARKS[shape])


def marked_tokenizer(shape, marks):
    """Of a Gemma, with `marks` for the embedded model's two marks of turns."""
    import keras_hub
    from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

    model = sentencepiece_model.ModelProto.FromString(tiny_tokenizer("gemma").proto)
    turns = [piece for piece in model.pieces if piece.piece in ("<start_of_turn>", "<end_of_turn>")]
    for piece, mark in zip(turns, marks, strict=False):
        piece.piece = mark
    for mark in marks[2:]:
        model.pieces.add(piece=mark, score=-1000.0, type=turns[0].type)
    kind = getattr(keras_hub.tokenizers, f"{_NAMES[shape]}Tokenizer")
    return kind(proto=model.SerializeToString(), **_FEATURES.get(shape, {}))
