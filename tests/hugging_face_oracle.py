"""Gemma, Gemma 2 and Gemma 3 in NumPy float64, from the files of a folder in Hugging Face's format and nothing else.

Written from what transformers documents: names of tensors, `(outputs, inputs)` matrices, norms that multiply by one
more than their weight, rotary embeddings of halves, and the keys of config.json. PEFT adds alpha / r · B A to a matrix.
"""

import json
import re
from pathlib import Path

import numpy as np
from gemma_oracle import cap, gelu, rms_norm, softmax
from safetensors.numpy import load_file


def pattern(patterns, module, default):
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


class HuggingFaceOracle:
    """Reads `config.json` and `model.safetensors`, and the adapters of a folder of PEFT's where there is one."""

    def __init__(self, folder, adapters=None):
        self.config = json.loads(Path(folder, "config.json").read_text())
        self.weights = {k: v.astype("float64") for k, v in load_file(Path(folder, "model.safetensors")).items()}
        self.unread = set(self.weights)
        if adapters is not None:
            self._add(Path(adapters))

    def _add(self, folder):
        config = json.loads((folder / "adapter_config.json").read_text())
        factors = {k: v.astype("float64") for k, v in load_file(folder / "adapter_model.safetensors").items()}
        modules = [k.removesuffix(".weight") for k in self.weights if k.split(".")[-2] in config["target_modules"]]
        for module in modules:
            a, b = (factors.pop(f"base_model.model.{module}.lora_{x}.weight") for x in "AB")
            rank = pattern(config["rank_pattern"], module, config["r"])
            assert a.shape[0] == b.shape[1] == rank
            alpha = pattern(config["alpha_pattern"], module, config["lora_alpha"])
            self.weights[f"{module}.weight"] += alpha / rank * b @ a
        assert not factors

    def weight(self, name):
        self.unread.discard(f"{name}.weight")
        return self.weights[f"{name}.weight"]

    def norm(self, x, name):
        return rms_norm(x, self.weight(name))

    def logits(self, tokens):
        """`(T, V)` of token ids `(T,)`."""
        c = self.config
        embeddings = self.weight("model.embed_tokens")
        x = embeddings[tokens] * np.sqrt(c["hidden_size"])
        for i in range(c["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            y = self.attention(self.norm(x, f"{layer}.input_layernorm"), i)
            if c["model_type"] == "gemma":
                x = x + y
                x = x + self.feed_forward(self.norm(x, f"{layer}.post_attention_layernorm"), layer)
                continue
            x = x + self.norm(y, f"{layer}.post_attention_layernorm")
            y = self.feed_forward(self.norm(x, f"{layer}.pre_feedforward_layernorm"), layer)
            x = x + self.norm(y, f"{layer}.post_feedforward_layernorm")
        return cap(self.norm(x, "model.norm") @ embeddings.T, c.get("final_logit_softcapping"))

    def feed_forward(self, x, layer):
        gate, up, down = (self.weight(f"{layer}.mlp.{name}_proj") for name in ("gate", "up", "down"))
        return (gelu(x @ gate.T) * (x @ up.T)) @ down.T

    def attention(self, x, i):
        c, layer = self.config, f"model.layers.{i}.self_attn"
        kind = c["layer_types"][i] if "layer_types" in c else "full_attention"
        query, key, value = (
            (x @ self.weight(f"{layer}.{name}_proj").T).reshape(len(x), -1, c["head_dim"]).swapaxes(0, 1)
            for name in "qkv"
        )
        if c["model_type"] == "gemma3_text":
            query, key = self.norm(query, f"{layer}.q_norm"), self.norm(key, f"{layer}.k_norm")
        query, key = self.rotate(query, kind), self.rotate(key, kind)
        group = c["num_attention_heads"] // c["num_key_value_heads"]
        key, value = np.repeat(key, group, axis=0), np.repeat(value, group, axis=0)
        scores = query @ key.swapaxes(1, 2) / np.sqrt(c.get("query_pre_attn_scalar", c["head_dim"]))
        age = np.arange(len(x))[:, None] - np.arange(len(x))
        window = c["sliding_window"] if kind == "sliding_attention" else len(x)
        attended = softmax(cap(scores, c.get("attn_logit_softcapping")), (age >= 0) & (age < window)) @ value
        return attended.swapaxes(0, 1).reshape(len(x), -1) @ self.weight(f"{layer}.o_proj").T

    def rotate(self, x, kind):
        c, half = self.config, x.shape[-1] // 2
        rope = c["rope_parameters"][kind] if "rope_parameters" in c else {"rope_theta": c["rope_theta"], "factor": 1.0}
        angles = np.arange(x.shape[1])[:, None] / rope["factor"] / rope["rope_theta"] ** (np.arange(half) / half)
        angles = np.concatenate([angles, angles], axis=-1)
        rotated = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        return x * np.cos(angles) + rotated * np.sin(angles)
