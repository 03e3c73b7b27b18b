"""What is remembered of a run's epochs, for `doctor_findings` to look back on."""

import math

HISTORY = 100  # epochs
_REPETITIONS, _LONGEST_UNIT, _SHORTEST_TAIL = 4, 100, 40  # of a repeated tail; the last two in characters
_LOGS = (
    *("reward", "accuracy", "val_accuracy", "format_rate", "truncated", "overlong_penalty", "curriculum_level"),
    *("zero_std_groups", "refilled_groups", "grad_norm", "skipped_updates", "sampler_gap", "compiles"),
)


def observe(logs: dict, rollout, **others: float) -> dict[str, float]:
    """The numbers of an epoch that findings read, by name.

    Args:
        logs: of the epoch; what is missing or not finite is left out.
        rollout: the `Rollout` of the epoch.
        **others: more to remember.

    Returns:
        Those of the logs; `completions`, how many; `answer_rewards`, how many different rewards the task gave to
        completions with an answer that can be read; `repeated_tails`, the share of completions that repeat themselves
        up to the length limit; `completion_entropy`, the mean of −log-prob of a whole completion, in nats.
    """
    looping = [cut and repeated_tail(text) > 0 for cut, text in zip(rollout.truncated, rollout.texts, strict=True)]
    observed = {
        "completions": len(looping),
        "answer_rewards": len({score.reward for score in rollout.scores if score.well_formed}),
        "repeated_tails": sum(looping) / len(looping),
        "completion_entropy": -rollout.sampler_log_probs.sum() / len(looping),
    }
    numbers = {name: logs[name] for name in _LOGS if name in logs} | observed | others
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def repeated_tail(text: str) -> int:
    """The number of characters that the end of a text repeats at least 4 times, or 0.

    The repetitions are exact and cover 40 characters or more; the last one may be a part. No more than the last 400
    characters are read, so that a long text costs no more than a short one.
    """
    for unit in range(1, _LONGEST_UNIT + 1):
        length = max(_REPETITIONS * unit, _SHORTEST_TAIL)
        tail = text[-length:]
        if len(tail) == length and tail[unit:] == tail[:-unit]:
            return unit
    return 0
