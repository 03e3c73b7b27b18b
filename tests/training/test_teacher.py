"""A teacher: both KLs against NumPy in float64, the whole step against full logits, what is refused."""

from keras_aha.losses import GRPOLoss
from keras_aha.training import log_probs as module
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.log_probs import TeacherStates, completion_log_probs
from keras_aha.training.micro_batches import by_length
from keras_aha.training.rollout import split_texts
from keras_aha.training.teacher import Teacher

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from tiny_models import tiny_tokenizer

COMPLETION = 8
LENGTHS = np.array([8, 5, 1, 7, 3, 8, 6, 2])
SGD = 2.0**20  # a learning rate beside which the weights vanish: an update holds every digit of the gradient


def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


# === Both KLs, of given hidden states and a vocabulary of 11 ===


@pytest.fixture(scope="module")
def heads(make_policy):
    """A policy with a soft cap and a teacher of another width, without what comes before their heads."""
    policy = make_policy("gemma", num_layers=1, vocabulary_size=11, final_logit_soft_cap=3.0)
    return policy, make_policy("gemma", seed=5, num_layers=1, vocabulary_size=11, hidden_dim=24)


def kls(heads, targets, exact):
    """A function of the policy's hidden states `(B, C, D)`, and what it gives in float64 NumPy."""
    policy, teacher = heads
    rng, (rows, length) = np.random.default_rng(3), targets.shape
    teacher_hidden = np.float32(rng.normal(size=(1, length, 24)).repeat(rows, axis=0))
    states = TeacherStates(teacher_hidden, teacher.backbone.token_embedding, 0.8, exact)
    table, teacher_table = (np.asarray(x.backbone.token_embedding.embeddings, "float64") for x in heads)

    def run(hidden):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "hidden_states", lambda *_: hidden)
            patch.setattr(module, "_CHUNK_ELEMENTS", 11 * 2 * rows * 3)  # three positions, of policy and teacher
            return completion_log_probs(policy, None, None, targets, jnp.full(rows, 1.3), teacher=states)[2]

    def oracle(hidden):
        own = log_softmax(np.tanh(hidden @ table.T / 3.0) * 3.0 / 1.3)
        difference = own - log_softmax(teacher_hidden.astype("float64") @ teacher_table.T / 0.8)
        if exact:
            return np.sum(np.exp(own) * difference, axis=-1)
        return np.take_along_axis(difference, targets[..., None], axis=-1)[..., 0]

    return run, oracle


@pytest.mark.parametrize("frozen", (True, False))
@pytest.mark.parametrize("exact", (True, False))
def test_value_and_gradient_of_both_kls(monkeypatch, heads, exact, frozen):
    """The gradient of the sampled one is that of r² / 2."""
    monkeypatch.setattr(heads[0].backbone.token_embedding._embeddings, "trainable", not frozen)
    rng = np.random.default_rng(0)
    hidden, targets = rng.normal(size=(2, 7, 16)), rng.integers(0, 11, (2, 7)).astype("int32")
    run, oracle = kls(heads, targets, exact)
    values, pull = jax.vjp(run, hidden.astype("float32"))
    np.testing.assert_allclose(values, oracle(hidden), atol=1e-5)
    (gradient,) = pull(jnp.ones_like(values))
    steps = 1e-5 * np.eye(16)
    loss = oracle if exact else lambda hidden: oracle(hidden) ** 2 / 2
    wanted = np.stack([(loss(hidden + step) - loss(hidden - step)) / 2e-5 for step in steps], axis=-1)
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)


def test_the_sampled_gradient_is_the_exact_one_in_the_mean(heads):
    """A row for each token of the vocabulary, which counts as often as the policy draws it."""
    hidden = np.random.default_rng(0).normal(size=(1, 4, 16)).astype("float32").repeat(11, axis=0)
    targets = np.arange(11, dtype="int32")[:, None].repeat(4, axis=1)
    gradients = []
    for exact in (True, False):
        run, _ = kls(heads, targets, exact)
        values, pull = jax.vjp(run, hidden)
        logits = np.tanh(hidden @ np.asarray(heads[0].backbone.token_embedding.embeddings).T / 3.0) * 3.0 / 1.3
        weights = np.exp(log_softmax(logits))[0].T  # (token, position)
        gradients.append((np.sum(weights * values, axis=0), np.sum(pull(jnp.asarray(weights))[0], axis=0)))
    for exact, sampled in zip(*gradients, strict=True):
        np.testing.assert_allclose(exact, sampled, atol=1e-5)


# === The whole step ===


@pytest.fixture(scope="module")
def policy(make_policy):
    return make_policy("gemma", lora_rank=2, num_layers=1)


@pytest.fixture(scope="module")
def teacher_policy(make_policy):
    """Deeper and wider, with a cap, and adapters of its own."""
    return make_policy("gemma", seed=7, lora_rank=2, num_layers=2, hidden_dim=24, final_logit_soft_cap=2.0)


