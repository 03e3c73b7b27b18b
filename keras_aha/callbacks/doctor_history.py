"""What is remembered of a run's epochs, for `doctor_findings` to look back on."""

import collections
import math
import statistics
from collections.abc import Mapping

from keras_aha.evaluation.turn_habits import calls_without_end
from keras_aha.tasks.answer_tag import read_answer

HISTORY = 100  # epochs
WINDOW = 10  # epochs over which a mean is taken
_LONGEST_ANSWER = 40  # characters
_REPETITIONS, _LONGEST_UNIT, _SHORTEST_TAIL = 4, 100, 40  # of a repeated tail; the last two in characters
_LOGS = (
    *("reward", "accuracy", "val_accuracy", "format_rate", "truncated", "overlong_penalty", "curriculum_level"),
    *("zero_std_groups", "refilled_groups", "grad_norm", "skipped_updates", "sampler_gap", "compiles"),
    *("left_out_problems", "failed_rewards", "teacher_kl", "turns", "imitated_observations"),
)


def observe(logs: dict, rollout, weights: Mapping[str, float] | None = None, **others: float) -> dict:
    """The numbers of an epoch that findings read, by name, and some texts.

    Args:
        logs: of the epoch; what is missing or not finite is left out.
        rollout: the `Rollout` of the epoch.
        weights: of the rewards beside the task's own, by name, if they are known.
        **others: more to remember.

    Returns:
        Those of the logs; of each reward with a weight that is not 0 `reward_<name>` and `weight_<name>`;
        `completions`, how many; `answer_rewards`, how many different rewards the task gave to completions with an
        answer that can be read; `repeated_tails`, the share of completions that repeat themselves up to the length
        limit; `completion_entropy`, the mean of −log-prob of a whole completion, in nats; `unreadable`, the share of
        completions whose answer stands in its tags and cannot be read; `unreadable_answers`, the three most frequent of
        these, cut to 40 characters; and of a task that answers `endless_calls`, the share of completions that
        `calls_without_end`.
    """
    answers = [
        read_answer(text).text
        for text, score in zip(rollout.texts, rollout.scores, strict=True)
        if not score.well_formed and score.verdict != "error"
    ]
    unreadable = collections.Counter(answer.strip()[:_LONGEST_ANSWER] for answer in answers if answer is not None)
    looping = [cut and repeated_tail(text) > 0 for cut, text in zip(rollout.truncated, rollout.texts, strict=True)]
    observed = {
        "completions": len(looping),
        "answer_rewards": len({score.reward for score in rollout.scores if score.well_formed}),
        "repeated_tails": sum(looping) / len(looping),
        "completion_entropy": -rollout.sampler_log_probs.sum() / len(looping),
        "unreadable": unreadable.total() / len(looping),
    }
    if rollout.turns:
        endless = [calls_without_end(*pair) for pair in zip(rollout.turns, rollout.truncated, strict=True)]
        observed["endless_calls"] = sum(endless) / len(endless)
    weights = {name: weight for name, weight in (weights or {}).items() if weight and f"reward_{name}" in logs}
    names = [*_LOGS, *(f"reward_{name}" for name in weights)]
    numbers = {name: logs[name] for name in names if name in logs} | observed | others
    numbers |= {f"weight_{name}": weight for name, weight in weights.items()}
    epoch = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    return epoch | {"unreadable_answers": [answer for answer, _ in unreadable.most_common(3)]}


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


def rising(history: list[dict]) -> bool:
    """Whether accuracy is higher in the later half by 2 standard errors, or held-out accuracy at the end by 0.02.

    A curriculum holds the accuracy where it is: then a level that is higher at the end counts as well.
    """
    for name, least in {"val_accuracy": 0.02, "curriculum_level": 0.0}.items():
        values = [e[name] for e in history if name in e]
        if len(values) > 1 and values[-1] > values[0] + least:
            return True
    accuracies = [e["accuracy"] for e in history if "accuracy" in e]
    half = len(accuracies) // 2
    return half > 1 and rise(accuracies[:half], accuracies[-half:]) > 2


def rise(before: list[float], after: list[float]) -> float:
    """How far the mean rises, in standard errors (Welch's t)."""
    error = math.sqrt(statistics.variance(before) / len(before) + statistics.variance(after) / len(after))
    return (statistics.fmean(after) - statistics.fmean(before)) / max(error, 1e-9)
