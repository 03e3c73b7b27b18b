"""The whole training step against oracles in NumPy float64 that share no code with it.

What covers what: the gradient of a step is the pullback, through the policy, of the loss's derivatives by log-probs and
entropies. `test_every_combination` checks that product, with the real loss and the real policy, for all combinations
of the arguments below and all splits. `test_a_cover_of_train_steps` runs `train_step` itself, operation by operation
(a compiled program takes seconds), for a set of combinations in which any two values of two arguments meet, and
`test_compiled` runs it as `fit` does.
"""

import itertools

from keras_aha.losses import GRPOLoss, aggregation_weights, group_advantages
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.log_probs import completion_log_probs

import jax
import keras
import numpy as np
import pytest
from gemma_oracle import GemmaOracle
from loss_oracle import oracle_advantages, oracle_loss

DATA = {  # arguments that only change the numbers of a batch
    "scale": ("std", "batch", None),
    "baseline": ("mean", "leave_one_out"),
    "mask_truncated": (False, True),
}
LOSS = {
    "ratio": ("token", "sequence"),
    "clip_range": (0.2, (0.2, 0.28)),
    "aggregation": ("token_mean", "sequence_mean", "fixed_length"),
    "kl": (None, "k1", "k2", "k3", "k1+", "k3+"),
}
MORE = {"delta": (None, 1.35), "entropy_coef": (0.0, 0.05), "importance_cap": (None, 1.1), "splits": (1, 2, 4)}
COMPLETION = 8
LENGTHS = np.array([8, 5, 1, 7, 3, 8, 6, 2])  # those of 8 are truncated
PADDING = np.array([0, 0, 0, 0, 3, 3, 3, 3])
REWARDS = np.array([1.0, 0.1, 0.0, 0.1, 0.0, 1.0, 1.0, 0.9])
SGD = 2.0**20  # a learning rate beside which the weights vanish: an update holds every digit of the gradient


def combinations(axes):
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def grpo_loss(choice):
    settings = {name: choice[name] for name in ("ratio", "clip_range", "aggregation")}
    settings |= {name: choice[name] for name in ("delta", "entropy_coef", "importance_cap") if name in choice}
    return GRPOLoss(**settings, **({"kl_coef": 0.3, "kl_estimator": choice["kl"]} if choice["kl"] else {}))


