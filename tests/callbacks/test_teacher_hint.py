"""A teacher with a hint in a real `fit`: what it reads, and that the policy reads nothing of it."""

import random

from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.losses import GRPOLoss
from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.training.ask import TaskError
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.rollout import empty_batch
from keras_aha.training.teacher import Teacher

import keras
import numpy as np
import pytest
from digit_hunt import COUNTDOWN, DigitHunt

SETTINGS = dict(prompts_per_epoch=2, group_size=4, max_completion_length=8, seed=5, refills=1)
HINT = "{prompt}ZZ {solution}\nQ"  # no prompt and no solution has a Z or a Q


class NoSolution(DigitHunt):
    def worked_solution(self, problem, rng, **habits):
        raise NotImplementedError


class Reference(NoSolution):
    def reference(self, problem):
        return f"as {problem.target}"


@pytest.fixture(scope="module")
def model(make_policy):
    return GRPOModel(make_policy("gemma", lora_rank=2, num_layers=1), 4, teacher=Teacher(hint=HINT))


@pytest.fixture(scope="module")
def fit(model):
    """A function: from the same weights, `(callback, the rollouts, their batches, logs)`."""
    start = [np.asarray(variable) for variable in model.policy.variables]

    def run(epochs, task=None, first=0, state=None, **loss):
        model.compile(keras.optimizers.SGD(1.0), loss=GRPOLoss(**loss))
        model.optimizer.iterations.assign(first)
        for variable, value in zip(model.policy.variables, start, strict=True):
            variable.assign(value)
        callback, rollouts, batches = RolloutCallback(task or DigitHunt(**COUNTDOWN), **SETTINGS), [], []
        if state:
            callback.set_state(state)

        def keep(epoch, logs):
            rollouts.append(model.rollout)
            batches.append(callback.dataset.batch)

        callbacks = [callback, keras.callbacks.LambdaCallback(on_epoch_begin=keep)]
        logs = model.fit(callback.dataset, initial_epoch=first, epochs=epochs, callbacks=callbacks, verbose=0).history
        return callback, rollouts, batches, logs

    return run


def texts(model, token_ids, padding_mask):
    rows = [ids[mask > 0].tolist() for ids, mask in zip(token_ids, padding_mask, strict=True)]
    assert all(row[0] == model.tokenizer.start_token_id for row in rows)
    return [model.tokenizer.detokenize(row[1:]) for row in rows]


def test_the_teacher_alone_reads_the_hint(model, fit):
    task = DigitHunt(**COUNTDOWN)
    callback, rollouts, batches, logs = fit(3, task, teacher_coef=1.0, surrogate_coef=0.0)
    assert logs["compiles"][0] > 0 and logs["compiles"][1:] == [0, 0]
    assert all(value > 0 for value in logs["teacher_kl"])
    marks = {model.tokenizer.token_to_id(piece) for piece in "ZQ"}
    for rollout, batch in zip(rollouts, batches, strict=True):
        # The reward teaches nothing, and yet all tokens are trained on.
        length = rollout.completion_mask.shape[1]
        np.testing.assert_array_equal(rollout.completion_mask, rollout.padding_mask[:, -length:])
        assert batch["teacher_prompt_ids"].shape == (2, callback.teacher_prompts.length)
        assert callback.teacher_prompts.length % 16 == 0
        prompts = [task.prompt(problem) for problem in rollout.problems]
        solutions = [
            task.worked_solution(problem, random.Random(stable_hash(prompt)))
            for problem, prompt in zip(rollout.problems, prompts, strict=True)
        ]
        wanted = [f"{prompt}ZZ {solution}\nQ" for prompt, solution in zip(prompts, solutions, strict=True)]
        assert texts(model, rollout.teacher_prompt_ids, rollout.teacher_prompt_mask) == wanted
        student = texts(model, batch["prompt_ids"], batch["prompt_mask"])
        teacher = texts(model, batch["teacher_prompt_ids"], batch["teacher_prompt_mask"])
        assert [text.split("ZZ ")[0] for text in teacher] == student  # each beside its own
        hinted = {"teacher_prompt_ids", "teacher_prompt_mask"}
        found = {name for name, x in batch.items() if x.dtype == "int32" and np.isin(x, list(marks)).any()}
        assert found & {*hinted, "prompt_ids"} == {"teacher_prompt_ids"}
        shapes = {name: x.shape for name, x in empty_batch(8, 16, 8, 4, callback.teacher_prompts.length).items()}
        assert shapes == {name: x.shape for name, x in batch.items()}


def test_the_policy_samples_as_without_a_teacher(fit):
    hinted, plain = fit(1, teacher_coef=1.0)[1][0], fit(1)[1][0]
    for name in ("token_ids", "padding_mask", "sampler_log_probs", "advantages"):
        np.testing.assert_array_equal(getattr(hinted, name), getattr(plain, name))


def test_a_run_that_goes_on_has_prompts_of_the_same_length(fit):
    callback, _, (batch,), _ = fit(1, teacher_coef=1.0)
    state = callback.get_state()
    assert state["teacher_prompt_length"] == batch["teacher_prompt_ids"].shape[1] > 0
    _, _, (later,), _ = fit(2, first=1, state=state | {"teacher_prompt_length": 512}, teacher_coef=1.0)
    assert later["teacher_prompt_ids"].shape[1] == 512
    callback.set_state({"prompt_length": 16, "level": 0.0})  # of a run before there were teachers


def test_a_reference_is_a_solution_and_a_problem_without_either_is_refused(model, fit):
    rollout = fit(1, Reference(**COUNTDOWN), teacher_coef=1.0)[1][0]
    assert texts(model, rollout.teacher_prompt_ids, rollout.teacher_prompt_mask)[0].endswith(
        f"ZZ as {rollout.problems[0].target}\nQ"
    )
    with pytest.raises(TaskError, match="hint needs a `worked_solution` or.*Received: NoSolution has neither, for"):
        fit(1, NoSolution(**COUNTDOWN), teacher_coef=1.0)
