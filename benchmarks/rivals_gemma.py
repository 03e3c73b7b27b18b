"""The Gemma 2 that all rivals are measured on, a tokenizer for it, and what a train step takes, on token ids alone."""

from keras_aha.training.rollout import Rollout

import keras_hub
import numpy as np
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

VOCABULARY = 512
ALL_LINEAR = ["query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear"]


def rivals_backbone(seed: int = 0):
    """4,067,584 parameters in float32, random weights, logits close to uniform."""
    backbone = keras_hub.models.GemmaBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=4,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=256,
        intermediate_dim=2048,  # gate and up together
        head_dim=64,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        attention_logit_soft_cap=50.0,
        final_logit_soft_cap=30.0,
        use_sliding_window_attention=True,
        sliding_window_size=4096,
        dtype="float32",
    )
    randomize(backbone.variables, seed)
    return backbone


def randomize(variables, seed: int) -> None:
    """Normal weights with a deviation of 0.02; norms keep theirs."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        if "scale" not in variable.path:
            variable.assign(rng.normal(0, 0.02, variable.shape))


def endless_preprocessor(vocabulary_size: int):
    """A preprocessor without words: its end token is one more than the model can sample, so that nothing stops."""
    model = sentencepiece_model.ModelProto()
    kind = sentencepiece_model.ModelProto.SentencePiece
    specials = {0: "<pad>", 2: "<bos>", 3: "<unk>", vocabulary_size: "<eos>"}
    for token_id in range(vocabulary_size + 1):
        piece = specials.get(token_id, f"t{token_id}")
        piece_type = kind.UNKNOWN if piece == "<unk>" else kind.CONTROL if token_id in specials else kind.NORMAL
        model.pieces.add(piece=piece, score=-float(token_id), type=piece_type)
    model.trainer_spec.vocab_size = vocabulary_size + 1
    model.trainer_spec.pad_id, model.trainer_spec.eos_id = 0, vocabulary_size
    model.trainer_spec.bos_id, model.trainer_spec.unk_id = 2, 3
    tokenizer = keras_hub.models.GemmaTokenizer(proto=model.SerializeToString())
    return keras_hub.models.GemmaCausalLMPreprocessor(tokenizer)


def rollout_of(prompt_ids, completion_ids, lengths, log_probs, rewards, advantages) -> Rollout:
    """A `Rollout` of full prompts, without problems and texts.

    Args:
        prompt_ids: `(B, L)`.
        completion_ids, log_probs: `(B, C)`, at temperature 1.
        lengths, rewards, advantages: `(B,)`.
    """
    rows, completion_length = completion_ids.shape
    mask = np.arange(completion_length) < np.asarray(lengths)[:, None]
    return Rollout(
        token_ids=np.hstack([prompt_ids, completion_ids]).astype("int32"),
        padding_mask=np.hstack([np.ones_like(prompt_ids), mask]).astype("int32"),
        completion_mask=mask.astype("float32"),
        old_log_probs=np.asarray(log_probs, "float32"),
        sampler_log_probs=np.asarray(log_probs, "float32"),
        advantages=np.asarray(advantages, "float32"),
        temperature=np.ones(rows, "float32"),
        rewards=np.asarray(rewards, "float32"),
        truncated=np.asarray(lengths) == completion_length,
        problems=(None,) * rows,
        texts=("",) * rows,
        scores=(None,) * rows,
    )


def variables_of(model):
    """The state that `GRPOModel.train_step` takes the values of."""
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
