"""What a run's logs say about its health: what was observed of its epochs → findings in plain words.

A finding is a function of the history, a list of what `doctor_history.observe` returned for each epoch, the latest
last. It says something only if it is sure: a false alarm is worse than silence. In remedies, section.key is a key of a
recipe and the keyword argument of that name. A threshold is a definition if there is one; by the others the three
default runs of the README are healthy with room to spare.
"""

import dataclasses
import math
import statistics

from keras_aha.callbacks.doctor_gaming import gamed
from keras_aha.callbacks.doctor_history import HISTORY, WINDOW, rise, rising
from keras_aha.callbacks.doctor_turns import endless_calls, imitated_observations, no_calls
from keras_aha.callbacks.finding import PATIENCE, Finding, lasting

_COMPILING_EPOCHS = 10  # in which PATIENCE that compile are too many; a first evaluation or checkpoint is one of them
_LEARNING_EPOCHS = 30  # the default run; it has nearly all of its gain after ten


def examine(history: list[dict[str, float]]) -> list[Finding]:
    """All that is wrong after the latest epoch. That a run does not learn is said if nothing else explains it."""
    causes = [failing, no_signal, format_only, truncated, repeated_tails, entropy_collapse]
    causes += [left_out, unreadable, not_moving, hardly_moving, sampler_apart, not_finite, compiling, gamed]
    causes += [endless_calls, no_calls, imitated_observations]
    findings = [finding for cause in causes if (finding := cause(history))]
    return findings or [finding for finding in [not_learning(history)] if finding]


# === Findings ===


@lasting(
    "{failed_rewards:.0%} of the completions had no reward, because the task's own or another one failed.",
    "They teach nothing, so that most of what is sampled is lost.",
    "The warnings above show which reward fails, and why: mend it, let it take longer (rollouts.reward_seconds), see "
    "that a judge's server answers, or take it out. With rollouts.on_reward_error the first failure ends a run.",
)
def failing(e):
    """More than half of the completions have no reward. If it is all of them, the run ends, see `RolloutCallback`."""
    return e["failed_rewards"] > 0.5


def no_signal(history: list[dict]) -> Finding | None:
    """All rewards of each group are equal, so that all advantages are 0 (DAPO, arXiv:2503.14476, §3.2).

    If all completions are the same text, answers cannot be read, or rewards fail, that is another finding.
    """
    finding = _equal_rewards(history)
    if finding is None or entropy_collapse(history) or unreadable(history) or failing(history):
        return None
    harder = "The problems are too easy: make them harder (Countdown: task.num_numbers, task.max_number)."
    easier = (
        "The problems are too hard: make them easier (Countdown: task.num_numbers, task.max_number), raise "
        "rollouts.group_size, set rollouts.refills, or start from a policy that solves some of them "
        "(scripts/prime.py, lora.start)."
    )
    accuracy = history[-1].get("accuracy")
    if accuracy is None:  # there is no checker
        remedy = "Ask a judge, or another reward, for finer numbers, so that completions of a prompt differ."
        return dataclasses.replace(finding, name="no_signal", remedy=remedy)
    seen = f"{finding.seen[:-1]} (accuracy {accuracy:.0%})."
    return dataclasses.replace(finding, name="no_signal", seen=seen, remedy=harder if accuracy > 0.5 else easier)


@lasting(
    "the rewards of every group were all equal.",
    "No completion was better than another one of its prompt, so no update had a gradient.",
    "",
)
def _equal_rewards(e):
    return e["zero_std_groups"] == 1 and not e.get("refilled_groups") and "teacher_kl" not in e  # which needs no reward


@lasting(
    "{format_rate:.0%} of {completions:.0f} completions an epoch had the form of an answer, and none was right; "
    "the reward stands at {reward:.2f}.",
    "The policy earns what the form alone pays, and never meets the reward for a right answer.",
    "Let some be right from the start: easier problems (Countdown: task.num_numbers, task.max_number), a larger "
    "or instruction-tuned model.preset, or one that was primed (scripts/prime.py).",
    epochs=5,
)
def format_only(e):
    """Completions have the form of an answer, all answers earn the same, and none is right.

    TinyZero's smallest models never left that plateau, at a reward of 0.1. It takes 5 epochs: with 256 completions an
    epoch, fewer than 1 in 400 is right then, by the rule of three.
    """
    return e["accuracy"] == 0 and e["format_rate"] >= 0.9 and e["answer_rewards"] == 1


