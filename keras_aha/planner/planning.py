"""`plan`: a recipe on a topology, compiled and not run."""

import contextlib
import dataclasses
import time
from collections.abc import Callable

from keras_aha.decoding import Sampling
from keras_aha.distribution.devices import chip
from keras_aha.distribution.distribute import batch_parts, check_batch, distribute
from keras_aha.losses import GRPOLoss
from keras_aha.models.internals import as_if_on, initialize_layout, without_values
from keras_aha.models.policy import abstract_policy
from keras_aha.planner import memory, roofline
from keras_aha.planner.arithmetic import ByHand
from keras_aha.planner.compiler import Compiler
from keras_aha.planner.layouts import Layouts, bytes_on_a_device
from keras_aha.planner.plan_record import DecodePlan, Plan, TrainPlan
from keras_aha.planner.program import Program, TooLarge
from keras_aha.planner.rollout_shapes import RolloutShapes, planned_decoder, rollout_shapes
from keras_aha.planner.topology import Topology, find_topology
from keras_aha.planner.train_step import train_arguments
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_optimizer import build_optimizer
from keras_aha.runs.build_policy import check_base, policy_arguments
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.rollout import PROMPT_MULTIPLE

import jax
import keras

_ONE_LENGTH = (
    "The step is compiled for completions of full length only; a run compiles it for {} lengths, which takes that many "
    "times as long (training.completion_lengths). Each of these programs is taken to be as large as that one."
)


def plan(
    recipe: Recipe,
    topology: str,
    *,
    price_per_chip_hour: float | None = None,
    on_program: Callable[[str], None] | None = None,
) -> Plan:
    """Says what of a recipe fits on a topology, and how fast it can be at best, without its weights or its devices.

    The model is built of shapes; the train step, the prefill and the decode steps that `fit` would run are compiled by
    the compiler of the devices; and the compiler's word is taken. Minutes for a model of billions of parameters.

    Args:
        recipe: see `Recipe`. Its sections model, lora, rollouts, loss, optimizer, training and distribution count.
        topology: such as "v5e-8" or "v5e:2x4", see `find_topology`.
        price_per_chip_hour: in any currency; `None` says nothing of money.
        on_program: called with the name of each program before it is compiled.

    Raises:
        RecipeError, ValueError, ImportError: one sentence about a preset, a topology or a number that cannot be used,
            or about libtpu, where that is missing.
    """
    tell = on_program or (lambda name: None)
    places = find_topology(topology)
    with abstract_model(recipe, places) as (model, layouts), as_if_on(places.devices, places.platform):
        check_batch(recipe.rollouts.prompts_per_epoch, recipe.rollouts.group_size, recipe.training.micro_batch_size)
        return Planning(recipe, places, model, layouts, tell).plan(price_per_chip_hour)


