"""The loss against the oracle, and by what it promises."""

import itertools
import math

from keras_aha import losses
from keras_aha.losses import GRPOLoss, aggregation_weights, group_advantages, importance_ratio

import jax
import numpy as np
import pytest
from loss_oracle import oracle_advantages, oracle_loss

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
REWARDS = np.array([1.0, 0.1, 0.0, 0.0, 1.0, 1.0])
GROUP_SIZE = 3
CLIP_RANGES = (0.2, (0.1, 0.3))
AGGREGATIONS = ("token_mean", "sequence_mean", "fixed_length")
EVERYTHING = dict(kl_coef=0.1, delta=1.5, entropy_coef=0.02, importance_cap=1.2, teacher_coef=0.3)


def example(seed=1):
    """Log-probs of six completions; off-policy enough that some ratios are clipped, on both sides."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(1.0, MASK.shape)
    return {
        "log_probs": old + rng.normal(0, 0.6, MASK.shape),
        "old_log_probs": old,
        "ref_log_probs": old + rng.normal(0, 0.6, MASK.shape),
        "entropy": rng.exponential(1.0, MASK.shape),
        "sampler_log_probs": old + rng.normal(0, 0.3, MASK.shape),
        "teacher_kl": rng.exponential(1.0, MASK.shape),
    }


def float32(logs):
    return {name: np.asarray(value, "float32") for name, value in logs.items()}


def ours(loss, logs, rows=slice(None), has_signal=None):
    """The loss of some rows of the batch, and its metrics; `logs` as in `example`."""
    logs = {name: value[rows] for name, value in logs.items()}
    weights = aggregation_weights(MASK, loss.aggregation)[rows]
    if has_signal is not None:
        logs["surrogate_weights"] = aggregation_weights(MASK * has_signal[:, None], loss.aggregation)[rows]
    return loss(advantages=advantages()[rows], completion_mask=MASK[rows].astype(bool), weights=weights, **logs)


def advantages():
    return group_advantages(REWARDS, GROUP_SIZE)


def with_derivatives(loss, logs, rows=slice(None), has_signal=None):
    """`(loss, metrics)` and the derivatives by `log_probs`, `entropy` and `teacher_kl`, `(B, C)`."""
    names = ("log_probs", "entropy", "teacher_kl")

    def value_of(*arrays):
        return ours(loss, logs | dict(zip(names, arrays, strict=True)), rows, has_signal)

    return jax.value_and_grad(value_of, argnums=(0, 1, 2), has_aux=True)(*(logs[name] for name in names))


MORE = [dict(kl_coef=0.0)]
MORE += [dict(kl_coef=0.3, kl_estimator=estimator) for estimator in ("k1", "k2", "k3", "k1+", "k3+")]
MORE += [  # with and without each
    dict(delta=delta, entropy_coef=entropy_coef, importance_cap=cap, kl_coef=0.3)
    for delta, entropy_coef, cap in itertools.product((None, 1.5), (0.0, 0.02), (None, 1.2))
]
MORE += [dict(teacher_coef=0.4, surrogate_coef=surrogate_coef) for surrogate_coef in (1.0, 0.3, 0.0)]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("clip_range", CLIP_RANGES)
@pytest.mark.parametrize("ratio", ("token", "sequence"))
def test_loss_and_derivatives_match_the_oracle(ratio, clip_range, aggregation):
    logs = example()
    for more, has_signal in zip(MORE, itertools.cycle([None, np.arange(6) < 3]), strict=False):
        loss = GRPOLoss(clip_range, ratio=ratio, aggregation=aggregation, **more)
        (value, metrics), derivatives = with_derivatives(loss, float32(logs), has_signal=has_signal)
        known = dict(advantages=oracle_advantages(REWARDS, GROUP_SIZE), has_signal=has_signal)
        expected = oracle_loss(lengths=MASK.sum(axis=1), **known, **logs, **loss.get_config())

        assert abs(value - expected.loss) <= 1e-5 * expected.scale
        for name, metric in metrics.items():
            np.testing.assert_allclose(metric, expected.metrics[name], rtol=1e-5, atol=1e-5)
        assert metrics["clip_fraction"] == round(expected.metrics["clip_fraction"])
        exact_ones = expected.d_log_probs, expected.d_entropy, expected.d_teacher_kl
        for found, exact in zip(derivatives, exact_ones, strict=True):
            assert np.linalg.norm(found - exact) <= 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("ratio", ("token", "sequence"))
def test_example_is_clipped_on_both_sides(ratio):
    logs = example()
    ratios = np.asarray(importance_ratio(logs["log_probs"], logs["old_log_probs"], MASK, ratio))
    positive = np.asarray(advantages())[:, None] > 0
    assert (MASK * positive * (ratios > 1.3)).any() and (MASK * ~positive * (ratios < 0.8)).any()
    assert min(abs(ratios - edge).min() for edge in (0.8, 0.9, 1.2, 1.3, 1.5)) > 1e-4  # rounding crosses no edge


@pytest.mark.parametrize("aggregation", ("token_mean", "sequence_mean"))
def test_a_completion_without_an_advantage_has_a_kl_and_an_entropy(aggregation):
    """By hand: completions of 1, 2 and 3 tokens, the last one of another group, whose rewards are all equal."""
    mask, has_signal = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]]), np.array([1, 1, 0])
    advantages, ratio, log_probs = np.array([1.0, -1.0, 0.0]), np.array([[1.1], [0.9], [7.0]]), -np.ones((3, 3))
    entropy, ref_log_probs = np.array([[0.3], [0.6], [0.9]]) * np.ones(3), log_probs - np.array([[1], [2], [3]])
    weights = {"weights": mask, "surrogate_weights": mask * has_signal[:, None]}
    weights = {name: aggregation_weights(x, aggregation) for name, x in weights.items()}
    old, loss = log_probs - np.log(ratio), GRPOLoss(0.5, 0.1, "k2", aggregation=aggregation, entropy_coef=0.1)
    logs = dict(ref_log_probs=ref_log_probs, entropy=entropy, **weights)
    value, metrics = loss(log_probs, old, advantages, mask, **logs)
    # token_mean     (−1.1 + 2 · 0.9) / 3 + 0.1 · (0.5 + 2 · 2 + 3 · 4.5) / 6 − 0.1 · (0.3 + 2 · 0.6 + 3 · 0.9) / 6
    # sequence_mean  (−1.1 + 0.9) / 2     + 0.1 · (0.5 + 2 + 4.5) / 3         − 0.1 · (0.3 + 0.6 + 0.9) / 3
    by_hand = {"token_mean": 0.7 / 3 + 0.3 - 0.07, "sequence_mean": -0.1 + 0.7 / 3 - 0.06}
    assert float(value) == pytest.approx(by_hand[aggregation], abs=1e-6)
    assert float(metrics["ratio"]) == pytest.approx(1.1 + 2 * 0.9) and float(metrics["kl"]) == pytest.approx(18.0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ("token", "sequence"))
def test_micro_batches_add_up(ratio, aggregation):
    logs = float32(example())
    loss = GRPOLoss(ratio=ratio, aggregation=aggregation, **EVERYTHING)
    whole = with_derivatives(loss, logs)
    parts = [with_derivatives(loss, logs, slice(start, start + 2)) for start in (0, 2, 4)]
    summed = jax.tree.map(lambda *x: sum(x), *parts)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), summed, whole)


@pytest.mark.parametrize("estimator", ("k1", "k2", "k3", "k1+", "k3+"))
@pytest.mark.parametrize("ratio", ("token", "sequence"))
@pytest.mark.parametrize("garbage", (np.nan, np.inf, -np.inf, 1e4))
def test_masked_positions_have_no_effect(garbage, ratio, estimator):
    clean = float32(example())
    dirty = float32({name: np.where(MASK, value, garbage) for name, value in clean.items()})
    loss = GRPOLoss(kl_estimator=estimator, ratio=ratio, **EVERYTHING)
    expected, found = with_derivatives(loss, clean), with_derivatives(loss, dirty)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for derivative in found[1]:
        assert np.isfinite(derivative).all() and not np.asarray(derivative)[MASK == 0].any()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_completions_masked_out_whole(aggregation):
    nothing = np.asarray(aggregation_weights(np.zeros((2, 3), bool), aggregation))
    assert not nothing.any()  # and no NaN
    weights = np.asarray(aggregation_weights([[True, True], [False, False]], aggregation))
    assert weights.sum() == (0.5 if aggregation == "fixed_length" else 1.0)


@pytest.mark.parametrize("estimator", ("k1", "k2", "k3", "k1+", "k3+"))
@pytest.mark.parametrize("ratio", ("token", "sequence"))
def test_on_policy_is_exact(ratio, estimator):
    log_probs = example()["log_probs"].astype("float32")
    loss = GRPOLoss(kl_coef=0.1, kl_estimator=estimator, ratio=ratio, importance_cap=1.0)
    names = ("log_probs", "old_log_probs", "ref_log_probs", "sampler_log_probs")
    _, metrics = ours(loss, dict.fromkeys(names, log_probs))
    tokens = MASK.sum()
    expected = {"ratio": tokens, "clip_fraction": 0.0, "kl": 0.0, "importance_weight": tokens}
    assert {name: float(value) for name, value in metrics.items()} == expected


def test_float32_inside():
    logs = {name: jax.numpy.asarray(value, "bfloat16") for name, value in example().items()}
    loss, metrics = ours(GRPOLoss(**EVERYTHING), logs)
    assert {loss.dtype, *(value.dtype for value in metrics.values())} == {np.dtype("float32")}
    assert loss == ours(GRPOLoss(**EVERYTHING), float32(logs))[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"clip_range": 0.0}, r"`clip_range` must be .* Received: clip_range=0\.0"),
        ({"clip_range": (0.2, "0.28")}, r"Received: clip_range=\(0\.2, '0\.28'\)"),
        ({"kl_coef": -0.1}, r"`kl_coef` must be a finite number, 0 or more\. Received: kl_coef=-0\.1"),
        ({"kl_estimator": "k4"}, r"one of 'k1', 'k2', 'k3', 'k1\+', 'k3\+'\. Received: kl_estimator='k4'"),
        ({"entropy_coef": math.inf}, r"`entropy_coef` must be .* Received: entropy_coef=inf"),
        ({"teacher_coef": "1"}, r"`teacher_coef` must be a finite number, 0 or more\. Received: teacher_coef='1'"),
        ({"surrogate_coef": -1}, r"`surrogate_coef` must be a finite number, 0 or more\. Received: surrogate_coef=-1"),
        ({"importance_cap": 0.5}, r"`importance_cap` must be a finite number, 1 or more\. Received: .*=0\.5"),
        ({"importance_cap": True}, r"Received: importance_cap=True"),
        ({"delta": 1.2}, r"`delta` must be a number above 1\.2, where the clip range ends\. Received: delta=1\.2"),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        GRPOLoss(**arguments)


@pytest.mark.parametrize(
    "setting, value, needed",
    [
        *(("kl_coef", 0.1, "ref_log_probs"), ("entropy_coef", 0.1, "entropy"), ("teacher_coef", 0.1, "teacher_kl")),
        ("importance_cap", 2.0, "sampler_log_probs"),
    ],
)
def test_a_term_needs_its_numbers(setting, value, needed):
    mask = np.ones((1, 2), bool)
    with pytest.raises(ValueError, match=rf"`{setting}` needs `{needed}`\. Received: {needed}=None, {setting}={value}"):
        GRPOLoss(**{setting: value})(np.zeros((1, 2)), np.zeros((1, 2)), [1.0], mask, aggregation_weights(mask))


def test_kl_gradients_are_those_documented():
    rng = np.random.default_rng(0)
    logits, reference = rng.normal(size=(2, 6)).astype("float32")
    reference = jax.nn.log_softmax(reference)

    def mean_gradient(estimator):  # over every token the policy could sample, weighted by its probability
        probs = jax.nn.softmax(logits)
        return jax.grad(lambda x: (probs * losses.kl_divergence(jax.nn.log_softmax(x), reference, estimator)).sum())(
            logits
        )

    def reverse_kl(x):
        return (jax.nn.softmax(x) * (jax.nn.log_softmax(x) - reference)).sum()

    def forward_kl(x):
        return (jax.numpy.exp(reference) * (reference - jax.nn.log_softmax(x))).sum()

    np.testing.assert_allclose(mean_gradient("k1"), 0.0, atol=1e-6)
    for estimator in ("k2", "k1+", "k3+"):
        np.testing.assert_allclose(mean_gradient(estimator), jax.grad(reverse_kl)(logits), atol=1e-6)
    np.testing.assert_allclose(mean_gradient("k3"), jax.grad(forward_kl)(logits), atol=1e-6)


def test_functions_name_their_choices():
    zeros = np.zeros((1, 2))
    for function, arguments, received in [
        (aggregation_weights, (zeros, "sum"), "aggregation='sum'"),
        (importance_ratio, (zeros, zeros, zeros, "none"), "ratio='none'"),
        (losses.kl_divergence, (zeros, zeros, "k0"), "estimator='k0'"),
    ]:
        with pytest.raises(ValueError, match=f"must be one of .* Received: {received}"):
            function(*arguments)
    for delta in (1.0, 1.28, math.inf, math.nan, "3", True):
        with pytest.raises(ValueError, match=r"`delta` must be a number above 1\.28, .* Received: delta="):
            losses.clipped_surrogate(zeros, [1.0], (0.2, 0.28), delta)
