"""`RolloutCallback` in a real `fit` of a tiny random model."""

import os
import time

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.evaluation.behaviours import mean_behaviours
from keras_aha.evaluation.tables import BEHAVIOURS
from keras_aha.losses import GRPOLoss
from keras_aha.models.special_tokens import stop_token_ids
from keras_aha.tasks.countdown import Countdown
from keras_aha.tasks.task import Score
from keras_aha.training.grpo_model import GRPOModel

import jax
import keras
import numpy as np
import pytest

STOPS = tuple("abcdefghijklmnop")
SAMPLING = dict(top_k=50, top_p=0.9, min_p=0.01, stop_strings=("e",), max_rows=4, quantization="int8")
SETTINGS = dict(prompts_per_epoch=2, group_size=4, max_completion_length=8, temperature=0.9, stop_tokens=STOPS, seed=5)
EPOCHS = 4


class DigitHunt(Countdown):
    """Countdown's puzzles and prompts, with a reward that a random model earns now and then: digits written."""

    def score(self, problem, completion):
        digits = sum(character.isdigit() for character in completion)
        return Score(min(1.0, digits / 10), digits > 5, "correct" if digits > 5 else "wrong_value")


class Recorder(keras.callbacks.Callback):
    """Keeps each epoch's rollout, and how many programs XLA has compiled at its end."""

    def __init__(self, compiled):
        super().__init__()
        self.compiled, self.rollouts, self.counts = compiled, [], []

    def on_epoch_end(self, epoch, logs=None):
        self.rollouts.append(self.model.rollout)
        self.counts.append(len(self.compiled))


@pytest.fixture(scope="module")
def task():
    return DigitHunt(num_numbers=3, max_number=10, template="compact")


@pytest.fixture(scope="module")
def compiled():
    """A list that grows by an element for each program that XLA compiles."""
    programs = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return programs


@pytest.fixture(scope="module")
def model(make_policy):
    """With fresh adapters, compiled; whoever trains it brings it back with `fit`."""
    model = GRPOModel(make_policy("gemma", lora_rank=2, fresh_adapters=True), micro_batch_size=4)
    model.compile(keras.optimizers.Adam(1e-2), loss=GRPOLoss(kl_coef=0.1))
    return model


@pytest.fixture(scope="module")
def fit(model, task, compiled):
    """A function that trains and returns `(model, callback, recorder, history)`.

    From the same weights each time, unless it goes on with epoch `first`.
    """
    variables = [*model.policy.variables, *model.optimizer.variables]
    start = [np.asarray(variable) for variable in variables]

    def run(epochs, task=task, first=0, **settings):
        if not first:
            for variable, value in zip(variables, start, strict=True):
                variable.assign(value)
        rollouts, recorder = RolloutCallback(task, **SETTINGS, **settings), Recorder(compiled)
        history = model.fit(
            rollouts.dataset, initial_epoch=first, epochs=epochs, callbacks=[rollouts, recorder], verbose=0
        )
        return model, rollouts, recorder, history.history

    return run


@pytest.fixture(scope="module")
def trained(fit):
    return fit(EPOCHS)


def begin(model, task, epoch=0, **settings):
    """A rollout as `fit` would make it at this moment, without training on it."""
    return begin_with_logs(model, task, epoch, **settings)[0]


def begin_with_logs(model, task, epoch=0, **settings):
    callback, logs = RolloutCallback(task, **{**SETTINGS, **settings}), {}
    callback.set_model(model)
    callback.on_epoch_begin(epoch)
    callback.on_epoch_end(epoch, logs)
    return model.rollout, logs


# === The rollout ===


