"""The whole training step against an oracle in NumPy float64 that shares no code with it.

The oracle reads the values of the variables, strips the padding, runs each row through a Gemma written from the
papers, and computes advantages, weights, ratios, clipping and KL row by row. Gradients are its central differences.
"""

from keras_aha.grpo_model import GRPOModel
from keras_aha.losses import GRPOLoss, aggregation_weights, group_advantages

import jax
import keras
import numpy as np
import pytest

VARIANTS = {
    "grpo": dict(scale="std", ratio="token", clip_range=0.2, aggregation="sequence_mean", kl_coef=0.3),
    "dr_grpo": dict(scale=None, ratio="token", clip_range=0.2, aggregation="fixed_length", kl_coef=0.0),
    "dapo": dict(scale="std", ratio="token", clip_range=(0.2, 0.28), aggregation="token_mean", kl_coef=0.0),
    "gspo": dict(scale="std", ratio="sequence", clip_range=(3e-4, 4e-4), aggregation="sequence_mean", kl_coef=0.0),
}
GROUP = 4
COMPLETION = 8
LENGTHS = np.array([8, 5, 1, 7, 3, 8, 6, 2])
PADDING = np.array([0, 0, 0, 0, 3, 3, 3, 3])
REWARDS = np.array([1.0, 0.1, 0.0, 0.1, 0.0, 1.0, 1.0, 0.9])
STEP = 1e-6  # of the differences
ENTRIES = 3  # differentiated in each tensor


# === The oracle: a Gemma ===


