"""Each finding at and around its threshold, on logs written by hand."""

import math
import re
from dataclasses import fields

from keras_aha.callbacks import doctor_findings
from keras_aha.callbacks.doctor_findings import examine
from keras_aha.recipes import sections

import pytest

HEALTHY = dict(reward=0.4, accuracy=0.35, format_rate=0.95, truncated=0.1, zero_std_groups=0.25, grad_norm=0.03)
HEALTHY |= dict(skipped_updates=0.0, sampler_gap=1e-7, compiles=0.0, moved=1.0, completions=256.0, answer_rewards=3.0)
HEALTHY |= dict(repeated_tails=0.0, completion_entropy=5.0)

# Accuracies as the slowest healthy run of the lab book had them, multiplication: 5 to 27 % in 30 epochs.
CURVE = [*(0.05 + 0.014 * i for i in range(11)), *(0.2 + 0.007 * i for i in range(10)), *[0.27] * 79]
NOISE = (0.01, -0.02, 0.0, 0.02, -0.01)
LEARNING = [HEALTHY | {"accuracy": CURVE[i] + 2 * NOISE[i % 5]} for i in range(100)]


def names(history):
    return [finding.name for finding in examine(history)]


def epochs(count, **changes):
    return [HEALTHY | changes] * count


def test_health_is_silence_and_so_are_logs_that_are_missing():
    assert names(epochs(1)) == names([{}] * 40) == names([{"moved": 0.0}] * 40) == []
    assert not any(names(LEARNING[: i + 1]) for i in range(100))


@pytest.mark.parametrize(
    "name, ill, well",
    [
        ("no_signal", {"zero_std_groups": 1.0, "refilled_groups": 0.0}, {"zero_std_groups": 1.0, "refilled_groups": 1}),
        ("no_signal", {"zero_std_groups": 1.0}, {"zero_std_groups": 1.0, "teacher_kl": 0.2}),
        ("truncated", {"truncated": 0.51}, {"truncated": 0.5}),
        ("repeated_tails", {"repeated_tails": 0.11}, {"repeated_tails": 0.1}),
        ("not_moving", {"moved": 0.0}, {"moved": 0.0, "grad_norm": 0.0}),
        ("sampler_apart", {"sampler_gap": 0.11}, {"sampler_gap": 0.1}),
        ("failing", {"failed_rewards": 0.51, "zero_std_groups": 1.0}, {"failed_rewards": 0.5}),
        ("imitated_observations", {"imitated_observations": 0.11}, {"imitated_observations": 0.1}),
        ("unreadable", {"unreadable": 0.25, "unreadable_answers": ["x"], "zero_std_groups": 1.0}, {"unreadable": 0.24}),
    ],
)
def test_three_epochs_in_a_row_and_no_fewer(name, ill, well):
    assert names(epochs(3, **ill)) == names(epochs(9) + epochs(3, **ill)) == [name]
    assert names(epochs(2, **ill)) == names(epochs(9) + epochs(2, **ill)) == []
    assert names(epochs(2, **ill) + epochs(1, **well)) == names(epochs(1, **well) + epochs(2, **ill)) == []
    assert names(epochs(3, **well)) == []


def decided(accuracy, entropy, alike=0.2, count=12, **changes):
    """Epochs of answers that are one decision: their nats, and the share of groups whose rewards are equal."""
    own = dict(completion_entropy=entropy, zero_std_groups=alike, **changes)
    return [HEALTHY | own | {"accuracy": accuracy + NOISE[i % 5]} for i in range(count)]