def test_fields_of_the_rollout(trained, task):
    model, _, recorder, _ = trained
    stops = stop_token_ids(model.tokenizer, STOPS)
    for rollout in recorder.rollouts:
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
            group = rollout.rewards[row // 4 * 4 : row // 4 * 4 + 4]
            np.testing.assert_array_equal(rollout.padding_mask[row, prompt_length:], np.arange(8) < length)
            np.testing.assert_array_equal(trained_on, (np.arange(8) < length) & (len(set(group)) > 1))
            assert (rollout.old_log_probs[row, :length] < 0).all() and not rollout.old_log_probs[row, length:].any()
            assert rollout.truncated[row] == (len(hits) == 0)
            assert rollout.texts[row] == model.tokenizer.detokenize(ids[: length - (len(hits) > 0)].tolist())
            assert rollout.scores[row] == task.score(rollout.problems[row], rollout.texts[row])
            assert rollout.rewards[row] == np.float32(rollout.scores[row].reward)
        groups = rollout.advantages.reshape(2, 4)
        np.testing.assert_allclose(groups.sum(axis=1), 0.0, atol=1e-5)
        order = np.argsort(rollout.rewards.reshape(2, 4), axis=1, kind="stable")
        assert (np.diff(np.take_along_axis(groups, order, axis=1), axis=1) >= 0).all()
    assert any(rollout.truncated.any() for rollout in recorder.rollouts)
    assert not all(rollout.truncated.all() for rollout in recorder.rollouts)


def test_each_epoch_has_the_next_problems(trained, task):
    for epoch, rollout in enumerate(trained[2].rollouts):
        problems = [task.problem(2 * epoch + i) for i in range(2)]
        assert list(rollout.problems) == [problem for problem in problems for _ in range(4)]
    texts = [text for rollout in trained[2].rollouts for text in rollout.texts]
    assert len(set(texts)) > 0.8 * len(texts)


def test_dataset_length_is_constant(task, trained):
    assert len(RolloutCallback(task, **SETTINGS).dataset) == len(trained[1].dataset) == 1
    assert len(RolloutCallback(task, updates_per_rollout=3).dataset) == 3


def test_truncated_completions_can_be_left_out_of_the_loss(trained, task):
    plain = begin(trained[0], task)
    masked = begin(trained[0], task, mask_truncated=True)
    assert plain.truncated.any() and not plain.truncated.all()
    np.testing.assert_array_equal(masked.token_ids, plain.token_ids)
    np.testing.assert_array_equal(masked.padding_mask, plain.padding_mask)
    np.testing.assert_array_equal(
        masked.completion_mask, np.where(plain.truncated[:, None], 0.0, plain.completion_mask)
    )


def test_settings_reach_the_sampler(trained, task, monkeypatch):
    model, seen, generate = trained[0], {}, trained[0].generate

    def spy(token_ids, padding_mask, **settings):
        seen.update(settings)
        return generate(token_ids, padding_mask, **{**settings, "warm_up": False})

    monkeypatch.setattr(model, "generate", spy)
    rollout = begin(model, task, **SAMPLING)
    expected = SAMPLING | SETTINGS
    del expected["prompts_per_epoch"]
    assert {name: seen[name] for name in expected} == expected
    assert any("e" in text for text in rollout.texts)
    for text, truncated in zip(rollout.texts, rollout.truncated, strict=True):
        assert "e" not in text or not truncated


def test_prompts_of_all_epochs_have_one_length(model, monkeypatch):
    """That of the longest to come, in the last epoch."""

    class Growing(DigitHunt):
        def problem(self, index):
            return index

        def prompt(self, problem):
            return "x" * (5 * problem)

    seen = []
    monkeypatch.setattr(model, "generate", lambda token_ids, padding_mask, **_: seen.append(token_ids.shape) or 1 / 0)
    rollouts = RolloutCallback(Growing(num_numbers=3), **SETTINGS)
    with pytest.raises(ZeroDivisionError):
        model.fit(rollouts.dataset, epochs=5, callbacks=[rollouts], verbose=0)
    assert seen == [(2, 48)]  # 45 letters of problem 9 and the begin-token


@pytest.mark.parametrize("scale, baseline", [(None, "mean"), (None, "leave_one_out"), ("batch", "mean")])
def test_scale_and_baseline_of_advantages(trained, task, scale, baseline):
    rollout = begin(trained[0], task, advantage_scale=scale, advantage_baseline=baseline)
    groups = rollout.rewards.reshape(2, 4)
    expected = groups - groups.mean(1, keepdims=True)
    if baseline == "leave_one_out":
        expected *= 4 / 3  # the mean of the other three is as much farther away
    if scale == "batch":
        expected /= rollout.rewards.std() + 1e-6
    np.testing.assert_allclose(rollout.advantages, expected.ravel(), atol=1e-5)


class HalfFlat(DigitHunt):
    """All completions of every other problem earn the same."""

    def problem(self, index):
        return index

    def prompt(self, problem):
        return "Use 3 9 12 each once to make 24."

    def difficulty(self, problem):
        return 0

    def score(self, problem, completion):
        return super().score(problem, completion) if problem % 2 else Score(0.3, False, "wrong_value")


def test_a_group_without_signal_weighs_nothing(trained):
    rollout, logs = begin_with_logs(trained[0], HalfFlat(num_numbers=3))
    assert logs["zero_std_groups"] == 0.5
    assert {name: logs[name] for name in BEHAVIOURS} == mean_behaviours(rollout.texts)
    assert not rollout.completion_mask[:4].any() and not rollout.advantages[:4].any()
    np.testing.assert_array_equal(rollout.completion_mask[4:].sum(axis=1), rollout.lengths[4:])
    assert (rollout.lengths > 0).all()  # what was sampled is still told


def test_overlong_completions_lose_reward(trained, task):
    plain = begin(trained[0], task)
    rollout, logs = begin_with_logs(trained[0], task, overlong_buffer=4)
    penalties = [{5: -0.25, 6: -0.5, 7: -0.75, 8: -1.0}.get(length, 0.0) for length in plain.lengths]
    assert len(set(penalties)) > 1
    np.testing.assert_allclose(rollout.rewards, plain.rewards + penalties, atol=1e-6)
    assert logs["overlong_penalty"] == pytest.approx(np.mean(penalties))
    assert logs["task_reward"] == pytest.approx(plain.rewards.mean())


def test_other_rewards_and_one_that_fails(trained, task):
    plain = begin(trained[0], task)
    failing = plain.texts[5]

    def length(problem, completion):
        return len(completion) if completion != failing else float("nan")

    with pytest.warns(UserWarning, match="The reward 'length' returned nan, which is no finite number") as caught:
        rollout, logs = begin_with_logs(trained[0], task, rewards={"length": (length, 0.1)})
    assert len(caught) == 1 and repr(failing) in str(caught[0].message)
    expected = plain.rewards + 0.1 * np.array([len(text) for text in plain.texts])
    expected[5] = np.nan
    np.testing.assert_allclose(rollout.rewards, expected, rtol=1e-6)
    assert rollout.advantages[5] == 0.0 and not rollout.completion_mask[5].any()
    group = expected[[4, 6, 7]]
    np.testing.assert_allclose(rollout.advantages[[4, 6, 7]], (group - group.mean()) / group.std(), rtol=1e-4)
    assert (rollout.completion_mask[[4, 6, 7]].sum(axis=1) > 0).all()
    assert logs["failed_rewards"] == 1 / 8
    assert logs["reward"] == pytest.approx(np.nanmean(expected))
    assert logs["task_reward"] == pytest.approx(plain.rewards.mean())


@pytest.mark.skipif(os.name != "posix", reason="there is no such signal")
def test_a_run_goes_on_past_rewards_that_hang(fit, trained):
    """The first completion of each epoch hangs."""
    firsts = [rollout.texts[0] for rollout in trained[2].rollouts]
    calls = []

    def hangs(problem, completion):
        calls.append(completion)
        while len(calls) % 8 == 1:
            time.sleep(0.01)
        return 0.0

    with pytest.warns(UserWarning, match="The reward 'x' took longer than 0.2 s") as caught:
        _, _, recorder, history = fit(2, rewards={"x": (hangs, 1.0)}, reward_seconds=0.2)
    assert [rollout.texts[0] for rollout in recorder.rollouts][0] == firsts[0] == calls[0]
    assert len(calls) == 16 and history["failed_rewards"] == [1 / 8, 1 / 8]
    assert len([warning for warning in caught if "'x'" in str(warning.message)]) == 2  # one an epoch
    assert [np.isnan(rollout.rewards).tolist() for rollout in recorder.rollouts] == [[True] + [False] * 7] * 2


def test_an_epoch_of_failures_alone_ends_the_run(fit):
    with pytest.warns(UserWarning, match="None"):
        with pytest.raises(RuntimeError, match="nothing to learn from: The reward 'x' returned None"):
            fit(2, rewards={"x": (lambda problem, completion: None, 1.0)})


def test_a_failure_ends_the_run_where_that_is_asked_for(fit):
    with pytest.raises(RuntimeError, match='on_reward_error is "stop": Broken.score raised KeyError'):
        fit(2, task=Broken(num_numbers=3), on_reward_error="stop")


class Broken(DigitHunt):
    """A task whose score was written in haste."""

    def score(self, problem, completion):
        raise KeyError(completion)


def test_a_cap_on_importance_weights_asks_the_trainer(trained, task, monkeypatch):
    """For the log-probs of the full weights, where the sampler's are of 8 bits."""
    model = trained[0]
    plain = begin(model, task, **SAMPLING)
    assert plain.old_log_probs is plain.sampler_log_probs
    monkeypatch.setattr(model, "grpo_loss", GRPOLoss(importance_cap=2.0))
    rollout, logs = begin_with_logs(model, task, **SAMPLING)
    np.testing.assert_array_equal(rollout.sampler_log_probs, plain.sampler_log_probs)
    trainers = model.log_probs(rollout.token_ids, rollout.padding_mask, 8, 0.9)
    gaps = []
    for row in range(8):
        length = rollout.lengths[row]
        np.testing.assert_allclose(rollout.old_log_probs[row, :length], trainers[row, :length], atol=1e-6)
        assert not rollout.old_log_probs[row, length:].any()
        gaps += [abs(a - b) for a, b in zip(trainers[row, :length], plain.sampler_log_probs[row], strict=False)]
    assert logs["sampler_gap"] == pytest.approx(np.mean(gaps), rel=1e-3)
    assert logs["sampler_gap"] > 1e-4


# === Refills ===


class Dull(DigitHunt):
    """The two problems of the second epoch earn nothing, whatever is written."""

    def score(self, problem, completion):
        dull = problem in (self.problem(2), self.problem(3))
        return Score(0.0, False, "wrong_value") if dull else super().score(problem, completion)


@pytest.fixture(scope="module")
def dull():
    return Dull(num_numbers=3, max_number=10, template="compact")


@pytest.fixture(scope="module")
def refilled(fit, dull):
    """The recorder and the history of three epochs, of which the second has something to refill."""
    return fit(3, dull, refills=2)[2:]


def test_only_groups_without_signal_are_refilled(refilled, dull):
    recorder, history = refilled
    assert history["zero_std_groups"] == [0.0, 1.0, 0.0]
    assert history["refilled_groups"] == [0, 2, 0]
    first, second, third = recorder.rollouts
    for epoch in (0, 2):
        assert history["refill_tokens"][epoch] == 0
        assert history["generated_tokens"][epoch] == recorder.rollouts[epoch].lengths.sum()
    pools = [[dull.problem(2**32 + 8 + 4 * i + j) for j in range(4)] for i in range(2)]
    assert second.problems[0] in pools[0] and second.problems[4] in pools[1]
    assert history["refill_tokens"][1] == second.lengths.sum()
    assert history["generated_tokens"][1] > history["refill_tokens"][1]
    # All eight earned nothing, and those that took their places something: the curve does not flatter.
    assert history["reward"][1] == 0.0 and second.rewards.any()
    assert [score.reward for score in second.scores] == pytest.approx(second.rewards.tolist())
    assert (second.completion_mask.sum(axis=1) == second.lengths).all() and second.advantages.any()


def test_nothing_is_compiled_again_for_refills(refilled):
    """Though the first epoch needed none."""
    recorder, history = refilled
    assert history["compiles"][1:] == [0, 0]
    assert recorder.counts[0] == recorder.counts[2]
    shapes = [{name: array.shape for name, array in made.batch().items()} for made in recorder.rollouts]
    assert shapes[0] == shapes[1] == shapes[2]


def test_a_run_that_goes_on_is_the_same(refilled, fit, dull):
    """Stopped after each epoch, and gone on with by another callback."""
    recorder, history = refilled
    for epoch in range(3):
        _, _, again, logs = fit(epoch + 1, dull, first=epoch, refills=2)
        for name, values in history.items():
            if "second" not in name and name != "compiles":
                assert logs[name] == [values[epoch]], name
        for name, array in again.rollouts[0].batch().items():
            np.testing.assert_array_equal(array, recorder.rollouts[epoch].batch()[name])
        assert again.rollouts[0].problems == recorder.rollouts[epoch].problems


def test_refills_of_one_prompt_are_other_completions(model):
    """Every problem has the same prompt here, and those before number 2³² earn nothing."""

    class Late(HalfFlat):
        def score(self, problem, completion):
            return DigitHunt.score(self, problem, completion) if problem >= 2**32 else Score(0.0, False, "no_answer")

    task = Late(num_numbers=3)
    first, rollout = begin(model, task), begin(model, task, refills=2)
    start = 2**32 + 8 * int(model.optimizer.iterations)  # four for each of the rounds before
    assert rollout.problems == (start,) * 4 + (start + 4,) * 4
    groups = [first.texts[:4], first.texts[4:], rollout.texts[:4], rollout.texts[4:]]
    assert len(set(groups)) == 4


# === Logs ===


def test_logs_describe_the_rollout(trained):
    _, _, recorder, history = trained
    for epoch, rollout in enumerate(recorder.rollouts):
        lengths = rollout.lengths
        groups = rollout.rewards.reshape(2, 4)
        assert history["reward"][epoch] == pytest.approx(rollout.rewards.mean())
        assert history["accuracy"][epoch] == np.mean([score.correct for score in rollout.scores])
        assert history["format_rate"][epoch] == np.mean([score.well_formed for score in rollout.scores])
        assert history["completion_length"][epoch] == lengths.mean()
        assert history["truncated"][epoch] == rollout.truncated.mean()
        assert history["zero_std_groups"][epoch] == np.mean([len(set(group)) == 1 for group in groups])
        assert history["generated_tokens"][epoch] == lengths.sum()
        assert history["tokens_per_second"][epoch] > 0
        assert history["rollout_seconds"][epoch] > 0


def test_one_update_a_rollout_has_ratio_1(trained):
    """Sampler and trainer are two programs, merged adapters and not: they agree to float32 rounding."""
    history = trained[3]
    np.testing.assert_allclose(history["ratio"], 1.0, atol=1e-5)
    np.testing.assert_allclose(history["sampler_gap"], 0.0, atol=1e-5)
    assert history["clip_fraction"] == [0.0] * EPOCHS


def test_kl_is_0_while_the_adapters_are(trained):
    """To rounding: policy and reference are two programs."""
    kl = trained[3]["kl"]
    assert 0.0 <= kl[0] < 1e-10
    assert all(value > 1e-8 for value in kl[1:])


def test_same_seed_same_logs(trained, fit):
    _, _, recorder, again = fit(2)
    for name, values in trained[3].items():
        if "second" not in name and name != "compiles":
            assert again[name] == values[:2], name
    assert recorder.rollouts[1].texts == trained[2].rollouts[1].texts


def test_nothing_is_compiled_again(trained):
    """Whatever the lengths of completions, which the epochs' mean lengths say are not the same."""
    counts, history = trained[2].counts, trained[3]
    assert history["compiles"] == [counts[0], 0, 0, 0] and counts[0] > 0
    assert counts == [counts[0]] * EPOCHS
    assert len(set(history["completion_length"])) > 1


def test_nor_for_importance_weights(model, fit, monkeypatch):
    """Which want the trainer's log-probs of each rollout."""
    monkeypatch.setattr(model, "grpo_loss", GRPOLoss(kl_coef=0.1, importance_cap=2.0))
    history = fit(3)[3]
    assert history["compiles"][1:] == [0, 0]
    assert len(set(history["completion_length"])) > 1


def test_evaluations_share_in_that(model, task):
    """Where each kind has happened once."""
    rollouts = RolloutCallback(task, **SETTINGS)
    settings = dict(samples=2, max_completion_length=8, stop_tokens=STOPS, max_rows=4)
    evaluation = EvaluateCallback(task.held_out(5), every=1, **settings)
    late = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epoch or jax.jit(lambda x: x + 1)(0))
    history = model.fit(rollouts.dataset, epochs=EPOCHS, callbacks=[evaluation, rollouts, late], verbose=0).history
    assert history["compiles"][0] > 0 and history["compiles"][1:] == [0] * (EPOCHS - 1)
    assert len(history["val_greedy_accuracy"]) == EPOCHS