class Planning:
    """What `plan` does, step by step.

    Args:
        recipe, topology: what is planned.
        model, layouts: of `abstract_model`.
        tell: called with the name of each program.
    """

    def __init__(self, recipe: Recipe, topology: Topology, model: GRPOModel, layouts: Layouts, tell):
        self.recipe, self.topology, self.model, self.layouts = recipe, topology, model, layouts
        self.compiler = Compiler(tell) if topology.compiles else ByHand(recipe)
        self.chip = chip(topology.device_kind)
        self.dtype = model.policy.backbone.compute_dtype
        self.rows = rows_of(recipe)
        self.prompt_length = -(-recipe.rollouts.max_prompt_length // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
        self.state, self.batch = train_arguments(
            model, layouts, self.rows, self.prompt_length, recipe.rollouts.max_completion_length
        )
        self.held = memory.held(model, self.state, layouts)

    def plan(self, price: float | None) -> Plan:
        """All of it; `price` is that of a chip's hour."""
        begin = time.perf_counter()
        compiling = self.begin_train()
        decode, rollout_phases = self.decode()
        train, phases = self.train(compiling)
        seconds = time.perf_counter() - begin
        phases |= rollout_phases
        largest = max(phases.values(), key=lambda parts: sum(parts.values()))
        total, limit = sum(largest.values()), self.topology.memory
        per_chip = self.chip.devices_per_chip if self.chip else 1
        chips = len(self.topology.devices)
        return Plan(
            preset=self.recipe.model.preset,
            topology=self.topology.name,
            device_kind=self.topology.device_kind,
            chips=chips,
            fits=total <= limit,
            hbm_bytes_per_chip=total,
            hbm_limit_bytes=limit,
            parts=largest,
            phases=phases,
            train=train,
            decode=decode,
            run=roofline.estimate_run(self.recipe, train, decode, chips / per_chip, price),
            compile_seconds=seconds if self.topology.compiles else 0.0,
            notes=tuple(self.notes()),
            advice=() if total <= limit else tuple(_advice(self.recipe, phases, limit)),
        )

    def begin_train(self) -> Callable[[], Program]:
        """Begins to compile the optimizer step, which `train` takes."""
        return self.compiler.train_step(self.model, self.state, self.batch)

    def train(self, compiling: Callable[[], Program]) -> tuple[TrainPlan, dict]:
        """The optimizer step, and the memory that it takes."""
        rows, size = self.rows, self.recipe.training.micro_batch_size or self.rows
        batch = bytes_on_a_device(self.batch)
        facts = dict(
            sequences_per_chip=size / batch_parts(),
            sequence_length=self.prompt_length + self.recipe.rollouts.max_completion_length,
            rows=rows,
            micro_batches=rows // size,
            argument_bytes=bytes_on_a_device((self.state, self.batch)),
        )
        try:
            program = compiling()
        except TooLarge as error:
            return TrainPlan(**facts), {"train": self.too_large(error, self.held | {"batch": batch})}
        seconds = roofline.seconds(program, self.chip, self.dtype)
        plan = TrainPlan(
            **facts,
            temp_bytes=program.temp_bytes,
            flops=program.flops,
            bytes=program.bytes,
            collectives=_collectives(program),
            seconds_estimate=seconds,
            tokens_per_second_estimate=seconds and rows * facts["sequence_length"] / seconds,
        )
        lengths = self.recipe.training.completion_lengths
        return plan, {"train": memory.train_phase(self.held, batch, program, lengths)}

    def decode(self) -> tuple[DecodePlan, dict]:
        """Rollouts, and the memory that they and evaluations take."""
        backbone, rollouts = self.model.policy.backbone, self.recipe.rollouts
        shapes = self.shapes(rollouts.prompts_per_epoch, rollouts.group_size, rollouts.max_rows)
        cache, weights = bytes_on_a_device(shapes.cache), memory.rollout_weights(backbone, self.layouts, shapes)
        floor = memory.read_by_decoding(shapes) + cache
        facts = dict(
            sequences_per_chip=shapes.rows_per_part,
            cache_length=shapes.cache_length,
            rows=shapes.rows_per_part * shapes.parts,
            argument_bytes=bytes_on_a_device(shapes.arrays),
            cache_bytes=cache,
            floor_bytes_per_step=floor,
        )
        try:
            prefill, segment = self.rollout_programs(shapes)
        except TooLarge as error:
            parts = self.held | {"merged_weights": weights[0], "cache": cache}
            return DecodePlan(**facts), {"decode": self.too_large(error, parts)}
        seconds = roofline.seconds(segment, self.chip, self.dtype)
        plan = DecodePlan(
            **facts,
            bytes_per_step=segment.bytes,
            bytes_per_step_compiler=segment.compiler_bytes,
            bytes_note=self.compiler.bytes_note,
            flops_per_step=segment.flops,
            temp_bytes=segment.temp_bytes,
            collectives=_collectives(segment),
            seconds_per_step_estimate=seconds,
            prefill_seconds_estimate=roofline.seconds(prefill, self.chip, self.dtype),
            tokens_per_second_estimate=seconds and facts["rows"] / seconds,
        )
        phases = memory.rollout_phases(self.held, weights, shapes, prefill, segment)
        return plan, phases | {"evaluation": self.evaluation_phase(phases["decode"])}

    def rollout_programs(self, shapes: RolloutShapes) -> tuple[Program, Program]:
        """Prefill and decode steps."""
        rollouts = self.recipe.rollouts
        states = 2 + sum(len(text.encode()) for text in rollouts.stop_strings)
        sampling = Sampling(rollouts.top_k, rollouts.top_p, rollouts.min_p)
        return self.compiler.prefill(shapes), self.compiler.segment(shapes, sampling, states)

    def evaluation_phase(self, decode: dict[str, int]) -> dict[str, int]:
        """Memory of completing held-out problems, sampled or greedy, whichever takes more."""
        evaluation, max_rows = self.recipe.evaluation, self.recipe.rollouts.max_rows or self.rows
        shapes = (self.shapes(evaluation.puzzles, samples, max_rows) for samples in (evaluation.samples, 1))
        phases = [memory.evaluation_phase(decode, each) for each in shapes]
        return max(phases, key=lambda parts: sum(parts.values()))

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

    def too_large(self, error: TooLarge, known: dict[str, int]) -> dict[str, int]:
        """Parts of a phase that did not compile; its activations are what the compiler names, or one byte too many."""
        room = self.topology.memory - sum(known.values())
        return dict.fromkeys(memory.PARTS, 0) | known | {"activations": max(error.temp_bytes or 0, room + 1, 0)}

    def notes(self) -> list[str]:
        """What the numbers rest upon."""
        notes = [roofline.NOTE] if self.chip else [f"Nothing is known of the speed of {self.topology.device_kind!r}."]
        if self.chip and self.dtype not in self.chip.tflops:
            notes.append(f"{self.topology.device_kind} has no units for {self.dtype}: float32 is what counts here.")
        if self.chip and self.chip.devices_per_chip > 1:
            notes.append(
                "What is called a chip here is one of a chip's two cores, as JAX sees them; a price is a chip's."
            )
        notes += self.compiler.notes
        if self.topology.compiles and self.recipe.training.completion_lengths > 1:
            notes.append(_ONE_LENGTH.format(self.recipe.training.completion_lengths))
        return notes


@contextlib.contextmanager
def abstract_model(recipe: Recipe, topology: Topology):
    """A compiled `GRPOModel` without values, and the layouts of its variables, under the recipe's distribution."""
    check_base(recipe)
    steps = recipe.training.epochs * recipe.rollouts.updates_per_rollout
    before = keras.distribution.distribution()
    try:
        # It has real numbers, and so it is made before a mesh of devices that hold none.
        keras.distribution.set_distribution(None)
        optimizer = build_optimizer(recipe.optimizer, steps)
        model = recipe.model
        distribute(
            **dataclasses.asdict(recipe.distribution), preset=model.preset, dtype=model.dtype, devices=topology.devices
        )
        policy = abstract_policy(**policy_arguments(recipe))
        planned_decoder(policy.backbone)  # before minutes of compiling
        for variable in policy.variables:
            initialize_layout(variable)  # as Keras does when it gives a variable its value; the optimizer's follow it
        with without_values():
            # The step is compiled once here: of all lengths the longest takes the most.
            model = GRPOModel(policy, recipe.training.micro_batch_size, completion_lengths=1)
            loss = GRPOLoss(**dataclasses.asdict(recipe.loss))
            # Traced, so that a reference copy takes no memory.
            jax.eval_shape(lambda: model.compile(optimizer, loss))
        yield model, Layouts(topology.devices)
    finally:
        keras.distribution.set_distribution(before)


def rows_of(recipe: Recipe) -> int:
    """Completions of an optimizer step."""
    return recipe.rollouts.prompts_per_epoch * recipe.rollouts.group_size


def _collectives(program: Program) -> dict[str, dict[str, int]]:
    return {kind: {"count": found.executions, "bytes": found.bytes} for kind, found in program.collectives.items()}


def _advice(recipe: Recipe, phases: dict, limit: int) -> list[str]:
    """What to change, the least first."""
    over = {phase for phase, parts in phases.items() if sum(parts.values()) > limit}
    advice = []
    if "train" in over:
        advice.append("a smaller training.micro_batch_size: fewer activations at a time, the same update")
    if over - {"train", "merge"}:
        advice.append("a smaller rollouts.max_rows: fewer completions are decoded at a time, the others wait")
    heavy = max(parts["weights"] + parts["merged_weights"] for parts in phases.values()) > limit / 10
    if heavy:
        advice.append('distribution.weights="split": each chip holds a share of the weights, on several chips')
    advice.append("more chips, or larger ones")
    if heavy and recipe.model.quantization is None and recipe.lora.rank:
        advice.append('a quantized base: model.quantization="int8"')
    return advice
