"""What a rollout's programs take, of shapes alone: those of the `Batch` that really decodes."""

import dataclasses

from keras_aha import decoding
from keras_aha.decoding import Sampling, programs
from keras_aha.decoding.batch import Batch
from keras_aha.decoding.programs import Settings
from keras_aha.planner.placement import Placement
from keras_aha.quantization import QuantizedBackbone

import jax
import keras
import numpy as np

_STATES = 32  # of the stop table, which is small beside all else


@dataclasses.dataclass(frozen=True)
class RolloutShapes:
    """The largest arrays of a rollout, as shapes with shardings.

    Attributes:
        decoder: of the backbone that decodes.
        weights: values of its variables.
        state, rows, prompt: of `decoding.programs.segment`, all rows alive and caches of full length.
        prompt_ids, starts: of `decoding.programs.prefill`, those that are read together.
        prefill_settings: its static arguments.
        new_tokens: the longest completions that the cache has room for.
    """

    decoder: decoding.Decoder
    weights: list
    state: programs.State
    rows: programs.Rows
    prompt: decoding.decoder.Prompt | None
    prompt_ids: jax.ShapeDtypeStruct
    starts: jax.ShapeDtypeStruct
    prefill_settings: dict
    new_tokens: int

    @property
    def cache(self):
        """All keys and values."""
        return self.state.cache, self.prompt.cache if self.prompt else ()


def rollout_shapes(
    backbone,
    placement: Placement,
    *,
    prompts: int,
    prompt_length: int,
    group_size: int,
    max_completion_length: int,
    max_rows: int | None = None,
    quantization: str | None = None,
) -> RolloutShapes:
    """The shapes of a call of `PolicySampler.generate`, for the bucket that takes the most memory.

    Args:
        backbone: of the policy; no values are read.
        placement: of rows, which are split, and of weights.
        prompts, prompt_length: P and L.
        group_size, max_completion_length, max_rows, quantization: see `PolicySampler.generate`.

    Raises:
        ValueError: an architecture that has no decoder of its own.
    """
    if quantization is not None:
        with keras.StatelessScope(initialize_variables=False):
            backbone = QuantizedBackbone(backbone, quantization).backbone
    decoder = decoding.decoder_for(backbone)
    if decoder is None:
        raise ValueError(
            f"Rollouts can be planned for Gemma's architectures only. Received: backbone={type(backbone).__name__}"
        )
    weights = [placement.variable(variable) for variable in backbone.variables]
    facts = {}

    def begin(weights):
        prompt_ids, starts = np.zeros((prompts, prompt_length), "int32"), np.zeros(prompts, "int32")
        keys = decoding.row_keys(0, 0, np.arange(prompts * group_size))
        batch = Batch(decoder, weights, (prompt_ids, starts), keys, group_size, max_completion_length, max_rows, None)
        shared, first = batch.prompt is not None, batch.bucket
        largest = max(batch.buckets)
        if largest != first:
            batch.move_to(largest, np.zeros(1, int))
        facts.update(read=batch.read, shared=shared, first=first, largest=largest, dtype=batch.cache_dtype)
        return batch.state, batch.rows, batch.prompt

    shapes = jax.eval_shape(begin, weights)
    state, rows, prompt = jax.tree.map(placement.rows, shapes)
    return RolloutShapes(
        decoder,
        weights,
        state,
        rows,
        prompt,
        placement.rows(np.zeros((facts["read"], prompt_length), "int32")),
        placement.rows(np.zeros(facts["read"], "int32")),
        dict(
            group_size=1 if facts["shared"] else group_size,
            slots=prompt_length + (0 if facts["shared"] else facts["first"].new_tokens),
            dtype=facts["dtype"],
        ),
        facts["largest"].new_tokens,
    )


def lower_prefill(shapes: RolloutShapes) -> jax.stages.Lowered:
    """`decoding.programs.prefill`."""
    arguments = shapes.decoder, shapes.weights, shapes.prompt_ids, shapes.starts, np.int32(0)
    return programs.prefill.lower(*arguments, **shapes.prefill_settings)


def lower_segment(shapes: RolloutShapes, sampling: Sampling) -> jax.stages.Lowered:
    """`decoding.programs.segment`."""
    table = np.zeros((_STATES, shapes.decoder.backbone.vocabulary_size), "int8")
    settings = Settings(table, 1.0, shapes.new_tokens, until=0, floor=0)
    return programs.segment.lower(
        shapes.decoder, sampling, shapes.weights, shapes.state, shapes.rows, shapes.prompt, settings
    )
