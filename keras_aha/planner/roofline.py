"""How long a program takes at best: the roofline (doi:10.1145/1498765.1498785), and what tells chips apart."""

from keras_aha.distribution.devices import Chip
from keras_aha.planner.plan_record import DecodePlan, RunEstimate, StepEstimate, TrainPlan
from keras_aha.planner.program import Program
from keras_aha.recipes.recipe import Recipe


def estimate_step(program: Program, chip: Chip | None, dtype: str, tokens: int) -> StepEstimate:
    """What a step does, in which all devices together train or sample so many tokens; its time if the chip is known."""
    time = seconds(program, chip, dtype)
    speed = time and tokens / time
    return StepEstimate(program.flops, program.bytes, program.collectives, seconds=time, tokens_per_second=speed)


def seconds(program: Program, chip: Chip | None, dtype: str) -> float | None:
    """Time of one run; `None` if the chip is unknown. If it has no units for products in `dtype`, float32 counts."""
    if chip is None:
        return None
    peak = chip.tflops.get(dtype, chip.tflops["float32"]) * 1e12
    sent = sum(kind["bytes"] for kind in program.collectives.values())
    between_chips = sent / chip.interconnect if chip.interconnect else 0.0
    return max(program.flops / peak, program.bytes / chip.bandwidth) + between_chips


def estimate_run(
    recipe: Recipe,
    train: TrainPlan,
    decode: DecodePlan,
    judging: float | None,
    chips: float,
    price_per_chip_hour: float | None,
) -> RunEstimate | None:
    """Time and price of an epoch, and of the run with its evaluations, `judging` seconds a completion; `None` if a
    step's time is unknown."""
    rollouts, evaluation, epochs = recipe.rollouts, recipe.evaluation, recipe.training.epochs
    if judging is None or not (train.step and train.step.seconds and decode.step and decode.step.seconds):
        return None

    def sampling(completions: int) -> float:
        prefill = decode.prefill_seconds * completions / decode.rows
        steps = completions * rollouts.max_completion_length / decode.step.tokens_per_second
        return steps + prefill + completions * judging

    rollout = sampling(train.rows)
    update = train.step.seconds * rollouts.updates_per_rollout
    held_out = sampling(evaluation.puzzles * (evaluation.samples + 1))  # and one that is greedy
    times = epochs // evaluation.every + (epochs % evaluation.every > 0) + 1  # before, on the way, at the end
    run = epochs * (rollout + update) + times * held_out
    price = None if price_per_chip_hour is None else price_per_chip_hour * chips / 3600
    return RunEstimate(
        rollout_seconds=rollout,
        update_seconds=update,
        epoch_seconds=rollout + update,
        epochs=epochs,
        run_seconds=run,
        epoch_price=price and price * (rollout + update),
        run_price=price and price * run,
    )
