"""`RolloutCallback`: fresh rollouts at the beginning of each epoch."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.callbacks.rollout_bar import rollout_bar
from keras_aha.distribution import processes
from keras_aha.distribution.distribute import check_batch
from keras_aha.evaluation.behaviours import mean_behaviours
from keras_aha.losses import group_advantages, overlong_penalty
from keras_aha.losses.advantages import BASELINES, SCALES
from keras_aha.losses.checks import check_choice
from keras_aha.models.special_tokens import TURN_ENDS
from keras_aha.tasks.task import Score, Task
from keras_aha.training.curriculum import Curriculum
from keras_aha.training.dynamic_sampling import Refills
from keras_aha.training.grader import Grader, groups_with_signal, reward_logs
from keras_aha.training.micro_batches import by_length
from keras_aha.training.rollout import PROMPT_MULTIPLE, Rollout
from keras_aha.training.rollout_dataset import RolloutDataset

import jax
import keras
import numpy as np

_PROMPTS_AHEAD = 2000  # prompts whose lengths are looked at before training


class RolloutCallback(keras.callbacks.Callback):
    """Samples a group of completions for each of some fresh problems, scores them, and hands them to `fit`.

    Pass it to `fit` and `fit` its `dataset`:

        rollouts = RolloutCallback(task)
        model.fit(rollouts.dataset, epochs=100, callbacks=[rollouts])

    It adds to an epoch's logs:

    - `reward`, `accuracy`, `format_rate`, `completion_length`, `truncated`, `failed_rewards`, the share of completions
      without a reward, and `zero_std_groups`, the share of groups whose rewards are all equal: means over the rollout
      as it was first sampled, as refills would flatter them; and so `attempts`, `verifications`, `backtracks`,
      `self_corrections` and `slips` of a completion, see `behaviours`.
    - Where anything is added to the task's reward, its parts: `task_reward`, `reward_<name>`, `overlong_penalty`.
    - With a curriculum, its `curriculum_level` and the problems' mean `difficulty`.
    - With refills, `refilled_groups`, the number of groups replaced, and `refill_tokens`, what that cost.
    - `generated_tokens`, `tokens_per_second` and `rollout_seconds`, refills included.
    - `sampler_gap`, the mean of |trainer's − sampler's log-prob| over tokens, where the loss has an `importance_cap`.
    - `compiles`, the programs compiled since that log was last written: after the first epoch there should be none.

    A group whose rewards are all equal, and a completion whose reward is missing, have 0 in `completion_mask`, so that
    they count nowhere in the loss. What is sampled depends on the arguments, the weights and the optimizer's iterations
    alone: a run that goes on from a checkpoint goes on as it would have.

    Args:
        task: a `Task`; epoch i takes its problems i·P to (i + 1)·P − 1, whatever was trained before; refills take
            theirs from number 2³² on.
        rewards: others beside the task's own, which has weight 1: name → `(function, weight)`, where
            `function(problem, completion)` returns a number. One that fails, see `Grader`, and so the task's own, is
            reported by a warning, once an epoch, and costs only the completion where it happens.
        reward_seconds: that a reward of a completion may take; `None` for no limit. See `time_limit.within`.
        on_reward_error: "skip", or "stop": the first failure ends the run, as an epoch with nothing else always does.
        prompts_per_epoch: P, problems of an epoch.
        group_size: G ≥ 2, completions of each prompt.
        max_completion_length: C, at which a completion is cut, in tokens.
        max_prompt_length: in tokens; a longer prompt is an error.
        temperature: of sampler and trainer alike, > 0.
        top_k, top_p, min_p, stop_tokens, stop_strings, max_rows, quantization: see `PolicySampler.generate`.
        advantage_scale: `"std"`, `"batch"` or `None`, see `losses.group_advantages`.
        advantage_baseline: `"mean"` or `"leave_one_out"`, see there.
        mask_truncated: leave truncated completions out of the loss (DAPO's overlong filtering, arXiv:2503.14476).
        overlong_buffer: in tokens, see `losses.overlong_penalty`, which is added to rewards; `None` adds nothing.
        curriculum: the share of completions that should be right, to which the difficulty of problems is led: an
            epoch takes P of the problems i·4·P to (i + 1)·4·P − 1, see `Curriculum`. `None` takes them as they come.
        refills: rounds in which groups whose rewards are all equal are replaced (dynamic sampling), see `Refills`. The
            first epoch samples such a round even where none is needed, so that no later one compiles anything; its
            tokens are not counted.
        updates_per_rollout: optimizer steps on each rollout.
        seed: of the sampling keys.

    Raises:
        ValueError: for an argument outside of these.
        RuntimeError: in training, where a reward fails, see `on_reward_error`.
    """

    def __init__(
        self,
        task: Task,
        *,
        rewards: Mapping[str, tuple[Callable[[Any, str], float], float]] | None = None,
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
        updates_per_rollout: int = 1,
        seed: int = 0,
    ):
        super().__init__()
        if group_size < 2:
            raise ValueError(f"A group has 2 completions or more, to compare them. Received: group_size={group_size}")
        if temperature <= 0:
            raise ValueError(f"Training samples at a temperature above 0. Received: temperature={temperature}")
        check_choice("advantage_scale", advantage_scale, SCALES)
        check_choice("advantage_baseline", advantage_baseline, BASELINES)
        penalties = None
        if overlong_buffer is not None:  # a table by length, so that no number of rows needs a program of its own
            lengths = np.arange(max_completion_length + 1)
            penalties = np.asarray(overlong_penalty(lengths, max_completion_length, overlong_buffer))
        self.task = task
        self.grader = Grader(task, rewards, penalties, seconds=reward_seconds, on_error=on_reward_error)
        self.curriculum = Curriculum(task, prompts_per_epoch, curriculum)
        self.prompts_per_epoch = prompts_per_epoch
        self.group_size = group_size
        self.max_prompt_length = max_prompt_length
        self.advantages = dict(group_size=group_size, scale=advantage_scale, baseline=advantage_baseline)
        self.mask_truncated = mask_truncated
        self.refills = Refills(task, prompts_per_epoch, group_size, refills)
        self.sampling = dict(
            group_size=group_size,
            max_completion_length=max_completion_length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            stop_tokens=tuple(stop_tokens),
            stop_strings=tuple(stop_strings),
            max_rows=max_rows,
            quantization=quantization,
            seed=seed,
        )
        self.dataset = RolloutDataset(updates_per_rollout)
        self._prompt_length = 0
        self._epochs = 0  # begun in this `fit`
        self._compiles = CompileCounter()
        self._logs = {}

    def get_state(self) -> dict:
        """What a run that goes on from a checkpoint must know: the length that prompts are padded to, and a level."""
        return {"prompt_length": self._prompt_length, "level": self.curriculum.level}

    def set_state(self, state: dict):
        """Takes what `get_state` returned, in an older version without a level."""
        self._prompt_length = state["prompt_length"]
        self.curriculum.level = state.get("level", 0.0)

    def on_train_begin(self, logs=None):
        check_batch(self.prompts_per_epoch, self.group_size, self.model.micro_batch_size)  # before the first rollout
        # All epochs have prompts of one length, so that no later one needs other programs.
        epochs = self.params["epochs"]
        problems = (problem for i in range(epochs) for problem in self.curriculum.pool(i))
        refills = (problem for i in range(epochs) for pool in self.refills.pools(i) for problem in pool)
        ahead = (itertools.islice(source, _PROMPTS_AHEAD) for source in (problems, refills))
        self._tokenize([*itertools.chain.from_iterable(ahead)])
        self._epochs = 0

    def on_epoch_begin(self, epoch, logs=None):
        start = time.perf_counter()
        if self._epochs == 1:
            self._compiles.count = 0  # what other callbacks compiled at the first epoch's end belongs to it
        # Counted by the optimizer, which a checkpoint restores, so that a resumed run goes on with fresh problems.
        iteration = int(self.model.optimizer.iterations) // len(self.dataset)
        pool, pools = self.curriculum.pool(iteration), self.refills.pools(iteration)
        self._tokenize(sum(pools, pool))  # finds the length that all of them need
        problems = self.curriculum.choose(pool)
        shared = dict(iteration=iteration, reported={})
        rollout, logs = self._sample(problems, **shared)
        self.grader.check_any(rollout.rewards, shared["reported"])
        logs |= self.curriculum.update(problems, logs["accuracy"])
        logs["generated_tokens"] = int(rollout.lengths.sum())
        if pools:
            rollout, groups, tokens = self.refills.fill(rollout, pools, lambda *args: self._sample(*args, **shared)[0])
            logs |= {"refilled_groups": groups, "refill_tokens": tokens}
            logs["generated_tokens"] += tokens
            if not tokens and not self._epochs:
                own = processes.share(self.refills.prompts)  # compiles what later epochs need
                self._generate([x[own] for x in self._tokenize(pools[0][: self.refills.prompts])], iteration)
        self._epochs += 1
        rollout = self._with_advantages(rollout)
        if self.model.grpo_loss.importance_cap is not None:
            rollout = self._with_trainers_log_probs(rollout)
            gap = np.abs(rollout.old_log_probs - rollout.sampler_log_probs).sum()  # 0 after the end of a completion
            logs["sampler_gap"] = float(gap / rollout.lengths.sum())
        self.model.rollout = rollout
        own = processes.share(len(rollout.rewards))
        batch = {name: x[own] for name, x in rollout.batch().items()}
        size = self.model.micro_batch_size
        self.dataset.batch = by_length(batch, size and size // jax.process_count())
        seconds = time.perf_counter() - start
        self._logs = logs | {"tokens_per_second": logs["generated_tokens"] / seconds, "rollout_seconds": seconds}

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self._logs | {"compiles": self._compiles.count})
        self._compiles.count = 0

    def _tokenize(self, problems):
        prompts = [self.task.prompt(problem) for problem in problems]
        token_ids, padding_mask = self.model.tokenize(prompts, multiple=PROMPT_MULTIPLE)
        longest = padding_mask.sum(axis=1).max()
        if longest > self.max_prompt_length:
            raise ValueError(
                f"A prompt is longer than max_prompt_length={self.max_prompt_length} tokens. Received: {longest} tokens"
            )
        self._prompt_length = max(self._prompt_length, token_ids.shape[1])
        pad = [(0, 0), (self._prompt_length - token_ids.shape[1], 0)]
        return np.pad(token_ids, pad), np.pad(padding_mask, pad)

    def _generate(self, prompts, iteration, first_row=0):
        """Completions; in the first epoch all programs are compiled that such a call may ever need."""
        with rollout_bar("rollout", len(prompts[0]) * self.group_size) as on_segment:
            return self.model.generate(
                *prompts,
                iteration=iteration,
                first_row=first_row,
                on_segment=on_segment,
                warm_up=not self._epochs,
                **self.sampling,
            )

    def _sample(self, problems, first_row=0, *, iteration, reported) -> tuple[Rollout, dict[str, float]]:
        """A graded group for each problem, without advantages, and means over them.

        Each process completes and grades its share of them.
        """
        prompt_ids, prompt_mask = self._tokenize(problems)
        own = processes.share(len(problems))
        first_row += own.start * self.group_size
        completions = self._generate((prompt_ids[own], prompt_mask[own]), iteration, first_row)
        texts = self.model.detokenize(completions, self.sampling["stop_tokens"])
        own_problems = [problem for problem in problems[own] for _ in range(self.group_size)]
        scores, rewards = self.grader.grade(own_problems, texts, completions.lengths, reported)
        completions, texts, scores, rewards = _gathered(completions, texts, scores, rewards)
        problems = [problem for problem in problems for _ in range(self.group_size)]
        token_mask = np.arange(completions.token_ids.shape[1]) < completions.lengths[:, None]
        trained = token_mask & (completions.stopped[:, None] | (not self.mask_truncated))
        rollout = Rollout(
            token_ids=np.hstack([np.repeat(prompt_ids, self.group_size, axis=0), completions.token_ids]),
            padding_mask=np.hstack([np.repeat(prompt_mask, self.group_size, axis=0), token_mask]).astype("int32"),
            completion_mask=trained.astype("float32"),
            old_log_probs=completions.log_probs,
            sampler_log_probs=completions.log_probs,
            advantages=np.zeros(len(texts), "float32"),
            temperature=np.full(len(texts), self.sampling["temperature"], "float32"),
            rewards=rewards["reward"],
            truncated=~completions.stopped,
            problems=tuple(problems),
            texts=tuple(texts),
            scores=tuple(scores),
        )
        logs = reward_logs(scores, rewards)
        logs |= mean_behaviours(texts)
        logs["completion_length"] = float(np.mean(completions.lengths))
        logs["truncated"] = float(np.mean(rollout.truncated))
        logs["zero_std_groups"] = float(np.mean(~groups_with_signal(rollout.rewards, self.group_size)))
        return rollout, logs

    def _with_advantages(self, rollout: Rollout) -> Rollout:
        """With advantages, and without a mask where there are none to learn from."""
        signal = np.repeat(groups_with_signal(rollout.rewards, self.group_size), self.group_size)
        taught = signal & ~np.isnan(rollout.rewards)
        return dataclasses.replace(
            rollout,
            advantages=np.asarray(group_advantages(rollout.rewards, **self.advantages)),
            completion_mask=rollout.completion_mask * taught[:, None].astype("float32"),
        )

    def _with_trainers_log_probs(self, rollout: Rollout) -> Rollout:
        length = rollout.completion_mask.shape[1]
        log_probs = self.model.log_probs(rollout.token_ids, rollout.padding_mask, length, self.sampling["temperature"])
        tokens = rollout.padding_mask[:, -length:] > 0
        return dataclasses.replace(rollout, old_log_probs=np.where(tokens, log_probs, 0.0).astype("float32"))


def _gathered(completions, texts, scores, rewards):
    """What all processes have made."""
    if jax.process_count() == 1:
        return completions, texts, scores, rewards
    arrays = {name: array for name, array in completions._asdict().items() if array is not None}
    gathered = processes.gather_rows(arrays | rewards)
    records = processes.gather_records(
        [(text, dataclasses.astuple(score)) for text, score in zip(texts, scores, strict=True)]
    )
    completions = completions._replace(**{name: gathered[name] for name in arrays})
    texts, scores = zip(*((text, Score(*score)) for text, score in records), strict=True)
    return completions, texts, scores, {name: gathered[name] for name in rewards}
