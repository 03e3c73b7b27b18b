"""`trim_vocabulary`: a policy without the pieces of other scripts, which are most of a small Gemma."""

from keras_aha.models.abstract_backbone import copy_backbone

import keras_hub
import numpy as np
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

_KIND = sentencepiece_model.ModelProto.SentencePiece


def trim_vocabulary(policy: keras_hub.models.CausalLM, pieces: int = 32_000) -> keras_hub.models.CausalLM:
    """A copy of `policy` whose vocabulary has the marks, the bytes, and the first `pieces` pieces of ASCII text.

    Pieces stand in the order in which they were learned, so the commonest are kept. Text of kept pieces is cut as
    before, and other text into smaller ones. What is predicted are the probabilities of before, given that only kept
    pieces follow. Adapters know no vocabulary, so those of the copy fit `policy`. This is the vocabulary trimming of
    arXiv:2305.15020, without the training afterwards.

    Args:
        policy: with a SentencePiece vocabulary, as Gemmas have, not quantized and without adapters.
        pieces: of ASCII text, 1 or more. Single characters stay in any case.

    Returns:
        Another `CausalLM`, in the same dtype.

    Raises:
        ValueError: if `pieces` is below 1, or for a policy of another kind.
    """
    backbone, preprocessor = policy.backbone, policy.preprocessor
    if pieces < 1:
        raise ValueError(f"`pieces` must be 1 or more. Received: pieces={pieces}")
    if not isinstance(preprocessor.tokenizer, keras_hub.tokenizers.SentencePieceTokenizer):
        raise ValueError(
            "Only a SentencePiece vocabulary, as Gemmas have, can be trimmed. "
            f"Received: a {type(preprocessor.tokenizer).__name__}"
        )
    vocabulary = sentencepiece_model.ModelProto.FromString(preprocessor.tokenizer.proto)
    kept = _kept(vocabulary, pieces)
    trimmed = copy_backbone(backbone, vocabulary_size=len(kept))
    if [weight.path.split("/")[1:] for weight in backbone.weights] != [x.path.split("/")[1:] for x in trimmed.weights]:
        raise ValueError("The policy must have neither adapters nor quantized weights. Received: one that has")
    for old, new in zip(backbone.weights, trimmed.weights, strict=True):
        new.assign(old if old.shape == new.shape else np.asarray(old)[kept])

    rest = [vocabulary.pieces[i] for i in kept]
    del vocabulary.pieces[:]
    vocabulary.pieces.extend(rest)
    vocabulary.trainer_spec.vocab_size = len(rest)
    tokenizer = _like(preprocessor.tokenizer, proto=vocabulary.SerializeToString())
    return type(policy)(backbone=trimmed, preprocessor=_like(preprocessor, tokenizer=tokenizer))


def _kept(vocabulary: sentencepiece_model.ModelProto, pieces: int) -> list[int]:
    """The ids that stay: all that are no ordinary text, but for unused marks, and of ordinary text ASCII alone."""
    kept = []
    for i, piece in enumerate(vocabulary.pieces):
        if piece.type != _KIND.NORMAL:
            stays = not piece.piece.startswith("<unused")
        else:
            text = piece.piece.replace("▁", " ")
            stays = text.isascii() and (pieces > 0 or len(text) == 1)
            pieces -= stays
        if stays:
            kept.append(i)
    return kept


def _like(layer, **changes):
    return type(layer)(**layer.get_config() | {"dtype": layer.compute_dtype} | changes)
