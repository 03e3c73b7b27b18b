"""Tasks of several turns in a real `fit` of tiny random models: what is sampled, scored, trained on and logged."""

import dataclasses

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.losses import GRPOLoss
from keras_aha.tasks.mixture import Mixture
from keras_aha.tasks.turn import Observation, said
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.spoken import speak
from keras_aha.training.turn_limits import TurnLimits

import keras
import numpy as np
import pytest
from digit_hunt import COUNTDOWN, DigitHunt

STOPS = tuple("abcdefghijklmnop")
LENGTH = 24
SETTINGS = dict(prompts_per_epoch=2, group_size=4, max_completion_length=LENGTH, stop_tokens=STOPS, seed=5)
LIMITS = TurnLimits(max_observation_length=6, max_turn_length=10)


class Asked(DigitHunt):
    """Says after each turn how many letters it had, with an error mark if it was short; what it says is not scored."""

    max_turns, turn_ends = 3, ("</",)

    def respond(self, problem, turns):
        text = turns[-1].text
        error = len(text) < 4
        if text.endswith("\n"):
            return None
        return Observation(f"{len(text)}<answer>7", "<", ">\n", tool="count" if len(text) % 2 else "", is_error=error)

    def score_turns(self, problem, turns):
        score = self.score(problem, said(turns))
        return dataclasses.replace(score, verdict=f"turns_{len(turns)}")


TASK = Asked(**COUNTDOWN)


@pytest.fixture(scope="module")
def model(make_policy):
    model = GRPOModel(make_policy("gemma", lora_rank=2, fresh_adapters=True), micro_batch_size=4, completion_lengths=2)
    model.compile(keras.optimizers.Adam(1e-2), loss=GRPOLoss(kl_coef=0.1, importance_cap=2.0))
    return model


@pytest.fixture(scope="module")
def start(model):
    return [np.asarray(variable) for variable in (*model.policy.variables, *model.optimizer.variables)]


def fit(model, start, task, epochs=3, first=0, **settings):
    """The rollouts of a training from the same weights, unless it goes on, and its logs and tables."""
    if not first:
        variables = *model.policy.variables, *model.optimizer.variables
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
    rollouts, seen = RolloutCallback(task, **SETTINGS | dict(turns=LIMITS) | settings), []
    evaluation = EvaluateCallback(task.held_out(3), rollouts=rollouts, samples=2, every=1)
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.rollout))
    callbacks = [rollouts, evaluation, keep]
    model.fit(rollouts.dataset, initial_epoch=first, epochs=epochs, callbacks=callbacks, verbose=0)
    return seen, model.history.history, evaluation


@pytest.fixture(scope="module")
def trained(model, start):
    rewards = {"letters": (lambda problem, text: text.count("<answer>7"), 0.0)}
    return fit(model, start, TASK, rewards=rewards, refills=1, curriculum=0.5)


def test_what_the_policy_drew_is_trained_on_and_scored(model, trained):
    several = 0
    for rollout in trained[0]:
        completion = rollout.token_ids[:, -LENGTH:]
        tokens = rollout.padding_mask[:, -LENGTH:] > 0
        assert (rollout.drawn == tokens & ~rollout.observed).all() and not (rollout.observed & ~tokens).any()
        np.testing.assert_array_equal(rollout.completion_mask > 0, rollout.drawn)
        assert not rollout.sampler_log_probs[~rollout.drawn].any() and rollout.sampler_log_probs[rollout.drawn].all()
        for row, turns in enumerate(rollout.turns):
            assert rollout.texts[row] == said(turns) and rollout.scores[row].verdict == f"turns_{len(turns)}"
            assert rollout.scores[row].reward == TASK.score(rollout.problems[row], said(turns)).reward
            assert "<answer>7" not in rollout.texts[row] and rollout.parts[row]["reward_letters"] == 0
            read = [turn.observation for turn in turns if turn.observation is not None]
            assert all(observation.text.startswith(f"{len(turns[i].text)}") for i, observation in enumerate(read))
            assert len(turns) <= 3 and (len(turns) < 3 or turns[2].observation is None)
            ids = completion[row][rollout.observed[row]].tolist()
            words = "".join(observation.written for observation in read[: len(turns) - 1])
            heard = model.tokenizer.detokenize([ids])[0] if ids else ""
            assert heard == words or len(ids) >= 6  # of six tokens at most, what stands around it whole
            assert heard.count(">\n") == len(turns) - 1 - (turns[-1].text == "")
            several += len(turns) > 1
    assert several > 5


def test_logs_and_tables(trained):
    rollouts, logs, evaluation = trained
    assert logs["compiles"][1:] == [0, 0] and all(gap < 1e-4 for gap in logs["sampler_gap"])
    for name in ("turns", "tool_calls", "tool_errors", "observation_tokens"):
        assert len(logs[name]) == 3 and all(value > 0 for value in logs[name])
    for table in evaluation.latest[1:]:
        assert {"turns", "tool_calls", "tool_errors", "observation_tokens", "transcript"} <= {*table}
        assert (table["verdict"] == [f"turns_{n}" for n in table["turns"]]).all()
        assert (table["observation_tokens"] < table["completion_length"]).all()
        assert (table["transcript"].str.contains("│ ") == (table["observation_tokens"] > 0)).all()
        assert not table["text"].str.contains("<answer>7").any()


