"""`RolloutCallback` in a real `fit` of a tiny random model."""

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.evaluation.behaviours import mean_behaviours
from keras_aha.evaluation.tables import BEHAVIOURS
from keras_aha.losses import GRPOLoss
from keras_aha.models.special_tokens import stop_token_ids
from keras_aha.tasks.task import Score
from keras_aha.training.ask import TaskError
from keras_aha.training.curriculum import Curriculum
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.micro_batches import micro_batches

import jax
import keras
import numpy as np
import pytest
from digit_hunt import COUNTDOWN, DigitHunt

STOPS = tuple("abcdefghijklmnop")
SAMPLING = dict(top_k=50, top_p=0.9, min_p=0.01, stop_strings=("e",), max_rows=4, quantization="int8")
SETTINGS = dict(prompts_per_epoch=2, group_size=4, max_completion_length=8, temperature=0.9, stop_tokens=STOPS, seed=5)
TASK = DigitHunt(**COUNTDOWN)


class HalfFlat(DigitHunt):
    """Half of the problems earn the same, whatever is written."""

    def score(self, problem, completion):
        return super().score(problem, completion) if problem.target % 2 else Score(0.3, False, "wrong_value")


@pytest.fixture(scope="module")
def model(make_policy):
    """With fresh adapters, compiled; whoever trains it brings it back with `fit`."""
    model = GRPOModel(make_policy("gemma", lora_rank=2, fresh_adapters=True), micro_batch_size=4)
    model.compile(keras.optimizers.Adam(1e-2), loss=GRPOLoss(kl_coef=0.1))
    return model


@pytest.fixture(scope="module")
def fit(model):
    """A function: trains and returns `(callback, rollouts, logs)`; from the same weights, unless it begins later."""
    variables = [*model.policy.variables, *model.optimizer.variables]
    start = [np.asarray(variable) for variable in variables]

    def run(epochs, *before, task=TASK, first=0, **settings):
        if not first:
            for variable, value in zip(variables, start, strict=True):
                variable.assign(value)
        callback, rollouts = RolloutCallback(task, **SETTINGS, **settings), []
        keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rollouts.append(model.rollout))
        late = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epoch or jax.jit(lambda x: x + 1)(0))
        callbacks = [*before, callback, keep, late]
        logs = model.fit(callback.dataset, initial_epoch=first, epochs=epochs, callbacks=callbacks, verbose=0).history
        return callback, rollouts, logs

    return run


@pytest.fixture(scope="module")
def trained(fit):
    """With an evaluation in each epoch, and a curriculum."""
    evaluation = EvaluateCallback(TASK.held_out(5), rollouts=RolloutCallback(TASK, **SETTINGS), samples=2, every=1)
    return fit(3, evaluation, task=HalfFlat(**COUNTDOWN), curriculum=0.1)


def begin(model, task=TASK, **settings):
    """`(rollout, logs)` as `fit` would make them at this moment, without training."""
    callback, logs = RolloutCallback(task, **SETTINGS | settings), {}
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, logs)
    callback.on_train_end()
    return model.rollout, logs


def test_groups_share_their_prompts_in_what_is_trained_on(trained):
    callback, rollouts, _ = trained
    callback._hand_over(rollouts[-1])  # as at the begin of its epoch; after training the dataset is empty
    parts = micro_batches(callback.dataset.batch, 4)
    assert parts["prompt_ids"].shape[:2] == (2, 1) and parts["completion_ids"].shape == (2, 4, 8)
    given = np.dstack([np.repeat(parts["prompt_ids"], 4, axis=1), parts["completion_ids"]])
    assert sorted(map(bytes, np.concatenate(given))) == sorted(map(bytes, rollouts[-1].token_ids))