def test_several_updates_on_one_rollout(fit, task):
    """The iteration counts rollouts, not updates: as many problems ahead as epochs, whatever the updates."""
    model, _, recorder, history = fit(2, updates_per_rollout=2)
    assert model.optimizer.iterations == 4
    for epoch, rollout in enumerate(recorder.rollouts):
        assert rollout.problems[0] == task.problem(2 * epoch)
    assert all(gap > 1e-5 for gap in history["sampler_gap"])  # the second update has left the old policy


def test_a_resumed_run_goes_on_with_the_next_problems(trained, task):
    model = trained[0]
    iterations = int(model.optimizer.iterations)
    model.optimizer.iterations.assign(7)
    assert begin(model, task, epoch=0).problems[0] == task.problem(14)
    model.optimizer.iterations.assign(iterations)


def test_a_curriculum(fit, task):
    _, callback, recorder, history = fit(3, curriculum=0.2)
    levels = [0.0]
    for i, rollout in enumerate(recorder.rollouts):
        pool = sorted((task.problem(8 * i + k) for k in range(8)), key=task.difficulty)
        first = round(levels[i] * 6)
        assert [rollout.problems[0], rollout.problems[4]] == pool[first : first + 2]
        assert history["difficulty"][i] == (task.difficulty(pool[first]) + task.difficulty(pool[first + 1])) / 2
        levels.append(min(max(levels[i] + 0.2 * (history["accuracy"][i] - 0.2), 0.0), 1.0))
    assert history["curriculum_level"] == pytest.approx(levels[:3]) and max(levels) > 0
    other = RolloutCallback(task, **SETTINGS, curriculum=0.2)
    other.set_state(callback.get_state())
    assert other.curriculum.level == pytest.approx(levels[3])
    other.set_state({"prompt_length": 16})  # of a run that was begun before there were levels
    assert other.get_state() == {"prompt_length": 16, "level": 0.0}
    assert history["compiles"][1:] == [0, 0]