@lasting(
    "{truncated:.0%} of the completions ran into the length limit.",
    "What would have come after it earns nothing, so that length decides the reward.",
    "Raise rollouts.max_completion_length; if completions have answered by then and only go on, end them with "
    'rollouts.stop_strings, such as "</answer>"; if they ramble, set rollouts.overlong_buffer.',
)
def truncated(e):
    """More than half of the completions run into the length limit (DAPO, arXiv:2503.14476, §3.4); healthy: to 20 %."""
    return e["truncated"] > 0.5 and not e["endless_calls"] > 0.5  # which is another finding


@lasting(
    "{repeated_tails:.0%} of the completions repeated one piece of text again and again up to the length limit.",
    "The policy is caught in loops, whose many tokens outweigh those of other completions.",
    "Lower the learning rate; set rollouts.overlong_buffer, so that loops cost something, or loss.aggregation to "
    "sequence_mean, so that they weigh no more than others; go back to earlier adapters (lora.start).",
)
def repeated_tails(e):
    """One completion in ten repeats itself to the limit (DAPO, arXiv:2503.14476, §3.3); healthy: none."""
    return e["repeated_tails"] > 0.1


def entropy_collapse(history: list[dict]) -> Finding | None:
    """A completion is as certain as the toss of a coin, many are wrong, and accuracy does not rise (DAPO, §3.1).

    Two completions of a prompt are the same text with probability Σp² = E[p] ≥ exp(E[log p]) = exp(−entropy), by
    Jensen's inequality. With an entropy of log 2 that is at least one half. The default runs stay above 4 nats.

    An answer that is one decision has no more nats in a healthy run. So the rewards of every group must be equal; or
    the entropy is less than half of its most, and two in three groups that are not all right are alike; or it is less
    than a quarter, and accuracy has not risen since the first epoch that is remembered. A training or held-out accuracy
    that rose in the last 20 epochs is silence.
    """
    finding, recent = _little_entropy(history), history[-PATIENCE:]
    if finding is None or rising(history[-2 * WINDOW :]):
        return None
    most = max(e.get("completion_entropy", 0.0) for e in history)
    left = max(e["completion_entropy"] for e in recent) / max(most, 1e-9)
    alike = min(_alike(e) for e in recent)
    collapsed = alike == 1 or (left < 1 / 2 and alike > 2 / 3) or (left < 1 / 4 and not rising(history))
    return dataclasses.replace(finding, name="entropy_collapse") if collapsed else None


@lasting(
    "a whole completion had an entropy of {completion_entropy:.2g} nats, and {accuracy:.0%} of them were right.",
    "At least half of the pairs of one prompt are the same text, and accuracy does not rise: the policy has stopped "
    "trying other things.",
    "Start again with a lower learning rate; raise the upper end of loss.clip_range (0.2, 0.28); set a small "
    "loss.entropy_coef, or a loss.kl_coef that holds the policy near the reference.",
)
def _little_entropy(e):
    return e["completion_entropy"] < math.log(2) and e["accuracy"] < 0.9


def _alike(e: dict) -> float:
    """The share without a difference of reward among the groups that are not all right."""
    differ = 1 - e.get("zero_std_groups", 0.0)
    wrong = 1 - e["accuracy"] + differ / 2  # not all right, if those that differ are right in half of their completions
    return (wrong - differ) / wrong


@lasting(
    "{left_out_problems:.0f} problems could not be used, and earlier ones took their places.",
    "Their prompts are too long, or the task fails at them; a warning above shows one.",
    "Raise rollouts.max_prompt_length, which a run that goes on may do, or mend the task.",
    epochs=1,
)
def left_out(e):
    """One problem that was drawn, or more, could not be used; healthy: none."""
    return e["left_out_problems"] > 0


def unreadable(history: list[dict]) -> Finding | None:
    """One answer in four stands in its tags and cannot be read, so that the scorer, not the problem, is failed.

    The three most frequent ones of the latest epoch are shown.
    """
    finding = _unreadable_answers(history)
    if finding is None:
        return None
    texts = ", ".join(map(ascii, history[-1]["unreadable_answers"]))
    return dataclasses.replace(finding, name="unreadable", seen=f"{finding.seen[:-1]}: {texts}.")


@lasting(
    "{unreadable:.0%} of the completions had an answer in its tags that cannot be read.",
    "The policy may solve problems and write the answer in a form that the task does not know.",
    "Show the form in the prompt (task.template), or let the task read that form too; a few steps of priming teach it "
    "(scripts/prime.py).",
)
def _unreadable_answers(e):
    return e["unreadable"] >= 0.25


