"""Memory of a device, phase by phase: what it holds at the same time, by part."""

from keras_aha.planner.layouts import Layouts, bytes_on_a_device
from keras_aha.planner.program import Program
from keras_aha.planner.rollout_shapes import RolloutShapes

PARTS = ("weights", "adapters_and_optimizer", "merged_weights", "cache", "batch", "activations", "program")


def is_adapter(variable) -> bool:
    """Whether a variable is one of LoRA's."""
    return variable.name.startswith("lora_")


def held(model, state, layouts: Layouts) -> dict[str, int]:
    """What lies on a device all the time, bytes by part.

    Args:
        model: a `GRPOModel`, compiled, without values.
        state: of its `train_step`, as shapes with shardings.
        layouts: of its variables.
    """
    variables = (*model.trainable_variables, *model.non_trainable_variables)
    weights = bytes_on_a_device([layouts.variable(variable) for variable in variables if not is_adapter(variable)])
    return {"weights": weights, "adapters_and_optimizer": bytes_on_a_device(state) - weights}


def read_by_decoding(shapes: RolloutShapes) -> int:
    """Bytes of the weights that a decode step reads; adapters only beside quantized kernels, as they are merged else."""
    backbone = shapes.decoder.backbone
    beside = {
        id(variable)
        for layer in _adapted(backbone)
        if layer.quantization_mode is None
        for variable in (layer.lora_kernel_a, layer.lora_kernel_b)
    }
    pairs = zip(backbone.variables, shapes.weights, strict=True)
    return bytes_on_a_device([shape for variable, shape in pairs if id(variable) not in beside])


def merged(backbone, layouts: Layouts, shapes: RolloutShapes) -> int:
    """Bytes of weights that a rollout has beside the policy's: merged kernels, and a quantized twin's."""
    kernels = [layer._kernel for layer in _adapted(backbone) if layer.quantization_mode is None]
    twin = [] if shapes.decoder.backbone is backbone else shapes.weights
    return bytes_on_a_device([*(layouts.variable(kernel) for kernel in kernels), *twin])


def train_phase(held: dict, batch: int, program: Program) -> dict[str, int]:
    """Memory of the optimizer step, bytes by part."""
    arguments = sum(held.values()) + batch
    padding = max(0, program.argument_bytes - arguments)  # by the layout that the compiler has chosen
    activations = padding + program.temp_bytes + program.output_bytes
    return _parts(**held, batch=batch, activations=activations, program=program.code_bytes)


def rollout_phases(held: dict, merged: int, shapes: RolloutShapes, prefill: Program, segment: Program) -> dict:
    """Memory of reading prompts and of decoding, bytes by part."""
    weights, cache = bytes_on_a_device(shapes.weights), bytes_on_a_device(shapes.cache)
    beside = max(0, segment.argument_bytes - read_by_decoding(shapes) - cache) + segment.temp_bytes
    code = prefill.code_bytes + segment.code_bytes
    decode = _parts(
        **held, merged_weights=merged, cache=cache, activations=beside + segment.output_bytes, program=code
    )
    reading = max(0, prefill.argument_bytes - weights) + prefill.temp_bytes + prefill.output_bytes
    if shapes.admitted:  # prompts are read while others are being decoded, some at a time
        reading = int(reading * shapes.admitted)
    prefill = _parts(
        **held, merged_weights=merged, cache=cache * bool(shapes.admitted), activations=reading, program=code
    )
    return {"prefill": prefill, "decode": decode}


def with_cache(phase: dict[str, int], cache: int) -> dict[str, int]:
    """A phase whose cache is another one."""
    return phase | {"cache": cache}


def _parts(**parts: int) -> dict[str, int]:
    return {part: parts.get(part, 0) for part in PARTS}


def _adapted(backbone) -> list:
    return [layer for layer in backbone._flatten_layers() if getattr(layer, "lora_rank", None)]
