"""`RolloutCallback` in a real `fit` of a tiny random model."""

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.evaluation.behaviours import mean_behaviours
from keras_aha.evaluation.tables import BEHAVIOURS
from keras_aha.losses import GRPOLoss
from keras_aha.models.special_tokens import stop_token_ids
from keras_aha.tasks.task import Score
from keras_aha.training.grpo_model import GRPOModel

import jax
import keras
import numpy as np
import pytest
from digit_hunt import COUNTDOWN, DigitHunt

STOPS = tuple("abcdefghijklmnop")
SAMPLING = dict(top_k=50, top_p=0.9, min_p=0.01, stop_strings=("e",), max_rows=4, quantization="int8")
SETTINGS = dict(prompts_per_epoch=2, group_size=4, max_completion_length=8, temperature=0.9, stop_tokens=STOPS, seed=5)


class Recorder(keras.callbacks.Callback):
    """Keeps each epoch's rollout, and compiles something at the end of the first epoch."""

    def on_train_begin(self, logs=None):
        self.rollouts = []

    def on_epoch_end(self, epoch, logs=None):
        self.rollouts.append(self.model.rollout)
        if epoch == 0:
            jax.jit(lambda x: x + 1)(0)


class HalfFlat(DigitHunt):
    """Half of the problems earn the same, whatever is written."""

    def score(self, problem, completion):
        return super().score(problem, completion) if problem.target % 2 else Score(0.3, False, "wrong_value")


@pytest.fixture(scope="module")
def task():
    return DigitHunt(**COUNTDOWN)


@pytest.fixture(scope="module")
def model(make_policy):
    """With fresh adapters, compiled; whoever trains it brings it back with `fit`."""
    model = GRPOModel(make_policy("gemma", lora_rank=2, fresh_adapters=True), micro_batch_size=4)
    model.compile(keras.optimizers.Adam(1e-2), loss=GRPOLoss(kl_coef=0.1))
    return model


@pytest.fixture(scope="module")
def fit(model, task):
    """A function: trains and returns `(callback, rollouts, logs)`; from the same weights, unless it begins later."""
    variables = [*model.policy.variables, *model.optimizer.variables]
    start = [np.asarray(variable) for variable in variables]

    def run(epochs, *before, task=task, first=0, **settings):
        if not first:
            for variable, value in zip(variables, start, strict=True):
                variable.assign(value)
        callback, recorder = RolloutCallback(task, **SETTINGS, **settings), Recorder()
        callbacks = [*before, callback, recorder]
        logs = model.fit(callback.dataset, initial_epoch=first, epochs=epochs, callbacks=callbacks, verbose=0).history
        return callback, recorder.rollouts, logs

    return run


@pytest.fixture(scope="module")
def trained(fit, task):
    """With an evaluation in each epoch."""
    rollouts = RolloutCallback(task, **SETTINGS)
    return fit(3, EvaluateCallback(task.held_out(5), rollouts=rollouts, samples=2, every=1), task=HalfFlat(**COUNTDOWN))


def begin(model, task, **settings):
    """`(rollout, logs)` as `fit` would make them at this moment, without training."""
    callback, logs = RolloutCallback(task, **SETTINGS | settings), {}
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, logs)
    callback.on_train_end()
    return model.rollout, logs


# === The rollout ===


