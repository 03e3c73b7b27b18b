"""A Gemma in the words of Hugging Face's transformers: its class, its config.json, its tensors.

keras-hub 0.32 has `CausalLM.export_to_transformers`, of which only the tokenizer's part is used. It writes any
`GemmaBackbone` as the first Gemma: the first of several key-value heads only, and of Gemma 2 no norms after attention
and feed-forward, neither soft caps nor windows. Of a `Gemma3Backbone` it leaves out the soft cap of the logits.
"""

import re

from keras_aha.models.internals import without_values
from keras_aha.models.presets import load_preset
from keras_aha.names import cached_repository, preset_name

import keras_hub
import numpy as np

SEEING = "Gemma3ForConditionalGeneration"  # a Gemma 3 with its encoder of images
_HEADS = ("query", "key", "value")  # kernels of (heads, inputs, outputs)
_BLOCK_MODULES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "ffw_gating": "mlp.gate_proj",
    "ffw_gating_2": "mlp.up_proj",
    "ffw_linear": "mlp.down_proj",
    "pre_attention_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_MODULES = {**_BLOCK_MODULES, "token_embedding": "model.embed_tokens", "final_normalization": "model.norm"}
BLOCK_MODULES = tuple(_BLOCK_MODULES.values())  # of a decoder block, under its path `model.layers.0`


def class_name(backbone) -> str:
    """The class of transformers that computes what a backbone does, such as `"Gemma2ForCausalLM"`; no values are read.

    Raises:
        ValueError: if there is none, or none that tests compare with ours.
    """
    config = backbone.get_config()
    known = {keras_hub.models.GemmaBackbone: _class_of_gemma, keras_hub.models.Gemma3Backbone: _class_of_gemma_3}
    if type(backbone) in known and (name := known[type(backbone)](config)):
        return name
    features = {key: x for key, x in config.items() if key.startswith(("use_", "query_")) or key.endswith("_cap")}
    raise ValueError(
        "Hugging Face's formats are written of text models of Gemma, Gemma 2 and Gemma 3: take the format keras. "
        f"Received: a {type(backbone).__name__} with {features}"
    )


def _class_of_gemma(config: dict) -> str | None:
    norms = config["use_post_attention_norm"], config["use_post_ffw_norm"]
    if all(norms):
        return "Gemma2ForCausalLM"
    caps = config["attention_logit_soft_cap"] or config["final_logit_soft_cap"]
    others = any(norms) or caps or config["use_sliding_window_attention"] or not config["query_head_dim_normalize"]
    return None if others else "GemmaForCausalLM"


def _class_of_gemma_3(config: dict) -> str | None:
    needs = ("use_post_attention_norm", "use_post_ffw_norm", "use_query_key_norm")
    # transformers 5.24 reads attn_logit_softcapping of a Gemma 3 and does not apply it
    others = ("attention_logit_soft_cap", "vision_encoder", "is_embedding_model", "use_bidirectional_attention")
    fits = all(config[key] for key in needs) and not any(config[key] for key in others)
    return "Gemma3ForCausalLM" if fits else None


def config(backbone, end_token_ids) -> dict:
    """What transformers calls the `config.json` of a model, for a backbone that `class_name` knows."""
    ours, name = backbone.get_config(), class_name(backbone)
    found = {
        "architectures": [name],
        "model_type": {"Gemma": "gemma", "Gemma2": "gemma2", "Gemma3": "gemma3_text"}[name.removesuffix("ForCausalLM")],
        "vocab_size": ours["vocabulary_size"],
        "hidden_size": ours["hidden_dim"],
        "intermediate_size": backbone.get_layer("decoder_block_0").gating_ffw.kernel.shape[1],
        "num_hidden_layers": ours["num_layers"],
        "num_attention_heads": ours["num_query_heads"],
        "num_key_value_heads": ours["num_key_value_heads"],
        "head_dim": ours["head_dim"],
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": ours["layer_norm_epsilon"],
        "tie_word_embeddings": True,
        "dtype": backbone.dtype_policy.variable_dtype,
        **generation_config(end_token_ids),
    }
    if name == "GemmaForCausalLM":
        return found | {"rope_theta": 10_000.0}
    width, heads = ours["hidden_dim"], ours["num_query_heads"]
    sliding = [block.use_sliding_window_attention for block in backbone.transformer_layers]
    found |= {
        "query_pre_attn_scalar": ours["head_dim"] if ours["query_head_dim_normalize"] else width // heads,
        "final_logit_softcapping": ours["final_logit_soft_cap"],
        "attn_logit_softcapping": ours["attention_logit_soft_cap"],
        "sliding_window": ours["sliding_window_size"],
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in sliding],
    }
    if name == "Gemma2ForCausalLM":
        return found | {"rope_theta": 10_000.0}
    factors = {"sliding_attention": "local_rope_scaling_factor", "full_attention": "global_rope_scaling_factor"}
    thetas = {"sliding_attention": 10_000.0, "full_attention": 1_000_000.0}
    rope = {k: {"rope_type": "linear", "factor": ours[factors[k]], "rope_theta": thetas[k]} for k in thetas}
    # As transformers 4 reads it, and readers that were written after it: layers with a window have no factor there.
    scaling = {"rope_type": "linear", "factor": ours["global_rope_scaling_factor"]}
    found |= {"rope_scaling": scaling if scaling["factor"] != 1.0 else None, "rope_theta": thetas["full_attention"]}
    return found | {"rope_local_base_freq": thetas["sliding_attention"], "rope_parameters": rope}