@pytest.fixture(scope="module")
def texts():
    """Two groups of four, of prompts of 6 and 3 tokens, and completions of uneven lengths."""
    rng, columns = np.random.default_rng(0), np.arange(6 + COMPLETION)
    token_ids = rng.integers(1, 200, (8, 6 + COMPLETION)).astype("int32")
    padding = np.array([0, 0, 0, 0, 3, 3, 3, 3])
    padding_mask = ((columns >= padding[:, None]) & (columns < 6 + LENGTHS[:, None])).astype("int32")
    token_ids[:, :6] = np.repeat(token_ids[::4, :6], 4, axis=0)
    return token_ids * padding_mask, padding_mask


@pytest.fixture(scope="module")
def batch(texts):
    token_ids, padding_mask = texts
    batch = split_texts(token_ids, padding_mask, COMPLETION) | {"temperature": np.linspace(0.7, 1.4, 8, dtype="f4")}
    batch["completion_mask"] = padding_mask[:, 6:].astype("float32")
    batch |= dict.fromkeys(("old_log_probs", "sampler_log_probs"), np.full((8, COMPLETION), -5.0, "float32"))
    return batch | {"advantages": np.array([1, -1, 0.5, -0.5, 0, 0, 0, 0], "float32")}


def update(model, batch, one_batch, **loss):
    """The gradient that `fit` steps along, and its logs."""
    model.compile(keras.optimizers.SGD(SGD), loss=GRPOLoss(**loss))
    before = [np.asarray(variable) for variable in model.policy.variables]
    shared = 2 if model.micro_batch_size else 1
    logs = model.fit(one_batch(by_length(batch, model.micro_batch_size, shared, 4)), verbose=0).history
    gradient = {}
    for variable, old in zip(model.policy.variables, before, strict=True):
        if variable.trainable:
            gradient[variable.path] = (old - np.asarray(variable)) / SGD
        else:
            np.testing.assert_array_equal(variable, old)
        variable.assign(old)
    return gradient, {name: value for name, (value,) in logs.items()}


def full_logits(policy, texts):
    token_ids, padding_mask = texts
    return policy({"token_ids": token_ids, "padding_mask": padding_mask})[:, -COMPLETION - 1 : -1].astype("float32")


def dense_update(policy, teacher, texts, batch, kl, temperature, teacher_texts=None):
    """The same of all logits at once: the mean over tokens of the KL."""
    others = jax.nn.log_softmax(full_logits(teacher, teacher_texts or texts) / temperature)
    mask, ids = batch["completion_mask"], batch["completion_ids"][..., None]

    def loss(trained):
        with keras.StatelessScope(list(zip(policy.trainable_variables, trained, strict=True))):
            own = jax.nn.log_softmax(full_logits(policy, texts) / batch["temperature"][:, None, None])
        difference = own - others
        drawn = jnp.take_along_axis(difference, ids, axis=-1)[..., 0]
        value = jnp.sum(jnp.exp(own) * difference, axis=-1) if kl == "exact" else drawn
        to_pull = value if kl == "exact" else drawn**2 / 2
        return jnp.sum(mask * to_pull) / mask.sum(), jnp.sum(mask * value) / mask.sum()

    trained = [variable.value for variable in policy.trainable_variables]
    gradient, value = jax.jit(jax.grad(loss, has_aux=True))(trained)
    return {v.path: np.asarray(g) for v, g in zip(policy.trainable_variables, gradient, strict=True)}, float(value)


def assert_close(gradients, wanted):
    assert set(gradients) == set(wanted)
    for path, gradient in gradients.items():
        assert np.linalg.norm(wanted[path]) > 0
        np.testing.assert_allclose(gradient, wanted[path], atol=1e-5 * np.linalg.norm(wanted[path]), err_msg=path)


@pytest.mark.parametrize("kl, micro_batch_size", (("exact", None), ("sampled", 4)))
def test_the_teacher_alone(policy, teacher_policy, texts, batch, one_batch, kl, micro_batch_size):
    """Equal to the KL of full logits, in one batch and in micro-batches whose rows share prompts; without a reward."""
    model = GRPOModel(policy, micro_batch_size, teacher=Teacher(teacher_policy, temperature=0.9, kl=kl))
    zeros = batch | {"advantages": np.zeros(8, "f4"), "has_signal": np.zeros(8, "f4")}
    gradient, logs = update(model, zeros, one_batch, teacher_coef=0.5, surrogate_coef=0.0)
    wanted, value = dense_update(policy, teacher_policy, texts, batch, kl, 0.9)
    assert_close(gradient, {path: g / 2 for path, g in wanted.items()})
    assert logs["teacher_kl"] == pytest.approx(value, rel=1e-5)
    assert logs["loss"] == pytest.approx(value / 2, rel=1e-5)


