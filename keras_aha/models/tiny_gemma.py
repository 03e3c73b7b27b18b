"""The embedded model before it has learned anything: a Gemma small enough for a laptop, and its vocabulary."""

import string

import keras_hub
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

_NUMBERS = [str(number) for number in range(101)]
_TAGS = ["<think>\n", "</think>\n", "<answer>", "</answer>", " yes\n", " no\n"]
_PROMPT = ["Use ", " each once to make ", ".\n"]


def tiny_gemma(**architecture) -> keras_hub.models.GemmaCausalLM:
    """A randomly initialised `GemmaCausalLM` with a SentencePiece vocabulary made for the compact Countdown prompt.

    Numbers 0 to 100, tags and verdict words are single pieces, so that the arithmetic is between whole numbers and a
    search of a dozen attempts fits 150 tokens. Every printable ASCII character has a piece of its own. `architecture`
    replaces arguments of `keras_hub.models.GemmaBackbone`.
    """
    tokenizer = tiny_tokenizer()
    shape = dict(vocabulary_size=tokenizer.vocabulary_size(), num_layers=3, num_query_heads=4, num_key_value_heads=1)
    shape |= dict(hidden_dim=128, intermediate_dim=512, head_dim=32)
    backbone = keras_hub.models.GemmaBackbone(**shape | architecture)
    preprocessor = keras_hub.models.GemmaCausalLMPreprocessor(tokenizer, sequence_length=256)
    return keras_hub.models.GemmaCausalLM(backbone=backbone, preprocessor=preprocessor)


def tiny_tokenizer() -> keras_hub.models.GemmaTokenizer:
    """The tokenizer of `tiny_gemma`."""
    return keras_hub.models.GemmaTokenizer(proto=vocabulary())


def vocabulary() -> bytes:
    """The SentencePiece model, serialised; the first four ids are Gemma's: pad 0, end 1, begin 2, unknown 3."""
    model = sentencepiece_model.ModelProto()
    kind = sentencepiece_model.ModelProto.SentencePiece

    def add(piece: str, piece_type) -> None:
        model.pieces.add(piece=piece, score=-float(len(model.pieces)), type=piece_type)

    for piece in ("<pad>", "<eos>", "<bos>"):
        add(piece, kind.CONTROL)
    add("<unk>", kind.UNKNOWN)
    for piece in ["<start_of_turn>", "<end_of_turn>", *_TAGS, *_PROMPT, *_NUMBERS]:
        add(piece.replace(" ", "▁"), kind.USER_DEFINED)
    for character in ["▁", "\n", *string.ascii_letters, *string.punctuation]:
        add(character, kind.NORMAL)

    model.trainer_spec.model_type = sentencepiece_model.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.pad_id, model.trainer_spec.eos_id = 0, 1
    model.trainer_spec.bos_id, model.trainer_spec.unk_id = 2, 3
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return model.SerializeToString()