def test_a_policy_that_stops_trying_other_things():
    """Three epochs of certainty are enough if all groups are alike, or if it came for nothing."""
    same = dict(zero_std_groups=1.0, completion_entropy=0.69)
    assert names(epochs(3, **same)) == names(epochs(9) + epochs(3, **same)) == ["entropy_collapse"]
    assert names(epochs(2, **same)) == names(epochs(9) + epochs(2, **same)) == []
    assert names(epochs(3, **same | {"completion_entropy": 0.7})) == ["no_signal"]
    for fall in (0.69, 0.3, 0.01):
        assert names(decided(0.35, 5.0) + decided(0.34, fall, count=3)) == ["entropy_collapse"]  # flat
        assert names(decided(0.35, 5.0) + decided(0.2, fall, count=3)) == ["entropy_collapse"]  # falls
        rose = decided(0.2, 5.0) + decided(0.5, 1.0)
        for accuracy, alike, count in ((0.5, 0.9, 20), (0.3, 0.8, 12)):
            assert names(rose + decided(accuracy, fall, alike, count)) == ["entropy_collapse"]
    assert names(decided(0.6, 0.4, val_accuracy=0.6) + decided(0.5, 0.05, 1.0, 20)) == ["entropy_collapse"]


def test_an_answer_that_is_one_decision():
    """0.58 nats are much there, whether accuracy rises, stands after it rose, or has not begun to rise."""
    rising = [epoch for i in range(20) for epoch in decided(0.17 + i * 0.028, 1.2 - i * 0.035, 0.1 + i * 0.02, count=1)]
    health = rising + decided(0.7, 0.5, 0.55, 120)
    assert not any(names(health[max(0, i - 100) : i]) for i in range(1, len(health)))
    assert names(decided(0.17, 0.58, 0.5)) == []  # has never been less sure
    levels = [{"curriculum_level": i / 10} for i in range(24)]
    harder = decided(0.5, 2.0) + decided(0.5, 0.4)
    assert names([e | level for e, level in zip(harder, levels, strict=True)]) == []
    held_out = decided(0.5, 0.1, 1.0, 9, val_accuracy=0.4) + decided(0.5, 0.1, 1.0, 1, val_accuracy=0.43)
    assert names(held_out[:9]) == ["entropy_collapse"] and names(held_out) == ["no_signal"]  # as accuracy rises


def test_problems_that_were_left_out():
    """One is enough, in the latest epoch."""
    assert "1 problems could not be used" in examine(epochs(1, left_out_problems=1.0))[0].seen
    assert names(epochs(1, left_out_problems=1.0) + epochs(1, left_out_problems=0.0)) == []


def test_answers_that_cannot_be_read_are_shown():
    ill = epochs(3, unreadable=0.5, unreadable_answers=["8 apples", "x = 5", "\x1b"])
    assert "had an answer in its tags that cannot be read: '8 apples', 'x = 5', '\\x1b'." in examine(ill)[0].seen


def test_a_policy_that_hardly_moves():
    """Said once. A KL that is 25 times too small asks for five times the rate."""
    slow = epochs(10) + epochs(1, policy_kl=2e-4, final_kl=2e-3)
    assert names(slow) == ["hardly_moving"] and "by about 5 times" in examine(slow)[0].remedy
    assert names(epochs(10) + epochs(1, policy_kl=2e-3, final_kl=0.02)) == names(slow + epochs(1)) == []
    assert names(epochs(10) + epochs(1, policy_kl=0.0, final_kl=0.0, zero_std_groups=1.0)) == []


def test_one_finding_is_not_said_as_another():
    assert names(epochs(3, moved=0.0, skipped_updates=1.0)) == ["not_finite"]
    assert names(epochs(1, skipped_updates=0.25)) == ["not_finite"]  # the first is said
    assert names(epochs(1, skipped_updates=0.25) + epochs(1)) == []
    assert names(accuracies(0.18, 0.18, truncated=0.6)) == ["truncated"]
    same = dict(zero_std_groups=1.0, completion_entropy=0.1)
    assert names(epochs(3, **same, accuracy=0.5)) == ["entropy_collapse"]
    assert names(epochs(3, **same, accuracy=0.9)) == ["no_signal"]  # solved
    assert names(epochs(3, zero_std_groups=0.99)) == []
    unchecked = [
        {name: value for name, value in e.items() if name != "accuracy"} for e in epochs(3, zero_std_groups=1.0)
    ]
    assert "Ask a judge" in examine(unchecked)[0].remedy and names(unchecked) == ["no_signal"]  # there is no checker