def test_fields_of_the_rollout(trained, model):
    stops, task = stop_token_ids(model.tokenizer, STOPS), HalfFlat(**COUNTDOWN)
    for rollout in trained[1]:
        prompt_length = rollout.token_ids.shape[1] - 8
        assert len(rollout.token_ids) == 8 and prompt_length % 16 == 0 and rollout.old_log_probs.shape == (8, 8)
        assert rollout.sampler_log_probs is rollout.old_log_probs
        assert rollout.token_ids.dtype == rollout.padding_mask.dtype == "int32"
        assert rollout.completion_mask.dtype == rollout.old_log_probs.dtype == rollout.advantages.dtype == "float32"
        np.testing.assert_array_equal(rollout.temperature, np.full(8, 0.9, "float32"))
        for row in range(8):
            prompt, mask = rollout.token_ids[row, :prompt_length], rollout.padding_mask[row, :prompt_length]
            assert (np.diff(mask) >= 0).all() and not prompt[mask == 0].any()
            assert prompt[mask > 0][0] == model.tokenizer.start_token_id
            assert model.tokenizer.detokenize(prompt[mask > 0][1:].tolist()) == task.prompt(rollout.problems[row])
            ids, trained_on = rollout.token_ids[row, prompt_length:], rollout.completion_mask[row] > 0
            hits = np.flatnonzero(np.isin(ids, stops))
            length = hits[0] + 1 if len(hits) else 8  # the stop token is trained on, what follows is not
            signal = len(set(rollout.rewards[row // 4 * 4 : row // 4 * 4 + 4])) > 1
            np.testing.assert_array_equal(rollout.padding_mask[row, prompt_length:], np.arange(8) < length)
            np.testing.assert_array_equal(trained_on, np.arange(8) < length)  # for the KL, all
            assert rollout.has_signal[row] == signal and (signal or rollout.advantages[row] == 0)
            assert (rollout.old_log_probs[row, :length] < 0).all() and not rollout.old_log_probs[row, length:].any()
            assert rollout.truncated[row] == (len(hits) == 0)
            assert rollout.texts[row] == model.tokenizer.detokenize(ids[: length - (len(hits) > 0)].tolist())
            assert rollout.scores[row] == task.score(rollout.problems[row], rollout.texts[row])
            assert rollout.rewards[row] == np.float32(rollout.scores[row].reward)
    assert 0 < np.mean([rollout.truncated for rollout in trained[1]]) < 1


def test_settings_reach_the_sampler(model, monkeypatch):
    seen, generate = {}, model.generate
    monkeypatch.setattr(model, "generate", lambda *x, **settings: seen.update(settings) or generate(*x, **seen))
    rollout, _ = begin(model, **SAMPLING)
    assert {"prompts_per_epoch": 2} | seen == seen | SAMPLING | SETTINGS
    stopped = ["e" in text for text in rollout.texts]
    assert any(stopped) and not rollout.truncated[stopped].any()


def test_prompts_of_all_epochs_have_one_length(model, monkeypatch):
    """That of the longest to come, in the last epoch, which must not be too long."""

    class Growing(DigitHunt):
        def problem(self, index):
            return "x" * (5 * index)

        def prompt(self, problem):
            return problem

    seen = []
    monkeypatch.setattr(model, "generate", lambda token_ids, padding_mask, **_: seen.append(token_ids.shape) or 1 / 0)
    rollouts = RolloutCallback(Growing(num_numbers=3), **SETTINGS)
    with pytest.raises(ZeroDivisionError):
        model.fit(rollouts.dataset, epochs=5, callbacks=[rollouts], verbose=0)
    assert seen == [(2, 48)]  # 45 letters of problem 9 and the begin-token
    assert rollouts.get_state() == {"prompt_length": 48, "teacher_prompt_length": 0, "level": 0.0}
    rollouts.set_state({"prompt_length": 64, "level": 0.5})
    assert rollouts.get_state() == {"prompt_length": 64, "teacher_prompt_length": 0, "level": 0.5}
    with pytest.raises(TaskError, match="has 6 tokens, more than.*Received: max_prompt_length=5, problem 1: 'xxxxx'"):
        begin(model, Growing(num_numbers=3), max_prompt_length=5)


class LateTrouble(DigitHunt):
    """Problem n cannot be drawn, the next has a conversation for a prompt, and the next a long one."""

    def __init__(self, n=4):
        self.n = n
        super().__init__(**COUNTDOWN)

    def problem(self, index):
        return 1 / 0 if index == self.n else super().problem(index)

    def prompt(self, problem):
        late = {self.problem(self.n + 1): [{"role": "user"}], self.problem(self.n + 2): "x" * 600}
        return late.get(problem) or super().prompt(problem)


@pytest.mark.parametrize("n, settings", [(4, {}), (12, dict(curriculum=0.5, refills=1))])
def test_a_problem_that_cannot_be_used_costs_its_place(fit, monkeypatch, n, settings):
    """An earlier one, of half its number, is in it; nothing is compiled again, and the history says how many."""
    monkeypatch.setattr("keras_aha.callbacks.rollout_callback._AHEAD", 4)
    with pytest.warns(UserWarning, match="takes the place of each that cannot be used") as caught:
        _, rollouts, logs = fit(4, task=LateTrouble(n), **settings)
    said = [str(entry.message) for entry in caught if "place" in str(entry.message)]
    assert len(said) == sum(map(bool, logs["left_out_problems"]))
    assert "`LateTrouble.problem` must return a problem" in said[0] and "ZeroDivisionError" in said[0]
    if settings:
        assert logs["left_out_problems"] == [0, 3, 0, 0]
    else:
        assert logs["left_out_problems"] == [0, 0, 2, 1] and logs["compiles"][1:] == [0, 0, 0]
        third, fourth = ([rollout.problems[i] for i in (0, 4)] for rollout in rollouts[2:])
        assert third == [TASK.problem(2)] * 2 and fourth == [TASK.problem(3), TASK.problem(7)]


def test_all_problems_of_a_list_are_looked_at_before_training(model, monkeypatch):
    """Though they come in no epoch of this `fit`; and the last number of all, which the user's own list may lack."""
    monkeypatch.setattr(model, "generate", None)
    task = LateTrouble()
    task.problem_count = lambda: 6
    with pytest.raises(TaskError, match="`LateTrouble.problem` must return.*ZeroDivisionError.* in line .*, for 4"):
        begin(model, task)
    monkeypatch.setattr("keras_aha.callbacks.rollout_callback._AHEAD", 1)
    task = DigitHunt(**COUNTDOWN)
    task.problem = list(map(task.problem, range(3))).__getitem__
    callback = RolloutCallback(task, **SETTINGS)
    callback.look_at_prompts(model.tokenizer, epochs=1)
    with pytest.raises(TaskError, match="a problem for each number from 0 on.*IndexError.*, for 3"):
        callback.look_at_prompts(model.tokenizer, epochs=2)
    drawn, callback = [], RolloutCallback(task, **SETTINGS, refills=2)
    monkeypatch.setattr(callback.prompts, "look_at", lambda tokenizer, numbers: drawn.extend(numbers))
    callback.look_at_prompts(model.tokenizer, epochs=2)
    assert drawn == [0, 3, 2**32, 2**32 + 15]  # the first and the last, of two epochs and of their four refills


def test_rewards_and_masks_are_those_of_the_arguments(model):
    """Overlong completions lose reward, truncated ones can be left out, a failure costs one completion."""
    plain, _ = begin(model, advantage_scale="batch", advantage_baseline="leave_one_out")
    groups = plain.rewards.reshape(2, 4)  # of the other three the mean is a third farther away
    advantages = 4 / 3 * (groups - groups.mean(1, keepdims=True)) / (1e-6 + plain.rewards.std())
    np.testing.assert_allclose(plain.advantages, advantages.ravel(), atol=1e-4)
    rollout, logs = begin(model, overlong_buffer=4)
    penalties = [{5: -0.25, 6: -0.5, 7: -0.75, 8: -1.0}.get(length, 0.0) for length in plain.lengths]
    assert len(set(penalties)) > 1
    np.testing.assert_allclose(rollout.rewards, plain.rewards + penalties, atol=1e-6)
    assert logs["overlong_penalty"] == pytest.approx(np.mean(penalties))
    masked, _ = begin(model, mask_truncated=True)
    assert plain.truncated.any() and not plain.truncated.all()
    np.testing.assert_array_equal(masked.completion_mask, plain.completion_mask * ~plain.truncated[:, None])
    control, _ = begin(model, shuffle_rewards=True, advantage_scale=None)
    order = np.random.default_rng((SETTINGS["seed"], int(model.optimizer.iterations)))
    shuffled = order.permutation(plain.rewards).reshape(2, 4)
    assert (shuffled != groups).any() and control.rewards.tolist() == plain.rewards.tolist()
    np.testing.assert_allclose(control.advantages, (shuffled - shuffled.mean(1, keepdims=True)).ravel(), atol=1e-6)
    rewards = {"length": (lambda problem, text: len(text) if text != plain.texts[5] else float("nan"), 0.1)}
    with pytest.warns(UserWarning, match="The reward 'length' returned nan, which is no finite number") as caught:
        rollout, logs = begin(model, rewards=rewards)
    assert len(caught) == 1 and logs["failed_rewards"] == 1 / 8
    assert np.isnan(rollout.rewards).tolist() == [False] * 5 + [True] + [False] * 2
    assert rollout.advantages[5] == 0.0 and rollout.has_signal[4:].tolist() == [1, 0, 1, 1]
    assert [part["reward_length"] for part in rollout.parts[:2]] == [len(text) for text in rollout.texts[:2]]
    group = rollout.rewards[[4, 6, 7]]
    np.testing.assert_allclose(rollout.advantages[[4, 6, 7]], (group - group.mean()) / group.std(), rtol=1e-4)


class Flat(DigitHunt):
    """All completions earn the same."""

    def score(self, problem, completion):
        return Score(0.3, False, "wrong_value")


@pytest.mark.parametrize("loss", ({}, dict(kl_coef=0.1), dict(entropy_coef=0.1)), ids=str)
def test_what_nothing_counts_in_is_no_log(make_policy, loss):
    """Without an advantage there is no ratio; without a KL or an entropy in the loss, nothing is computed at all."""
    model = GRPOModel(make_policy("gemma", lora_rank=2, num_layers=1))
    model.compile(keras.optimizers.SGD(1e-2), loss=GRPOLoss(**loss))
    rollouts = RolloutCallback(Flat(**COUNTDOWN), **SETTINGS)
    logs = model.fit(rollouts.dataset, callbacks=[rollouts], verbose=0).history
    tokens, weights = {"entropy", "sampler_gap"}, {"kl"} if "kl_coef" in loss else set()
    assert {"ratio", "clip_fraction", *tokens, "kl"} & logs.keys() == (tokens | weights if loss else set())
    assert (logs["grad_norm"][0] > 0) == bool(loss) and logs["zero_std_groups"] == [1.0]
    assert logs["learning_rate"] == [pytest.approx(1e-2)]
    if loss:  # those of all tokens that were sampled
        batch = model.rollout
        tokens = batch.padding_mask[:, -8:].sum()
        assert batch.completion_mask.sum() == tokens and not batch.has_signal.any()
        assert 0.1 < logs["entropy"][0] < 10 and logs.get("kl", [1.0])[0] > 0


def test_failures_that_end_the_run(model):
    """An epoch of nothing else; the first one, if that is asked for."""
    rewards = {"x": (lambda problem, completion: None, 1.0)}
    with pytest.raises(RuntimeError, match="nothing to learn from: The reward 'x'"), pytest.warns(UserWarning):
        begin(model, rewards=rewards)
    with pytest.raises(RuntimeError, match='on_reward_error is "stop": The reward .x. returned None'):
        begin(model, rewards=rewards, on_reward_error="stop")


def test_a_cap_on_importance_weights_asks_the_trainer(model, fit, monkeypatch):
    """For the log-probs of the full weights, where the sampler's are of 8 bits; nothing is compiled again for it."""
    plain, _ = begin(model, **SAMPLING)
    monkeypatch.setattr(model, "grpo_loss", GRPOLoss(kl_coef=0.1, importance_cap=2.0))
    rollout, logs = begin(model, **SAMPLING)
    np.testing.assert_array_equal(rollout.sampler_log_probs, plain.sampler_log_probs)
    trainers = model.log_probs(rollout.token_ids, rollout.padding_mask, 8, 0.9)
    tokens = rollout.padding_mask[:, -8:] > 0
    np.testing.assert_allclose(rollout.old_log_probs, np.where(tokens, trainers, 0.0), atol=1e-6)
    gap = np.abs(trainers - plain.sampler_log_probs)[tokens].mean()
    assert logs["sampler_gap"] == pytest.approx(gap, rel=1e-3) and gap > 1e-4
    assert fit(3)[2]["compiles"][1:] == [0, 0]


class Dull(DigitHunt):
    """One prompt for all problems, of which the two of the second epoch earn nothing, whatever is written."""

    def __init__(self):
        super().__init__(**COUNTDOWN)
        self.written = []

    def prompt(self, problem):
        return "Use 3 9 12 each once to make 24."

    def score(self, problem, completion):
        self.written.append(completion)
        dull = problem in (self.problem(2), self.problem(3))
        return Score(0.0, False, "wrong_value") if dull else super().score(problem, completion)


@pytest.fixture(scope="module")
def refilled(fit):
    """Three epochs, of which the second has something to refill."""
    task = Dull()
    return task, *fit(3, task=task, refills=2)[1:]


def test_only_groups_without_signal_are_refilled(refilled):
    task, (first, second, third), logs = refilled
    groups = list(zip(*[iter(task.written)] * 4, strict=True))
    assert len(groups) > 6 and len(set(groups)) == len(groups)  # refills draw with keys of their own
    assert (logs["zero_std_groups"], logs["refilled_groups"]) == ([0.0, 1.0, 0.0], [0, 2, 0])
    assert logs["refill_tokens"] == [0, second.lengths.sum(), 0]
    assert [logs["generated_tokens"][epoch] for epoch in (0, 2)] == [first.lengths.sum(), third.lengths.sum()]
    pools = [[task.problem(2**32 + 8 + 4 * i + j) for j in range(4)] for i in range(2)]
    assert second.problems[0] in pools[0] and second.problems[4] in pools[1]
    # All eight earned nothing, and those that took their places something: the curve does not flatter.
    assert logs["reward"][1] == 0.0 and second.rewards.any() and logs["generated_tokens"][1] > second.lengths.sum()
    assert (second.completion_mask.sum(axis=1) == second.lengths).all() and second.advantages.any()
    assert logs["compiles"][1:] == [0, 0]  # though the first epoch needed none


def test_a_run_that_goes_on_is_the_same(refilled, fit):
    """Stopped after each epoch, and gone on with by another callback: the problems, the draws and the logs."""
    _, rollouts, logs = refilled
    for epoch in range(3):
        _, (again,), new_logs = fit(epoch + 1, task=Dull(), first=epoch, refills=2)
        for name, values in logs.items():
            if "second" not in name and name != "compiles":
                assert new_logs[name] == [values[epoch]], name
        for name, array in again.batch().items():
            np.testing.assert_array_equal(array, rollouts[epoch].batch()[name])
        assert again.problems == rollouts[epoch].problems


def test_a_curriculum(trained):
    callback, rollouts, logs = trained
    curriculum = Curriculum(TASK, 2, 0.1)
    for i, rollout in enumerate(rollouts):
        problems = curriculum.choose(curriculum.pool(i))
        assert [rollout.problems[0], rollout.problems[4]] == problems
        told = curriculum.update(problems, logs["accuracy"][i])
        assert {name: logs[name][i] for name in told} == told
    assert callback.get_state()["level"] == curriculum.level > 0


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
    assert 0 < np.mean(logs["zero_std_groups"]) < 1 and min(logs["tokens_per_second"] + logs["rollout_seconds"]) > 0
    # Sampler and trainer are two programs, merged adapters and not: they agree to float32 rounding.
    np.testing.assert_allclose(logs["ratio"], 1.0, atol=1e-5)
    np.testing.assert_allclose(logs["sampler_gap"], 0.0, atol=1e-5)
    assert logs["clip_fraction"] == [0.0] * 3
    assert logs["kl"][0] == pytest.approx(0.0, abs=1e-5)  # fresh adapters: the policy is the reference
    # Nothing is compiled again, by evaluations neither, and whatever the lengths of completions.
    assert logs["compiles"][0] > 0 and logs["compiles"][1:] == [0, 0]
    assert len(logs["val_greedy_accuracy"]) == 3 and len(set(logs["completion_length"])) > 1


def test_several_updates_on_one_rollout(fit, model):
    """The iteration counts rollouts, not updates: as many problems ahead as epochs, whatever the updates."""
    _, rollouts, logs = fit(2, updates_per_rollout=2)
    assert model.optimizer.iterations == 4
    problems = [rollout.problems[i] for rollout in rollouts for i in (0, 4)]
    assert problems == [TASK.problem(i) for i in range(4)]
    assert all(gap > 1e-5 for gap in logs["sampler_gap"])  # the second update has left the old policy


def test_settings_are_checked_before_the_first_rollout(model, monkeypatch):
    for name, value in {"group_size": 1, "temperature": 0.0, "advantage_baseline": None}.items():
        with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}={value}"):
            RolloutCallback(TASK, **SETTINGS | {name: value})
    monkeypatch.setattr(model, "micro_batch_size", 3)
    monkeypatch.setattr(model, "generate", None)
    with pytest.raises(ValueError, match="the 8 rows of a step: choose 2 or 4. Received: micro_batch_size=3"):
        begin(model)
