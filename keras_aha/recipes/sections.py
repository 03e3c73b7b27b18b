"""The sections of a recipe: every key with its type, its default and its bounds.

The task's arguments in `[task]` and tables such as `optimizer.config` are free: what is built from them checks them.
TOML has no null: a key that may be None is "none" there. What a key means stands in its section's docstring, or in that
of the function or class whose keyword arguments the section holds (`docs/recipe_keys.py` makes tables of them).
"""

import re
from dataclasses import field

from keras_aha.models.special_tokens import TURN_ENDS
from keras_aha.recipes.feedback import Reward, Teacher
from keras_aha.recipes.rules import WORD, above_zero, at_least, choices, from_to, one_of, rule, section
from keras_aha.recipes.turns import Tool, Turns
from keras_aha.recipes.values import RecipeError
from keras_aha.tasks.chat import CHAT_FORMS

_GEMMA_LINEARS = "query key value attention_output ffw_gating ffw_gating_2 ffw_linear"


@section
class Model:
    """The policy.

    Attributes:
        preset: a keras-hub preset, a folder that `save_to_preset` wrote, or a name in `presets/`.
        dtype: of the weights and of what is computed with them. On a GPU without bfloat16 (T4, V100) take float16, in
            which a Gemma's matrices are, and all else is float32.
        quantization: of the weights, which are then frozen.
    """

    preset: str
    dtype: str = "float32"
    quantization: str | None = rule('"int8", "int4" or "none"', ("int8", "int4").__contains__, default=None)


@section
class Lora:
    """The adapters that are trained.

    Attributes:
        rank: of the adapters; 0 trains every weight.
        alpha: Keras multiplies adapters by `alpha` / `rank`; "none" is the rank itself. For rsLoRA (arXiv:2312.03732)
            let it grow with √`rank`.
        target: names of layers of the backbone, by default all of Gemma's linears.
        start: the folder of a run, or its `adapters.lora.h5`: training starts from its adapters, as they are after its
            last epoch that is saved. They need the same `rank`, `alpha` and `target`. The reference policy is still the
            preset.
    """

    rank: int = from_to(0, 4096, default=16)
    alpha: float | None = above_zero(default=None)
    target: tuple[str, ...] = tuple(_GEMMA_LINEARS.split())
    start: str | None = None


@section
class TaskSection:
    """The task; every other key of `[task]` is one of its keyword arguments.

    Attributes:
        name: one of ours, such as `countdown`, `reasoning_gym/GENERATOR`, or your own as `module:Class`.
    """

    name: str
    arguments: dict = field(default_factory=dict)


@section
class Rollouts:
    """Keyword arguments of `RolloutCallback`; lengths in tokens.

    Attributes:
        long_prompts: what becomes of a list's problems, to train on or held out, whose prompt is longer than
            `max_prompt_length`: an error before weights are loaded, or they are left out, see `ShortPrompts`.
    """

    prompts_per_epoch: int = at_least(1, default=32)
    group_size: int = at_least(2, default=16)  # a completion alone has nothing to be better than
    max_completion_length: int = at_least(1, default=1024)
    max_prompt_length: int = at_least(1, default=512)
    long_prompts: str = one_of("error", "skip")
    temperature: float = above_zero(default=1.0)
    top_k: int | None = at_least(1, default=None)
    top_p: float | None = rule("above 0 and at most 1", lambda share: 0 < share <= 1, default=None)
    min_p: float | None = rule("above 0 and at most 1", lambda share: 0 < share <= 1, default=None)
    stop_tokens: tuple[str, ...] = TURN_ENDS
    stop_strings: tuple[str, ...] = rule("texts, none of them empty", bool, default=())
    max_rows: int | None = at_least(1, default=None)  # decoded at a time
    quantization: str | None = rule('"int8" or "none"', "int8".__eq__, default=None)  # of the weights that sample
    advantage_scale: str | None = rule('"std" or "batch" or "none"', ("std", "batch").__contains__, default="std")
    advantage_baseline: str = one_of("mean", "leave_one_out")
    mask_truncated: bool = False
    overlong_buffer: int | None = at_least(1, default=None)
    curriculum: float | None = rule("above 0 and below 1", lambda share: 0 < share < 1, default=None)
    refills: int = from_to(0, 100, default=0)
    shuffle_rewards: bool = False
    task_weight: float = at_least(0, default=1.0)
    reward_seconds: float | None = above_zero(default=5.0)
    on_reward_error: str = one_of("skip", "stop")
    updates_per_rollout: int = at_least(1, default=1)

    def __post_init__(self):
        tokens = self.prompts_per_epoch * self.group_size * self.max_completion_length
        if tokens >= 2**31:
            todo = "lower rollouts.prompts_per_epoch"
            raise RecipeError(f"A rollout must have fewer than 2**31 tokens: {todo}. Received: {tokens} tokens")


@section
class Loss:
    """Keyword arguments of `GRPOLoss`."""

    clip_range: float | tuple[float, float] = above_zero(default=0.2)
    kl_coef: float = at_least(0, default=0.0)
    kl_estimator: str = one_of("k3", "k1", "k2", "k1+", "k3+")
    ratio: str = one_of("token", "sequence")
    aggregation: str = one_of("token_mean", "sequence_mean", "fixed_length")
    delta: float | None = above_zero(default=None)  # and outside the clip range, which `GRPOLoss` checks
    entropy_coef: float = at_least(0, default=0.0)
    surrogate_coef: float = at_least(0, default=1.0)
    importance_cap: float | None = at_least(1, default=None)