def test_form_without_a_right_answer():
    stuck = dict(accuracy=0.0, format_rate=0.9, answer_rewards=1.0, reward=0.09)
    (finding,) = examine(epochs(5, **stuck))
    assert finding.name == "format_only" and "In the last 5 epochs 90% of 256 completions an epoch" in finding.seen
    assert (
        names(epochs(1) + epochs(4, **stuck))
        == names(epochs(4, **stuck) + epochs(1, **stuck | {"answer_rewards": 2.0}))
        == []
    )
    assert names(epochs(5, **stuck | {"format_rate": 0.89})) == []
    assert names(epochs(4, **stuck) + epochs(1, **stuck | {"accuracy": 1 / 256})) == []


def test_calls_without_end_and_no_calls():
    """Ten epochs in which accuracy does not rise; that calls fill the length is not said as another."""
    endless = dict(endless_calls=0.51, truncated=0.6, turns=8.0)
    for name, ill in {"endless_calls": endless, "no_calls": dict(turns=1.009)}.items():
        assert names(epochs(10, **ill)) == names(epochs(20) + epochs(10, **ill)) == [name]
        assert names(epochs(9, **ill)) == names(epochs(10, **ill) + epochs(1, turns=1.02)) == []
        assert names([e | ill for e in LEARNING[:30]]) == []
    assert names(epochs(10, turns=1.0, accuracy=0.9)) == []  # it solves them alone
    assert names(epochs(10, endless_calls=0.5, turns=8.0)) == []


def test_programs_that_are_compiled_again_and_again():
    once, never = epochs(1, compiles=2.0), epochs(1)
    assert names(once + never * 3 + once + never * 4 + once) == ["compiling"]
    (finding,) = examine((never + once) * 3 + never * 4)
    assert "6 programs were compiled again in 3 of the last 10 epochs" in finding.seen
    assert names(once + never * 4 + once + never * 4 + once) == []  # over 11 epochs
    assert names(never + once * 2 + never) == []  # a first evaluation, say


def evaluated(reward, val_accuracy, **changes):
    """Ten epochs with this mean reward, the last one with an evaluation.

    The variance of their rewards is 0.002 / 9, and the standard error of two means' difference 0.00667.
    """
    history = [HEALTHY | changes | {"reward": reward + noise} for noise in NOISE * 2]
    history[-1]["val_accuracy"] = val_accuracy
    return history


def test_reward_up_and_held_out_accuracy_not():
    (finding,) = examine(evaluated(0.4, 0.3) + evaluated(0.6, 0.3))
    assert finding.seen == "The reward rose from 0.4 to 0.6, and held-out accuracy went from 30.0% to 30.0%."
    assert names(evaluated(0.1, 0.3) + evaluated(0.141, 0.3)) == ["gamed"]  # by six standard errors
    assert names(evaluated(0.4, 0.3) + epochs(5) + evaluated(0.6, 0.3)) == ["gamed"]  # evaluations farther apart


def judged(task_reward, polite, val_accuracy, weight=0.5, **changes):
    """Ten epochs with these mean rewards, of which the second counts with a weight, the last with an evaluation."""
    history = evaluated(task_reward + weight * polite, val_accuracy, **changes)
    judge = [{"reward_polite": polite + noise, "weight_polite": weight} for noise in NOISE * 2]
    return [e | own for e, own in zip(history, judge, strict=True)]