def test_fields_of_the_rollout(trained, model):
    stops, task = stop_token_ids(model.tokenizer, STOPS), HalfFlat(**COUNTDOWN)
    for rollout in trained[1]:
        prompt_length = rollout.token_ids.shape[1] - 8
        assert prompt_length % 16 == 0
        assert rollout.token_ids.shape == rollout.padding_mask.shape == (8, prompt_length + 8)
        assert rollout.completion_mask.shape == rollout.old_log_probs.shape == (8, 8)
        assert rollout.sampler_log_probs is rollout.old_log_probs
        assert rollout.token_ids.dtype == rollout.padding_mask.dtype == "int32"
        assert rollout.completion_mask.dtype == rollout.old_log_probs.dtype == rollout.advantages.dtype == "float32"
        np.testing.assert_array_equal(rollout.temperature, np.full(8, 0.9, "float32"))
        for row in range(8):
            prompt, mask = rollout.token_ids[row, :prompt_length], rollout.padding_mask[row, :prompt_length]
            assert (np.diff(mask) >= 0).all() and not prompt[mask == 0].any()
            assert prompt[mask > 0][0] == model.tokenizer.start_token_id
            text = model.tokenizer.detokenize(prompt[mask > 0][1:].tolist())
            assert text == task.prompt(rollout.problems[row])
            ids, trained_on = rollout.token_ids[row, prompt_length:], rollout.completion_mask[row] > 0
            hits = np.flatnonzero(np.isin(ids, stops))
            length = hits[0] + 1 if len(hits) else 8  # the stop token is trained on, what follows is not
            signal = len(set(rollout.rewards[row // 4 * 4 : row // 4 * 4 + 4])) > 1
            np.testing.assert_array_equal(rollout.padding_mask[row, prompt_length:], np.arange(8) < length)
            np.testing.assert_array_equal(trained_on, (np.arange(8) < length) & signal)
            assert signal or rollout.advantages[row] == 0
            assert (rollout.old_log_probs[row, :length] < 0).all() and not rollout.old_log_probs[row, length:].any()
            assert rollout.truncated[row] == (len(hits) == 0)
            assert rollout.texts[row] == model.tokenizer.detokenize(ids[: length - (len(hits) > 0)].tolist())
            assert rollout.scores[row] == task.score(rollout.problems[row], rollout.texts[row])
            assert rollout.rewards[row] == np.float32(rollout.scores[row].reward)
    assert 0 < np.mean([rollout.truncated for rollout in trained[1]]) < 1
    texts = [text for rollout in trained[1] for text in rollout.texts]
    assert len(set(texts)) > 0.8 * len(texts)


def test_settings_reach_the_sampler(model, task, monkeypatch):
    seen, generate = {}, model.generate

    def spy(token_ids, padding_mask, **settings):
        seen.update(settings)
        return generate(token_ids, padding_mask, **{**settings, "warm_up": False})

    monkeypatch.setattr(model, "generate", spy)
    rollout, _ = begin(model, task, **SAMPLING)
    assert {"prompts_per_epoch": 2} | seen == seen | SAMPLING | SETTINGS
    stopped = ["e" in text for text in rollout.texts]
    assert any(stopped) and not rollout.truncated[stopped].any()


class Numbered(DigitHunt):
    """Problems are numbers, and have one prompt."""

    def problem(self, index):
        return index

    def prompt(self, problem):
        return "Use 3 9 12 each once to make 24."

    def difficulty(self, problem):
        return 0


def test_prompts_of_all_epochs_have_one_length(model, monkeypatch):
    """That of the longest to come, in the last epoch, which must not be too long."""

    class Growing(Numbered):
        def prompt(self, problem):
            return "x" * (5 * problem)

    seen = []
    monkeypatch.setattr(model, "generate", lambda token_ids, padding_mask, **_: seen.append(token_ids.shape) or 1 / 0)
    rollouts = RolloutCallback(Growing(num_numbers=3), **SETTINGS)
    with pytest.raises(ZeroDivisionError):
        model.fit(rollouts.dataset, epochs=5, callbacks=[rollouts], verbose=0)
    assert seen == [(2, 48)]  # 45 letters of problem 9 and the begin-token
    other = RolloutCallback(Growing(num_numbers=3), **SETTINGS)
    other.set_state(rollouts.get_state())
    assert other.get_state() == {"prompt_length": 48, "level": 0.0}
    with pytest.raises(ValueError, match="max_prompt_length=5 tokens. Received: 6 tokens"):
        begin(model, Growing(num_numbers=3), max_prompt_length=5)


# === Rewards ===


def test_rewards_and_masks_are_those_of_the_arguments(model, task):
    """Overlong completions lose reward, truncated ones can be left out, a failure costs one completion."""
    plain, _ = begin(model, task, advantage_scale="batch", advantage_baseline="leave_one_out")
    groups = plain.rewards.reshape(2, 4)  # of the other three the mean is a third farther away
    advantages = 4 / 3 * (groups - groups.mean(1, keepdims=True)) / (1e-6 + plain.rewards.std())
    np.testing.assert_allclose(plain.advantages, advantages.ravel(), atol=1e-4)
    rollout, logs = begin(model, task, overlong_buffer=4)
    penalties = [{5: -0.25, 6: -0.5, 7: -0.75, 8: -1.0}.get(length, 0.0) for length in plain.lengths]
    assert len(set(penalties)) > 1
    np.testing.assert_allclose(rollout.rewards, plain.rewards + penalties, atol=1e-6)
    assert logs["overlong_penalty"] == pytest.approx(np.mean(penalties))
    assert logs["task_reward"] == pytest.approx(plain.rewards.mean())

    masked, _ = begin(model, task, mask_truncated=True)
    assert plain.truncated.any() and not plain.truncated.all()
    expected = np.where(plain.truncated[:, None], 0.0, plain.completion_mask)
    np.testing.assert_array_equal(masked.completion_mask, expected)
    np.testing.assert_array_equal(masked.padding_mask, plain.padding_mask)

    failing = plain.texts[5]

    def length(problem, completion):
        return len(completion) if completion != failing else float("nan")

    with pytest.warns(UserWarning, match="The reward 'length' returned nan, which is no finite number") as caught:
        rollout, logs = begin(model, task, rewards={"length": (length, 0.1)})
    assert len(caught) == 1 and repr(failing) in str(caught[0].message)
    expected = plain.rewards + 0.1 * np.array([len(text) for text in plain.texts])
    expected[5] = np.nan
    np.testing.assert_allclose(rollout.rewards, expected, rtol=1e-6)
    assert rollout.advantages[5] == 0.0 and not rollout.completion_mask[5].any()
    group = expected[[4, 6, 7]]
    np.testing.assert_allclose(rollout.advantages[[4, 6, 7]], (group - group.mean()) / group.std(), rtol=1e-4)
    assert (rollout.completion_mask[[4, 6, 7]].sum(axis=1) > 0).all()
    assert logs["failed_rewards"] == 1 / 8 and logs["reward"] == pytest.approx(np.nanmean(expected))


def test_failures_that_end_the_run(fit):
    """An epoch of nothing else; the first one, if that is asked for."""

    with pytest.warns(UserWarning, match="None"):
        with pytest.raises(RuntimeError, match="nothing to learn from: The reward 'x' returned None"):
            fit(2, rewards={"x": (lambda problem, completion: None, 1.0)})
    with pytest.raises(RuntimeError, match='on_reward_error is "stop": The reward .x. raised KeyError'):
        fit(2, rewards={"x": (lambda problem, completion: {}[completion], 1.0)}, on_reward_error="stop")


def test_a_cap_on_importance_weights_asks_the_trainer(model, task, fit, monkeypatch):
    """For the log-probs of the full weights, where the sampler's are of 8 bits; nothing is compiled again for it."""
    plain, _ = begin(model, task, **SAMPLING)
    monkeypatch.setattr(model, "grpo_loss", GRPOLoss(kl_coef=0.1, importance_cap=2.0))
    rollout, logs = begin(model, task, **SAMPLING)
    np.testing.assert_array_equal(rollout.sampler_log_probs, plain.sampler_log_probs)
    trainers = model.log_probs(rollout.token_ids, rollout.padding_mask, 8, 0.9)
    tokens = rollout.padding_mask[:, -8:] > 0
    np.testing.assert_allclose(rollout.old_log_probs, np.where(tokens, trainers, 0.0), atol=1e-6)
    gap = np.abs(trainers - plain.sampler_log_probs)[tokens].mean()
    assert logs["sampler_gap"] == pytest.approx(gap, rel=1e-3) and gap > 1e-4
    _, _, logs = fit(3)
    assert logs["compiles"][1:] == [0, 0]
    assert len(set(logs["completion_length"])) > 1


# === Refills, and runs that go on ===


class Dull(DigitHunt):
    """The two problems of the second epoch earn nothing, whatever is written."""

    def score(self, problem, completion):
        dull = problem in (self.problem(2), self.problem(3))
        return Score(0.0, False, "wrong_value") if dull else super().score(problem, completion)


@pytest.fixture(scope="module")
def refilled(fit):
    """Three epochs, of which the second has something to refill."""
    return fit(3, task=Dull(**COUNTDOWN), refills=2)


def test_only_groups_without_signal_are_refilled(refilled, task):
    _, (first, second, third), logs = refilled
    assert logs["zero_std_groups"] == [0.0, 1.0, 0.0]
    assert logs["refilled_groups"] == [0, 2, 0]
    assert [logs["refill_tokens"][epoch] for epoch in (0, 2)] == [0, 0]
    assert [logs["generated_tokens"][epoch] for epoch in (0, 2)] == [first.lengths.sum(), third.lengths.sum()]
    pools = [[task.problem(2**32 + 8 + 4 * i + j) for j in range(4)] for i in range(2)]
    assert second.problems[0] in pools[0] and second.problems[4] in pools[1]
    assert logs["refill_tokens"][1] == second.lengths.sum() < logs["generated_tokens"][1]
    # All eight earned nothing, and those that took their places something: the curve does not flatter.
    assert logs["reward"][1] == 0.0 and second.rewards.any()
    assert [score.reward for score in second.scores] == pytest.approx(second.rewards.tolist())
    assert (second.completion_mask.sum(axis=1) == second.lengths).all() and second.advantages.any()
    assert logs["compiles"][1:] == [0, 0]  # though the first epoch needed none
    shapes = [{name: array.shape for name, array in made.batch().items()} for made in (first, second, third)]
    assert shapes[0] == shapes[1] == shapes[2]


def test_a_run_that_goes_on_is_the_same(refilled, fit):
    """Stopped after each epoch, and gone on with by another callback: the problems, the draws and the logs."""
    _, rollouts, logs = refilled
    for epoch in range(3):
        _, (again,), new_logs = fit(epoch + 1, task=Dull(**COUNTDOWN), first=epoch, refills=2)
        for name, values in logs.items():
            if "second" not in name and name != "compiles":
                assert new_logs[name] == [values[epoch]], name
        for name, array in again.batch().items():
            np.testing.assert_array_equal(array, rollouts[epoch].batch()[name])
        assert again.problems == rollouts[epoch].problems


def test_refills_of_one_prompt_are_other_completions(model):
    """Every problem has the same prompt here, and those before number 2³² earn nothing."""

    class Late(Numbered):
        def score(self, problem, completion):
            return super().score(problem, completion) if problem >= 2**32 else Score(0.0, False, "no_answer")

    task = Late(num_numbers=3)
    (first, _), (rollout, _) = begin(model, task), begin(model, task, refills=2)
    start = 2**32 + 8 * int(model.optimizer.iterations)  # four for each of the rounds before
    assert rollout.problems == (start,) * 4 + (start + 4,) * 4
    assert len({first.texts[:4], first.texts[4:], rollout.texts[:4], rollout.texts[4:]}) == 4


def test_a_curriculum(fit, task):
    callback, rollouts, logs = fit(3, curriculum=0.2)
    levels = [0.0]
    for i, rollout in enumerate(rollouts):
        pool = sorted((task.problem(8 * i + k) for k in range(8)), key=task.difficulty)
        first = round(levels[i] * 6)
        assert [rollout.problems[0], rollout.problems[4]] == pool[first : first + 2]
        assert logs["difficulty"][i] == (task.difficulty(pool[first]) + task.difficulty(pool[first + 1])) / 2
        levels.append(min(max(levels[i] + 0.2 * (logs["accuracy"][i] - 0.2), 0.0), 1.0))
    assert logs["curriculum_level"] == pytest.approx(levels[:3]) and max(levels) > 0
    other = RolloutCallback(task, **SETTINGS, curriculum=0.2)
    other.set_state(callback.get_state())
    assert other.curriculum.level == pytest.approx(levels[3])
    assert logs["compiles"][1:] == [0, 0]


# === Logs ===


def test_logs_describe_the_rollout(trained):
    _, rollouts, logs = trained
    for epoch, rollout in enumerate(rollouts):
        expected = {
            "reward": pytest.approx(rollout.rewards.mean()),
            "accuracy": np.mean([score.correct for score in rollout.scores]),
            "format_rate": np.mean([score.well_formed for score in rollout.scores]),
            "completion_length": rollout.lengths.mean(),
            "truncated": rollout.truncated.mean(),
            "zero_std_groups": np.mean([len(set(group)) == 1 for group in rollout.rewards.reshape(2, 4)]),
            "generated_tokens": rollout.lengths.sum(),
            **mean_behaviours(rollout.texts),
        }
        assert {name: logs[name][epoch] for name in expected} == expected and set(BEHAVIOURS) < set(expected)
        assert logs["tokens_per_second"][epoch] > 0 and logs["rollout_seconds"][epoch] > 0
    assert 0 < np.mean(logs["zero_std_groups"]) < 1
    # Sampler and trainer are two programs, merged adapters and not: they agree to float32 rounding.
    np.testing.assert_allclose(logs["ratio"], 1.0, atol=1e-5)
    np.testing.assert_allclose(logs["sampler_gap"], 0.0, atol=1e-5)
    assert logs["clip_fraction"] == [0.0] * 3
    assert logs["kl"][0] == pytest.approx(0.0, abs=1e-5)  # fresh adapters: the policy is the reference
    # Nothing is compiled again, by evaluations neither, and whatever the lengths of completions.
    assert logs["compiles"][0] > 0 and logs["compiles"][1:] == [0, 0]
    assert len(logs["val_greedy_accuracy"]) == 3 and len(set(logs["completion_length"])) > 1


def test_several_updates_on_one_rollout(fit, model, task):
    """The iteration counts rollouts, not updates: as many problems ahead as epochs, whatever the updates."""
    _, rollouts, logs = fit(2, updates_per_rollout=2)
    assert model.optimizer.iterations == 4
    for epoch, rollout in enumerate(rollouts):
        problems = [task.problem(2 * epoch + i) for i in range(2)]
        assert list(rollout.problems) == [problem for problem in problems for _ in range(4)]
    assert all(gap > 1e-5 for gap in logs["sampler_gap"])  # the second update has left the old policy


# === Errors ===


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(group_size=1), "`group_size` must be 2 or more. Received: group_size=1"),
        (dict(temperature=0.0), "`temperature` must be above 0 in training. Received: temperature=0.0"),
        (dict(advantage_baseline=None), "`advantage_baseline` must be one of 'mean', 'leave_one_out'. Received"),
    ],
)
def test_settings_are_checked_at_once(task, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        RolloutCallback(task, **SETTINGS | wrong)


def test_a_micro_batch_size_that_does_not_divide_is_an_error(model, task, monkeypatch):
    monkeypatch.setattr(model, "micro_batch_size", 3)
    monkeypatch.setattr(model, "generate", None)  # the error comes before the first rollout
    with pytest.raises(ValueError, match="the 8 rows of a step: choose 2 or 4. Received: micro_batch_size=3"):
        begin(model, task)
