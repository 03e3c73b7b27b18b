"""`plan`: a recipe on a topology, compiled and not run."""

import time
from collections.abc import Callable

from keras_aha.distribution.devices import chip
from keras_aha.distribution.distribute import batch_parts, check_batch
from keras_aha.models.internals import as_if_on
from keras_aha.planner import memory, roofline
from keras_aha.planner.abstract_model import abstract_model
from keras_aha.planner.advice import advice, notes
from keras_aha.planner.arithmetic import ByHand
from keras_aha.planner.compiler import Compiler
from keras_aha.planner.judging import judge_shapes
from keras_aha.planner.layouts import bytes_on_a_device
from keras_aha.planner.plan_record import DecodePlan, Plan, TrainPlan
from keras_aha.planner.program import Program, TooLarge
from keras_aha.planner.rollout_shapes import RolloutShapes, rollout_shapes
from keras_aha.planner.topology import Topology, find_topology
from keras_aha.recipes.recipe import Recipe
from keras_aha.training.rollout import PROMPT_MULTIPLE, empty_batch

import jax

Phases = dict[str, dict[str, int]]  # phase of a run → part of a device's memory → bytes


def plan(
    recipe: Recipe,
    topology: str,
    *,
    price_per_chip_hour: float | None = None,
    on_program: Callable[[str], None] = lambda name: None,
) -> Plan:
    """Says whether a recipe fits on a topology, and how fast it can be at best, without its weights or its devices.

    The model is built of shapes. The compiler of the devices compiles the train step, the prefill and the decode steps
    that `fit` would run, and says what they take. Minutes for a model of billions of parameters.

    Args:
        recipe: see `Recipe`. Its sections model, lora, rollouts, loss, optimizer, training and distribution count.
        topology: such as "v5e-8" or "v5e:2x4", see `find_topology`.
        price_per_chip_hour: in any currency; `None` says nothing of money.
        on_program: called with the name of each program before it is compiled.

    Raises:
        RecipeError, ValueError, ImportError: one sentence about a preset, a topology or a number that cannot be used,
            or about libtpu, if that is missing.
    """
    places = find_topology(topology)
    with abstract_model(recipe, places) as made, as_if_on(places.devices, places.platform):
        check_batch(recipe.rollouts.prompts_per_epoch, recipe.rollouts.group_size, recipe.training.micro_batch_size)
        return Planning(recipe, places, made, on_program).plan(price_per_chip_hour)


