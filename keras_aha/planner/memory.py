"""Memory of a device in each phase of a run: what it holds at the same time, as part → bytes."""

import math
from collections.abc import Iterable

from keras_aha.models.adapters_beside import is_beside
from keras_aha.models.internals import flatten_layers
from keras_aha.models.lora import adapted_layers
from keras_aha.planner.judging import JudgeShapes
from keras_aha.planner.layouts import Layouts, bytes_on_a_device
from keras_aha.planner.program import Program
from keras_aha.planner.rollout_shapes import RolloutShapes, adapted_dtypes

import jax
import keras

PARTS = ("weights", "adapters_and_optimizer", "teacher", "judges", "merged_weights", "cache", "batch", "activations")
PARTS += ("program",)


def resident(model, state, layouts: Layouts, judges: Iterable[JudgeShapes]) -> dict[str, int]:
    """What lies on a device all the time; `state` is that of the model's `train_step`, as shapes with shardings."""
    taught = {id(variable): variable for variable in (model.teacher.variables if model.teacher else ())}
    variables = [v for v in (*model.trainable_variables, *model.non_trainable_variables) if id(v) not in taught]
    weights = [layouts.variable(variable) for variable in variables if not variable.name.startswith("lora_")]
    weights, teacher = bytes_on_a_device(weights), bytes_on_a_device(list(map(layouts.variable, taught.values())))
    parts = {"weights": weights, "adapters_and_optimizer": bytes_on_a_device(state) - weights - teacher}
    return parts | {"teacher": teacher, "judges": bytes_on_a_device([judge.weights for judge in judges])}


def read_by_decoding(shapes: RolloutShapes) -> int:
    """Bytes of the weights that a decode step reads.

    Not adapters that are merged, and not a table of which a token reads one row and which nothing is multiplied by,
    such as Gemma 4's embeddings of each layer.
    """
    backbone = shapes.decoder.backbone
    unread = {
        id(variable)
        for layer in adapted_layers(backbone)
        if not is_beside(layer)
        for variable in (layer.lora_kernel_a, layer.lora_kernel_b)
    }
    tables = [layer for layer in flatten_layers(backbone) if isinstance(layer, keras.layers.Embedding)]
    looked_up = [layer for layer in tables if not isinstance(layer, keras.layers.ReversibleEmbedding)]
    unread |= {id(variable) for layer in looked_up for variable in layer.variables}
    pairs = zip(backbone.variables, shapes.weights, strict=True)
    return bytes_on_a_device([shape for variable, shape in pairs if id(variable) not in unread])


def rollout_weights(backbone, layouts: Layouts, shapes: RolloutShapes) -> tuple[int, int]:
    """Bytes that a rollout has beside the policy's weights: while it decodes, and while they are made.

    Merged kernels, adapters in the dtype of their layer, weights that lie otherwise than in training, and those of a
    quantized twin.
    """
    dtypes = adapted_dtypes(backbone)
    adapted, laid_out = [], []
    for variable in backbone.variables:
        dtype = dtypes.get(id(variable))
        trained, rollout = layouts.variable(variable, dtype), layouts.rollout(variable, dtype)
        if dtype is not None:
            adapted.append(trained)
        if not rollout.sharding.is_equivalent_to(trained.sharding, len(variable.shape)):
            laid_out.append(rollout)
        elif dtype is not None:
            laid_out.append(trained)
    moved = [shape for shape in adapted if all(shape is not other for other in laid_out)]
    twin = [] if shapes.decoder.backbone is backbone else shapes.weights
    return bytes_on_a_device(twin or laid_out), bytes_on_a_device([*laid_out, *moved, *twin])


def train_phase(resident: dict, batch: int, program: Program, lengths: int) -> dict[str, int]:
    """The optimizer step with a batch of so many bytes; as many programs as `lengths` stay on the device."""
    arguments = sum(resident.values()) - resident["judges"] + batch
    padding = max(0, program.argument_bytes - arguments)  # by the layout that the compiler has chosen
    activations = padding + program.temp_bytes + program.output_bytes
    return _parts(**resident, batch=batch, activations=activations, program=lengths * program.code_bytes)


def rollout_phases(
    resident: dict, weights: tuple[int, int], shapes: RolloutShapes, prefill: Program, segment: Program
) -> dict[str, dict[str, int]]:
    """Merging adapters, reading prompts, and decoding; `weights` are `rollout_weights`."""
    decoding, merging = weights
    cache = bytes_on_a_device(shapes.cache)
    beside = max(0, segment.argument_bytes - read_by_decoding(shapes) - cache)
    beside += segment.temp_bytes + segment.output_bytes
    columns = prefill.output_bytes  # keys and values of the prompts, of which the cache is then made ring by ring
    reading = max(0, prefill.argument_bytes - read_by_decoding(shapes)) + prefill.temp_bytes + columns
    later = int(reading * shapes.admitted)  # of prompts that waited, beside a full cache
    reading = max(reading - cache, columns, later)
    code = prefill.code_bytes + segment.code_bytes
    return {
        "merge": _parts(**resident, merged_weights=merging),
        "prefill": _parts(**resident, merged_weights=decoding, cache=cache, activations=reading, program=code),
        "decode": _parts(**resident, merged_weights=decoding, cache=cache, activations=beside, program=code),
    }


def judge_phase(resident: dict, judges: list[tuple[JudgeShapes, Program]]) -> dict[str, int]:
    """Judging a rollout, by one judge after the other; their programs stay on the device."""
    beside = [
        max(0, program.argument_bytes - bytes_on_a_device(judge.weights)) + program.temp_bytes + program.output_bytes
        for judge, program in judges
    ]
    return _parts(**resident, activations=max(beside), program=sum(program.code_bytes for _, program in judges))


def evaluation_phase(decode: dict[str, int], shapes: RolloutShapes) -> dict[str, int]:
    """Completing held-out problems: as `decode` of a rollout, but for the keys and values of other shapes."""
    read, length = shapes.prompts[0].shape
    rings = jax.tree.leaves(shapes.state.cache)
    columns = sum(bytes_on_a_device(ring) * read * length / math.prod(ring.shape[::2]) for ring in rings)
    admitted = int(columns * shapes.admitted)  # keys and values of prompts that are read beside a full cache
    return decode | {"cache": bytes_on_a_device(shapes.cache), "activations": decode["activations"] + admitted}


def _parts(**parts: int) -> dict[str, int]:
    return {part: parts.get(part, 0) for part in PARTS}