@lasting(
    "no trained weight changed, though gradients had a norm of {grad_norm:.2g}.",
    "The updates are 0, or too small for the dtype of the weights, so nothing is learnt.",
    "Look at optimizer.config.learning_rate and at its schedule, whose steps may be over. If every weight is "
    'trained in bfloat16, train adapters (lora.rank), which are float32, or set model.dtype to "float32".',
)
def not_moving(e):
    """Trained weights are bit by bit what they were, though there were gradients and updates.

    One epoch proves nothing: a warm-up begins with a learning rate of 0.
    """
    return e["moved"] == 0 and e["grad_norm"] > 0 and e["skipped_updates"] < 1


def hardly_moving(history: list[dict]) -> Finding | None:
    """At its pace the whole run changes the policy by less than 0.005 nats a token, on completions of the first epoch.

    While updates agree, the KL grows with the square of their number and of the learning rate. Runs of the embedded
    model with 30 epochs reach 0.02 and more if they learn, 0.002 at a rate at which they hardly do, and 0.00002 at a
    rate of 1e-5 (LOG.md).
    """
    latest = history[-1]
    if not latest.get("final_kl", math.inf) < 0.005 or latest.get("zero_std_groups", 0) > 0.9:
        return None
    factor = math.sqrt(0.05 / max(latest["final_kl"], 1e-12))
    return Finding(
        "hardly_moving",
        f"So far the policy has changed by {latest['policy_kl']:.1e} nats a token on completions of the first epoch; "
        f"at this pace the run ends at {latest['final_kl']:.1e}.",
        "The updates are too small to change what the policy writes, though weights move.",
        f"Raise optimizer.config.learning_rate, by about {min(factor, 100):.0f} times.",
    )


@lasting(
    "the log-probs of sampler and trainer differed by {sampler_gap:.2g} nats a token.",
    "What was sampled is not what the policy would write, so ratios and clipping act on that difference.",
    'Set rollouts.quantization to "none" if it is "int8"; set loss.importance_cap (2, say); see that nothing '
    "changes the weights between the rollout and the update.",
)
def sampler_apart(e):
    """Trainer and sampler, of the same weights, give tokens other probabilities; healthy: to 1e-6 in float32.

    At 0.1 nats a token half of the usual clip range, 0.2, is spent on what is no change of the policy. It needs the log
    `sampler_gap` of epochs in which that gap is not the policy's own change.
    """
    return e["sampler_gap"] > 0.1


@lasting(
    "{skipped_updates:.0%} of the updates were skipped, because the loss or a gradient was not finite.",
    "The weights are those from before these updates; after some epochs of nothing else the run ends.",
    "Lower the learning rate, set optimizer.config.global_clipnorm, and read the completions: a policy that had "
    "begun to write nonsense was broken earlier.",
    epochs=1,
)
def not_finite(e):
    """An update was skipped, for its loss or gradient was not finite; a healthy run has none."""
    return e["skipped_updates"] > 0


def compiling(history: list[dict]) -> Finding | None:
    """Programs are compiled epoch after epoch; the first epoch of a process, in which all are, has no log here."""
    recent = history[-_COMPILING_EPOCHS:]
    compiles = [e["compiles"] for e in recent if e.get("compiles")]
    if len(compiles) < PATIENCE:
        return None
    return Finding(
        "compiling",
        f"{sum(compiles):.0f} programs were compiled again in {len(compiles)} of the last {len(recent)} epochs.",
        "Compiling takes time that training could have; shapes or constants that change from epoch to epoch cause it.",
        "Start with the environment variable JAX_LOG_COMPILES=1, which names the programs, and look first at rewards "
        "and callbacks of your own that use JAX or keras.ops.",
    )


def not_learning(history: list[dict]) -> Finding | None:
    """In the last 10 of 30 or more epochs accuracy is below one half, and no 2 standard errors above the first 10.

    Healthy runs that begin as low have risen more by then. With a curriculum, which holds the accuracy where it is,
    nothing is said; nor after 100 epochs, when the first ones are forgotten.
    """
    epochs = [*history[:WINDOW], *history[-WINDOW:]]
    if not _LEARNING_EPOCHS <= len(history) < HISTORY or any("accuracy" not in e for e in epochs):
        return None
    before, after = [e["accuracy"] for e in epochs[:WINDOW]], [e["accuracy"] for e in epochs[WINDOW:]]
    low, high = statistics.fmean(before), statistics.fmean(after)
    if high >= 0.5 or rise(before, after) > 2 or "curriculum_level" in history[-1]:
        return None
    return Finding(
        "not_learning",
        f"After {len(history)} epochs the accuracy is {high:.1%}, and it began at {low:.1%}.",
        "A policy learns from groups with a right answer and a wrong one. It finds too few of them, or does not know "
        "the task well enough to do better.",
        "Prime it longer (priming.steps, scripts/prime.py), as a task that it has never seen needs; or make problems "
        "easier, or rollouts.group_size larger.",
    )
