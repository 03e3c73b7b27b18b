"""GGUF files of tiny Gemmas, as llama.cpp's converter writes them; by the format's names, not by ours."""

import re

import gguf
import numpy as np
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

_NAMES = dict(query="attn_q", key="attn_k", value="attn_v", attention_output="attn_output")
_NAMES |= dict(query_norm="attn_q_norm", key_norm="attn_k_norm", pre_attention_norm="attn_norm")
_NAMES |= dict(ffw_gating="ffn_gate", ffw_gating_2="ffn_up", ffw_linear="ffn_down", pre_ffw_norm="ffn_norm")
_NAMES |= dict(post_attention_norm="post_attention_norm", post_ffw_norm="post_ffw_norm")

_SIZES = {"embedding_length": "hidden_dim", "block_count": "num_layers", "attention.head_count": "num_query_heads"}
_SIZES |= {"attention.head_count_kv": "num_key_value_heads", "attention.sliding_window": "sliding_window_size"}
_SIZES |= {"attention.key_length": "head_dim", "attention.value_length": "head_dim"}
_SIZES |= {"attention.layer_norm_rms_epsilon": "layer_norm_epsilon"}


def write_gguf(path, policy, kind="F32", fields=(), tensors=(), without=()):
    """Writes a Gemma 2 or Gemma 3, its adapters left out; norms are F32 always.

    `fields` and `tensors` replace those of the policy by key and name; those `without` names are left out.
    """
    fields, tensors = fields_of(policy) | dict(fields), tensors_of(policy.backbone) | dict(tensors)
    writer = gguf.GGUFWriter(path, fields.pop("general.architecture"))
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds[list] = writer.add_array
    for key, value in fields.items():
        if key not in without:
            kinds[type(value)](key, value)
    for name, value in tensors.items():
        if name in without:
            continue
        value = np.ascontiguousarray(value)
        if value.ndim == 1 or kind == "F32":
            writer.add_tensor(name, value)
        else:
            quantized = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quants.quantize(value, quantized), raw_dtype=quantized)
    return _write(writer, path)


def _write(writer, path):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fields_of(policy):
    """The file's metadata."""
    backbone = policy.backbone
    config, block = backbone.get_config(), backbone.transformer_layers[0]
    architecture = "gemma3" if type(backbone).__name__ == "Gemma3Backbone" else "gemma2"
    own = {ours: config[theirs] for ours, theirs in _SIZES.items()}
    own |= {"feed_forward_length": int(block.gating_ffw.kernel.shape[1])}
    if architecture == "gemma2":
        own |= {"attn_logit_softcapping": config["attention_logit_soft_cap"]}
        own |= {"final_logit_softcapping": config["final_logit_soft_cap"]}
    else:
        own |= {"rope.freq_base": 1e6, "rope.scaling.type": "linear"}
        own |= {"rope.scaling.factor": config["global_rope_scaling_factor"]}
    pieces = sentencepiece_model.ModelProto.FromString(policy.preprocessor.tokenizer.proto).pieces
    # Blanks as they are in pieces that are never split; `<unk>` and the marks of turns as control pieces.
    types = [3 if re.fullmatch("<(unk|escape|(start|end)_.*)>", p.piece) else p.type for p in pieces]
    tokens = [p.piece.replace("▁", " ") if p.type == p.USER_DEFINED else p.piece for p in pieces]
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in own.items()},
        **{"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types},
        **{"tokenizer.ggml.scores": [p.score for p in pieces], "tokenizer.ggml.add_space_prefix": False},
    }


def tensors_of(backbone):
    """Matrices as `(outputs, inputs)`, scales of norms plus 1."""
    found = {}
    for variable in backbone.variables:
        value, parts = np.asarray(variable.value, "float32"), variable.path.split("/")
        if parts[-1].startswith("lora_"):
            continue
        if value.ndim == 1:
            value = value + np.float32(1)
        if parts[0] == "token_embedding":
            found["token_embd.weight"] = value
        elif parts[0] == "final_normalization":
            found["output_norm.weight"] = value
        else:
            name = _NAMES[parts[-2]]
            if name in ("attn_q", "attn_k", "attn_v"):  # (heads, inputs, head_dim)
                value = np.concatenate([head.T for head in value])
            elif name == "attn_output":  # (heads, head_dim, outputs)
                value = value.reshape(-1, value.shape[2]).T
            elif value.ndim == 2:
                value = value.T
            found[f"blk.{parts[0].removeprefix('decoder_block_')}.{name}.weight"] = value
    return found


def write_copy_in_float32(source, path):
    """A file with the same fields, its tensors dequantized."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(value))
    return _write(writer, path)
