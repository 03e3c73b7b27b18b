"""What a rollout's programs take, as shapes: those of the `Batch` that really decodes."""

import dataclasses

from keras_aha.decoding import Decoder, decoder_for, row_keys
from keras_aha.decoding.batch import Batch
from keras_aha.decoding.decoder import Prompt
from keras_aha.decoding.generate import shares_of_a_group
from keras_aha.decoding.jitted_steps import Rows, State
from keras_aha.decoding.placement import Placement
from keras_aha.models.adapters_beside import is_beside
from keras_aha.models.internals import kernel_variable
from keras_aha.models.lora import adapted_layers
from keras_aha.models.quantization import abstract_quantized
from keras_aha.planner.layouts import Layouts

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutShapes:
    """The largest arrays of a rollout, as shapes with shardings.

    Attributes:
        decoder: of the backbone that decodes.
        weights: values of its variables.
        state, rows, prompt: of `jitted_steps.segment`, with caches of full length.
        prompts: `(token_ids, starts)` of `jitted_steps.prefill`, those that are read together.
        cache_dtype: of keys and values.
        parts: into which rows are split.
        cache_length: tokens that each row has room for, its prompt included.
        admitted: the share of these prompts that is read at a time later on, beside a full cache; 0 if none waits.
    """

    decoder: Decoder
    weights: list
    state: State
    rows: Rows
    prompt: Prompt | None
    prompts: tuple
    cache_dtype: str
    parts: int
    cache_length: int
    admitted: float

    @property
    def cache(self) -> tuple:
        """All keys and values."""
        return self.state.cache, self.prompt.cache if self.prompt else ()

    @property
    def arrays(self) -> tuple:
        """All that a decode step takes, but for numbers and the stop table."""
        return self.weights, self.state, self.rows, self.prompt.cache if self.prompt else ()

    @property
    def rows_per_part(self) -> int:
        """Rows that are decoded at a time, of one part."""
        return self.state.alive.shape[0] // self.parts


def planned_decoder(backbone) -> Decoder:
    """The decoder whose programs are compiled; ValueError for an architecture that has none."""
    decoder = decoder_for(backbone)
    if decoder is None:
        raise ValueError(
            "A plan needs a decoder of our own, which there is for Gemma's architectures only: try a short run. "
            f"Received: backbone={type(backbone).__name__}"
        )
    return decoder


def adapted_dtypes(backbone) -> dict[int, str]:
    """The dtype of each value that `lora.adapted_values` makes, by the id of its variable."""
    dtypes = {}
    for layer in adapted_layers(backbone):
        if is_beside(layer):
            dtypes |= {id(factor): layer.compute_dtype for factor in (layer.lora_kernel_a, layer.lora_kernel_b)}
        else:
            dtypes[id(kernel_variable(layer))] = layer.variable_dtype
    return dtypes


def rollout_shapes(
    backbone,
    layouts: Layouts,
    *,
    prompts: int,
    prompt_length: int,
    group_size: int,
    max_completion_length: int,
    max_rows: int | None,
    quantization: str | None,
) -> RolloutShapes:
    """The shapes of a call of `PolicySampler.generate` (see there), for the bucket that takes the most memory."""
    if quantization is not None:
        backbone = abstract_quantized(backbone, quantization)
    decoder = planned_decoder(backbone)
    dtypes = adapted_dtypes(backbone)
    weights = [layouts.rollout(variable, dtypes.get(id(variable))) for variable in backbone.variables]
    placement = Placement(weights)
    shares = shares_of_a_group(prompts, group_size, placement.parts, max_rows)
    prompts, group_size = prompts * shares, group_size // shares
    begun = []

    def begin(weights):
        prompt_ids, starts = np.zeros((prompts, prompt_length), "int32"), np.zeros(prompts, "int32")
        keys = row_keys(0, 0, np.arange(prompts * group_size))
        limits = dict(group_size=group_size, max_completion_length=max_completion_length, max_rows=max_rows)
        rows = dict(token_ids=prompt_ids, starts=starts, keys=keys)
        batch = Batch(decoder, weights, **rows, **limits, placement=placement)
        begun.append((batch, batch.bucket))
        if max(batch.buckets) != batch.bucket:
            batch.move_to(max(batch.buckets))
        return batch.state, batch.rows, batch.prompt

    state, rows, prompt = jax.eval_shape(begin, weights)
    [(batch, first)] = begun
    shared, read = prompt is not None, first.rows // group_size

    def of_rows(array):
        return layouts.on_mesh(placement.mesh, array, "batch")

    def of_cache(ring):
        axes = placement.of_cache(ring.shape[1]).spec if placement.mesh else ()
        return layouts.on_mesh(placement.mesh, ring, *axes)

    return RolloutShapes(
        decoder=decoder,
        weights=weights,
        state=State(
            layouts.on_mesh(placement.mesh, state.index),
            of_rows(state.hidden),
            jax.tree.map(of_cache, state.cache),
            *map(of_rows, (state.alive, state.automaton)),
        ),
        rows=jax.tree.map(of_rows, rows),
        prompt=Prompt(jax.tree.map(of_cache, prompt.cache), prompt_length) if shared else None,
        prompts=tuple(of_rows(np.zeros(shape, "int32")) for shape in ((read, prompt_length), (read,))),
        cache_dtype=batch.cache_dtype,
        parts=placement.parts,
        cache_length=prompt_length + batch.bucket.new_tokens,
        admitted=batch.admitted / read if batch.queued else 0.0,
    )