def test_the_same_again_and_in_a_run_that_goes_on(model, start, trained):
    """With rows in other batches, and responses made in threads."""
    settings = dict(rewards={"letters": (lambda problem, text: 0.0, 0.0)}, refills=1)
    whole = fit(model, start, TASK, **settings)[0]
    settings |= dict(max_rows=3, turns=dataclasses.replace(LIMITS, response_workers=2))
    parts = fit(model, start, TASK, epochs=1, **settings)[0]
    parts += fit(model, start, TASK, epochs=3, first=1, **settings)[0]
    for rollout, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(rollout.token_ids, other.token_ids)
        assert rollout.turns == other.turns


class Trouble(Asked):
    """Fails on some."""

    def respond(self, problem, turns):
        if len(turns[-1].text) % 3 == 0:
            raise RuntimeError("of the environment")
        return super().respond(problem, turns)


def test_a_response_that_fails_costs_its_reward(model, start):
    with pytest.warns(
        UserWarning, match="A response failed, so its completion has no reward, .*: Trouble.respond"
    ) as told:
        (rollout,), logs, evaluation = fit(model, start, Trouble(**COUNTDOWN), epochs=1)
    assert 1 <= len([x for x in told if "Trouble.respond" in str(x.message)]) <= 3  # of a rollout, two evaluations
    failed = [any(len(turn.text) % 3 == 0 for turn in turns[:2] if turn.observation is None) for turns in rollout.turns]
    missing = np.isnan(rollout.rewards)
    assert missing.any() and not missing.all() and (missing <= np.array(failed)).all()
    assert [score.verdict == "error" for score in rollout.scores] == missing.tolist()
    assert logs["failed_rewards"] == [missing.mean()] and (evaluation.latest[1]["verdict"] == "error").any()
    with pytest.raises(RuntimeError, match='on_reward_error is "stop": Trouble.respond raised RuntimeError'):
        fit(model, start, Trouble(**COUNTDOWN), epochs=1, on_reward_error="stop")


def test_a_mixture_with_a_task_of_one_turn(model, start):
    mixture = Mixture([TASK, DigitHunt(**COUNTDOWN)], names=["asked", "hunt"])
    (rollout,), logs, _ = fit(model, start, mixture, epochs=1)
    lengths = {0: set(), 1: set()}
    for problem, turns in zip(rollout.problems, rollout.turns, strict=True):
        lengths[problem.task].add(len(turns))
    assert lengths[1] == {1} and max(lengths[0]) > 1 and {"accuracy_asked", "accuracy_hunt"} <= logs.keys()


def test_a_task_of_one_turn_has_no_turns(model, start):
    (rollout,), logs, evaluation = fit(model, start, DigitHunt(**COUNTDOWN), epochs=1)
    assert rollout.turns == () and not rollout.observed.any() and "turns" not in logs
    assert "transcript" not in evaluation.latest[1]


def test_waits_are_for_one_turn(model):
    evaluation = EvaluateCallback(TASK.held_out(3), max_completion_length=8)
    with pytest.raises(
        ValueError, match="Budget forcing is for tasks of one turn, .* Received: a task with max_turns=3"
    ):
        next(evaluation.evaluate_waits(model, 1))


@pytest.mark.parametrize("shape", ("gemma", "gemma_2", "gemma_3", "gemma_4", "qwen_3"))
def test_log_probs_of_all_turns_are_the_samplers(make_policy, shape):
    """However rows are split, in sampling and in training."""
    model = GRPOModel(make_policy(shape, lora_rank=2))
    problems = [TASK.problem(i) for i in range(4)]
    prompts = model.tokenize([TASK.prompt(problem) for problem in problems])
    rows = [problem for problem in problems for _ in range(3)]
    settings = dict(limits=LIMITS, reported={}, stop_tokens=STOPS, stop_strings=(), group_size=3)
    settings |= dict(max_completion_length=LENGTH, temperature=0.9)
    first = speak(model, TASK, rows, prompts, **settings)
    assert max(map(len, first.turns)) == 3 and first.completions.observed.any(axis=1).sum() > 3
    for max_rows, micro_batch_size in ((None, None), (4, 6)):
        spoken = speak(model, TASK, rows, prompts, max_rows=max_rows, **settings)
        assert spoken.turns == first.turns
        model.micro_batch_size, completions = micro_batch_size, spoken.completions
        token_ids = np.hstack([np.repeat(prompts[0], 3, axis=0), completions.token_ids])
        mask = np.arange(LENGTH) < completions.lengths[:, None]
        padding_mask = np.hstack([np.repeat(prompts[1], 3, axis=0), mask])
        log_probs = np.asarray(model.log_probs(token_ids, padding_mask, LENGTH, 0.9))
        drawn = mask & ~completions.observed
        np.testing.assert_allclose(log_probs[drawn], completions.log_probs[drawn], atol=1e-4)
