"""Each finding at and around its threshold, on logs written by hand."""

import math
import re
from dataclasses import fields

from keras_aha.callbacks import doctor_findings
from keras_aha.callbacks.doctor_findings import examine
from keras_aha.recipes import sections

import pytest

HEALTHY = {
    "reward": 0.4,
    "accuracy": 0.35,
    "format_rate": 0.95,
    "truncated": 0.1,
    "zero_std_groups": 0.25,
    "grad_norm": 0.03,
    "skipped_updates": 0.0,
    "sampler_gap": 1e-7,
    "compiles": 0.0,
    "moved": 1.0,
    "completions": 256.0,
    "answer_rewards": 3.0,
    "repeated_tails": 0.0,
    "completion_entropy": 5.0,
}


def names(history):
    return [finding.name for finding in examine(history)]


def epochs(count, **changes):
    return [HEALTHY | changes] * count


def test_health_is_silence():
    assert names(epochs(1)) == names(epochs(100)) == []


def test_logs_that_are_missing_are_silence():
    assert names([{}] * 20) == names([{"moved": 0.0}] * 20) == []


@pytest.mark.parametrize(
    "name, ill, well",
    [
        ("no_signal", {"zero_std_groups": 1.0}, {"zero_std_groups": 0.99}),
        ("no_signal", {"zero_std_groups": 1.0, "refilled_groups": 0.0}, {"zero_std_groups": 1.0, "refilled_groups": 1}),
        ("truncated", {"truncated": 0.51}, {"truncated": 0.5}),
        ("repeated_tails", {"repeated_tails": 0.11}, {"repeated_tails": 0.1}),
        ("entropy_collapse", {"completion_entropy": 0.69}, {"completion_entropy": 0.7}),
        ("entropy_collapse", {"completion_entropy": 0.0, "accuracy": 0.89}, {"completion_entropy": 0, "accuracy": 0.9}),
        ("not_moving", {"moved": 0.0}, {"moved": 0.0, "grad_norm": 0.0}),
        ("not_moving", {"moved": 0.0}, {"moved": 1.0}),
        ("sampler_apart", {"sampler_gap": 0.11}, {"sampler_gap": 0.1}),
    ],
)
def test_three_epochs_in_a_row_and_no_fewer(name, ill, well):
    assert names(epochs(3, **ill)) == names(epochs(9) + epochs(3, **ill)) == [name]
    assert names(epochs(2, **ill)) == names(epochs(9) + epochs(2, **ill)) == []
    assert names(epochs(2, **ill) + epochs(1, **well)) == names(epochs(1, **well) + epochs(2, **ill)) == []
    assert names(epochs(3, **well)) == []


def test_skipped_updates_are_no_weights_that_do_not_move():
    assert names(epochs(3, moved=0.0, skipped_updates=1.0)) == ["not_finite"]


@pytest.mark.parametrize("accuracy, advice", [(0.0, "make them easier"), (1.0, "make them harder")])
def test_groups_without_signal_are_too_hard_or_too_easy(accuracy, advice):
    (finding,) = examine(epochs(3, zero_std_groups=1.0, accuracy=accuracy))
    assert advice in finding.remedy and f"(accuracy {accuracy:.0%})" in finding.seen


def test_groups_of_one_text_are_no_matter_of_difficulty():
    same = dict(zero_std_groups=1.0, completion_entropy=0.1)
    assert names(epochs(3, **same, accuracy=0.5)) == ["entropy_collapse"]
    assert names(epochs(3, **same, accuracy=1.0)) == ["no_signal"]  # solved


def test_form_without_a_right_answer():
    stuck = dict(accuracy=0.0, format_rate=0.9, answer_rewards=1.0, reward=0.09)
    assert names(epochs(5, **stuck)) == ["format_only"]
    assert "90% of 1280 completions" in examine(epochs(5, **stuck))[0].seen
    assert names(epochs(4, **stuck)) == names(epochs(1) + epochs(4, **stuck)) == []
    assert names(epochs(5, **stuck | {"format_rate": 0.89})) == []
    assert names(epochs(5, **stuck | {"answer_rewards": 2.0})) == []  # some wrong answers earn more than others
    assert names(epochs(4, **stuck) + epochs(1, **stuck | {"accuracy": 1 / 256})) == []


def test_the_first_skipped_update_is_said():
    assert names(epochs(1, skipped_updates=0.25)) == ["not_finite"]
    assert names(epochs(1, skipped_updates=0.25) + epochs(1)) == []