class Planning:
    """What `plan` does, step by step, with the model, the judges and the layouts of `abstract_model`."""

    def __init__(self, recipe: Recipe, topology: Topology, made: tuple, on_program: Callable):
        model, judges, layouts = made
        self.recipe, self.topology, self.model, self.layouts = recipe, topology, model, layouts
        self.compiler = Compiler(recipe, on_program) if topology.compiles else ByHand(recipe)
        self.chip = chip(topology.device_kind)
        self.dtype = model.policy.backbone.token_embedding.compute_dtype  # of products, see models.dtype_policy
        rollouts = recipe.rollouts
        self.rows = rollouts.prompts_per_epoch * rollouts.group_size  # of an optimizer step
        self.prompt_length = -(-rollouts.max_prompt_length // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
        variables = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
        lengths = self.prompt_length, rollouts.max_completion_length
        shared = model.rows_per_prompt(self.rows, rollouts.group_size, *lengths)
        hint = 0  # tokens; no problem is known, nor how long its solution is
        if model.teacher is not None and model.teacher.hint is not None:
            hint = -(-sum(lengths) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
        batch = empty_batch(self.rows, *lengths, shared, teacher_prompt_length=hint)
        self.state = jax.tree.map(layouts.variable, (*variables, model.metrics_variables))
        self.batch = jax.tree.map(layouts.batch, batch)
        self.judges = [judge_shapes(recipe.rewards[i], judge, layouts) for i, judge in judges.items()]
        self.resident = memory.resident(model, self.state, layouts, self.judges)

    def plan(self, price_per_chip_hour: float | None) -> Plan:
        """All of it."""
        begin = time.perf_counter()
        # The step takes the longest, and the compiler uses one core: the others are compiled at the same time.
        compiling = self.begin_train()
        decode, rollout_phases = self.decode()
        judging, judge_phases = self.judge()
        train, phases = self.train(compiling)
        seconds = time.perf_counter() - begin
        phases |= rollout_phases | judge_phases
        devices, limit = len(self.topology.devices), self.topology.memory
        chips = devices / self.chip.devices_per_chip if self.chip else devices
        return Plan(
            preset=self.recipe.model.preset,
            topology=self.topology.name,
            device_kind=self.topology.device_kind,
            chips=devices,
            hbm_limit_bytes=limit,
            phases=phases,
            train=train,
            decode=decode,
            run=roofline.estimate_run(self.recipe, train, decode, judging, chips, price_per_chip_hour),
            compile_seconds=seconds if self.topology.compiles else 0.0,
            notes=tuple(notes(self.recipe, self.topology, self.dtype)),
            advice=tuple(advice(self.recipe, phases, limit)),
        )

    def begin_train(self) -> Callable[[], Program]:
        """Begins to compile the optimizer step; `train` takes what it returns."""
        return self.compiler.train_step(self.model, self.state, self.batch)

    def train(self, compiling: Callable[[], Program]) -> tuple[TrainPlan, Phases]:
        """The optimizer step, and the memory that it takes."""
        rows, size = self.rows, self.recipe.training.micro_batch_size or self.rows
        length = self.prompt_length + self.recipe.rollouts.max_completion_length
        batch = bytes_on_a_device(self.batch)
        try:
            program = compiling()
            step = roofline.estimate_step(program, self.chip, self.dtype, tokens=rows * length)
            lengths = self.recipe.training.completion_lengths
            parts = memory.train_phase(self.resident, batch, program, lengths)
        except TooLarge as error:
            step, parts = None, self.too_large(error, batch=batch)
        train = TrainPlan(
            rows=rows,
            sequences_per_chip=size / batch_parts(),
            sequence_length=length,
            micro_batches=rows // size,
            argument_bytes=bytes_on_a_device((self.state, self.batch)),
            step=step,
        )
        return train, {"train": parts}

    def decode(self) -> tuple[DecodePlan, Phases]:
        """Rollouts, and the memory that they and evaluations take."""
        rollouts = self.recipe.rollouts
        shapes = self.shapes(rollouts.prompts_per_epoch, rollouts.group_size, rollouts.max_rows)
        rows, cache = shapes.rows_per_part * shapes.parts, bytes_on_a_device(shapes.cache)
        weights = memory.rollout_weights(self.model.policy.backbone, self.layouts, shapes)
        try:
            prefill, segment = self.compiler.prefill(shapes), self.compiler.segment(shapes)
            step = roofline.estimate_step(segment, self.chip, self.dtype, tokens=rows)
            prefill_seconds = roofline.seconds(prefill, self.chip, self.dtype)
            phases = memory.rollout_phases(self.resident, weights, shapes, prefill, segment)
            phases["evaluation"] = self.evaluation_phase(phases["decode"])
        except TooLarge as error:
            step = prefill_seconds = None
            phases = {"decode": self.too_large(error, merged_weights=weights[0], cache=cache)}
        decode = DecodePlan(
            rows=rows,
            sequences_per_chip=shapes.rows_per_part,
            cache_length=shapes.cache_length,
            argument_bytes=bytes_on_a_device(shapes.arrays),
            floor_bytes=memory.read_by_decoding(shapes) + cache,
            step=step,
            prefill_seconds=prefill_seconds,
        )
        return decode, phases

    def judge(self) -> tuple[float | None, Phases]:
        """Seconds of judging a completion by all judges, `None` if they are not known; and the memory that it takes."""
        try:
            judges = [(judge, self.compiler.judge(judge)) for judge in self.judges]
        except TooLarge as error:
            return None, {"judge": self.too_large(error)}
        seconds = 0.0
        for judge, program in judges if self.chip else ():
            dtype = judge.backbone.token_embedding.compute_dtype
            seconds += roofline.seconds(program, self.chip, dtype) * judge.texts / len(judge.lengths)
        return seconds, {"judge": memory.judge_phase(self.resident, judges)} if judges else {}

    def evaluation_phase(self, decode: dict[str, int]) -> dict[str, int]:
        """Memory of completing held-out problems, sampled or greedy, whichever takes more."""
        evaluation, max_rows = self.recipe.evaluation, self.recipe.rollouts.max_rows or self.rows
        shapes = (self.shapes(evaluation.puzzles, samples, max_rows) for samples in (evaluation.samples, 1))
        return max((memory.evaluation_phase(decode, each) for each in shapes), key=lambda parts: sum(parts.values()))

    def shapes(self, prompts: int, group_size: int, max_rows: int | None) -> RolloutShapes:
        """Of a call of `generate`."""
        rollouts = self.recipe.rollouts
        return rollout_shapes(
            self.model.policy.backbone,
            self.layouts,
            prompts=prompts,
            prompt_length=self.prompt_length,
            group_size=group_size,
            max_completion_length=rollouts.max_completion_length,
            max_rows=max_rows,
            quantization=rollouts.quantization,
        )

    def too_large(self, error: TooLarge, **parts: int) -> dict[str, int]:
        """Parts of a phase that did not compile: its activations are what the compiler names, or one byte too many."""
        parts |= self.resident
        room = self.topology.memory - sum(parts.values())
        return dict.fromkeys(memory.PARTS, 0) | parts | {"activations": max(error.temp_bytes or 0, room + 1, 0)}
