"""The sections of a recipe: every key, its type, its default and its bounds, and the check of one section.

Two kinds of key are free, and checked by whoever is built from them: the task's arguments in `[task]`, and tables such
as `optimizer.config`, which is a Keras optimizer's own. TOML has no null: where a key may be None, it is "none" there.

What a key means stands in its section's docstring, or in that of what the section is the keyword arguments of.
`docs/recipe_keys.py` makes the manual's tables of them.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, field

from keras_aha.models.special_tokens import TURN_ENDS
from keras_aha.names import nearest
from keras_aha.recipes.values import RecipeError, convert, free_value, in_words

_section = dataclasses.dataclass(frozen=True, kw_only=True)


def _rule(words: str, holds: Callable, default):
    """A key with a condition, which both numbers of a pair must meet; None, where the type has it, always does."""
    return field(default=default, metadata={"words": words, "holds": holds})


def _at_least(bound: float, default=MISSING):
    return _rule(f"at least {bound}", lambda number: number >= bound, default)


def _from_to(least: int, most: int, default: int):
    return _rule(f"from {least} to {most}", lambda number: least <= number <= most, default)


def _above_zero(default=MISSING):
    return _rule("above 0", lambda number: number > 0, default)


def _one_of(*choices: str):
    """A key that takes one of a few words; the first is the default."""
    return _rule(" or ".join(f'"{choice}"' for choice in choices), choices.__contains__, choices[0])


@_section
class Model:
    """The policy.

    Attributes:
        preset: a keras-hub preset, a folder that `save_to_preset` wrote, or a name in `presets/`.
        dtype: of the weights and of what is computed with them.
        quantization: of the weights, which are frozen then.
    """

    preset: str
    dtype: str = "float32"
    quantization: str | None = _rule('"int8", "int4" or "none"', ("int8", "int4").__contains__, default=None)


@_section
class Lora:
    """The adapters that are trained.

    Attributes:
        rank: of the adapters; 0 trains every weight.
        alpha: Keras multiplies adapters by `alpha` / `rank`; "none" is the rank itself. For rsLoRA (arXiv:2312.03732)
            let it grow with √`rank`.
        target: names of layers of the backbone, by default all of Gemma's linears.
        start: the folder of a run, or its `adapters.lora.h5`, whose adapters this one starts from, with the same
            `rank`, `alpha` and `target`; the reference policy is still the preset.
    """

    rank: int = _from_to(0, 4096, default=16)
    alpha: float | None = _above_zero(default=None)
    target: tuple[str, ...] = (
        "query",
        "key",
        "value",
        "attention_output",
        "ffw_gating",
        "ffw_gating_2",
        "ffw_linear",
    )
    start: str | None = None


@_section
class TaskSection:
    """The task's name; every other key of `[task]` is one of its keyword arguments."""

    name: str
    arguments: dict = field(default_factory=dict)


@_section
class Rollouts:
    """Keyword arguments of `RolloutCallback`; lengths in tokens."""

    prompts_per_epoch: int = _at_least(1, default=32)
    group_size: int = _at_least(2, default=16)  # a completion alone has nothing to be better than
    max_completion_length: int = _at_least(1, default=1024)
    max_prompt_length: int = _at_least(1, default=512)
    temperature: float = _above_zero(default=1.0)
    top_k: int | None = _at_least(1, default=None)
    top_p: float | None = _rule("above 0 and at most 1", lambda share: 0 < share <= 1, default=None)
    min_p: float | None = _rule("above 0 and at most 1", lambda share: 0 < share <= 1, default=None)
    stop_tokens: tuple[str, ...] = TURN_ENDS
    stop_strings: tuple[str, ...] = _rule("texts, none of them empty", bool, default=())
    max_rows: int | None = _at_least(1, default=None)  # decoded at a time
    quantization: str | None = _rule('"int8" or "none"', "int8".__eq__, default=None)  # of the weights that sample
    advantage_scale: str | None = _rule('"std" or "batch" or "none"', ("std", "batch").__contains__, default="std")
    advantage_baseline: str = _one_of("mean", "leave_one_out")
    mask_truncated: bool = False
    overlong_buffer: int | None = _at_least(1, default=None)
    curriculum: float | None = _rule("above 0 and below 1", lambda share: 0 < share < 1, default=None)
    refills: int = _from_to(0, 100, default=0)
    reward_seconds: float | None = _above_zero(default=5.0)
    on_reward_error: str = _one_of("skip", "stop")

    def __post_init__(self):
        tokens = self.prompts_per_epoch * self.group_size * self.max_completion_length
        if tokens >= 2**31:
            raise RecipeError(f"A rollout may have 2**31 tokens: lower prompts_per_epoch. Received: {tokens} tokens")

    updates_per_rollout: int = _at_least(1, default=1)


@_section
class Loss:
    """Keyword arguments of `GRPOLoss`."""

    clip_range: float | tuple[float, float] = _above_zero(default=0.2)
    kl_coef: float = _at_least(0, default=0.0)
    kl_estimator: str = _one_of("k3", "k1", "k2", "k1+", "k3+")
    ratio: str = _one_of("token", "sequence")
    aggregation: str = _one_of("token_mean", "sequence_mean", "fixed_length")
    delta: float | None = _above_zero(default=None)  # and outside the clip range, which `GRPOLoss` checks
    entropy_coef: float = _at_least(0, default=0.0)
    importance_cap: float | None = _at_least(1, default=None)