def test_the_policy_itself_reads_a_hint_beside_the_reward(policy, texts, batch, one_batch):
    """Another prompt, longer ones than the policy's. The gradient is the sum of both; rewards times 0 do not matter."""
    rng, columns = np.random.default_rng(4), np.arange(9)
    ids = rng.integers(1, 200, (2, 9)).astype("int32").repeat(4, axis=0)
    mask = (columns >= np.array([[1], [4]]).repeat(4, axis=0)).astype("int32")
    hinted = batch | {"teacher_prompt_ids": ids * mask, "teacher_prompt_mask": mask}
    model = GRPOModel(policy, 4, teacher=Teacher(hint="{prompt}{solution}", temperature=0.9))
    hinted_texts = [np.hstack([x, y[:, 6:]]) for x, y in zip((ids * mask, mask), texts, strict=True)]
    wanted, _ = dense_update(policy, policy, texts, batch, "exact", 0.9, hinted_texts)
    alone, _ = update(model, hinted, one_batch, teacher_coef=0.5, surrogate_coef=0.0)
    assert_close(alone, {path: g / 2 for path, g in wanted.items()})
    reward, _ = update(model, batch, one_batch)
    both, _ = update(model, hinted, one_batch, teacher_coef=0.5)
    assert_close(both, {path: g + alone[path] for path, g in reward.items()})


def test_who_teaches_itself_without_a_hint_learns_nothing(policy, batch, one_batch):
    model = GRPOModel(policy, teacher=Teacher(hint="{prompt}{solution}"))
    ones = batch | {"temperature": np.ones(8, "float32")}  # without prompts of its own, the teacher reads the policy's
    gradient, logs = update(model, ones, one_batch, teacher_coef=1.0, surrogate_coef=0.0)
    assert logs["teacher_kl"] == pytest.approx(0.0, abs=1e-6)
    assert max(np.abs(g).max() for g in gradient.values()) < 1e-6


# === What a teacher is, and which are refused ===


def test_a_teacher_is_frozen_and_in_no_weights_of_the_policy(policy, teacher_policy):
    model = GRPOModel(policy, teacher=Teacher(teacher_policy))
    model.compile("adam", loss=GRPOLoss(teacher_coef=1.0))
    assert not teacher_policy.trainable_variables and policy.trainable_variables
    own, others = ({id(v) for v in x.variables} for x in (policy, teacher_policy))
    assert others <= {id(v) for v in model.non_trainable_variables}
    assert own <= {id(v) for v in model.variables} and not others & {id(v) for v in model.variables}
    assert not others & {id(v) for v in (*model.trainable_variables, *model.optimizer.variables)}


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(temperature=0.0), "`temperature` must be a finite number above 0. Received: temperature=0.0"),
        (dict(kl="forward"), "`kl` must be one of 'exact', 'sampled'. Received: kl='forward'"),
        (dict(hint="{prompt}"), "`hint` must have {prompt}, {solution} and no other braces"),
        (dict(hint="{prompt}{solution}{0}"), "Received: hint='{prompt}{solution}{.}'"),
        (dict(hint="{prompt}{solution} {prompt.upper}"), "`hint` must have {prompt}"),
        (dict(hint="{prompt}{solution"), "no other braces. Received: hint='{prompt}{solution'"),
        (dict(), "`hint` must be given if the policy is its own teacher"),
    ],
)
def test_what_a_teacher_refuses(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Teacher(**settings)


def test_vocabularies_that_differ_are_refused(make_policy, policy):
    other, narrow = make_policy("gemma", num_layers=1), make_policy("gemma", num_layers=1)
    other.preprocessor = type(other.preprocessor)(tiny_tokenizer("gemma", ["<a>", "<b>", "<c>"]), sequence_length=9)
    with pytest.raises(ValueError, match=r"piece \d+ is '<a>' and .*, \d+ and \d+ pieces, of .*teacher.* and .*policy"):
        GRPOModel(policy, teacher=Teacher(other))
    wide = make_policy("gemma", num_layers=1, vocabulary_size=policy.backbone.vocabulary_size + 3)
    with pytest.raises(ValueError, match='kl="sampled" also takes a teacher of wider ones. Received: '):
        GRPOModel(policy, teacher=Teacher(wide))
    GRPOModel(policy, teacher=Teacher(wide, kl="sampled"))
    with pytest.raises(ValueError, match="The exact KL needs logits of one width"):
        GRPOModel(wide, teacher=Teacher(narrow, kl="sampled"))
    with pytest.raises(ValueError, match="`teacher` must be another model, or Teacher"):
        GRPOModel(wide, teacher=Teacher(wide))
    with pytest.raises(ValueError, match="`teacher_coef` needs a teacher: .* Received: teacher=None, teacher_coef=0.5"):
        GRPOModel(other).compile(loss=GRPOLoss(teacher_coef=0.5))
