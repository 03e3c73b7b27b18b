"""The whole training step against oracles in NumPy float64 that share no code with it.

`train_step` runs operation by operation (a compiled program takes seconds), for combinations in which any two values of
two arguments meet, and compiled, as `fit` runs it, for three published variants.
"""

import itertools

from keras_aha.losses import GRPOLoss, group_advantages
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.micro_batches import by_length
from keras_aha.training.rollout import split_texts

import jax
import keras
import numpy as np
import pytest
from gemma_oracle import GemmaOracle
from loss_oracle import oracle_advantages, oracle_loss

AXES = dict(scale=("std", "batch", None), baseline=("mean", "leave_one_out"), mask_truncated=(False, True))
AXES |= dict(ratio=("token", "sequence"), clip_range=(0.2, (0.2, 0.28)))
AXES |= dict(aggregation=("token_mean", "sequence_mean", "fixed_length"), kl=(None, "k1", "k3+"), delta=(None, 1.35))
AXES |= dict(entropy_coef=(0.0, 0.05), importance_cap=(None, 1.1), surrogate_coef=(1.0, 0.4), splits=(1, 2))
COMPLETION = 8
LENGTHS = np.array([8, 5, 1, 7, 3, 8, 6, 2])  # those of 8 are truncated
PADDING = np.array([0, 0, 0, 0, 3, 3, 3, 3])
REWARDS = np.array([1.0, 0.1, 0.0, 0.1, 0.0, 1.0, 1.0, 0.9])
ALIKE = np.array([1.0, 0.1, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0])
SGD = 2.0**20  # a learning rate beside which the weights vanish: an update holds every digit of the gradient


def grpo_loss(choice):
    names = ("ratio", "clip_range", "aggregation", "delta", "entropy_coef", "importance_cap", "surrogate_coef")
    settings = {name: choice[name] for name in names}
    return GRPOLoss(**settings, **({"kl_coef": 0.3, "kl_estimator": choice["kl"]} if choice["kl"] else {}))


class Sides:
    """A policy, a batch for it, and what the oracle makes of both."""

    def __init__(self, policy, batch):
        self.model = GRPOModel(policy)
        oracle = GemmaOracle(policy.backbone)
        self.log_probs, self.entropy = oracle.log_probs(batch)
        self.ref_log_probs, _ = oracle.log_probs(batch, adapters=False)
        self.jacobian = oracle.jacobian(batch)
        # An old policy so far away that some ratios are clipped on either side, and so are some sampler's weights.
        rng = np.random.default_rng(2)
        old = self.log_probs + rng.uniform(-0.4, 0.4, (8, 1)) + rng.uniform(-0.3, 0.3, (8, COMPLETION))
        sampler = old + rng.uniform(-0.3, 0.3, old.shape)
        # What the policy has not drawn, but read, is nothing to the oracle: each row's own tokens, one after another.
        drawn = batch["completion_mask"] > 0
        self.own = np.argsort(~drawn, axis=1, kind="stable")
        old[~drawn & (batch["padding_mask"][:, -COMPLETION:] > 0)] = np.nan  # of no token that was observed is it known
        self.batch = {**batch, "old_log_probs": old.astype("float32"), "sampler_log_probs": sampler.astype("float32")}

    def batch_of(self, choice, rows=8):
        """The first `rows` rows."""
        batch = {name: value[:rows] for name, value in self.batch.items()}
        kept = LENGTHS[:rows, None] < COMPLETION + (not choice["mask_truncated"])
        batch["completion_mask"] = batch["completion_mask"] * kept
        rewards = ALIKE if choice.get("alike") else REWARDS
        advantages = group_advantages(rewards[:rows], min(4, rows), choice["scale"], choice["baseline"])
        batch["advantages"] = np.asarray(advantages)
        return batch | {"has_signal": np.arange(rows) < (4 if choice.get("alike") else rows)}

    def given(self, choice, shared, rows=8):
        """The same as `train_step` takes them, with a prompt for each `shared` rows."""
        batch = self.batch_of(choice, rows)
        texts = split_texts(batch.pop("token_ids"), batch.pop("padding_mask"), COMPLETION)
        return by_length(texts | batch, self.model.micro_batch_size, shared, min(4, rows))

    def expected(self, choice, rows=8):
        """The oracle's loss, and its gradients of the adapters."""
        batch, rewards = self.batch_of(choice, rows), ALIKE if choice.get("alike") else REWARDS

        def own(x):
            x = x[..., :rows, :]
            return np.take_along_axis(x, np.broadcast_to(self.own[:rows], x.shape), axis=-1)

        found = oracle_loss(
            own(self.log_probs),
            own(np.float64(batch["old_log_probs"])),
            oracle_advantages(rewards[:rows], min(4, rows), choice["scale"], choice["baseline"]),
            batch["completion_mask"].sum(axis=1).astype(int),
            batch["has_signal"],
            **grpo_loss(choice).get_config(),
            ref_log_probs=own(self.ref_log_probs),
            entropy=own(self.entropy),
            sampler_log_probs=own(np.float64(batch["sampler_log_probs"])),
        )
        mask = batch["completion_mask"] > 0
        found.tokens = dict.fromkeys(("entropy", "sampler_gap", "kl"), mask.sum())
        signal_tokens = (mask & batch["has_signal"][:, None]).sum()
        found.tokens |= dict.fromkeys(("ratio", "clip_fraction", "importance_weight"), signal_tokens)
        found.metrics["entropy"] = self.entropy[:rows][mask].sum()
        found.metrics["sampler_gap"] = np.abs(self.log_probs[:rows] - batch["sampler_log_probs"])[mask].sum()
        found.gradients = {
            path: np.tensordot(own(d_log_probs), found.d_log_probs, 2)
            + np.tensordot(own(d_entropy), found.d_entropy, 2)
            for path, (d_log_probs, d_entropy) in self.jacobian.items()
        }
        return found