def test_a_judge_that_is_pleased_is_named():
    """If it is what rose, also if the sum stands because the task's own reward falls."""
    before = judged(0.4, 0.4, 0.3)
    for after in (judged(0.35, 0.9, 0.3), judged(0.2, 0.8, 0.2)):
        (finding,) = examine(before + after)
        low, high = 0.4, after[0]["reward_polite"] - NOISE[0]
        assert finding.seen.startswith(f"The reward 'polite' rose from {low} to {high:.3g}, and held-out accuracy went")
        assert "rubric" in finding.remedy
    assert examine(before + judged(0.6, 0.5, 0.3))[0].seen.startswith("The reward rose from 0.6 to 0.85")  # not by it
    old = [{name: value for name, value in e.items() if "polite" not in name} for e in before]  # of an older checkpoint
    assert examine(old + judged(0.35, 0.9, 0.3))[0].seen.startswith("The reward rose from 0.6 to 0.8")


def test_a_judge_that_is_pleased_at_once_is_named_too():
    """benchmarks/judge_gaming.py, whose policy has found out by epoch 10 what its judge looks at (LOG.md)."""
    form = (0.22, 0.31, 0.45, 0.53, 0.66, 0.79, 0.90, 0.93, 0.95, 0.97, 0.96, 0.99, 0.98, 0.99, 1.0, 0.99, 1.0, 1.0)
    right = (0.19, 0.28, 0.27, 0.32, 0.39, 0.41, 0.33, 0.18, 0.20, 0.21, 0.16, 0.19, 0.17, 0.11, 0.16, 0.12, 0.13, 0.18)
    run = [
        HEALTHY | {"reward": number, "reward_form": number, "weight_form": 1.0, "accuracy": accuracy}
        for number, accuracy in zip(form, right, strict=True)
    ]
    (finding,) = examine(run)
    assert finding.seen == (
        "The reward 'form' rose from 0.434 to 0.983, and the accuracy of training problems went from 29.0% to 16.3%."
    )
    assert names(run[:14]) == [] == names([e | {"curriculum_level": 2.0} for e in run])
    assert names([e | {"weight_form": 0.0} for e in run]) == []
    assert names([e | {"accuracy": 0.3 + NOISE[i % 5]} for i, e in enumerate(run)]) == []


@pytest.mark.parametrize(
    "before, after",
    [
        (judged(0.4, 0.4, 0.3), judged(0.2, 0.8, 0.31)),  # accuracy rose
        (judged(0.4, 0.4, 1.0), judged(0.2, 0.8, 1.0)),  # as far as it can, or always, without a checker
        (judged(0.4, 0.4, 0.3), judged(0.4, 0.4, 0.3)),  # a plateau
        (judged(0.4, 0.4, 0.3), judged(0.4, 0.49, 0.3)),  # by less than a quarter
        (judged(0.9, 0.4, 0.9, weight=0.1), judged(0.9, 0.8, 0.9, weight=0.1)),  # too light to matter
        (judged(0.4, 0.4, 0.3, weight=0.0), judged(0.4, 0.9, 0.3, weight=0.0)),  # only logged
        (judged(0.4, 0.4, 0.3, weight=-0.5), judged(0.4, 0.9, 0.3, weight=-0.5)),
        (judged(0.4, 0.4, 0.3), [e | {"reward": 0.6, "weight_polite": 0.5} for e in evaluated(0, 0.3)]),  # all failed
        (evaluated(0.4, 0.3), evaluated(0.6, 0.31)),  # accuracy rose
        (evaluated(0.4, 0.3), evaluated(0.49, 0.3)),  # by less than a quarter
        (evaluated(0.1, 0.3), evaluated(0.139, 0.3)),  # by 5.85 standard errors
        (evaluated(0.4, 0.3), evaluated(0.6, 0.3, format_rate=0.96)),  # the form is still being learnt
        (evaluated(0.4, 0.3), evaluated(0.6, 0.3)[:-1] + epochs(1, reward=0.62)),  # no evaluation in this epoch
        (evaluated(0.4, 0.3)[:-1] + epochs(1), evaluated(0.6, 0.3)),  # none before
        (evaluated(0.3, 0.3, overlong_penalty=-0.1), evaluated(0.4, 0.3)),  # completions are shorter, that is all
        (evaluated(0.4, 0.3)[1:], evaluated(0.6, 0.3)),  # too few epochs before
        (evaluated(0.4, 0.3), evaluated(0.6, 0.3)[1:]),  # nine epochs apart
        (evaluated(0.4, 0.3), evaluated(math.nan, 0.3)),
    ],
)
def test_rewards_that_are_not_gamed(before, after):
    assert names(before + after) == []


