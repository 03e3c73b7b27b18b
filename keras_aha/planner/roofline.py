"""How long a program takes at best: the roofline (doi:10.1145/1498765.1498785), and what tells chips apart."""

from keras_aha.distribution.devices import Chip
from keras_aha.planner.plan_record import DecodePlan, RunEstimate, TrainPlan
from keras_aha.planner.program import Program
from keras_aha.recipes.recipe import Recipe

NOTE = (
    "Times are estimates by the roofline, and so the least they can be: the longer one of operations / peak and of "
    "bytes / memory bandwidth, and then bytes of collectives / interconnect bandwidth. Compiling, the host and scoring "
    "come on top, which for a tiny model is nearly all of it. All completions are taken to have full length, and all "
    "prompts the recipe's longest."
)


def seconds(program: Program, chip: Chip | None, dtype: str) -> float | None:
    """Of one run of a program; `None` where the chip is unknown.

    Args:
        dtype: that products are computed in. Where the chip has no such units, float32 is.
    """
    if chip is None:
        return None
    peak = chip.tflops.get(dtype, chip.tflops["float32"]) * 1e12
    told = program.collective_bytes / chip.interconnect if chip.interconnect else 0.0
    return max(program.flops / peak, program.bytes / chip.bandwidth) + told


def estimate_run(
    recipe: Recipe, train: TrainPlan, decode: DecodePlan, chips: float, price_per_chip_hour: float | None
) -> RunEstimate | None:
    """Time and price of an epoch, and of the run with its evaluations; `None` where a step's time is unknown."""
    rollouts, evaluation, epochs = recipe.rollouts, recipe.evaluation, recipe.training.epochs
    speed = decode.tokens_per_second_estimate
    if train.seconds_estimate is None or speed is None:
        return None

    def sampling(completions: int) -> float:
        prefill = decode.prefill_seconds_estimate * completions / decode.rows
        return completions * rollouts.max_completion_length / speed + prefill

    rollout = sampling(train.rows)
    update = train.seconds_estimate * rollouts.updates_per_rollout
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
