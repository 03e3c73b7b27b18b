"""What a plan's numbers rest upon, and what to change if it does not fit."""

from keras_aha.distribution.devices import chip
from keras_aha.planner.topology import Topology
from keras_aha.recipes.recipe import Recipe

_ROOFLINE = (
    "Times are estimates by the roofline, so they are the least that is possible. A program takes the longer one of "
    "operations / peak and bytes / memory bandwidth, and then bytes of collectives / interconnect bandwidth. "
    "Compiling, the host and scoring come on top; for a tiny model they take nearly all of the time. All completions "
    "are taken to have full length, and all prompts the recipe's longest."
)
_BY_HAND = (
    "Nothing was compiled, because the compiler for this GPU is not here. Activations and times are by arithmetic, and "
    "may be wrong by a third. The memory is three quarters of what the GPU has: JAX takes that much by default. Each "
    'GPU holds all weights, unless distribution.weights="split" or distribution.model say otherwise.'
)
_CORES = "A chip here is one of a chip's two cores, as JAX sees them. The price is for a whole chip."
_JUDGES = (
    "A judge reads each completion of a rollout, and of an evaluation, in as many tokens as its max_length. A server "
    "that judges is not counted: neither its memory nor its time."
)
_HINT = (
    "The teacher's prompts are taken to be as long as max_prompt_length and max_completion_length together: how long "
    "a solution is, nobody knows before."
)
_ONE_LENGTH = (
    "The step is compiled for completions of full length only. A run compiles it for {} lengths "
    "(training.completion_lengths), which takes that many times as long. All of these programs are counted as equally "
    "large."
)


def notes(recipe: Recipe, topology: Topology, dtype: str) -> list[str]:
    """What the numbers rest upon; `dtype` is that of products."""
    known, kind = chip(topology.device_kind), topology.device_kind
    lines = [_ROOFLINE if known else f"The speed of {kind!r} is not known, so there are no times."]
    if any(reward.judge for reward in recipe.rewards):
        lines.append(_JUDGES)
    if recipe.teacher.preset is not None and recipe.teacher.hint is not None:
        lines.append(_HINT)
    if known and dtype not in known.tflops:
        lines.append(f"{kind} has no units for {dtype}: float32 is what counts here.")
    if known and known.devices_per_chip > 1:
        lines.append(_CORES)
    if not topology.compiles:
        lines.append(_BY_HAND)
    elif recipe.training.completion_lengths > 1:
        lines.append(_ONE_LENGTH.format(recipe.training.completion_lengths))
    return lines


def advice(recipe: Recipe, phases: dict[str, dict[str, int]], limit: int) -> list[str]:
    """What to change if phases (phase → part → bytes) take more than `limit` bytes, the smallest change first."""
    too_large = {phase for phase, parts in phases.items() if sum(parts.values()) > limit}
    if not too_large:
        return []
    lines = []
    if "train" in too_large:
        lines.append("a smaller training.micro_batch_size: fewer activations at a time, the same update")
        if recipe.teacher.kl == "exact" and recipe.teacher.preset is not None:
            lines.append('teacher.kl="sampled": no second set of logits over the whole vocabulary')
    if "judge" in too_large:
        lines.append("a smaller batch_size of [[rewards]], or max_length: fewer tokens are judged at a time")
    if too_large - {"train", "merge", "judge"}:
        lines.append("a smaller rollouts.max_rows: fewer completions are decoded at a time, the others wait")
    heavy = max(parts["weights"] + parts["merged_weights"] for parts in phases.values()) > limit / 10
    if heavy:
        lines.append('distribution.weights="split": each chip holds a share of the weights, on several chips')
    for part, key in {"teacher": "teacher.quantization", "judges": "quantization of [[rewards]]"}.items():
        if max(parts[part] for parts in phases.values()) > limit / 10:
            lines.append(f'{key}="int8", if it is not set: half the memory of bfloat16, a quarter of float32')
    lines.append("more chips, or larger ones")
    if heavy and recipe.model.quantization is None and recipe.lora.rank:
        lines.append('a quantized base: model.quantization="int8"')
    return lines