# === Errors ===


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(curriculum=1.5), "above 0 and below 1. Received: curriculum=1.5"),
        (dict(advantage_scale="mean"), "`advantage_scale` must be one of 'std', 'batch', None. Received"),
        (dict(advantage_baseline=None), "`advantage_baseline` must be one of 'mean', 'leave_one_out'. Received"),
        (dict(overlong_buffer=9), "`buffer` must be 1 to 8 tokens. Received: buffer=9"),
        (dict(refills=-1), "Received: refills=-1"),
        (dict(rewards={"x": len}), r"Received: rewards\['x'\]="),
        (dict(reward_seconds=-1.0), "Received: reward_seconds=-1.0"),
        (dict(on_reward_error="ignore"), "Received: on_reward_error='ignore'"),
    ],
)
def test_settings_are_checked_at_once(task, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        RolloutCallback(task, **SETTINGS, **wrong)


def test_a_group_of_one_is_an_error(task):
    with pytest.raises(ValueError, match="A group has 2 completions or more.*Received: group_size=1"):
        RolloutCallback(task, group_size=1)


@pytest.mark.parametrize("temperature", (0.0, -1.0))
def test_greedy_training_is_an_error(task, temperature):
    with pytest.raises(ValueError, match=f"Received: temperature={temperature}"):
        RolloutCallback(task, temperature=temperature)


def test_a_long_prompt_is_an_error(trained, task):
    with pytest.raises(ValueError, match=r"max_prompt_length=5 tokens. Received: 1\d tokens"):
        begin(trained[0], task, max_prompt_length=5)


def test_a_micro_batch_size_that_does_not_divide_is_an_error(make_policy, task):
    """Before the first rollout, so that no time is lost on it."""
    model = GRPOModel(make_policy("gemma"), micro_batch_size=3)
    model.compile("sgd")
    rollouts = RolloutCallback(task, prompts_per_epoch=4, group_size=2)
    with pytest.raises(ValueError, match="the 8 rows of a step: choose 2 or 4. Received: micro_batch_size=3"):
        model.fit(rollouts.dataset, callbacks=[rollouts], verbose=0)
    assert model.rollout is None