# === An accuracy that stays where it began ===


def accuracies(first, last, count=30, **changes):
    """Ten epochs of each with noise, and others between them."""
    own = [first] * 10 + [(first + last) / 2] * (count - 20) + [last] * 10
    return [HEALTHY | changes | {"accuracy": x + NOISE[i % 5]} for i, x in enumerate(own)]


def test_a_run_that_does_not_learn():
    (finding,) = examine(accuracies(0.178, 0.137))  # an own task that was primed too little
    assert finding.name == "not_learning" and "priming.steps" in finding.remedy
    assert finding.seen == "After 30 epochs the accuracy is 13.7%, and it began at 17.8%."
    assert names(accuracies(0.18, 0.193)) == ["not_learning"]  # a standard error is 0.00667 here
    assert names(accuracies(0.18, 0.195)) == []  # a rise of more than two
    assert names(accuracies(0.18, 0.18, count=29)) == names(accuracies(0.6, 0.6)) == []
    assert names(accuracies(0.18, 0.18, count=100)) == []  # the beginning may be forgotten
    assert names(accuracies(0.3, 0.3, curriculum_level=0.5)) == []


ILL = [epochs(3, zero_std_groups=1.0, accuracy=0.0), epochs(3, zero_std_groups=1.0, accuracy=1.0)]
ILL += [epochs(5, accuracy=0.0, answer_rewards=1.0), epochs(3, truncated=1.0), epochs(3, repeated_tails=1.0)]
ILL += [epochs(3, completion_entropy=0.1, zero_std_groups=1.0), epochs(3, moved=0.0), epochs(3, sampler_gap=1.0)]
ILL += [epochs(3, skipped_updates=1.0), epochs(3, compiles=1.0), epochs(3, failed_rewards=1.0)]
ILL += [epochs(10, endless_calls=1.0, turns=8.0), epochs(10, turns=1.0), epochs(3, imitated_observations=1.0)]
ILL += [evaluated(0.4, 0.3) + evaluated(0.6, 0.3), accuracies(0.2, 0.2), judged(0.4, 0.4, 0.3) + judged(0.4, 1, 0.3)]


def test_a_finding_is_a_paragraph_of_sentences_that_names_keys_that_exist():
    findings = [finding for history in ILL for finding in examine(history)]
    assert len({finding.name for finding in findings}) == 15
    for finding, degree, accuracy in zip(findings[:2], ("easier", "harder"), ("0%", "100%"), strict=True):
        assert f"make them {degree}" in finding.remedy and f"(accuracy {accuracy})" in finding.seen
    keys = {f"{section}.{key.name}" for section, kind in sections.SECTIONS.items() for key in fields(kind)}
    keys |= {"task.num_numbers", "task.max_number"}  # Countdown's
    keys |= {"optimizer.config.learning_rate", "optimizer.config.global_clipnorm"}  # Keras's
    for finding in findings:
        named = set(re.findall(r"\b[a-z]+(?:\.[a-z_]+)+", finding.remedy.replace("scripts/prime.py", "")))
        assert named - {"completions.jsonl", "keras.ops"} <= keys, finding.name
        assert "`" not in str(finding)  # it is shown as plain text
        for part in (finding.seen, finding.meaning, finding.remedy):
            assert re.fullmatch(r"[A-Z0-9].*\.", part)
        assert str(finding) == f"{finding.seen} {finding.meaning} {finding.remedy}"
        assert "nan" not in str(finding)
        assert getattr(doctor_findings, finding.name).__doc__
