import math

from keras_aha.losses import (
    GRPOLoss,
    aggregation_weights,
    clipped_surrogate,
    group_advantages,
    importance_ratio,
    kl_divergence,
)

import jax
import numpy as np
import pytest

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
REWARDS = np.array([1.0, 0.1, 0.0, 0.0, 1.0, 1.0])
GROUP_SIZE = 3
CLIP_RANGES = (0.2, (0.1, 0.3))
AGGREGATIONS = ("token_mean", "sequence_mean", "fixed_length")
ARGUMENT_NAMES = ("scale", "ratio", "clip_range", "aggregation", "estimator", "kl_coef")


def example(seed=1):
    """Log-probs of six completions; off-policy enough that some ratios are clipped, on both sides."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(1.0, MASK.shape)
    return {
        "log_probs": old + rng.normal(0, 0.6, MASK.shape),
        "old_log_probs": old,
        "ref_log_probs": old + rng.normal(0, 0.6, MASK.shape),
    }


def oracle(log_probs, old_log_probs, ref_log_probs, scale, ratio, clip_range, aggregation, estimator, kl_coef):
    """The loss of the whole batch as loops over Python floats, straight from the papers."""
    low, high = clip_range if isinstance(clip_range, tuple) else (clip_range, clip_range)
    lengths = [int(row.sum()) for row in MASK]
    loss = clipped = 0.0
    for i, length in enumerate(lengths):
        group = REWARDS[i // GROUP_SIZE * GROUP_SIZE :][:GROUP_SIZE].tolist()
        mean = sum(group) / GROUP_SIZE
        advantage = REWARDS[i] - mean
        if scale == "std":
            advantage /= math.sqrt(sum((reward - mean) ** 2 for reward in group) / GROUP_SIZE) + 1e-6
        mean_log_ratio = sum(log_probs[i][t] - old_log_probs[i][t] for t in range(length)) / length
        for t in range(length):
            rho = math.exp(log_probs[i][t] - old_log_probs[i][t] if ratio == "token" else mean_log_ratio)
            bounded = max(1 - low, min(1 + high, rho))
            value = -min(rho * advantage, bounded * advantage)
            clipped += bounded * advantage < rho * advantage
            quotient = math.exp(ref_log_probs[i][t] - log_probs[i][t])
            value += (
                kl_coef
                * {
                    "k1": -math.log(quotient),
                    "k2": math.log(quotient) ** 2 / 2,
                    "k3": quotient - 1 - math.log(quotient),
                }[estimator]
            )
            loss += {
                "token_mean": value / sum(lengths),
                "sequence_mean": value / length / len(lengths),
                "fixed_length": value / MASK.size,
            }[aggregation]
    return loss, clipped


def ours(log_probs, old_log_probs, ref_log_probs, scale, aggregation, loss, rows=slice(None)):
    weights = aggregation_weights(MASK, aggregation)
    advantages = group_advantages(REWARDS, GROUP_SIZE, scale)
    return loss(
        log_probs[rows],
        old_log_probs[rows],
        advantages[rows],
        MASK[rows].astype(bool),
        weights[rows],
        ref_log_probs[rows],
    )


# === Whole loss ===


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("clip_range", CLIP_RANGES)
@pytest.mark.parametrize("ratio", ("token", "sequence"))
@pytest.mark.parametrize("scale", ("std", None))
def test_loss_and_gradient_match_float64_oracle(scale, ratio, clip_range, aggregation):
    logs = example()
    for estimator, kl_coef in (("k1", 0.0), ("k1", 0.3), ("k2", 0.3), ("k3", 0.3)):
        loss_fn = GRPOLoss(clip_range, kl_coef, estimator, ratio, aggregation)

        def value_of(log_probs, loss_fn=loss_fn):
            rest = {name: value for name, value in logs.items() if name != "log_probs"}
            return ours(log_probs.astype("float32"), **rest, scale=scale, aggregation=aggregation, loss=loss_fn)

        (loss, metrics), gradient = jax.value_and_grad(value_of, has_aux=True)(logs["log_probs"].astype("float32"))
        arguments = (scale, ratio, clip_range, aggregation, estimator, kl_coef)
        expected, clipped = oracle(**logs, **dict(zip(ARGUMENT_NAMES, arguments, strict=True)))

        np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=2e-6)
        np.testing.assert_array_equal(metrics["clip_fraction"], clipped)
        np.testing.assert_allclose(gradient, finite_differences(logs, arguments), rtol=1e-4, atol=2e-6)


def finite_differences(logs, arguments, step=1e-6):
    gradient = np.zeros(MASK.shape)
    for index in zip(*MASK.nonzero(), strict=True):  # the oracle does not look at the others
        ends = []
        for sign in (1, -1):
            moved = logs["log_probs"].copy()
            moved[index] += sign * step
            ends.append(oracle(**{**logs, "log_probs": moved}, **dict(zip(ARGUMENT_NAMES, arguments, strict=True)))[0])
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("ratio", ("token", "sequence"))
def test_example_is_clipped_on_both_sides(ratio):
    logs = example()
    ratios = np.asarray(importance_ratio(logs["log_probs"], logs["old_log_probs"], MASK, ratio))
    positive = np.asarray(group_advantages(REWARDS, GROUP_SIZE))[:, None] > 0
    assert (MASK * positive * (ratios > 1.3)).any() and (MASK * ~positive * (ratios < 0.8)).any()
    assert (
        min(abs(ratios - edge).min() for edge in (0.8, 0.9, 1.2, 1.3)) > 1e-4
    )  # finite differences stay off the kinks


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ("token", "sequence"))
def test_micro_batches_add_up(ratio, aggregation):
    logs = {name: value.astype("float32") for name, value in example().items()}
    loss_fn = GRPOLoss(kl_coef=0.1, ratio=ratio, aggregation=aggregation)

    def value_of(log_probs, rows):
        rest = {name: value for name, value in logs.items() if name != "log_probs"}
        return ours(log_probs, **rest, scale="std", aggregation=aggregation, loss=loss_fn, rows=rows)

    step = jax.value_and_grad(value_of, has_aux=True)
    (loss, metrics), gradient = step(logs["log_probs"], slice(None))
    parts = [step(logs["log_probs"], slice(start, stop)) for start, stop in ((0, 1), (1, 4), (4, 6))]

    np.testing.assert_allclose(sum(part[0][0] for part in parts), loss, rtol=1e-5)
    np.testing.assert_allclose(sum(part[1] for part in parts), gradient, rtol=1e-5, atol=1e-8)
    for name, value in metrics.items():
        np.testing.assert_allclose(sum(part[0][1][name] for part in parts), value, rtol=1e-5)


@pytest.mark.parametrize("estimator", ("k1", "k2", "k3"))
@pytest.mark.parametrize("ratio", ("token", "sequence"))
@pytest.mark.parametrize("garbage", (np.nan, np.inf, -np.inf, 1e4))
def test_masked_positions_have_no_effect(garbage, ratio, estimator):
    clean = {name: value.astype("float32") for name, value in example().items()}
    dirty = {name: np.where(MASK, value, garbage).astype("float32") for name, value in clean.items()}
    loss_fn = GRPOLoss(kl_coef=0.1, kl_estimator=estimator, ratio=ratio)

    def value_of(log_probs, logs):
        logs = {**logs, "log_probs": log_probs}
        return ours(**logs, scale="std", aggregation="token_mean", loss=loss_fn)

    step = jax.value_and_grad(value_of, has_aux=True)
    expected, found = step(clean["log_probs"], clean), step(dirty["log_probs"], dirty)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert np.isfinite(found[1]).all() and not np.asarray(found[1])[MASK == 0].any()


@pytest.mark.parametrize("estimator", ("k1", "k2", "k3"))
@pytest.mark.parametrize("ratio", ("token", "sequence"))
def test_on_policy_is_exact(ratio, estimator):
    log_probs = example()["log_probs"].astype("float32")
    loss_fn = GRPOLoss(kl_coef=0.1, kl_estimator=estimator, ratio=ratio)
    _, metrics = ours(log_probs, log_probs, log_probs, scale="std", aggregation="token_mean", loss=loss_fn)
    assert {name: float(value) for name, value in metrics.items()} == {
        "ratio": MASK.sum(),
        "clip_fraction": 0.0,
        "kl": 0.0,
    }


def test_loss_by_hand():
    log_ratio = np.log([[1.5, 1.0], [0.5, 7.0]])
    mask = np.array([[True, True], [True, False]])
    loss, metrics = GRPOLoss(clip_range=0.2)(log_ratio, np.zeros((2, 2)), [1.0, -1.0], mask, aggregation_weights(mask))
    # min(1.5, 1.2) + 1.0 + min(-0.5, -0.8) = 1.4 over three tokens
    np.testing.assert_allclose(loss, -1.4 / 3, rtol=1e-6)
    assert float(metrics["clip_fraction"]) == 2.0
    np.testing.assert_allclose(metrics["ratio"], 3.0, rtol=1e-6)
    assert "kl" not in metrics


def test_float32_inside():
    logs = {name: jax.numpy.asarray(value, "bfloat16") for name, value in example().items()}
    loss, metrics = ours(**logs, scale="std", aggregation="token_mean", loss=GRPOLoss(kl_coef=0.1))
    assert {loss.dtype, *(value.dtype for value in metrics.values())} == {np.dtype("float32")}
    exact = {name: np.asarray(value, "float32") for name, value in logs.items()}
    assert loss == ours(**exact, scale="std", aggregation="token_mean", loss=GRPOLoss(kl_coef=0.1))[0]


# === Parts ===


def test_group_advantages_by_hand():
    rewards = [1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 1.5, 1.5]
    root = math.sqrt(3.0)
    np.testing.assert_allclose(
        group_advantages(rewards, 4), [root, -1 / root, -1 / root, -1 / root, -1.0, -1.0, 1.0, 1.0], rtol=1e-5
    )
    np.testing.assert_allclose(
        group_advantages(rewards, 4, scale=None), [0.75, -0.25, -0.25, -0.25, -0.5, -0.5, 0.5, 0.5], rtol=1e-6
    )


@pytest.mark.parametrize("scale", ("std", None))
def test_equal_rewards_teach_exactly_nothing(scale):
    for reward in (0.0, 0.1, 1.1, 1 / 3, -7.7):
        for group_size in (2, 3, 7, 16):
            assert not np.asarray(group_advantages([reward] * (2 * group_size), group_size, scale)).any()


def test_group_advantages_errors():
    with pytest.raises(ValueError, match=r"nothing to compare\. Received: group_size=1"):
        group_advantages([1.0, 0.0], group_size=1)
    with pytest.raises(ValueError, match=r"Received: rewards\.shape=\(5,\), group_size=2"):
        group_advantages(np.zeros(5), group_size=2)
    with pytest.raises(ValueError, match=r"`scale` must be one of 'std', 'batch', None\. Received: scale='mad'"):
        group_advantages([1.0, 0.0], group_size=2, scale="mad")


def test_aggregation_weights_by_hand():
    mask = [[True, True, True, False], [True, False, False, False]]
    np.testing.assert_allclose(aggregation_weights(mask), np.array(mask) / 4)
    np.testing.assert_allclose(
        aggregation_weights(mask, "sequence_mean"), [[1 / 6, 1 / 6, 1 / 6, 0], [1 / 2, 0, 0, 0]], rtol=1e-6
    )
    np.testing.assert_allclose(aggregation_weights(mask, "fixed_length"), np.array(mask) / 8)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_completions_masked_out_whole(aggregation):
    nothing = np.asarray(aggregation_weights(np.zeros((2, 3), bool), aggregation))
    assert not nothing.any()  # and no NaN
    weights = np.asarray(aggregation_weights([[True, True], [False, False]], aggregation))
    assert weights.sum() == (0.5 if aggregation == "fixed_length" else 1.0)


def test_importance_ratio_by_hand():
    log_probs, old = np.log([[0.5, 0.2, 0.9]]), np.log([[0.25, 0.4, 0.1]])
    mask = np.array([[True, True, False]])
    np.testing.assert_allclose(importance_ratio(log_probs, old, mask), [[2.0, 0.5, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(importance_ratio(log_probs, old, [[True, False, True]]), [[2.0, 1.0, 9.0]], rtol=1e-6)
    # the geometric mean of 2 and 9
    np.testing.assert_allclose(
        importance_ratio(log_probs, old, [[True, False, True]], "sequence"), [[18**0.5, 1.0, 18**0.5]], rtol=1e-6
    )


def test_sequence_ratio_gradient_reaches_every_token():
    mask = np.array([[True, True, True, False]])
    gradient = jax.grad(lambda x: importance_ratio(x, np.zeros((1, 4)), mask, "sequence")[0, 0])(np.zeros((1, 4), "f"))
    np.testing.assert_allclose(gradient, [[1 / 3, 1 / 3, 1 / 3, 0.0]], rtol=1e-6)


def test_clipped_surrogate_by_hand():
    ratio = [[0.5, 0.85, 1.0, 1.25, 1.5]] * 2
    np.testing.assert_allclose(
        clipped_surrogate(ratio, [2.0, -2.0], (0.2, 0.28)),
        [[1.0, 1.7, 2.0, 2.5, 2.56], [-1.6, -1.7, -2.0, -2.5, -3.0]],
        rtol=1e-6,
    )


def test_clipping_takes_the_gradient_away():
    gradient = jax.grad(lambda x: clipped_surrogate(x, [1.0, -1.0]).sum())(np.array([[0.5, 1, 1.5]] * 2, "f"))
    np.testing.assert_array_equal(gradient, [[1, 1, 0], [0, -1, -1]])


def test_kl_divergence_by_hand():
    policy, reference = np.log([[0.2, 0.5]]), np.log([[0.4, 0.25]])
    log2 = math.log(2.0)
    np.testing.assert_allclose(kl_divergence(policy, reference, "k1"), [[-log2, log2]], rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(policy, reference, "k2"), [[log2**2 / 2, log2**2 / 2]], rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(policy, reference, "k3"), [[1 - log2, log2 - 0.5]], rtol=1e-5)


def test_kl_gradients_are_those_documented():
    rng = np.random.default_rng(0)
    logits, reference = rng.normal(size=(2, 6)).astype("float32")
    reference = jax.nn.log_softmax(reference)

    def mean_gradient(estimator):  # over every token the policy could sample, weighted by its probability
        probs = jax.nn.softmax(logits)
        return jax.grad(lambda x: (probs * kl_divergence(jax.nn.log_softmax(x), reference, estimator)).sum())(logits)

    def reverse_kl(x):
        return (jax.nn.softmax(x) * (jax.nn.log_softmax(x) - reference)).sum()

    def forward_kl(x):
        return (jax.numpy.exp(reference) * (reference - jax.nn.log_softmax(x))).sum()

    np.testing.assert_allclose(mean_gradient("k1"), 0.0, atol=1e-6)
    np.testing.assert_allclose(mean_gradient("k2"), jax.grad(reverse_kl)(logits), atol=1e-6)
    np.testing.assert_allclose(mean_gradient("k3"), jax.grad(forward_kl)(logits), atol=1e-6)


# === Arguments ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"clip_range": 0.0}, r"`clip_range` must be .* Received: clip_range=0\.0"),
        ({"clip_range": (0.2,)}, r"Received: clip_range=\(0\.2,\)"),
        ({"clip_range": (0.2, "0.28")}, r"Received: clip_range=\(0\.2, '0\.28'\)"),
        ({"clip_range": None}, r"Received: clip_range=None"),
        ({"kl_coef": -0.1}, r"`kl_coef` must be .* Received: kl_coef=-0\.1"),
        ({"kl_coef": "0"}, r"Received: kl_coef='0'"),
        ({"kl_estimator": "k4"}, r"one of 'k1', 'k2', 'k3', 'k1\+', 'k3\+'\. Received: kl_estimator='k4'"),
        ({"ratio": "word"}, r"one of 'token', 'sequence'\. Received: ratio='word'"),
        (
            {"aggregation": "mean"},
            r"one of 'token_mean', 'sequence_mean', 'fixed_length'\. Received: aggregation='mean'",
        ),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        GRPOLoss(**arguments)


def test_kl_needs_a_reference():
    mask = np.ones((1, 2), bool)
    with pytest.raises(ValueError, match=r"Received: ref_log_probs=None, kl_coef=0\.1"):
        GRPOLoss(kl_coef=0.1)(np.zeros((1, 2)), np.zeros((1, 2)), [1.0], mask, aggregation_weights(mask))


def test_functions_name_their_choices():
    zeros = np.zeros((1, 2))
    with pytest.raises(ValueError, match="Received: aggregation='sum'"):
        aggregation_weights(zeros, "sum")
    with pytest.raises(ValueError, match="Received: ratio='none'"):
        importance_ratio(zeros, zeros, zeros, "none")
    with pytest.raises(ValueError, match="Received: estimator='k0'"):
        kl_divergence(zeros, zeros, "k0")


def test_config_round_trip():
    config = {"clip_range": (0.2, 0.28), "kl_coef": 0.1, "kl_estimator": "k2", "ratio": "sequence"}
    config |= {"aggregation": "fixed_length", "delta": 3.0, "entropy_coef": 0.01, "importance_cap": 2.0}
    assert GRPOLoss(**GRPOLoss(**config).get_config()).get_config() == config