def test_programs_that_are_compiled_again_and_again():
    once, never = epochs(1, compiles=2.0), epochs(1)
    assert names(once + never * 3 + once + never * 4 + once) == ["compiling"]
    assert (
        "6 programs were compiled again in 3 of the last 10 epochs" in examine((never + once) * 3 + never * 4)[0].seen
    )
    assert names(once + never * 4 + once + never * 4 + once) == []  # over 11 epochs
    assert names(never + once * 2 + never) == []  # a first evaluation, say


# === A reward that is gamed ===

# Of the epochs' rewards: their variance is 0.002 / 9, and the standard error of two means' difference 0.00667.
NOISE = (0.01, -0.02, 0.0, 0.02, -0.01) * 2


def evaluated(reward, val_accuracy, **changes):
    """Ten epochs with this mean reward, the last one with an evaluation."""
    history = [HEALTHY | changes | {"reward": reward + noise} for noise in NOISE]
    history[-1]["val_accuracy"] = val_accuracy
    return history


def test_reward_up_and_held_out_accuracy_not():
    (finding,) = examine(evaluated(0.4, 0.3) + evaluated(0.6, 0.3))
    assert finding.name == "gamed"
    assert finding.seen == "The reward rose from 0.4 to 0.6, and held-out accuracy went from 30.0% to 30.0%."


@pytest.mark.parametrize(
    "before, after",
    [
        (evaluated(0.4, 0.3), evaluated(0.6, 0.31)),  # accuracy rose
        (evaluated(0.4, 0.3), evaluated(0.49, 0.3)),  # by less than a quarter
        (evaluated(0.1, 0.3), evaluated(0.139, 0.3)),  # by 5.85 standard errors
        (evaluated(0.4, 0.3), evaluated(0.6, 0.3, format_rate=0.96)),  # the form is still being learnt
        (evaluated(0.4, 0.3), evaluated(0.6, 0.3)[:-1] + epochs(1, reward=0.62)),  # no evaluation in this epoch
        (evaluated(0.4, 0.3)[:-1] + epochs(1), evaluated(0.6, 0.3)),  # none before
        (evaluated(0.3, 0.3, overlong_penalty=-0.1), evaluated(0.4, 0.3)),  # completions are shorter, that is all
        (evaluated(0.4, 0.3)[1:], evaluated(0.6, 0.3)),  # too few epochs before
        (evaluated(0.4, 0.3), evaluated(math.nan, 0.3)),
    ],
)
def test_rewards_that_are_not_gamed(before, after):
    assert names(before + after) == []


def test_a_rise_of_six_standard_errors_is_enough():
    assert names(evaluated(0.1, 0.3) + evaluated(0.141, 0.3)) == ["gamed"]


def test_evaluations_that_are_compared_are_ten_epochs_apart():
    assert names(evaluated(0.4, 0.3) + evaluated(0.6, 0.3)[1:]) == []
    assert names(evaluated(0.4, 0.3) + epochs(40) + evaluated(0.6, 0.3)) == ["gamed"]


# === Words ===

ILL = [
    epochs(3, zero_std_groups=1.0, accuracy=0.0),
    epochs(3, zero_std_groups=1.0, accuracy=1.0),
    epochs(5, accuracy=0.0, answer_rewards=1.0),
    epochs(3, truncated=1.0),
    epochs(3, repeated_tails=1.0),
    epochs(3, completion_entropy=0.1),
    epochs(3, moved=0.0),
    epochs(3, sampler_gap=1.0),
    epochs(3, skipped_updates=1.0),
    epochs(3, compiles=1.0),
    evaluated(0.4, 0.3) + evaluated(0.6, 0.3),
]


def test_remedies_name_keys_that_exist():
    findings = [finding for history in ILL for finding in examine(history)]
    assert len({finding.name for finding in findings}) == 10
    keys = {f"{section}.{key.name}" for section, kind in sections.SECTIONS.items() for key in fields(kind)}
    keys |= {"task.num_numbers", "task.max_number"}  # Countdown's
    keys |= {"optimizer.config.learning_rate", "optimizer.config.global_clipnorm"}  # Keras's
    for finding in findings:
        named = set(re.findall(r"`([a-z]+\.[a-z_.]+)`", finding.remedy))
        assert named - {"completions.jsonl", "keras.ops"} <= keys, finding.name


@pytest.mark.parametrize("history", ILL)
def test_a_finding_is_a_paragraph_of_sentences(history):
    for finding in examine(history):
        for part in (finding.seen, finding.meaning, finding.remedy):
            assert re.fullmatch(r"[A-Z0-9].*\.", part)
        assert str(finding) == f"{finding.seen} {finding.meaning} {finding.remedy}"
        assert "nan" not in str(finding)


def test_every_finding_says_why_it_is_one():
    assert all(getattr(doctor_findings, finding.name).__doc__ for history in ILL for finding in examine(history))
