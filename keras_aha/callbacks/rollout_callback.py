"""`RolloutCallback`: fresh rollouts at the beginning of each epoch."""

import time

from keras_aha.compile_counter import CompileCounter
from keras_aha.losses import group_advantages
from keras_aha.rollout import PROMPT_MULTIPLE, Rollout, by_length, micro_batches
from keras_aha.rollout_bar import rollout_bar
from keras_aha.tasks.task import Task

import keras
import numpy as np

_PROMPTS_AHEAD = 2000  # prompts whose lengths are looked at before training


class RolloutCallback(keras.callbacks.Callback):
    """Samples a group of completions for each of some fresh problems, scores them, and hands them to `fit`.

    Pass it to `fit` and `fit` its `dataset`:

        rollouts = RolloutCallback(task)
        model.fit(rollouts.dataset, epochs=100, callbacks=[rollouts])

    It adds to an epoch's logs: `reward`, `accuracy`, `format_rate`, `completion_length`, `truncated`,
    `zero_std_groups` (means over the rollout), `generated_tokens`, `tokens_per_second`, `rollout_seconds` and
    `compiles`, the programs compiled since that log was last written: after the first epoch there should be none.

    Args:
        task: a `Task`; epoch i takes its problems i·P to (i + 1)·P − 1, whatever was trained before.
        prompts_per_epoch: P.
        group_size: G ≥ 2, completions of each prompt.
        max_completion_length: C, in tokens.
        max_prompt_length: in tokens; a longer prompt is an error.
        temperature: of sampler and trainer alike, > 0.
        top_k, top_p, min_p, stop_tokens, stop_strings, max_rows, quantization: see `PolicySampler.generate`.
        advantage_scale: `"std"` or `None`, see `losses.group_advantages`.
        mask_truncated: leave truncated completions out of the loss (DAPO's overlong filtering, arXiv:2503.14476).
        updates_per_rollout: optimizer steps on each rollout.
        seed: of the sampling keys.
    """

    def __init__(
        self,
        task: Task,
        *,
        prompts_per_epoch: int = 32,
        group_size: int = 16,
        max_completion_length: int = 1024,
        max_prompt_length: int = 512,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop_tokens: tuple[str, ...] = ("<end_of_turn>", "<turn|>"),
        stop_strings: tuple[str, ...] = (),
        max_rows: int | None = None,
        quantization: str | None = None,
        advantage_scale: str | None = "std",
        mask_truncated: bool = False,
        updates_per_rollout: int = 1,
        seed: int = 0,
    ):
        super().__init__()
        if group_size < 2:
            raise ValueError(
                "group_size must be 2 or more: an advantage compares a completion with the others of its prompt. "
                f"Received: group_size={group_size}"
            )
        if temperature <= 0:
            raise ValueError(f"Training samples at a temperature above 0. Received: temperature={temperature}")
        self.task = task
        self.prompts_per_epoch = prompts_per_epoch
        self.group_size = group_size
        self.max_prompt_length = max_prompt_length
        self.advantage_scale = advantage_scale
        self.mask_truncated = mask_truncated
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
        self.dataset = _RolloutDataset(updates_per_rollout)
        self._prompt_length = 0
        self._epochs = 0  # begun in this `fit`
        self._compiles = CompileCounter()
        self._logs = {}

    def on_train_begin(self, logs=None):
        # The train step would say so too, but only after the first rollout.
        micro_batches({"rows": np.empty(self._rows)}, self.model.micro_batch_size)
        # All epochs have prompts of one length, so that no later one needs other programs.
        count = min(_PROMPTS_AHEAD, self.params["epochs"] * self.prompts_per_epoch)
        self._tokenize([self.task.prompt(problem) for problem in self._problems(0, count)])
        self._epochs = 0

    def on_epoch_begin(self, epoch, logs=None):
        start = time.perf_counter()
        if self._epochs == 1:
            self._compiles.count = 0  # what other callbacks compiled at the first epoch's end belongs to it
        # Counted by the optimizer, which a checkpoint restores, so that a resumed run goes on with fresh problems.
        iteration = int(self.model.optimizer.iterations) // len(self.dataset)
        problems = self._problems(iteration * self.prompts_per_epoch, self.prompts_per_epoch)
        prompts = self._tokenize([self.task.prompt(problem) for problem in problems])
        with rollout_bar("rollout", self._rows) as on_segment:
            completions = self.model.generate(
                *prompts, iteration=iteration, on_segment=on_segment, warm_up=not self._epochs, **self.sampling
            )
        self._epochs += 1
        texts = self.model.detokenize(completions, self.sampling["stop_tokens"])
        problems = [problem for problem in problems for _ in range(self.group_size)]
        scores = [self.task.score(problem, text) for problem, text in zip(problems, texts, strict=True)]
        rollout = self._rollout(*prompts, completions, problems, texts, scores)
        self.model.rollout = rollout
        self.dataset.batch = by_length(rollout.batch(), self.model.micro_batch_size)
        self._logs = self._describe(rollout, completions, time.perf_counter() - start)

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self._logs | {"compiles": self._compiles.count})
        self._compiles.count = 0

    @property
    def _rows(self):
        return self.prompts_per_epoch * self.group_size

    def _problems(self, first, count):
        return [self.task.problem(first + i) for i in range(count)]

    def _tokenize(self, prompts):
        token_ids, padding_mask = self.model.tokenize(prompts, multiple=PROMPT_MULTIPLE)
        longest = padding_mask.sum(axis=1).max()
        if longest > self.max_prompt_length:
            raise ValueError(
                f"A prompt is longer than max_prompt_length={self.max_prompt_length} tokens. Received: {longest} tokens"
            )
        self._prompt_length = max(self._prompt_length, token_ids.shape[1])
        pad = [(0, 0), (self._prompt_length - token_ids.shape[1], 0)]
        return np.pad(token_ids, pad), np.pad(padding_mask, pad)

    def _rollout(self, prompt_ids, prompt_mask, completions, problems, texts, scores) -> Rollout:
        token_mask = np.arange(completions.token_ids.shape[1]) < completions.lengths[:, None]
        trained = token_mask & (completions.stopped[:, None] | (not self.mask_truncated))
        rewards = np.array([score.reward for score in scores], "float32")
        advantages = group_advantages(rewards, self.group_size, self.advantage_scale)
        return Rollout(
            token_ids=np.hstack([np.repeat(prompt_ids, self.group_size, axis=0), completions.token_ids]),
            padding_mask=np.hstack([np.repeat(prompt_mask, self.group_size, axis=0), token_mask]).astype("int32"),
            completion_mask=trained.astype("float32"),
            old_log_probs=completions.log_probs,
            sampler_log_probs=completions.log_probs,
            advantages=np.asarray(advantages),
            temperature=np.full(len(texts), self.sampling["temperature"], "float32"),
            rewards=rewards,
            truncated=~completions.stopped,
            problems=tuple(problems),
            texts=tuple(texts),
            scores=tuple(scores),
        )

    def _describe(self, rollout: Rollout, completions, seconds: float) -> dict[str, float]:
        groups = rollout.rewards.reshape(-1, self.group_size)
        return {
            "reward": float(np.mean(rollout.rewards)),
            "accuracy": float(np.mean([score.correct for score in rollout.scores])),
            "format_rate": float(np.mean([score.well_formed for score in rollout.scores])),
            "completion_length": float(np.mean(completions.lengths)),
            "truncated": float(np.mean(rollout.truncated)),
            "zero_std_groups": float(np.mean(groups.max(axis=1) == groups.min(axis=1))),
            "generated_tokens": int(np.sum(completions.lengths)),
            "tokens_per_second": float(np.sum(completions.lengths) / seconds),
            "rollout_seconds": seconds,
        }


class _RolloutDataset(keras.utils.PyDataset):
    """The latest rollout as a batch, once for each update: constant length, static shapes."""

    def __init__(self, updates_per_rollout: int):
        super().__init__()
        self.updates_per_rollout = updates_per_rollout
        self.batch = None

    def __len__(self):
        return self.updates_per_rollout

    def __getitem__(self, index):
        return self.batch
