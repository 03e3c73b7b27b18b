"""A policy as a folder that `from_pretrained` of Hugging Face's transformers loads."""

import json
import os
from pathlib import Path

from keras_aha.models import hugging_face

import keras_hub
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model


def write_transformers(policy, folder: str | os.PathLike, end_token_ids, chat_template: str | None = None) -> None:
    """Writes config, weights without adapters, tokenizer and the ids at which `generate` stops; it makes the folder.

    It raises ValueError for what `hugging_face.class_name` does.
    """
    folder = Path(folder)
    config = hugging_face.config(policy.backbone, end_token_ids)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", hugging_face.generation_config(end_token_ids))
    save_file(hugging_face.tensors(policy.backbone), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(policy.preprocessor.tokenizer, folder, chat_template)


def write_tokenizer(tokenizer: keras_hub.tokenizers.Tokenizer, folder: Path, chat_template: str | None) -> None:
    """Writes it by keras-hub's exporter, and with the pieces that are never split and the chat template, if any.

    transformers reads `tokenizer.model` as byte pairs, and would spell out each piece that no pairs merge to: those are
    user-defined. keras-hub 0.32 lists six special ones, so the others are added, as they stand in normalized text.
    """
    tokenizer.export_to_transformers(str(folder))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    pieces = sentencepiece_model.ModelProto.FromString(tokenizer.proto).pieces
    kind = {"special": False, "normalized": True, "single_word": False, "lstrip": False, "rstrip": False}
    whole = {str(i): {"content": x.piece} | kind for i, x in enumerate(pieces) if x.type == x.USER_DEFINED}
    config["added_tokens_decoder"] = whole | config["added_tokens_decoder"]
    _write_json(path, config | ({"chat_template": chat_template} if chat_template else {}))


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
