"""Adapters as a folder that `PeftModel.from_pretrained` loads.

Where PEFT has one pair of factors for a matrix, Keras has a factor A for each head of a query, key or value: of N heads
the update `A[n] B` (LoRA, arXiv:2106.09685, §4.1) has rank r in each, and rank N · r as one matrix. So PEFT's A holds
those of all heads, and its B repeats ours along a diagonal of blocks; alpha grows with the rank, which keeps
alpha / rank. It is the same function, in N times as many numbers of B, most of them 0.
"""

import json
import os
from pathlib import Path

from keras_aha.models import lora
from keras_aha.models.hugging_face import SEEING, is_split_by_heads, module_name

import numpy as np
from safetensors.numpy import save_file


def write_peft(backbone, folder: str | os.PathLike, base: str, base_class: str) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, in float32, into a folder, made if it is missing.

    `base` is the name or folder of the model without adapters, `base_class` what loads it, see `base_class_name`.
    """
    tensors, ranks, alphas = {}, {}, {}
    adapted = lora.adapted_layers(backbone)
    for layer in adapted:
        module = module_name(layer.path, base_class)
        a, b = map(np.ascontiguousarray, factors(layer))
        tensors |= {f"base_model.model.{module}.lora_{name}.weight": x for name, x in (("A", a), ("B", b))}
        target = module.rpartition(".")[2]
        ranks[target], alphas[target] = len(a), lora.scale(layer) * len(a)
    rank, alpha = adapted[0].lora_rank, adapted[0].lora_alpha
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base}
    config |= {"r": rank, "lora_alpha": alpha, "target_modules": sorted(ranks)}
    config["rank_pattern"] = {name: value for name, value in ranks.items() if value != rank}
    config["alpha_pattern"] = {name: alphas[name] for name in config["rank_pattern"]}
    if base_class == SEEING:  # whose encoder of images has layers of these names
        config["exclude_modules"] = r".*\.vision_tower\..*"
    config |= {"lora_dropout": 0.0, "bias": "none", "inference_mode": True}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def factors(layer) -> tuple[np.ndarray, np.ndarray]:
    """PEFT's A `(rank, inputs)` and B `(outputs, rank)` of an adapted layer, float32."""
    a, b = (np.asarray(kernel, "float32") for kernel in (layer.lora_kernel_a, layer.lora_kernel_b))
    if not is_split_by_heads(layer.path):
        return a.reshape(-1, a.shape[-1]).T, b.T
    heads, inputs, _ = a.shape
    return a.transpose(0, 2, 1).reshape(-1, inputs), np.kron(np.eye(heads, dtype="float32"), b.T)
