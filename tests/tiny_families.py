"""Random presets of families other than Gemma, so small that tests can train them."""

import string

import keras_aha  # noqa: F401  chooses the JAX backend

import keras_hub

_WORDS = ["Use", "Ġeach", "Ġonce", "Ġto", "Ġmake", "think", "answer", "Ġyes", "Ġno"]
_CHAT = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
# As keras-hub reads them from the families' own files; in those, too, they come after all other tokens.
_MARKS = {
    "Llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "Qwen3": ["<|endoftext|>", *_CHAT],
    "SmolLM3": ["<|begin_of_text|>", "<|end_of_text|>", *_CHAT],
}
_GROUPED = dict(num_query_heads=4, num_key_value_heads=2, rope_max_wavelength=10_000)
_SHAPES = {
    "Llama3": _GROUPED,
    "Qwen3": dict(**_GROUPED, head_dim=16),
    "SmolLM3": dict(
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=False,
        attention_dropout=0.0,
        mlp_bias=False,
        layer_norm_epsilon=1e-6,
        max_position_embeddings=1024,
        rope_theta=10_000.0,
        partial_rotary_factor=1.0,
    ),
}
FAMILIES = tuple(_SHAPES)
TARGETS = {family: ["query", "key", "value", "attention_output", "feedforward_gate_dense"] for family in FAMILIES}
TARGETS["SmolLM3"] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"]


def save_tiny(family: str, folder, num_layers: int = 2, hidden_dim: int = 32, **architecture) -> str:
    """Writes a random preset of `family`, one of `FAMILIES`, into `folder`, and returns its path.

    The model knows three more tokens than the tokenizer, as those whose vocabulary is padded do.
    """
    policy = tiny_policy(family, num_layers=num_layers, hidden_dim=hidden_dim, **architecture)
    policy.save_to_preset(str(folder))
    return str(folder)


def tiny_policy(family: str, num_layers: int = 2, hidden_dim: int = 32, **architecture):
    """A random `CausalLM` of `family`."""
    tokenizer = tiny_tokenizer(family)
    shape = dict(
        vocabulary_size=tokenizer.vocabulary_size() + 3,
        num_layers=num_layers,
        hidden_dim=hidden_dim,
        intermediate_dim=2 * hidden_dim,
        **_SHAPES[family],
    )
    if family == "SmolLM3":  # every other layer, where the real model has every fourth
        shape |= dict(rope_layer_enabled_list=[i % 2 == 0 for i in range(num_layers)])
        shape |= dict(layer_types=["full_attention"] * num_layers)
    kind = getattr(keras_hub.models, f"{family}CausalLM")
    backbone = kind.backbone_cls(**shape | architecture)
    return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer, sequence_length=256))


def tiny_tokenizer(family: str):
    """Bytes of ASCII, numbers of two digits, a few words, and the marks of the family."""
    alphabet = [*map(chr, range(0x21, 0x7F)), "Ġ", "Ċ"]  # GPT-2 writes a space and a line break so
    merges = [f"{word[:n]} {word[n]}" for word in _WORDS for n in range(1, len(word))]
    merges += [f"{first} {second}" for first in string.digits[1:] for second in string.digits]
    pieces = dict.fromkeys([*alphabet, *(merge.replace(" ", "") for merge in merges), *_MARKS[family]])
    vocabulary = {piece: token_id for token_id, piece in enumerate(pieces)}
    kind = getattr(keras_hub.tokenizers, f"{family}Tokenizer")
    return kind(vocabulary=vocabulary, merges=list(dict.fromkeys(merges)), unsplittable_tokens=_MARKS[family])