def generation_config(end_token_ids) -> dict:
    """The ids that `generate` of transformers begins, fills up and ends with; Gemma's are the same in all versions."""
    return {"bos_token_id": 2, "eos_token_id": list(end_token_ids), "pad_token_id": 0}


def tensors(backbone) -> dict[str, np.ndarray]:
    """The weights, without adapters, under transformers' names and in its layouts; see `config`."""
    plain = class_name(backbone) == "GemmaForCausalLM"  # in which that norm has another's name
    found = {}
    for variable in backbone.weights:
        layer, _, kind = variable.path.rpartition("/")
        if kind.startswith("lora_"):
            continue
        module = module_name(layer)
        if plain:
            module = module.replace("pre_feedforward_layernorm", "post_attention_layernorm")
        found[f"{module}.weight"] = np.ascontiguousarray(_as_matrix(layer, np.asarray(variable.value)))
    return found


def module_name(layer: str, owner: str = "") -> str:
    """A layer's path → a module of transformers, `model.layers.0.self_attn.q_proj`; `owner` is the model's class."""
    block, _, inner = layer.partition("/")
    module = _MODULES[layer.rpartition("/")[2]]
    module = f"model.layers.{block.removeprefix('decoder_block_')}.{module}" if inner else module
    return module.replace("model.", "model.language_model.", 1) if owner == SEEING else module


def is_split_by_heads(layer: str) -> bool:
    """Whether each head of the layer at a path has inputs of its own kernel, so also adapters A of its own."""
    return layer.rpartition("/")[2] in _HEADS


def hub_name(preset: str) -> str | None:
    """The repository on Hugging Face that holds the weights of a preset's name or handle, or of a folder that is named
    as those of a download; `None` of other presets."""
    if preset.startswith("hf://"):
        return preset.removeprefix("hf://")
    if "/" in preset and "://" not in preset and not preset.rstrip("/").rpartition("/")[2].isdecimal():
        return cached_repository(preset)
    pattern = r"(code_)?gemma(2|3|_1\.1|)_(instruct_)?(\d+[mb])(_en|_text|)"
    match = re.fullmatch(pattern, preset_name(preset))
    if match is None:
        return None
    code, version, instruct, size, _ = match.groups()
    published_bare = version != "3" or size == "270m"
    kind = "-it" if instruct else "" if published_bare else "-pt"
    number = f"-{version.strip('_')}" if version else ""
    return f"google/{'code' if code else ''}gemma{number}-{size}{kind}"


def base_class_name(preset: str, backbone) -> str:
    """The class of transformers that loads what `hub_name` names, or where that is `None`, the backbone's own.

    A Gemma 3 from 4B on is on the hub with its encoder of images. Of such a folder transformers 5 gives a
    `Gemma3ForCausalLM` random weights and a warning.

    Raises:
        ValueError: what `class_name` raises, and for handles of others, what `load_preset` raises.
    """
    if preset.startswith("hf://") and isinstance(backbone, keras_hub.models.Gemma3Backbone):
        with without_values():
            sees = load_preset(keras_hub.models.Backbone, preset, load_weights=False).vision_encoder is not None
    else:
        sees = re.fullmatch(r"google/gemma-3-(4|12|27)b-(pt|it)", hub_name(preset) or "")
    return SEEING if sees else class_name(backbone)


def _as_matrix(layer: str, value: np.ndarray) -> np.ndarray:
    """Kernels as `(outputs, inputs)`, heads before what is in them; embeddings and norms as they are."""
    if is_split_by_heads(layer):  # (N, D, H)
        return value.transpose(0, 2, 1).reshape(-1, value.shape[1])
    if value.ndim == 3:  # (N, H, D)
        return value.reshape(-1, value.shape[2]).T
    return value if layer == "token_embedding" or value.ndim == 1 else value.T