@_section
class Optimizer:
    """The Keras optimizer.

    Attributes:
        class_name: of `keras.optimizers`.
        config: what its `from_config` takes. A schedule is a table of `class_name` and `config`; its `decay_steps`,
            where they are left out, are those of the run.
    """

    class_name: str = "AdamW"
    config: dict = field(default_factory=dict)


@_section
class Training:
    """How long, and in what pieces; `micro_batch_size` and `completion_lengths` are those of `GRPOModel`.

    Attributes:
        epochs: rollouts to train on.
        seed: of all that is random: the order of problems, completions, the adapters' first values.
        remat: whether the backward pass computes activations again, a block at a time: less memory, and a forward pass
            more. "none" does it with models of 50 million parameters or more.
    """

    epochs: int = _at_least(1, default=100)
    seed: int = _at_least(0, default=0)
    micro_batch_size: int | None = _at_least(1, default=None)
    completion_lengths: int = _at_least(1, default=3)  # that the step is compiled for; 1 compiles fastest
    remat: bool | None = None


@_section
class Evaluation:
    """What is measured before training, every few epochs, and after it.

    Attributes:
        puzzles: held-out problems, the same ones for every training seed.
        samples: completions of each at temperature 1; each is decoded greedily too.
        every: epochs from one evaluation to the next.
    """

    puzzles: int = _at_least(1, default=256)
    samples: int = _at_least(1, default=4)
    every: int = _at_least(1, default=10)

    def __post_init__(self):
        if self.puzzles * self.samples > 10**6:
            raise RecipeError(
                "An evaluation may have a million completions, puzzles times samples. "
                f"Received: evaluation.puzzles={self.puzzles}, evaluation.samples={self.samples}"
            )


@_section
class Distribution:
    """Keyword arguments of `distribute`: devices along each axis of the mesh, and how weights lie on it."""

    batch: int | None = _at_least(1, default=None)
    model: int = _at_least(1, default=1)
    weights: str = _one_of("auto", "whole", "split")
    rollout_model: int | None = _at_least(1, default=None)


@_section
class Priming:
    """Keyword arguments of `prime`; `habits` are those of the task's `worked_solution`.

    Attributes:
        adapters: whether those of `[lora]` are trained, not every weight; they are merged into the weights afterwards.
    """

    adapters: bool = False
    steps: int = _at_least(1, default=2000)
    batch_size: int = _at_least(1, default=64)
    learning_rate: float = _above_zero(default=3e-3)
    stop_token: str | None = None
    seed: int = _at_least(0, default=0)
    habits: dict = field(default_factory=dict)


def read_section(name: str, kind: type, sections: dict):
    """The section `name` of the recipe `sections` as a `kind`.

    Raises:
        RecipeError: an unknown key (the message names the nearest), a key that is missing and has no default, or a
            value of the wrong type or out of bounds.
    """
    table = sections.get(name, {})
    keys = {key.name: key for key in dataclasses.fields(kind)}
    if kind is TaskSection:
        arguments = free_value(name, {key: value for key, value in table.items() if key != "name"})
        table = {key: value for key, value in table.items() if key == "name"} | {"arguments": arguments}
    for key, value in table.items():
        if key not in keys:
            path = f"{name}.{key}"
            likely = same_key(path, sections) or f"{name}.{nearest(key, keys)}"
            raise RecipeError(f"Unknown key {path}; the nearest is {likely}. Received: {path}={value!r}")
    for key, declared in keys.items():
        if key not in table and declared.default is declared.default_factory is MISSING:
            raise RecipeError(f"The recipe lacks {name}.{key}, which has no default.")
    return kind(**{key: _read_value(f"{name}.{key}", value, keys[key]) for key, value in table.items()})


def _read_value(path: str, value, declared: dataclasses.Field):
    if declared.type is dict and isinstance(value, dict):
        return free_value(path, value)
    try:
        result = convert(value, declared.type)
    except TypeError:
        raise RecipeError(f"{path} must be {in_words(declared.type)}. Received: {path}={value!r}") from None
    except OverflowError:
        raise RecipeError(f"{path} must be a number of 32 bits. Received: {path}={value!r}") from None
    if result is not None and "holds" in declared.metadata:
        if not all(map(declared.metadata["holds"], result if isinstance(result, tuple) else (result,))):
            raise RecipeError(f"{path} must be {declared.metadata['words']}. Received: {path}={value!r}")
    return result


# === Near misses ===


def same_key(path: str, sections: dict) -> str | None:
    """Where else the last name in `path` is a key: in a declared section or in what `sections` holds; or None."""
    declared = [
        f"{name}.{key.name}"
        for name, kind in SECTIONS.items()
        if kind is not TaskSection
        for key in dataclasses.fields(kind)
    ]
    name = path.split(".")[-1]
    return next(
        (other for other in [*_paths(sections), *declared] if other != path and other.endswith(f".{name}")), None
    )


def _paths(table: dict, prefix: str = ""):
    for key, value in table.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


SECTIONS: dict[str, type] = {
    "model": Model,
    "lora": Lora,
    "task": TaskSection,
    "rollouts": Rollouts,
    "loss": Loss,
    "optimizer": Optimizer,
    "training": Training,
    "evaluation": Evaluation,
    "distribution": Distribution,
    "priming": Priming,
}
