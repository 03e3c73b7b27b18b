"""Checks of speed and memory: what the planner says of a recipe, against what a `Trial` of it measures."""

from keras_aha.distribution.devices import memory_gb
from keras_aha.planner.checks.check_record import CheckFinding
from keras_aha.planner.checks.trial import Trial
from keras_aha.planner.plan_record import Plan
from keras_aha.planner.plan_text import in_gb, in_time

import jax

_SLOW = 3.0  # times the least, beyond which a program is slow; docs say two or three
_NOISE = 0.95  # of the least: what is faster tells that the planner counts too much, or the chip can do more
_APART = 0.15  # by which memory may differ from the plan


def decode_step(name: str, trial: Trial, plan: Plan | None) -> CheckFinding:
    """One token for each row, the cache nearly full."""
    rows = len(trial.prompt_ids) * trial.group_size
    step = plan and plan.decode.step
    return _timed(name, trial.step_seconds, rows, step and step.seconds)


def update(name: str, trial: Trial, plan: Plan | None) -> CheckFinding:
    """One optimizer step."""
    rows = len(trial.prompt_ids) * trial.group_size
    tokens = rows * (trial.prompt_ids.shape[1] + trial.completion_length)
    step = plan and plan.train.step
    return _timed(name, trial.updated.seconds, tokens, step and step.seconds)


def memory(name: str, trial: Trial, plan: Plan | None) -> CheckFinding:
    """Of an update: what its arrays take on a device, and what the compiled program takes beside them."""
    _, held, compiled = trial.updated.value
    parts = plan and plan.phases["train"]
    return _bytes(name, parts and sum(parts.values()) - parts["program"], held + compiled.temp_size_in_bytes)


def peak_memory(name: str, trial: Trial, plan: Plan | None) -> CheckFinding:
    """The most that was taken since the process began."""
    trial.updated  # noqa: B018  which takes the most
    peak = int(memory_gb().get("peak_memory_gb", 0) * 1e9)
    is_predicted = plan is not None and jax.default_backend() != "cpu"  # where it is the whole process
    return _bytes(name, plan.hbm_bytes_per_chip if is_predicted else None, peak)


def compiling(name: str, trial: Trial) -> CheckFinding:
    """By how much the first call of each program took longer."""
    programs = {"rollout": trial.sampled, "log-probs": trial.log_probs, "update": trial.updated}
    seconds = {name: timed.compile_seconds for name, timed in programs.items()}
    measured = ", ".join(f"{name} {in_time(value)}" for name, value in seconds.items())
    return CheckFinding(name, "–", measured, "no prediction", seconds)


def _timed(name: str, seconds: float, tokens: int, least: float | None) -> CheckFinding:
    speed = f"{in_time(seconds)}, {tokens / seconds:,.0f} tokens/s"
    numbers = dict(seconds=seconds, tokens_per_second=tokens / seconds, least_seconds=least)
    if least is None:
        return CheckFinding(name, "–", speed, "no prediction", numbers)
    times = seconds / least
    verdict = "wrong" if times < _NOISE else "slow" if times > _SLOW else "right"
    return CheckFinding(name, f"at best {in_time(least)}", f"{speed}: {times:.1f} times the best", verdict, numbers)


def _bytes(name: str, planned: int | None, taken: int) -> CheckFinding:
    numbers = dict(planned_bytes=planned, measured_bytes=taken)
    if planned is None:
        return CheckFinding(name, "–", in_gb(taken), "no prediction", numbers)
    verdict = "right" if abs(taken / planned - 1) <= _APART else "wrong"
    share = f"{in_gb(taken)}, {taken / planned:.0%} of it"
    return CheckFinding(name, in_gb(planned), share, verdict, numbers)
