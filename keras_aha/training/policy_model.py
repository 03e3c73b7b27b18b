"""`PolicyModel`: a keras-hub `CausalLM` as a Keras model: texts in, completions out."""

from keras_aha.decoding import Completions
from keras_aha.models import lora
from keras_aha.models.internals import flatten_layers
from keras_aha.models.special_tokens import TURN_ENDS, prompt_ids, stop_token_ids
from keras_aha.training.policy_sampler import PolicySampler
from keras_aha.training.rollout import PROMPT_MULTIPLE

import keras
import numpy as np


def _refused(sentence: str):
    """A method that says what to call instead."""

    def method(self, *args, **kwargs):
        raise NotImplementedError(sentence)

    method.__doc__ = f"Not available. {sentence}"
    return method


class PolicyModel(keras.Model):
    """The part of `GRPOModel` that needs no training: it samples, with the current weights.

    Methods of Keras that have no meaning for a policy raise `NotImplementedError` and say what to call instead.

    Args:
        policy: a `keras_hub.models.CausalLM`. Without a preprocessor it has no texts. If it has adapters, all its other
            weights are frozen.
    """

    def __init__(self, policy, **kwargs):
        super().__init__(**kwargs)
        self.policy = policy
        lora.freeze_base(policy)
        self._sampler = PolicySampler(policy)
        if policy.preprocessor is not None and not policy.preprocessor.built:
            policy.preprocessor.build(None)
        mark_as_built(self)

    def call(self, inputs):
        """Logits `(B, T, V)` of the policy, for `{"token_ids", "padding_mask"}`, each `(B, T)`."""
        return self.policy(inputs)

    # === Texts ===

    def sample(
        self,
        prompts: list[str] | str,
        n: int = 1,
        *,
        max_completion_length: int = 256,
        temperature: float = 1.0,
        stop_tokens: tuple[str, ...] = TURN_ENDS,
        stop_strings: tuple[str, ...] = (),
        seed: int = 0,
        **settings,
    ) -> list[list[str]] | list[str]:
        """Completes texts.

            model.sample(["Use 3 4 each once to make 7.", "Use 2 5 each once to make 10."], n=16)

        Args:
            prompts: P texts; or one text, as in keras-hub's `generate`.
            n: completions of each prompt.
            max_completion_length: in tokens.
            temperature: divides the logits; at 0 the likeliest token is always taken.
            stop_tokens, stop_strings, seed, **settings: see `PolicySampler.generate`.

        Returns:
            P lists of n texts, without the stop tokens; the list alone if `prompts` is one text.
        """
        texts = [prompts] if isinstance(prompts, str) else prompts
        settings |= dict(max_completion_length=max_completion_length, temperature=temperature, seed=seed)
        settings |= dict(group_size=n, stop_tokens=stop_tokens, stop_strings=stop_strings)
        completions = self.generate(*self.tokenize(texts, multiple=PROMPT_MULTIPLE), **settings)
        rows = self.detokenize(completions, stop_tokens)
        groups = [rows[i : i + n] for i in range(0, len(rows), n)]
        return groups[0] if isinstance(prompts, str) else groups

    @property
    def tokenizer(self):
        """The policy's tokenizer."""
        return self.policy.preprocessor.tokenizer

    def tokenize(self, prompts: list[str], length: int | None = None, multiple: int = 1):
        """Texts → `(token_ids, padding_mask)`, `(P, L)` int32, left-padded; the begin token first if there is one.

        Args:
            prompts: P texts.
            length: L; `None` takes the longest prompt's, rounded up to a multiple of `multiple`.
            multiple: in tokens.

        Raises:
            ValueError: if there is no prompt, or one is longer than `length`.
        """
        if not prompts:
            raise ValueError(f"`prompts` must hold a text or more. Received: prompts={prompts!r}")
        rows = prompt_ids(self.tokenizer, prompts)
        longest = max(map(len, rows))
        length = length or -(-longest // multiple) * multiple
        if longest > length:
            raise ValueError(f"A prompt has more tokens than the limit. Received: {longest} tokens, limit {length}")
        token_ids, padding_mask = np.zeros((2, len(rows), length), "int32")
        for ids, mask, row in zip(token_ids, padding_mask, rows, strict=True):
            ids[length - len(row) :] = row
            mask[length - len(row) :] = 1
        return token_ids, padding_mask

    def detokenize(self, completions: Completions, stop_tokens: tuple[str, ...] = TURN_ENDS) -> list[str]:
        """The text of each completion, without the stop token that ended it; a stop string stays.

        Args:
            completions: B of them.
            stop_tokens: those that `generate` was given.
        """
        last = completions.token_ids[np.arange(len(completions.lengths)), completions.lengths - 1]
        ends = completions.lengths - np.isin(last, stop_token_ids(self.tokenizer, stop_tokens))
        known = self.tokenizer.vocabulary_size()  # a model's may be larger, and then some ids are no text
        rows = [row[:end] for row, end in zip(completions.token_ids, ends, strict=True)]
        return self.tokenizer.detokenize([row[row < known].tolist() for row in rows])

    # === Token ids ===

    def generate(self, token_ids, padding_mask=None, **settings) -> Completions:
        """Samples completions with the current weights, see `PolicySampler.generate`, whose arguments it takes.

        It raises ValueError as well if a log-prob is not finite: nothing could be learnt from such completions.
        """
        completions = self._sampler.generate(token_ids, padding_mask, **settings)
        if not np.isfinite(completions.log_probs).all():
            raise ValueError(
                "The policy's log-probs are not finite: its activations leave the range of its dtype, or its weights "
                'are broken. Set model.dtype to "bfloat16", or to "float32", which takes twice the memory. '
                f"Received: dtype={self.policy.backbone.token_embedding.dtype_policy.name!r}"
            )
        return completions

    # === Methods of Keras ===

    evaluate = test_on_batch = _refused(
        "A rollout has no labels to evaluate with: `EvaluateCallback(task.held_out(256)).evaluate(model)` returns a "
        "table of scored completions, and that callback in `fit(callbacks=[…])` takes the place of `validation_data`."
    )
    predict = predict_on_batch = _refused(
        "There is nothing to predict: `model.sample(prompts)` returns texts, and `model(inputs)` logits."
    )
    train_on_batch = _refused("Rollouts are made by a callback: call `fit(rollouts.dataset, callbacks=[rollouts])`.")
    save = export = _refused(
        "A GRPOModel is not saved as one file: `model.policy.save_to_preset(folder)` saves the policy, and "
        "`CheckpointCallback(log_dir)` in `fit` all that training needs to go on."
    )
    quantize = _refused('Quantize before adapters are added: `load_policy(preset, quantization="int8", lora_rank=8)`.')

    def save_weights(self, *args, **kwargs):
        """As in Keras. Raises ValueError if there are adapters, which Keras would save as a part of the kernels."""
        self._check_no_adapters("save_weights")
        super().save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        """As in Keras. Raises ValueError if there are adapters, which Keras would set to 0, without a gradient."""
        self._check_no_adapters("load_weights")
        super().load_weights(*args, **kwargs)

    def _check_no_adapters(self, name):
        if lora.has_adapters(self.policy):
            raise ValueError(
                f"`{name}` cannot keep adapters apart from their kernels: use `save_lora_weights` and "
                "`load_lora_weights` of `model.policy.backbone`, or `CheckpointCallback(log_dir)`. Received: a policy "
                "with adapters"
            )


def mark_as_built(model) -> None:
    """Marks all layers as built. Else `fit` draws a batch to build them, before the first rollout exists."""
    for layer in flatten_layers(model):
        layer.built = True