@section
class Optimizer:
    """The Keras optimizer.

    Attributes:
        class_name: of `keras.optimizers`.
        config: what its `from_config` takes. A schedule is a table of `class_name` and `config`; if its `decay_steps`
            are left out, they are the steps of the run, less those of its warm-up.
    """

    class_name: str = "AdamW"
    config: dict = field(default_factory=dict)


@section
class Training:
    """How long, and in what pieces; `micro_batch_size` and `completion_lengths` are those of `GRPOModel`.

    Attributes:
        epochs: rollouts to train on.
        seed: of all that is random: the order of problems, completions, the adapters' first values.
        remat: whether the backward pass computes activations again, a block at a time. That takes less memory and one
            more forward pass. "none" does it for models of 50 million parameters or more.
    """

    epochs: int = at_least(1, default=100)
    seed: int = at_least(0, default=0)
    micro_batch_size: int | None = at_least(1, default=None)
    completion_lengths: int = at_least(1, default=3)  # that the step is compiled for; 1 compiles fastest
    remat: bool | None = None


@section
class Evaluation:
    """What is measured before training, every few epochs, and after it.

    Attributes:
        puzzles: held-out problems, the same ones for every training seed.
        samples: completions of each at temperature 1; each is decoded greedily too.
        every: epochs from one evaluation to the next.
    """

    puzzles: int = at_least(1, default=256)
    samples: int = at_least(1, default=4)
    every: int = at_least(1, default=10)

    def __post_init__(self):
        if self.puzzles * self.samples > 10**6:
            raise RecipeError(
                "An evaluation must have at most a million completions, puzzles times samples. "
                f"Received: evaluation.puzzles={self.puzzles}, evaluation.samples={self.samples}"
            )


@section
class Distribution:
    """Keyword arguments of `distribute`: devices along each axis of the mesh, and how weights lie on it."""

    batch: int | None = at_least(1, default=None)
    model: int = at_least(1, default=1)
    weights: str = one_of("auto", "whole", "split")
    rollout_model: int | None = at_least(1, default=None)


@section
class PrimingTask(TaskSection):
    """A table `[[priming.tasks]]`: one task of a mixture; every other key is one of its keyword arguments.

    Attributes:
        weight: how often it is imitated, beside the weights of the others.
        habits: of its `worked_solution`.
    """

    weight: float = above_zero(default=1.0)
    habits: dict = field(default_factory=dict)


@section
class MixedTask(PrimingTask):
    """A table `[[tasks]]`: one task of several; every other key is one of its keyword arguments.

    Attributes:
        weight: how often it is asked, beside the weights of the others.
        habits: of its `worked_solution`, for priming.
        label: what logs call it; empty is the last word of its `name`. Each task needs another one.
    """

    label: str = rule(
        'of letters, digits, - and _, but not "low" or "high", of which there are columns already',
        lambda label: WORD.fullmatch(label or "empty") and label not in ("low", "high"),
        default="",
    )

    @property
    def log_name(self) -> str:
        """What logs call it."""
        return self.label or re.split("[/:]", self.name)[-1]


@section
class Priming:
    """Keyword arguments of `prime` and, if there is a `file`, of `ExampleRows`.

    Attributes:
        adapters: whether the adapters of `[lora]` are trained instead of every weight; they are then merged.
        tasks: what to imitate instead of `[task]`, each a table `[[priming.tasks]]` with the keys of `[task]`, a
            `weight` (1 by default) and `habits` of its own.
        file: rows to imitate instead of worked solutions: a file of JSON lines, JSON, CSV, TSV or Parquet, a list of
            files, or a folder.
        held_out_file: rows that are not trained on, of which `val_loss` is measured after each epoch.
        held_out_share: without such a file, about this share of the rows is held out instead, by a hash of their
            prompts.
        chat_form: the family's form in which conversations are written, and prompts and completions too, as a user's
            turn and the assistant's. "none" leaves these as they are, and writes conversations in the form whose marks
            are tokens of the vocabulary.
        max_length: tokens that a row of `file` may have, its prompt and its completion together.
        long_rows: whether longer ones are an error, or are counted and left out.
    """

    adapters: bool = False
    steps: int = at_least(1, default=2000)
    batch_size: int = at_least(1, default=64)
    learning_rate: float = above_zero(default=3e-3)
    stop_token: str | None = None
    seed: int = at_least(0, default=0)
    habits: dict = field(default_factory=dict)
    tasks: tuple[PrimingTask, ...] = ()
    file: str | tuple[str, ...] | None = None
    held_out_file: str | tuple[str, ...] | None = None
    held_out_share: float = rule("from 0 to 0.5", lambda share: 0 <= share <= 0.5, default=0.05)
    prompt: str = "prompt"
    completion: str | None = None
    messages: str | None = None
    chat_form: str | None = rule(choices(*CHAT_FORMS, "none"), CHAT_FORMS.__contains__, default=None)
    loss_on: str = one_of("all", "last")
    max_length: int = at_least(2, default=2048)
    long_rows: str = one_of("error", "skip")

    def __post_init__(self):
        if self.tasks and self.habits:
            raise RecipeError(
                "priming.habits are those of [task], which [[priming.tasks]] replace: give each of these tables habits "
                f"of its own. Received: priming.habits={self.habits}"
            )


SECTIONS: dict[str, type] = dict(model=Model, lora=Lora, task=TaskSection, rollouts=Rollouts, loss=Loss)
SECTIONS |= dict(optimizer=Optimizer, training=Training, evaluation=Evaluation)
SECTIONS |= dict(distribution=Distribution, priming=Priming, teacher=Teacher, turns=Turns)
LISTS: dict[str, type] = dict(tasks=MixedTask, rewards=Reward, tools=Tool)  # of tables, such as [[tasks]]
