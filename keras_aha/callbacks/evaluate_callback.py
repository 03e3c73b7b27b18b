"""`EvaluateCallback`: completions of held-out problems, scored, every few epochs."""

import time
from collections.abc import Iterator

from keras_aha.callbacks.rollout_bar import rollout_bar
from keras_aha.distribution import processes
from keras_aha.evaluation.tables import BEHAVIOURS, summarize, with_behaviours
from keras_aha.models.special_tokens import TURN_ENDS
from keras_aha.tasks.task import Task
from keras_aha.training.budget_forcing import think_on, word_to_ids
from keras_aha.training.grader import Grader
from keras_aha.training.rollout import PROMPT_MULTIPLE

import keras
import numpy as np
import pandas as pd

_ITERATION = 2**31 - 1  # of the sampling keys: one that training never reaches, so no key is ever used twice


class EvaluateCallback(keras.callbacks.Callback):
    """Samples completions of held-out problems and adds what `evaluation.summarize` says of them to the logs.

        rollouts = RolloutCallback(task)
        model.fit(rollouts.dataset, callbacks=[rollouts, EvaluateCallback(task.held_out(256), every=10), …])

    Logs of every `every`-th epoch and of the last: `val_accuracy`, `val_format_rate`, `val_completion_length` (tokens),
    `val_attempts`, `val_verifications`, `val_backtracks`, `val_self_corrections`, `val_slips` (a completion),
    `evaluation_seconds`, and `val_greedy_accuracy` if `greedy`. Put it before callbacks that read them.

    Each evaluation draws from the same random keys, so what differs between two is the policy. Where `max_rows` is the
    number of rows in a rollout, and lengths are the same, they share most of their compiled programs.

    A completion whose score fails, see `RolloutCallback`, counts as not solved, with the verdict "error".

    Args:
        task: a task with a length, such as `task.held_out(n)` returns; all its problems are taken.
        every: epochs from one evaluation to the next.
        samples: completions of each problem at `temperature`.
        greedy: whether to decode each problem greedily too.
        max_completion_length: in tokens.
        temperature: of the samples, > 0.
        stop_tokens, stop_strings, max_rows: see `PolicySampler.generate`.
        seed: of the sampling keys.
        reward_seconds, on_reward_error: see `RolloutCallback`.

    Attributes:
        latest: `(epoch, sampled, greedy)`, epoch counted from 0 and tables as `evaluate` returns them (`greedy` is
            `None` if not asked for), or `None` before the first evaluation.
    """

    def __init__(
        self,
        task: Task,
        *,
        every: int = 10,
        samples: int = 4,
        greedy: bool = True,
        max_completion_length: int = 1024,
        temperature: float = 1.0,
        stop_tokens: tuple[str, ...] = TURN_ENDS,
        stop_strings: tuple[str, ...] = (),
        max_rows: int | None = 256,
        seed: int = 0,
        reward_seconds: float | None = 5.0,
        on_reward_error: str = "skip",
    ):
        super().__init__()
        for name, value in {"every": every, "samples": samples}.items():
            if value < 1:
                raise ValueError(f"{name} must be 1 or more. Received: {name}={value}")
        if temperature <= 0:
            raise ValueError(f"Samples are drawn at a temperature above 0. Received: temperature={temperature}")
        self.task = task
        self.grader = Grader(task, seconds=reward_seconds, on_error=on_reward_error)
        self.every = every
        self.samples = samples
        self.greedy = greedy
        self.temperature = temperature
        self.sampling = dict(
            max_completion_length=max_completion_length,
            stop_tokens=tuple(stop_tokens),
            stop_strings=tuple(stop_strings),
            max_rows=max_rows,
            seed=seed,
            iteration=_ITERATION,
        )
        self.latest = None
        self._warm = set()

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if (epoch + 1) % self.every and not last:
            return
        start = time.perf_counter()
        sampled = self.evaluate(self.model)
        greedy = self.evaluate(self.model, greedy=True) if self.greedy else None
        self.latest = (epoch, sampled, greedy)
        summary = summarize(sampled)
        logs["val_accuracy"] = summary["accuracy"]
        if self.greedy:
            logs["val_greedy_accuracy"] = float(greedy["correct"].mean())
        logs["val_format_rate"] = summary["format_rate"]
        logs["val_completion_length"] = summary["mean_completion_length"]
        for name in BEHAVIOURS:
            logs[f"val_{name}"] = summary[f"mean_{name}"]
        logs["evaluation_seconds"] = time.perf_counter() - start

    def evaluate(self, model, greedy: bool = False) -> pd.DataFrame:
        """Completes every problem and scores the completions; with several processes each has its share of them.

        Args:
            model: a `GRPOModel`.
            greedy: take the best token always, one completion a problem, instead of `samples` drawn ones.

        Returns:
            One row a completion, with the columns of `evaluation`: `puzzle` (its index in the task), `problem` (as
            text), the task's labels, `sample`, `text`, `reward`, `correct`, `verdict`, `well_formed`,
            `completion_length` (tokens), `stopped`, and `BEHAVIOURS`.
        """
        *_, completions = self._complete(model, greedy)
        return self._table(model, completions, 1 if greedy else self.samples)

    def evaluate_waits(self, model, waits: int, word: str = "Wait") -> Iterator[pd.DataFrame]:
        """Samples as `evaluate` does, then lets thinking go on again and again, see `budget_forcing.think_on`.

        Args:
            model: a `GRPOModel`.
            waits: N, how often thinking that would end goes on.
            word: put where it would have ended.

        Yields:
            N + 1 tables, after 0 to N waits, each as soon as it is there. They are as from `evaluate`, with a column
            `thought_on`: how often the completion did, fewer times where it never ended its thinking, or had no room.

        Raises:
            ValueError: if the vocabulary cannot write the word.
        """
        word_ids = word_to_ids(model.tokenizer, word)
        *prompts, first_row, completions = self._complete(model)
        prompts = [np.repeat(x, self.samples, axis=0) for x in prompts]
        rows = first_row + np.arange(len(completions.lengths))
        thought_on = np.zeros(len(rows), "int64")
        yield self._table(model, completions, self.samples, thought_on=thought_on)
        for wait in range(1, waits + 1):
            sampling = self.sampling | dict(iteration=_ITERATION - wait, temperature=self.temperature)
            with rollout_bar(f"wait {wait}", len(rows)) as on_segment:
                completions, going = think_on(
                    model, *prompts, completions, word_ids, rows=rows, on_segment=on_segment, **sampling
                )
            thought_on = thought_on + going
            yield self._table(model, completions, self.samples, thought_on=thought_on)

    def _complete(self, model, greedy=False):
        """This process's share of the prompts, as arrays, the number of its first row, and the completions."""
        samples, temperature = (1, 0.0) if greedy else (self.samples, self.temperature)
        prompts = [self.task.prompt(problem) for problem in self._problems()]
        # Padded as in training, so that its compiled programs fit.
        token_ids, padding_mask = model.tokenize(prompts, multiple=PROMPT_MULTIPLE)
        own = processes.share(len(prompts))
        first_row = own.start * samples
        rows = samples * len(prompts[own])
        with rollout_bar("greedy evaluation" if greedy else "evaluation", rows) as on_segment:
            completions = model.generate(
                token_ids[own],
                padding_mask[own],
                group_size=samples,
                temperature=temperature,
                first_row=first_row,
                on_segment=on_segment,
                warm_up=greedy not in self._warm,
                **self.sampling,
            )
        self._warm.add(greedy)
        return token_ids[own], padding_mask[own], first_row, completions

    def _table(self, model, completions, samples, **columns):
        """One row a completion, of all processes; `columns` have a value for each of this one's completions."""
        problems = self._problems()
        first_row = processes.share(len(problems)).start * samples
        texts = model.detokenize(completions, self.sampling["stop_tokens"])
        reported = {}
        columns = {"completion_length": completions.lengths, "stopped": completions.stopped} | columns
        rows = [
            self._graded(row // samples, problems[row // samples], row % samples, text, reported)
            | {name: values[row - first_row].item() for name, values in columns.items()}
            for row, text in enumerate(texts, start=first_row)
        ]
        return with_behaviours(pd.DataFrame(processes.gather_records(rows)))

    def _problems(self):
        return [self.task.problem(i) for i in range(len(self.task))]

    def _graded(self, puzzle, problem, sample, text, reported):
        score = self.grader.score(problem, text, reported)
        return {
            "puzzle": puzzle,
            "problem": str(problem),
            **self.task.labels(problem),
            "sample": sample,
            "text": text,
            "reward": score.reward,
            "correct": score.correct,
            "verdict": score.verdict,
            "well_formed": score.well_formed,
        }