def rms_norm(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * (1.0 + scale)


def rope(x):
    """Rotates `(T, heads, H)`; keras-hub then interleaves the halves, which cancels between queries and keys."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None, None] / 10_000 ** (np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1)


def cap(x, limit):
    return x if limit is None else limit * np.tanh(x / limit)


def gelu(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Oracle:
    """`weights` maps a variable's path inside the backbone to its float64 value."""

    def __init__(self, backbone):
        self.config = backbone.get_config()
        self.weights = {v.path: np.asarray(v, "float64") for v in backbone.variables}

    def kernel(self, path, adapters):
        w = self.weights
        adapter = np.tensordot(w[f"{path}/lora_kernel_a"], w[f"{path}/lora_kernel_b"], 1) if adapters else 0.0
        return w[f"{path}/kernel"] + adapter  # keras-hub's alpha is the rank, so the factor is 1

    def logits(self, tokens, adapters=True):
        w, config = self.weights, self.config
        embeddings = w["token_embedding/embeddings"]
        x = embeddings[tokens] * np.sqrt(config["hidden_dim"])
        for i in range(config["num_layers"]):
            block = f"decoder_block_{i}"
            sliding = config["use_sliding_window_attention"] and i % 2 == 0
            y = rms_norm(x, w[f"{block}/pre_attention_norm/scale"])
            y = self.attention(f"{block}/attention", y, sliding, adapters)
            if config["use_post_attention_norm"]:
                y = rms_norm(y, w[f"{block}/post_attention_norm/scale"])
            x = x + y
            y = rms_norm(x, w[f"{block}/pre_ffw_norm/scale"])
            gate = y @ self.kernel(f"{block}/ffw_gating", adapters)
            y = gelu(gate) * (y @ self.kernel(f"{block}/ffw_gating_2", adapters))
            y = y @ self.kernel(f"{block}/ffw_linear", adapters)
            if config["use_post_ffw_norm"]:
                y = rms_norm(y, w[f"{block}/post_ffw_norm/scale"])
            x = x + y
        x = rms_norm(x, w["final_normalization/scale"])
        return cap(x @ embeddings.T, config["final_logit_soft_cap"])

    def attention(self, path, x, sliding, adapters):
        config, age = self.config, np.arange(len(x))[:, None] - np.arange(len(x))
        query = rope(np.einsum("td,ndh->tnh", x, self.kernel(f"{path}/query", adapters)))
        key = rope(np.einsum("td,kdh->tkh", x, self.kernel(f"{path}/key", adapters)))
        value = np.einsum("td,kdh->tkh", x, self.kernel(f"{path}/value", adapters))
        visible = (age >= 0) & (age < (config["sliding_window_size"] if sliding else len(x)))
        group = config["num_query_heads"] // config["num_key_value_heads"]
        output = np.zeros_like(query)
        for head in range(config["num_query_heads"]):
            scores = query[:, head] @ key[:, head // group].T / np.sqrt(config["head_dim"])
            scores = np.where(visible, cap(scores, config["attention_logit_soft_cap"]), -np.inf)
            output[:, head] = softmax(scores) @ value[:, head // group]
        return np.einsum("tnh,nhd->td", output, self.kernel(f"{path}/attention_output", adapters))

    def log_probs(self, batch, adapters=True):
        """`(log_probs, entropy)` of the completions, `(B, C)`, 0 outside them."""
        log_probs, entropy = np.zeros((2, *batch["completion_mask"].shape))
        for i, (tokens, mask, length) in enumerate(
            zip(batch["token_ids"], batch["padding_mask"], LENGTHS, strict=True)
        ):
            tokens = tokens[mask > 0]
            p = softmax(self.logits(tokens, adapters)[-length - 1 : -1] / batch["temperature"][i])
            log_probs[i, :length] = np.log(p[np.arange(length), tokens[-length:]])
            entropy[i, :length] = -np.sum(p * np.log(p), axis=-1)
        return log_probs, entropy


# === The oracle: the loss ===


def oracle_advantages(scale):
    groups = REWARDS.reshape(-1, GROUP)
    return ((groups - groups.mean(1)[:, None]) / (groups.std(1)[:, None] + 1e-6 if scale else 1.0)).ravel()


def oracle_loss(log_probs, ref, batch, variant):
    """`(loss, sum of absolute terms, metrics)`, completion by completion."""
    low, high = variant["clip_range"] if isinstance(variant["clip_range"], tuple) else [variant["clip_range"]] * 2
    advantages, terms = oracle_advantages(variant["scale"]), []
    metrics = dict(ratio=0.0, clip_fraction=0.0, kl=0.0)
    for i, length in enumerate(LENGTHS):
        divisor = dict(
            token_mean=LENGTHS.sum(), sequence_mean=len(LENGTHS) * length, fixed_length=len(LENGTHS) * COMPLETION
        )[variant["aggregation"]]
        gap = log_probs[i, :length] - batch["old_log_probs"][i, :length]
        for t in range(length):
            rho = np.exp(gap.mean() if variant["ratio"] == "sequence" else gap[t])
            plain, clipped = rho * advantages[i], np.clip(rho, 1 - low, 1 + high) * advantages[i]
            r = ref[i, t] - log_probs[i, t]
            kl = np.exp(r) - 1 - r
            terms += [-min(plain, clipped) / divisor, variant["kl_coef"] * kl / divisor]
            metrics["ratio"] += rho
            metrics["clip_fraction"] += clipped < plain
            metrics["kl"] += kl
    return sum(terms), sum(map(abs, terms)), metrics


# === What is tested ===


@pytest.fixture(scope="module")
def batch():
    """Two groups of four; prompts of 6 and 3 tokens in the same 6 columns, completions of uneven lengths."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(1, 200, (8, 6 + COMPLETION)).astype("int32")
    columns = np.arange(6 + COMPLETION)
    padding_mask = ((columns >= PADDING[:, None]) & (columns < 6 + LENGTHS[:, None])).astype("int32")
    return {
        "token_ids": token_ids * padding_mask,
        "padding_mask": padding_mask,
        "completion_mask": padding_mask[:, 6:].astype("float32"),
        "temperature": np.linspace(0.7, 1.4, 8).astype("float32"),
    }


@pytest.fixture(scope="module")
def sides(make_policy, batch):
    """For each shape: the model, its oracle, the oracle's log-probs, and those around each differentiated entry."""
    made = {}
    for shape, layers in (("gemma", 1), ("gemma_2", 2)):
        model = GRPOModel(make_policy(shape, lora_rank=2, num_layers=layers))
        oracle = Oracle(model.policy.backbone)
        ref, _ = oracle.log_probs(batch, adapters=False)
        made[shape] = model, oracle, oracle.log_probs(batch), ref, differences(oracle, model, batch)
    return made


def differences(oracle, model, batch):
    """`{(tensor, entry): (log-probs above, log-probs below)}`, entries of every adapter tensor."""
    rng, around = np.random.default_rng(1), {}
    for variable in model.trainable_variables:
        value = oracle.weights[variable.path]
        for entry in rng.choice(value.size, min(ENTRIES, value.size), replace=False):
            at, old = np.unravel_index(entry, value.shape), value.flat[entry]
            sides = []
            for moved in (old + STEP, old - STEP):
                value[at] = moved
                sides.append(oracle.log_probs(batch)[0])
            value[at] = old
            around[variable.path, at] = sides
    return around


def with_old_log_probs(batch, log_probs, variant):
    """An old policy so far away that some ratios are clipped on either side and some are not."""
    width = 1e-3 if variant["ratio"] == "sequence" else 0.3
    noise = np.random.default_rng(2).uniform(-width, width, log_probs.shape)
    advantages = group_advantages(REWARDS, GROUP, variant["scale"])
    old = (log_probs + noise).astype("float32")
    return {**batch, "old_log_probs": old, "sampler_log_probs": old, "advantages": np.asarray(advantages, "float32")}


def grpo_loss(variant):
    return GRPOLoss(**{name: value for name, value in variant.items() if name != "scale"})


def gradient_of_loss(model, batch):
    weights = aggregation_weights(batch["completion_mask"], model.grpo_loss.aggregation)
    state = [[v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)]
    return jax.jit(jax.grad(model._loss, has_aux=True))(*state, {**batch, "weights": weights})


@pytest.mark.parametrize(
    "shape, name", [("gemma_2", "grpo"), ("gemma", "dr_grpo"), ("gemma", "dapo"), ("gemma", "gspo")]
)
def test_loss_and_gradient(sides, batch, shape, name):
    model, oracle, (log_probs, entropy), ref, around = sides[shape]
    variant = VARIANTS[name]
    batch = with_old_log_probs(batch, log_probs, variant)
    model.compile("sgd", loss=grpo_loss(variant))
    gradients, metrics = gradient_of_loss(model, batch)

    np.testing.assert_allclose(batch["advantages"], oracle_advantages(variant["scale"]), atol=1e-6)
    loss, scale, expected = oracle_loss(log_probs, ref, batch, variant)
    assert abs(float(metrics["loss"]) - loss) < 1e-5 * scale
    tokens = LENGTHS.sum()
    assert 0 < expected["clip_fraction"] < tokens
    assert metrics["clip_fraction"] == expected["clip_fraction"]
    assert float(metrics["ratio"]) == pytest.approx(expected["ratio"], rel=1e-5)
    assert float(metrics["entropy"]) == pytest.approx(entropy.sum(), rel=1e-5)
    gap = np.abs(log_probs - batch["old_log_probs"])[batch["completion_mask"] > 0].sum()
    assert float(metrics["sampler_gap"]) == pytest.approx(gap, abs=1e-5 * tokens)
    if variant["kl_coef"]:
        assert float(metrics["kl"]) == pytest.approx(expected["kl"], rel=1e-4)

    gradients = {v.path: np.asarray(g) for v, g in zip(model.trainable_variables, gradients, strict=True)}
    assert len(gradients) == model.policy.backbone.num_layers * 7 * 2  # linears, A and B
    for (path, at), (above, below) in around.items():
        slope = (oracle_loss(above, ref, batch, variant)[0] - oracle_loss(below, ref, batch, variant)[0]) / (2 * STEP)
        norm = np.linalg.norm(gradients[path])
        assert norm > 0
        assert abs(gradients[path][at] - slope) < 1e-4 * norm, path


def test_one_step_of_sgd_is_the_gradient_whatever_the_micro_batch(sides, batch, one_batch):
    model, _, (log_probs, _), _, _ = sides["gemma"]
    batch = with_old_log_probs(batch, log_probs, VARIANTS["dapo"])
    model.compile(keras.optimizers.SGD(1.0), loss=grpo_loss(VARIANTS["dapo"]))
    gradients, metrics = gradient_of_loss(model, batch)
    norm = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients))
    policy = model.policy.variables
    before = [np.asarray(variable) for variable in policy]
    expected = dict(zip([v.path for v in model.trainable_variables], gradients, strict=True))
    for size in (1, 2, 4):
        model.micro_batch_size = size
        model.compile(keras.optimizers.SGD(1.0), loss=model.grpo_loss)
        logs = model.fit(one_batch(batch), verbose=0).history
        for variable, value in zip(policy, before, strict=True):
            change = value - np.asarray(variable)
            gradient = expected.get(variable.path, np.zeros_like(value))
            rounding = 1e-5 * np.linalg.norm(gradient) + 1e-7 * np.linalg.norm(value) * variable.trainable
            assert np.linalg.norm(change - gradient) <= rounding, (size, variable.path)
            variable.assign(value)
        assert logs["loss"][0] == pytest.approx(float(metrics["loss"]), abs=1e-6)
        assert logs["grad_norm"][0] == pytest.approx(norm, rel=1e-5)
        assert logs["ratio"][0] == pytest.approx(float(metrics["ratio"]) / LENGTHS.sum(), rel=1e-5)
