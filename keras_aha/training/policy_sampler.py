"""`PolicySampler`: completions of a `CausalLM` with its current weights."""

import functools
import warnings

from keras_aha import decoding
from keras_aha.decoding.stop_table import stop_table
from keras_aha.distribution.distribute import rollout_values
from keras_aha.models import lora
from keras_aha.models.quantization import QuantizedBackbone
from keras_aha.models.special_tokens import TURN_ENDS, stop_token_ids

import jax
import keras
import numpy as np


class PolicySampler:
    """Samples with a policy's current weights, adapters merged once a call, or left beside a kernel that is quantized.

    Args:
        policy: a keras-hub `CausalLM` with a preprocessor. Gemma's are decoded by our own decoders; others by way of
            their `call_with_cache`, more slowly, of which a warning tells.

    Raises:
        ValueError: if the policy cannot be decoded at all, see `decoding.check_policy`.
    """

    def __init__(self, policy):
        self.policy = policy
        self._decoder = decoding.decoder_for(policy.backbone)
        self._quantized = {}
        # Held by the sampler, so that programs and tables go with it.
        self._adapted_values = jax.jit(functools.partial(self._adapt, lora.adapted_values))
        self._stop_table = functools.lru_cache(maxsize=8)(self._make_stop_table)  # which takes a second with strings
        if self._decoder is None:
            decoding.check_policy(policy)
            warnings.warn(
                f"{type(policy).__name__} is sampled by way of its call_with_cache, which is slower than the decoders "
                "that there are for Gemma.",
                stacklevel=3,
            )

    def generate(
        self,
        token_ids,
        padding_mask=None,
        *,
        group_size: int = 1,
        max_completion_length: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop_tokens: tuple[str, ...] = TURN_ENDS,
        stop_strings: tuple[str, ...] = (),
        max_rows: int | None = None,
        quantization: str | None = None,
        seed: int = 0,
        iteration: int = 0,
        first_row: int = 0,
        rows=None,
        on_segment=None,
        warm_up: bool = False,
        answers: decoding.Answers | None = None,
    ) -> decoding.Completions:
        """Samples completions.

        What is drawn depends on `(seed, iteration, row, position)`, the prompt and the weights alone.

        Args:
            token_ids: `(P, L)` int32, left-padded prompts, as `GRPOModel.tokenize` returns them.
            padding_mask: `(P, L)`, 1 at tokens; `None` if there is no padding.
            group_size: G, completions of each prompt, in adjacent rows.
            max_completion_length: C, at which a completion is cut.
            temperature: 0 is greedy.
            top_k, top_p, min_p: see `decoding.Sampling`.
            stop_tokens: pieces of the vocabulary that end a completion, beside the tokenizer's end token; of
                `TURN_ENDS` those that there are.
            stop_strings: texts that end a completion, with the token that completes them.
            max_rows: rows decoded at a time, to bound the memory for keys and values, also if that is less than a
                group; on a mesh each part has one at least. `None` decodes all at once.
            quantization: `"int8"` samples from weights that Keras quantizes to 8 bits; log-probs are theirs.
            seed, iteration, first_row: of the random keys; row 0 of this call counts as `first_row`.
            rows: `(P·G,)` integers, where rows of this call are not adjacent ones: what each counts as.
            on_segment: see `decoding.generate`.
            warm_up: first compile what completions of any lengths will need, so that nothing is compiled later.
            answers: whom a completion asks where it stops, to go on in another turn; see `decoding.generate`.

        Returns:
            `decoding.Completions`, B = P·G rows.

        Raises:
            ValueError: if prompts are not left-padded, or quantization is asked for and cannot be had.
        """
        token_ids = np.asarray(token_ids, "int32")
        padding_mask = np.ones_like(token_ids) if padding_mask is None else np.asarray(padding_mask)
        rows = first_row + np.arange(len(token_ids) * group_size) if rows is None else np.asarray(rows)
        prompts = token_ids, padding_mask, decoding.row_keys(seed, iteration, rows)
        sampling = dict(sampling=decoding.Sampling(top_k, top_p, min_p), temperature=temperature, group_size=group_size)
        settings = sampling | dict(max_completion_length=max_completion_length, on_segment=on_segment)
        settings["stop_table"] = self._stop_table(tuple(stop_tokens), tuple(stop_strings))
        if self._decoder is None:
            if quantization is not None:
                raise ValueError(
                    "Quantized rollouts need one of Gemma's architectures. "
                    f"Received: quantization={quantization!r}, policy={type(self.policy).__name__}"
                )
            if answers is None:
                generate = decoding.generate_with_cache
            else:
                generate = functools.partial(decoding.generate_turns_with_cache, answers=answers)
            return generate(self.policy, self.merged_values(), *prompts, max_rows=max_rows, **settings)
        if quantization is None:
            decoder, values = self._decoder, self.merged_values()
        else:
            decoder, values = self._quantized_values(quantization)
        settings |= dict(max_rows=max_rows, warm_up=warm_up, answers=answers)
        return decoding.generate(decoder, values, *prompts, **settings)

    def merged_values(self) -> list:
        """The values of `policy.backbone.variables`, in that order, with those of `lora.adapted_values`.

        They lie where `distribute` has rollouts' weights, and with several processes on the devices of this one.
        """
        backbone = self.policy.backbone
        values = [variable.value for variable in backbone.variables]
        return rollout_values(backbone.variables, _replaced(values, self._adapted_values(values)))

    def _quantized_values(self, mode):
        """The decoder of the quantized twin, and its values, made of kernels that are merged in float32."""
        backbone = self.policy.backbone
        if mode not in self._quantized:
            twin = QuantizedBackbone(backbone, mode)

            @jax.jit
            def quantize(values):
                return twin.values(_replaced(values, self._adapt(lora.merged_kernels, values)))

            self._quantized[mode] = decoding.decoder_for(twin.backbone), quantize
        decoder, quantize = self._quantized[mode]
        values = [variable.value for variable in backbone.variables]
        return decoder, quantize(rollout_values(backbone.variables, values))

    def _adapt(self, change, values):
        """What `change`, a function of `models.lora`, puts in place of `values`, by the position of their variable.

        Paths are not unique in keras-hub's SmolLM3.
        """
        backbone = self.policy.backbone
        positions = {id(variable): position for position, variable in enumerate(backbone.variables)}
        with keras.StatelessScope(list(zip(backbone.variables, values, strict=True))):
            return {positions[id(variable)]: value for variable, value in change(backbone)}

    def _make_stop_table(self, stop_tokens, stop_strings):
        tokenizer = self.policy.preprocessor.tokenizer
        ids = stop_token_ids(tokenizer, stop_tokens)
        return stop_table(tokenizer, self.policy.backbone.vocabulary_size, ids, stop_strings)


def _replaced(values, others):
    """`values`, with those of `others` by their position."""
    return [others.get(position, value) for position, value in enumerate(values)]