@pytest.fixture(scope="module")
def batch():
    """Two groups of four; prompts of 6 and 3 tokens in the same 6 columns, completions of uneven lengths."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(1, 200, (8, 6 + COMPLETION)).astype("int32")
    columns = np.arange(6 + COMPLETION)
    padding_mask = ((columns >= PADDING[:, None]) & (columns < 6 + LENGTHS[:, None])).astype("int32")
    token_ids[:, :6] = np.repeat(token_ids[::4, :6], 4, axis=0)  # a group has one prompt
    batch = dict(token_ids=token_ids * padding_mask, padding_mask=padding_mask)
    batch["temperature"] = np.linspace(0.7, 1.4, 8).astype("float32")
    return batch | {"completion_mask": padding_mask[:, 6:].astype("float32")}


@pytest.fixture(scope="module")
def sides(make_policy, batch):
    return Sides(make_policy("gemma", lora_rank=2, num_layers=1), batch)


@pytest.fixture(scope="module")
def sides_in_turns(make_policy, batch):
    """Completions with observations in their midst, and one that ends with one."""
    observed = np.isin(np.arange(COMPLETION), [1, 2, 4]) & (LENGTHS[:, None] > 2)
    observed[0, :6] = [False, True, True, True, True, False]
    mask = batch["completion_mask"] * ~observed
    return Sides(make_policy("gemma_2", lora_rank=2), batch | {"completion_mask": mask})


@pytest.fixture(scope="module")
def sides_2(make_policy, batch):
    return Sides(make_policy("gemma_2", lora_rank=2), batch)


def assert_equal_gradients(gradients, expected, choice):
    assert set(gradients) == set(expected)
    for path, gradient in gradients.items():
        norm = np.linalg.norm(expected[path])
        assert norm > 0
        assert np.linalg.norm(gradient - expected[path]) <= 1e-5 * norm, (path, choice)


def pairwise(axes, seed=3):
    """Choices in which any two values of two axes meet: the one with most new pairs among some random ones, again."""
    missing = {
        ((name, x), (other, y))
        for (name, values), (other, others) in itertools.combinations(axes.items(), 2)
        for x, y in itertools.product(values, others)
    }
    rng, found = np.random.default_rng(seed), []
    while missing:
        wanted = dict(min(missing, key=repr))
        random = [{name: values[rng.integers(len(values))] for name, values in axes.items()} for _ in range(100)]
        pairs = {i: set(itertools.combinations((choice | wanted).items(), 2)) for i, choice in enumerate(random)}
        best = max(pairs, key=lambda i: len(pairs[i] & missing))
        missing -= pairs[best]
        found.append(random[best] | wanted)
    return found


def assert_equal_logs(logs, expected, choice):
    names = {"loss", "entropy", "ratio", "clip_fraction", "sampler_gap", "grad_norm", "skipped_updates"}
    names |= {"kl"} if choice["kl"] else set()
    names |= {"importance_weight"} if choice["importance_cap"] else set()
    logs = {name: float(logs[name]) for name in names}  # `fit` adds none, and a step's must all be there
    assert abs(logs.pop("loss") - expected.loss) <= 1e-5 * expected.scale, choice
    assert logs.pop("skipped_updates") == 0.0
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in expected.gradients.values()))
    assert logs.pop("grad_norm") == pytest.approx(norm, rel=1e-5), choice
    for name, value in logs.items():
        assert abs(value - expected.metrics[name] / expected.tokens[name]) <= 1e-5, (name, choice)


@pytest.mark.slow
def test_a_cover_of_train_steps(sides):
    """Steps of 2 and 4 rows in micro-batches of 2, whose operations are then compiled only once."""
    model = sides.model
    model.micro_batch_size = 2
    clipped = []
    for choice in pairwise(AXES):
        rows = 2 * choice["splits"]
        model.compile(keras.optimizers.SGD(SGD), loss=grpo_loss(choice))
        kinds = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        before = [[variable.value for variable in kind] for kind in (*kinds, model.metrics_variables)]
        with jax.disable_jit():
            logs, (after, *_) = model.train_step(tuple(before), sides.given(choice, 2, rows))
        expected = sides.expected(choice, rows)
        clipped.append(expected.metrics["clip_fraction"] / expected.tokens["clip_fraction"])
        assert_equal_logs(logs, expected, choice)
        updates = zip(model.trainable_variables, before[0], after, strict=True)
        gradients = {variable.path: np.asarray(old - new) / SGD for variable, old, new in updates}
        assert_equal_gradients(gradients, expected.gradients, choice)
    assert 0.1 < np.mean(clipped) < 0.9  # the examples are clipped here and there


COMPILED = [
    # GRPO, DAPO with all that may be added, GSPO with a KL, each with another split; one with Gemma 2's caps
    # The last values: with a group whose rewards are all equal; how many rows share a prompt.
    ("sides", "std", "mean", False, "token", 0.2, "sequence_mean", "k3", None, 0.0, None, 1.0, 1, True, 4),
    (
        "sides_2",
        "batch",
        "leave_one_out",
        True,
        "token",
        (0.2, 0.28),
        "token_mean",
        None,
        1.35,
        0.05,
        1.1,
        0.4,
        2,
        True,
        2,
    ),
    (
        "sides",
        "std",
        "mean",
        False,
        "sequence",
        (3e-4, 4e-4),
        "sequence_mean",
        "k3+",
        None,
        0.0,
        None,
        1.0,
        4,
        False,
        1,
    ),
]


IN_TURNS = [
    ("sides_in_turns", *COMPILED[1][1:]),
    ("sides_in_turns", *COMPILED[-1][1:5], 0.2, *COMPILED[-1][6:]),
]


@pytest.mark.parametrize("values", COMPILED + IN_TURNS)
def test_compiled(request, one_batch, values):
    sides, choice = request.getfixturevalue(values[0]), dict(zip([*AXES, "alike", "shared"], values[1:], strict=True))
    model, variables = sides.model, sides.model.policy.variables
    model.micro_batch_size = 8 // choice["splits"]
    model.compile(keras.optimizers.SGD(SGD), loss=grpo_loss(choice))
    before = [np.asarray(variable) for variable in variables]
    logs = model.fit(one_batch(sides.given(choice, choice["shared"])), verbose=0).history
    updates = {v.path: (old - np.asarray(v)) / SGD for v, old in zip(variables, before, strict=True)}
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    expected = sides.expected(choice)
    assert_equal_logs({name: value for name, (value,) in logs.items()}, expected, choice)
    assert_equal_gradients({path: updates.pop(path) for path in expected.gradients}, expected.gradients, choice)
    assert not any(update.any() for update in updates.values())  # what is frozen stays