# === The two sides ===


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
        self.batch = {**batch, "old_log_probs": old.astype("float32"), "sampler_log_probs": sampler.astype("float32")}

    def batch_of(self, choice, rows=8):
        """The first `rows` rows as `train_step` takes them."""
        batch = {name: value[:rows] for name, value in self.batch.items()}
        kept = LENGTHS[:rows, None] < COMPLETION + (not choice["mask_truncated"])
        batch["completion_mask"] = batch["completion_mask"] * kept
        batch["advantages"] = np.asarray(
            group_advantages(REWARDS[:rows], min(4, rows), choice["scale"], choice["baseline"])
        )
        return batch

    def expected(self, choice, rows=8):
        """The oracle's loss, and its gradients of the adapters."""
        batch = self.batch_of(choice, rows)
        found = oracle_loss(
            self.log_probs[:rows],
            np.float64(batch["old_log_probs"]),
            oracle_advantages(REWARDS[:rows], min(4, rows), choice["scale"], choice["baseline"]),
            batch["completion_mask"].sum(axis=1).astype(int),
            **grpo_loss(choice).get_config(),
            ref_log_probs=self.ref_log_probs[:rows],
            entropy=self.entropy[:rows],
            sampler_log_probs=np.float64(batch["sampler_log_probs"]),
        )
        mask = batch["completion_mask"] > 0
        found.tokens = mask.sum()
        found.metrics["entropy"] = self.entropy[:rows][mask].sum()
        found.metrics["sampler_gap"] = np.abs(self.log_probs[:rows] - batch["sampler_log_probs"])[mask].sum()
        found.gradients = {
            path: np.tensordot(d_log_probs[..., :rows, :], found.d_log_probs, 2)
            + np.tensordot(d_entropy[..., :rows, :], found.d_entropy, 2)
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
    return {
        "token_ids": token_ids * padding_mask,
        "padding_mask": padding_mask,
        "completion_mask": padding_mask[:, 6:].astype("float32"),
        "temperature": np.linspace(0.7, 1.4, 8).astype("float32"),
    }


@pytest.fixture(scope="module")
def sides(make_policy, batch):
    return Sides(make_policy("gemma", lora_rank=2, num_layers=1), batch)


@pytest.fixture(scope="module")
def sides_2(make_policy, batch):
    return Sides(make_policy("gemma_2", lora_rank=2), batch)


def assert_equal_gradients(gradients, expected, choice):
    assert set(gradients) == set(expected)
    for path, gradient in gradients.items():
        norm = np.linalg.norm(expected[path])
        assert norm > 0
        assert np.linalg.norm(gradient - expected[path]) <= 1e-5 * norm, (path, choice)


def assert_equal_metrics(sums, expected, choice):
    """Sums over tokens, each within 1e-5 a token."""
    for name, value in sums.items():
        assert abs(value - expected.metrics[name]) <= 1e-5 * expected.tokens, (name, choice)


# === Every combination ===


def losses_of(batches, choice, splits):
    """Of D batches: losses `(D,)`, metrics, and derivatives by log-probs `(D, B, C)`.

    The loss is computed on the rows of each micro-batch by itself, and summed.
    """
    loss = grpo_loss(choice)

    def loss_of(log_probs, part):
        names = ("old_log_probs", "advantages", "completion_mask", "weights", "ref_log_probs")
        return loss(log_probs, *(part[name] for name in names))

    parts = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    parts["weights"] = jax.vmap(lambda mask: aggregation_weights(mask, loss.aggregation))(parts["completion_mask"])
    parts = {name: x.reshape(-1, 8 // splits, *x.shape[2:]) for name, x in parts.items()}
    (values, metrics), derivatives = jax.vmap(jax.value_and_grad(loss_of, has_aux=True))(parts["log_probs"], parts)
    values, metrics = jax.tree.map(lambda x: np.reshape(x, (-1, splits)).sum(axis=1), (values, metrics))
    return values, metrics, np.reshape(derivatives, (len(batches), 8, COMPLETION))


def pullback_of(model, batch):
    """A compiled function from N derivatives by log-probs `(N, B, C)` to `(log_probs, {path: gradients (N, …)})`."""
    adapters = model.trainable_variables
    rest = (batch["token_ids"], batch["padding_mask"], COMPLETION, batch["temperature"])

    def log_probs_of(values):
        with keras.StatelessScope(list(zip(adapters, values, strict=True))):
            return completion_log_probs(model.policy, *rest)[0]

    def run(values, derivatives):
        log_probs, pullback = jax.vjp(log_probs_of, values)
        return log_probs, jax.lax.map(lambda x: pullback(x)[0], derivatives)

    program, values = jax.jit(run), [variable.value for variable in adapters]

    def call(derivatives):
        log_probs, gradients = program(values, derivatives)
        paths = [variable.path for variable in adapters]
        return np.asarray(log_probs), {path: np.asarray(g) for path, g in zip(paths, gradients, strict=True)}

    return call


@pytest.mark.slow
@pytest.mark.parametrize("shape, splits", (("sides_2", (1,)), ("sides", (2, 4))))
def test_every_combination(request, shape, splits):
    sides = request.getfixturevalue(shape)
    choices, data = combinations(LOSS), combinations(DATA)
    pullback = pullback_of(sides.model, sides.batch)
    log_probs, _ = pullback(np.zeros((len(choices) * len(data), 8, COMPLETION), "float32"))
    given = {"log_probs": log_probs, "ref_log_probs": sides.ref_log_probs.astype("float32")}
    batches = [sides.batch_of(values) | given for values in data]
    expected = [[sides.expected(choice | values) for values in data] for choice in choices]
    for split in splits:
        found = [losses_of(batches, choice, split) for choice in choices]
        _, gradients = pullback(np.concatenate([derivatives for _, _, derivatives in found]))
        for i, choice in enumerate(choices):
            losses, metrics, _ = found[i]
            for j, values in enumerate(data):
                at, named = i * len(data) + j, choice | values
                assert abs(losses[j] - expected[i][j].loss) <= 1e-5 * expected[i][j].scale, named
                assert_equal_metrics({name: value[j] for name, value in metrics.items()}, expected[i][j], named)
                assert_equal_gradients({path: g[at] for path, g in gradients.items()}, expected[i][j].gradients, named)


def test_the_examples_are_clipped_here_and_there(sides, sides_2):
    for side in (sides, sides_2):
        for choice in combinations({**LOSS, **DATA, "kl": (None,)}):
            expected = side.expected(choice)
            assert 0.1 < expected.metrics["clip_fraction"] / expected.tokens < 0.9


# === The step itself ===


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
    assert_equal_metrics({name: value * expected.tokens for name, value in logs.items()}, expected, choice)


@pytest.mark.slow
def test_a_cover_of_train_steps(sides):
    """Steps of 2, 4 and 8 rows in micro-batches of 2, whose operations are then compiled only once."""
    model = sides.model
    model.micro_batch_size = 2
    for choice in pairwise(DATA | LOSS | MORE | {"kl": (None, "k1", "k3+")}):  # what differs else is inside the loss
        rows = 2 * choice["splits"]
        model.compile(keras.optimizers.SGD(SGD), loss=grpo_loss(choice))
        kinds = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
        before = [[variable.value for variable in kind] for kind in (*kinds, model.metrics_variables)]
        with jax.disable_jit():
            logs, (after, *_) = model.train_step(tuple(before), sides.batch_of(choice, rows))
        expected = sides.expected(choice, rows)
        assert_equal_logs(logs, expected, choice)
        updates = zip(model.trainable_variables, before[0], after, strict=True)
        gradients = {variable.path: np.asarray(old - new) / SGD for variable, old, new in updates}
        assert_equal_gradients(gradients, expected.gradients, choice)


COMPILED = [
    # GRPO, DAPO with all that may be added, GSPO with a KL, each with another split
    ("std", "mean", False, "token", 0.2, "sequence_mean", "k3", None, 0.0, None, 1),
    ("batch", "leave_one_out", True, "token", (0.2, 0.28), "token_mean", None, 1.35, 0.05, 1.1, 2),
    ("std", "mean", False, "sequence", (3e-4, 4e-4), "sequence_mean", "k3+", None, 0.0, None, 4),
]


@pytest.mark.parametrize("values", COMPILED)
def test_compiled(sides, one_batch, values):
    choice = dict(zip(DATA | LOSS | MORE, values, strict=True))
    model, variables = sides.model, sides.model.policy.variables
    model.micro_batch_size = 8 // choice["splits"]
    model.compile(keras.optimizers.SGD(SGD), loss=grpo_loss(choice))
    before = [np.asarray(variable) for variable in variables]
    logs = model.fit(one_batch(sides.batch_of(choice)), verbose=0).history
    updates = {v.path: (old - np.asarray(v)) / SGD for v, old in zip(variables, before, strict=True)}
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    expected = sides.expected(choice)
    assert_equal_logs({name: value for name, (value,) in logs.items()}, expected, choice)
    assert_equal_gradients({path: updates.pop(path) for path in expected.gradients}, expected.gradients, choice)
    assert not any(update.any() for update in updates.values())  # what is frozen stays
