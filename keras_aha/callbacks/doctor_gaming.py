"""`gamed`: the finding that a reward has risen and held-out accuracy has not."""

import statistics

from keras_aha.callbacks.doctor_history import HISTORY, WINDOW, rise
from keras_aha.callbacks.finding import Finding

_FIRST = 5  # epochs, in which a policy that learns fast is still about what it was
_OF_ONE = (  # what it means, and what to do
    "The policy learns to please this reward, and does not solve more.",
    "Read completions.jsonl, which has each reward, for what pleases it; change what it asks for (a judge's rubric), "
    "lower its weight, let it pay only if the answer is right, or let a judge rank the completions of a prompt "
    "(ranks = true).",
)
_OF_THE_SUM = (
    "The policy earns more without solving more: it may be gaming a reward, or learn training problems by heart.",
    "Read completions.jsonl, which has each reward and its parts, for what pays; take that reward away, lower its "
    "weight, or let it pay only if the problem is solved; if a puzzle file has few puzzles, add more.",
)


def gamed(history: list[dict]) -> Finding | None:
    """The reward has risen, and held-out accuracy has not: Goodhart's law.

    This epoch's evaluation is compared with those of 10 and more epochs ago, each with the rewards, penalties of length
    left out, of the 10 epochs up to it. A reward has risen if it did so by 6 of its standard errors, which a plateau
    does not by chance, and by more than a quarter, as Countdown takes up to a fifth off an untidy right answer. While
    the policy still learns the form of an answer nothing is said; nor if all is right, as always in a task without a
    checker.

    A judge, or another reward beside the task's own, is named if it has risen so, and with its weight makes half of
    what the sum rose; or a quarter of the sum that was, if others fell and the sum has not risen so. One of weight 0,
    from which nothing is learned, is never named.

    A policy that has found out a judge within the first 10 epochs is seen in training too: since the first 5 epochs the
    judge's number has risen so, and the accuracy of fresh problems has fallen, by 2 standard errors.
    """
    if finding := _fallen(history):
        return finding
    if "val_accuracy" not in history[-1] or history[-1]["val_accuracy"] == 1:
        return None
    ends = range(WINDOW, len(history) - WINDOW + 1)
    earlier = [history[end - WINDOW : end] for end in ends if "val_accuracy" in history[end - 1]]
    return next(filter(None, (_compare(before, history[-WINDOW:]) for before in earlier)), None)


def _fallen(history: list[dict]) -> Finding | None:
    before, after = history[:_FIRST], history[-WINDOW:]
    known = all("accuracy" in e and "curriculum_level" not in e for e in before + after)
    if not known or not _FIRST + WINDOW <= len(history) < HISTORY:
        return None
    old, new = ([e["accuracy"] for e in epochs] for epochs in (before, after))
    gains = _gains(before, after)
    if not gains or rise(old, new) > -2:
        return None
    name = max(gains, key=gains.get)
    what = f"accuracy of training problems went from {statistics.fmean(old):.1%} to {statistics.fmean(new):.1%}"
    return Finding("gamed", f"{_rose(name, before, after)}, and the {what}.", *_OF_ONE)


def _rose(name: str, before: list[dict], after: list[dict]) -> str:
    low, high = (statistics.fmean(e[f"reward_{name}"] for e in epochs) for epochs in (before, after))
    return f"The reward {name!r} rose from {low:.3g} to {high:.3g}"


def _compare(before: list[dict], after: list[dict]) -> Finding | None:
    if not all("reward" in e and "format_rate" in e for e in before + after):
        return None
    old, new = before[-1]["val_accuracy"], after[-1]["val_accuracy"]
    if new > old or rise(*([e["format_rate"] for e in epochs] for epochs in (before, after))) >= 1:
        return None
    sums = [[e["reward"] - e.get("overlong_penalty", 0) for e in epochs] for epochs in (before, after)]
    low, high = map(statistics.fmean, sums)
    gains = _gains(before, after)
    name = max(gains, key=gains.get, default=None)
    if name is not None and gains[name] >= ((high - low) / 2 if _has_risen(*sums) else abs(low) / 4):
        rose, rest = _rose(name, before, after), _OF_ONE
    elif _has_risen(*sums):
        rose, rest = f"The reward rose from {low:.3g} to {high:.3g}", _OF_THE_SUM
    else:
        return None
    return Finding("gamed", f"{rose}, and held-out accuracy went from {old:.1%} to {new:.1%}.", *rest)


def _gains(before: list[dict], after: list[dict]) -> dict[str, float]:
    """Name → what a reward that has risen added to the sum."""
    gains = {}
    for key, weight in after[-1].items():
        log = key.replace("weight_", "reward_", 1)
        if key.startswith("weight_") and weight > 0 and all(log in e for e in before + after):
            values = [[e[log] for e in epochs] for epochs in (before, after)]
            if _has_risen(*values):
                gains[log[7:]] = weight * (statistics.fmean(values[1]) - statistics.fmean(values[0]))
    return gains


def _has_risen(before: list[float], after: list[float]) -> bool:
    low, high = statistics.fmean(before), statistics.fmean(after)
    return rise(before, after) > 6 and high - low > abs(low) / 4
