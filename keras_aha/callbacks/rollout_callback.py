"""`RolloutCallback`: fresh rollouts at the beginning of each epoch."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.callbacks.graded_rollout import gather, join, rollout_logs, with_advantages, with_trainers_log_probs
from keras_aha.callbacks.rollout_bar import below_bar, rollout_bar
from keras_aha.callbacks.stateful_callback import StatefulCallback
from keras_aha.distribution import processes
from keras_aha.distribution.distribute import check_batch
from keras_aha.losses import overlong_penalty
from keras_aha.losses.advantages import BASELINES, SCALES
from keras_aha.losses.checks import check_choice
from keras_aha.models.special_tokens import TURN_ENDS
from keras_aha.tasks.mixture import Mixture
from keras_aha.tasks.task import Task
from keras_aha.training.curriculum import Curriculum
from keras_aha.training.dynamic_sampling import Refills
from keras_aha.training.grader import Grader
from keras_aha.training.micro_batches import by_length
from keras_aha.training.padded_prompts import PaddedPrompts
from keras_aha.training.rollout import Rollout
from keras_aha.training.rollout_dataset import RolloutDataset
from keras_aha.training.spoken import speak
from keras_aha.training.teacher_prompts import TeacherPrompts
from keras_aha.training.turn_limits import TurnLimits

import jax
import numpy as np

_AHEAD = 2000  # drawn problems of the epochs, and as many of the refills, that are looked at before training


class RolloutCallback(StatefulCallback):
    """Samples a group of completions for each of some fresh problems, scores them, and hands them to `fit`.

        rollouts = RolloutCallback(task)
        model.fit(rollouts.dataset, epochs=100, callbacks=[rollouts])

    It adds to an epoch's logs:

    - means over the rollout before refills: `reward`, `accuracy`, `format_rate`, `completion_length`, `truncated`,
      `failed_rewards` (the share of completions without a reward), `zero_std_groups` (the share of groups whose rewards
      are all equal), and `attempts`, `verifications`, `backtracks`, `self_corrections`, `slips`, see `behaviours`.
    - if anything is added to the task's reward, its parts: `task_reward`, `reward_<name>`, `overlong_penalty`.
    - of a `Mixture`, `accuracy_<name>` and `mean_reward_<name>` of each task.
    - of a task of several turns, means over completions: `turns`, `tool_calls`, `tool_errors`, `observation_tokens`,
      `imitated_observations`, see `turn_habits`.
    - `left_out_problems`, the number of problems whose place an earlier one took, as they could not be used.
    - with a curriculum, its `curriculum_level` and the problems' mean `difficulty`.
    - with refills, `refilled_groups`, the number of groups replaced, and `refill_tokens`, the tokens sampled for them.
    - `generated_tokens`, those that the policy drew, `tokens_per_second` and `rollout_seconds`, refills included.
    - `sampler_gap`, the mean of |trainer's − sampler's log-prob| over such tokens, if the loss has an `importance_cap`.
    - `compiles`, the programs compiled since that log was last written: after the first epoch there should be none.
    - `learning_rate`, the next update's, as in Keras's TensorBoard.

    A group whose rewards are all equal, and a completion whose reward is missing, count in the loss's KL and entropy
    only; without these they are not computed. A mean over nothing is no log. What is sampled depends on the arguments,
    the weights and the optimizer's iterations alone, so a resumed run samples what it would have sampled.

    Args:
        task: a `Task`. Epoch i takes its problems i·P to (i + 1)·P − 1; refills take theirs from number 2³² on.
        rewards: others beside the task's own: name → `(function, weight)`, where
            `function(problem, completion)` returns a number, or `function(problems, completions)` a list of them, see
            `Grader`. One that fails, as the task's own may, gives one warning an epoch, and costs only the completion
            that it failed on.
        task_weight: of the task's own reward; 0 only logs it.
        reward_seconds: the time that a reward of a completion may take, and so many times more that of a list of them;
            `None` is no limit. See `time_limit.within`.
        on_reward_error: "skip", or "stop": the first failure ends the run. An epoch in which all fail always does.
        prompts_per_epoch, group_size: P, problems of an epoch, and G ≥ 2, completions of each prompt.
        max_completion_length: C, at which a completion is cut, in tokens, those of observations included.
        max_prompt_length: in tokens; a longer prompt is an error before training. In training, where a problem is drawn
            that cannot be used, an earlier one takes its place, see `PaddedPrompts.problems`.
        temperature: of sampler and trainer alike, > 0.
        top_k, top_p, min_p, stop_tokens, stop_strings, max_rows, quantization: see `PolicySampler.generate`.
        advantage_scale: `"std"`, `"batch"` or `None`, see `losses.group_advantages`.
        advantage_baseline: `"mean"` or `"leave_one_out"`, see there.
        mask_truncated: leave truncated completions out of the loss (DAPO's overlong filtering, arXiv:2503.14476).
        overlong_buffer: in tokens, see `losses.overlong_penalty`, which is added to rewards; `None` adds nothing.
        curriculum: the share of completions that should be right. Problems are chosen as difficult as that needs: an
            epoch takes P of the problems i·4·P to (i + 1)·4·P − 1, see `Curriculum`. `None` takes them as they come.
        refills: rounds in which groups whose rewards are all equal are replaced (dynamic sampling), see `Refills`. The
            first epoch samples such a round even if none is needed, so that no later one compiles anything; its tokens
            are not counted.
        shuffle_rewards: whether the update sees the rewards in a random order, each at a completion of any prompt, so
            that they teach nothing: the control of an experiment. Logs and other callbacks see them as they are.
        updates_per_rollout: optimizer steps on each rollout.
        turns: limits for a task of several turns; `None` is those of `TurnLimits()`. A response that fails costs its
            completion the reward, as a reward that fails does.
        seed: of the sampling keys.

    Attributes:
        dataset: what `fit` trains on, the latest rollout; its length is `updates_per_rollout`.

    Raises:
        ValueError: for an argument outside of these.
        TaskError: if `fit` begins with a problem that cannot be used; in training, if a reward fails, see
            `on_reward_error`.
    """

    def __init__(
        self,
        task: Task,
        *,
        rewards: Mapping[str, tuple[Callable[[Any, str], float], float]] | None = None,
        task_weight: float = 1.0,
        reward_seconds: float | None = 5.0,
        on_reward_error: str = "skip",
        prompts_per_epoch: int = 32,
        group_size: int = 16,
        max_completion_length: int = 1024,
        max_prompt_length: int = 512,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop_tokens: tuple[str, ...] = TURN_ENDS,
        stop_strings: tuple[str, ...] = (),
        max_rows: int | None = None,
        quantization: str | None = None,
        advantage_scale: str | None = "std",
        advantage_baseline: str = "mean",
        mask_truncated: bool = False,
        overlong_buffer: int | None = None,
        curriculum: float | None = None,
        refills: int = 0,
        shuffle_rewards: bool = False,
        updates_per_rollout: int = 1,
        turns: TurnLimits | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if group_size < 2:
            raise ValueError(f"`group_size` must be 2 or more. Received: group_size={group_size}")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be above 0 in training. Received: temperature={temperature}")
        check_choice("advantage_scale", advantage_scale, SCALES)
        check_choice("advantage_baseline", advantage_baseline, BASELINES)
        penalties = None
        if overlong_buffer is not None:  # a table by length, so that no number of rows needs a program of its own
            lengths = np.arange(max_completion_length + 1)
            penalties = np.asarray(overlong_penalty(lengths, max_completion_length, overlong_buffer))
        self.turns = (turns or TurnLimits()).within_completions(task, max_completion_length)
        self.prompts, self.teacher_prompts = PaddedPrompts(task, max_prompt_length), TeacherPrompts(task)
        limits = dict(seconds=reward_seconds, on_error=on_reward_error)
        self.grader = Grader(task, rewards, penalties, task_weight=task_weight, **limits)
        self.curriculum = Curriculum(task, prompts_per_epoch, curriculum)
        self.prompts_per_epoch, self.group_size = prompts_per_epoch, group_size
        self.advantages = dict(group_size=group_size, scale=advantage_scale, baseline=advantage_baseline)
        self.refills = Refills(task, prompts_per_epoch, group_size, refills)
        self.mask_truncated, self.shuffle_rewards = mask_truncated, shuffle_rewards
        self.sampling = dict(group_size=group_size, max_completion_length=max_completion_length, seed=seed)
        self.sampling |= dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, quantization=quantization)
        self.sampling |= dict(stop_tokens=tuple(stop_tokens), stop_strings=tuple(stop_strings), max_rows=max_rows)
        self.dataset = RolloutDataset(updates_per_rollout)
        self._compiles = None  # counts while `fit` trains

    # === One epoch ===

    def on_epoch_begin(self, epoch, logs=None):
        start = time.perf_counter()
        if self._epochs == 1:
            self._compiles.count = 0  # what other callbacks compiled at the first epoch's end belongs to it
        # Counted by the optimizer, which a checkpoint restores, so that a resumed run goes on with fresh problems.
        self._iteration = int(self.model.optimizer.iterations) // len(self.dataset)
        self._failures = {}  # the first of each reward in this epoch
        self.prompts.left_out = 0
        tokenizer, rated = self.model.tokenizer, self.curriculum.solve_rate is not None
        pool = self.prompts.problems(tokenizer, self.curriculum.numbers(self._iteration), rated)
        refill_pools = [self.prompts.problems(tokenizer, some) for some in self.refills.numbers(self._iteration)]
        problems = self.curriculum.choose(pool)
        rollout, rewards = self._sample(problems)
        self.grader.check_any(rollout.rewards, self._failures)
        self._logs = rollout_logs(rollout, rewards, self.group_size, self.prompts.task)
        self._logs |= self.curriculum.update(problems, self._logs["accuracy"])
        self._logs["left_out_problems"] = self.prompts.left_out
        rollout = self._refill(rollout, refill_pools)
        rollout = self.teacher_prompts.beside(self._with_advantages(rollout), self.group_size, self.model)
        if self.model.grpo_loss.importance_cap is not None:  # it corrects for the difference
            rollout, self._logs["sampler_gap"] = with_trainers_log_probs(rollout, self.model)
        self._hand_over(rollout)
        self._epochs += 1
        seconds = time.perf_counter() - start
        self._logs |= {"tokens_per_second": self._logs["generated_tokens"] / seconds, "rollout_seconds": seconds}

    def _sample(self, problems, first_row=0) -> tuple[Rollout, dict]:
        """A group for each problem, without advantages, and its rewards; each process samples a share of them."""
        prompts = self.prompts.tokenize(self.model, problems)
        own, spoken = self._speak(prompts, problems, first_row)
        with below_bar():
            completions, texts, turns, failed = spoken
            scores, rewards = self.grader.grade(own, texts, completions.lengths, self._failures, turns, failed)
        spoken, scores, rewards = gather(spoken, scores, rewards)
        return join(prompts, problems, spoken, scores, rewards, self.sampling["temperature"]), rewards

    def _speak(self, prompts, problems, first_row=0):
        """This process's share of problems, one a completion, and completions: the first epoch compiles all that such a
        call may ever need."""
        own = processes.share(len(problems))
        rows = [problem for problem in problems[own] for _ in range(self.group_size)]
        with rollout_bar("rollout", len(rows)) as on_segment:
            return rows, speak(
                self.model,
                self.prompts.task,
                rows,
                [x[own] for x in prompts],
                limits=self.turns,
                reported=self._failures,
                on_error=self.grader.on_error,
                iteration=self._iteration,
                first_row=first_row + own.start * self.group_size,
                on_segment=on_segment,
                warm_up=not self._epochs,
                **self.sampling,
            )

    def _refill(self, rollout, pools):
        """Replaces groups without signal, see `Refills`."""
        if not pools:
            return rollout
        rollout, groups, tokens = self.refills.fill(rollout, pools, lambda *args: self._sample(*args)[0])
        self._logs |= {"refilled_groups": groups, "refill_tokens": tokens}
        self._logs["generated_tokens"] += tokens
        if not tokens and not self._epochs:  # compiles what later epochs need
            problems = pools[0][: self.refills.prompts]
            self._speak(self.prompts.tokenize(self.model, problems), problems)
        return rollout

    def _with_advantages(self, rollout):
        rewards = rollout.rewards
        if self.shuffle_rewards:
            rewards = np.random.default_rng((self.sampling["seed"], self._iteration)).permutation(rewards)
        return with_advantages(rollout, rewards, self.model.grpo_loss, self.mask_truncated, **self.advantages)

    def _hand_over(self, rollout):
        """To other callbacks as `model.rollout`, and to `fit` as this process's rows of the batch."""
        self.model.rollout = rollout
        own = processes.share(len(rollout.rewards))
        batch = {name: x[own] for name, x in rollout.batch().items()}
        size, (rows, length) = self.model.micro_batch_size, rollout.completion_mask.shape
        shared = self.model.rows_per_prompt(rows, self.group_size, rollout.token_ids.shape[1] - length, length)
        self.dataset.batch = by_length(batch, size and size // jax.process_count(), shared, self.group_size)

    # === Before training ===

    def look_at_prompts(self, tokenizer, epochs: int, hint: str | None = None) -> None:
        """Raises TaskError if a problem, or a `hint` for it, cannot be used: of a whole list, or of the first drawn."""
        task = self.prompts.task
        count = task.problem_count()
        numbers = [task.listed() if isinstance(task, Mixture) else range(count or 0)]
        if count is None:
            firsts = [self.curriculum.numbers(0), *self.refills.numbers(0)[:1]]
            lasts = [self.curriculum.numbers(epochs - 1), *self.refills.numbers(epochs - 1)[-1:]]
            drawn = [range(first.start, last.stop) for first, last in zip(firsts, lasts, strict=True)]
            numbers.append([i for some in drawn for i in (*some[:_AHEAD], some[-1])])  # a list may end
        self.teacher_prompts.hint = hint
        for some in numbers:
            self.prompts.look_at(tokenizer, some)
            if hint is not None:
                self.teacher_prompts.look_at(tokenizer, some)

    # === Bookkeeping ===

    def get_state(self) -> dict:
        lengths = {"prompt_length": self.prompts.length, "teacher_prompt_length": self.teacher_prompts.length}
        return lengths | {"level": self.curriculum.level}

    def set_state(self, state: dict):
        self.prompts.length = max(self.prompts.length, state["prompt_length"])
        self.teacher_prompts.length = max(self.teacher_prompts.length, state.get("teacher_prompt_length", 0))
        self.curriculum.level = state["level"]

    def on_train_begin(self, logs=None):
        check_batch(self.prompts_per_epoch, self.group_size, self.model.micro_batch_size)  # before the first rollout
        teacher = self.model.teacher
        self.look_at_prompts(self.model.tokenizer, self.params["epochs"], None if teacher is None else teacher.hint)
        self._epochs = 0  # done in this `fit`
        self.on_train_end()  # which a `fit` that ended by an error has not called
        self._compiles = CompileCounter()

    def on_epoch_end(self, epoch, logs=None):
        rate = float(self.model.optimizer.learning_rate)
        logs.update(self._logs | {"compiles": self._compiles.count, "learning_rate": rate})
        self._compiles.count = 0
        for name in [name for name, value in logs.items() if math.isnan(value)]:
            del logs[name]  # a mean over nothing

    def on_train_end(self, logs=None):
        if self._compiles is not None:
            self._compiles.close()
            self._compiles = None
