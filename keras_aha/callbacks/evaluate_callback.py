"""`EvaluateCallback`: completions of held-out problems, scored, every few epochs or whenever it is asked."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.callbacks.rollout_bar import below_bar, rollout_bar
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.distribution import processes
from keras_aha.evaluation.tables import checked, summarize, with_behaviours
from keras_aha.evaluation.transcript import transcript
from keras_aha.models.special_tokens import TURN_ENDS
from keras_aha.names import unicode
from keras_aha.tasks.mixture import MixedProblem
from keras_aha.tasks.task import Task
from keras_aha.training.ask import ask, ask_prompt, problem_text
from keras_aha.training.budget_forcing import think_on, word_to_ids
from keras_aha.training.grader import Grader
from keras_aha.training.rollout import PROMPT_MULTIPLE
from keras_aha.training.spoken import Spoken, speak, turn_counts
from keras_aha.training.turn_limits import TurnLimits

import keras
import numpy as np
import pandas as pd

_ITERATION = 2**31 - 1  # of the sampling keys: one that training never reaches, so no key is ever used twice
_ROWS = 256  # decoded at a time, unless rollouts say otherwise


class EvaluateCallback(keras.callbacks.Callback):
    """Samples completions of held-out problems and adds what `evaluation.summarize` says of them to the logs.

        rollouts = RolloutCallback(task)
        evaluation = EvaluateCallback(task.held_out(256), rollouts=rollouts, every=10)
        before = evaluation.evaluate(model)["correct"].mean()
        model.fit(rollouts.dataset, epochs=100, callbacks=[rollouts, evaluation])

    Logs of every `every`-th epoch and of the last: `val_accuracy`, with the ends of its 95 % interval over puzzles
    `val_accuracy_low` and `val_accuracy_high`, `val_format_rate`, `val_completion_length` (tokens), `val_attempts`,
    `val_verifications`, `val_backtracks`, `val_self_corrections`, `val_slips` (a completion),
    `evaluation_seconds`, `val_greedy_accuracy` if `greedy`, `val_lenient_accuracy` if scores have `lenient`,
    `val_reward_<name>` of each of the other rewards, of a `Mixture` `val_accuracy_<name>` of each task, and of a task
    that answers `val_turns`, `val_tool_calls`, `val_tool_errors`, `val_observation_tokens`. Problems without a checker
    are in no share of what is right.

    Each evaluation draws from the same random keys, so what differs between two is the policy. A completion whose score
    fails, see `RolloutCallback`, counts as not solved, with the verdict "error".

    Args:
        task: a task with a length, such as `task.held_out(n)` returns; all its problems are taken.
        rollouts: the `RolloutCallback` of the same training, whose length, stops, rows, rewards and limits of turns are
            taken if they are not given here. With the same ones the two share most of their compiled programs.
        rewards: others beside the task's own, as `RolloutCallback` takes them, so that both can be compared: sampled
            completions are given them, greedy ones are not. Weights do not matter here, as nothing is added up.
        every: epochs from one evaluation to the next.
        samples: completions of each problem at `temperature`.
        greedy: whether to decode each problem greedily too.
        max_completion_length: C, in tokens; needed without `rollouts`.
        temperature: of the samples, > 0.
        stop_tokens, stop_strings: see `PolicySampler.generate`. Without `rollouts` they are `TURN_ENDS` and none.
        max_rows: rows decoded at a time, which bounds the memory. Without `rollouts` it is 256.
        seed: of the sampling keys.
        reward_seconds, on_reward_error: see `RolloutCallback`.
        turns: limits for a task of several turns, see there.

    Attributes:
        latest: `(epoch, sampled, greedy)`, epoch counted from 0 and tables as `evaluate` returns them (`greedy` is
            `None` if not asked for), or `None` before the first evaluation in a `fit`.
        seconds: that `evaluate` last sampled, and compiled in them; what rewards take is not in it.

    Raises:
        ValueError: for an argument outside of these, or if neither `rollouts` nor `max_completion_length` is given.
    """

    def __init__(
        self,
        task: Task,
        *,
        rollouts: RolloutCallback | None = None,
        rewards: Mapping[str, tuple[Callable[[Any, str], float], float]] | None = None,
        every: int = 10,
        samples: int = 4,
        greedy: bool = True,
        max_completion_length: int | None = None,
        temperature: float = 1.0,
        stop_tokens: tuple[str, ...] | None = None,
        stop_strings: tuple[str, ...] | None = None,
        max_rows: int | None = None,
        seed: int = 0,
        reward_seconds: float | None = 5.0,
        on_reward_error: str = "skip",
        turns: TurnLimits | None = None,
    ):
        super().__init__()
        for name, value in {"every": every, "samples": samples}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more. Received: {name}={value}")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be above 0. Received: temperature={temperature}")
        if rollouts is None and max_completion_length is None:
            raise ValueError(
                "An evaluation needs a length: give `rollouts`, the RolloutCallback whose length it takes, or "
                "`max_completion_length`. Received: rollouts=None, max_completion_length=None"
            )
        self.task = task
        rewards = rollouts.grader.rewards if rewards is None and rollouts is not None else rewards
        limits = dict(seconds=reward_seconds, on_error=on_reward_error)
        self.grader, self._task_grader = Grader(task, rewards, **limits), Grader(task, **limits)
        self.every = every
        self.samples = samples
        self.greedy = greedy
        self.temperature = temperature
        given = dict(max_completion_length=max_completion_length, max_rows=max_rows)
        given |= dict(stop_tokens=stop_tokens, stop_strings=stop_strings)
        defaults = _sampling_of(rollouts)
        self.sampling = {name: defaults[name] if value is None else value for name, value in given.items()}
        self.sampling |= dict(seed=seed, iteration=_ITERATION)
        turns = turns or (TurnLimits() if rollouts is None else rollouts.turns)
        self.turns = turns.within_completions(task, self.sampling["max_completion_length"])
        self.latest = None
        self._warm = set()  # kinds of evaluation whose programs are compiled

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if (epoch + 1) % self.every and not last:
            return
        start = time.perf_counter()
        sampled = self.evaluate(self.model)
        greedy = self.evaluate(self.model, greedy=True) if self.greedy else None
        self.latest = (epoch, sampled, greedy)
        summary = summarize(sampled)
        logs |= self._shares(checked(sampled), greedy)
        logs |= {f"val{name[4:]}": mean for name, mean in summary.items() if name.startswith("mean_")}
        logs["evaluation_seconds"] = time.perf_counter() - start

    def _shares(self, sampled, greedy) -> dict[str, float]:
        """The logs of what is right, of the problems that a checker has looked at."""
        if sampled.empty:
            return {}
        summary = summarize(sampled)
        shares = {name: summary[name] for name in ("accuracy", "format_rate", "lenient_accuracy") if name in summary}
        shares["accuracy_low"], shares["accuracy_high"] = summary["ci95"]
        if greedy is not None:
            shares["greedy_accuracy"] = float(checked(greedy)["correct"].mean())
        if isinstance(self.task.problem(0), MixedProblem):
            shares |= sampled.groupby("task")["correct"].mean().add_prefix("accuracy_").to_dict()
        return {f"val_{name}": share for name, share in shares.items()}

    def evaluate(self, model, greedy: bool = False) -> pd.DataFrame:
        """Completes every problem and scores the completions, before, during or after `fit`.

        With several processes each completes a share of the problems, and all get the whole table.

        Args:
            model: a `GRPOModel`.
            greedy: take the best token always, one completion a problem, instead of `samples` drawn ones.

        Returns:
            One row a completion, with the columns of `evaluation`: `puzzle` (its index in the task), `problem` (as
            text), the task's labels, `sample`, `text`, `reward`, `correct`, `verdict`, `well_formed`,
            `completion_length` (tokens), `stopped`, and `BEHAVIOURS`; `lenient` if any score has it, and then of a
            score that has none it is `correct`; and of sampled ones `reward_<name>` of each of the other rewards, NaN
            where it failed. `reward` is the task's own, to which no other is added. Of a task of several turns `text`
            is the policy's own words, and there are `turns`, `tool_calls`, `tool_errors`, `observation_tokens` and
            `transcript`.
        """
        return self._table(self._complete(model, greedy), greedy)

    def evaluate_waits(self, model, waits: int, word: str = "Wait") -> Iterator[pd.DataFrame]:
        """Samples as `evaluate` does, then lets thinking go on again and again, see `budget_forcing.think_on`.

        Args:
            model: a `GRPOModel`.
            waits: N, how often thinking that would end goes on.
            word: what is put at the end of the thinking.

        Yields:
            N + 1 tables, after 0 to N waits, each as soon as it is there. They are as from `evaluate`, with a column
            `thought_on`: how often the completion did. It did fewer times if it never ended its thinking, or had no
            room.

        Raises:
            ValueError: if the vocabulary cannot write the word, or the task has several turns.
        """
        if self.task.max_turns > 1:
            raise ValueError(
                "Budget forcing is for tasks of one turn, as it goes on with a completion's only thinking: use "
                f"`evaluate`. Received: a task with max_turns={self.task.max_turns}"
            )
        word_ids = word_to_ids(model.tokenizer, word)
        spoken = self._complete(model)
        completions = spoken.completions
        prompts = [np.repeat(x, self.samples, axis=0) for x in self._prompts(model)]
        rows = self._rows(self.samples)
        thought_on = np.zeros(len(rows), "int64")
        yield self._table(spoken, thought_on=thought_on)
        for wait in range(1, waits + 1):
            sampling = self.sampling | dict(iteration=_ITERATION - wait, temperature=self.temperature)
            with rollout_bar(f"wait {wait}", len(rows)) as on_segment:
                sampling |= dict(rows=rows, on_segment=on_segment)
                completions, going = think_on(model, *prompts, completions, word_ids, **sampling)
            thought_on = thought_on + going
            texts = model.detokenize(completions, self.sampling["stop_tokens"])
            yield self._table(Spoken(completions, texts), thought_on=thought_on)

    # === This process's share ===

    def _rows(self, samples):
        """Numbers of its completions, among those of all processes."""
        problems = processes.share(len(self.task))
        return np.arange(problems.start * samples, problems.stop * samples)

    def _problems(self, samples):
        """A problem for each of its completions, of a group the same object."""
        own = range(len(self.task))[processes.share(len(self.task))]
        return [problem for i in own for problem in [self.task.problem(i)] * samples]

    def _prompts(self, model):
        """`(token_ids, padding_mask)`, padded as in training, so that its compiled programs fit."""
        prompts = [ask_prompt(self.task, self.task.problem(i)) for i in range(len(self.task))]
        return [x[processes.share(len(prompts))] for x in model.tokenize(prompts, multiple=PROMPT_MULTIPLE)]

    def _complete(self, model, greedy=False):
        rows = self._rows(1 if greedy else self.samples)
        name, start = "greedy evaluation" if greedy else "evaluation", time.perf_counter()
        with contextlib.closing(CompileCounter()) as compiles, rollout_bar(name, len(rows)) as on_segment:
            spoken = speak(
                model,
                self.task,
                self._problems(1 if greedy else self.samples),
                self._prompts(model),
                limits=self.turns,
                reported={},
                on_error=self.grader.on_error,
                rows=rows,
                group_size=1 if greedy else self.samples,
                temperature=0.0 if greedy else self.temperature,
                on_segment=on_segment,
                warm_up=greedy not in self._warm,
                **self.sampling,
            )
        self.seconds = time.perf_counter() - start, compiles.seconds
        self._warm.add(greedy)
        return spoken

    def _table(self, spoken, greedy=False, **columns):
        """One row a completion, of all processes; `columns` have a value for each of this one's completions."""
        completions, texts, turns, failed = spoken
        columns = {"completion_length": completions.lengths, "stopped": completions.stopped} | columns
        samples = 1 if greedy else self.samples
        with below_bar():
            scores, rewards = (self._task_grader if greedy else self.grader).grade(
                self._problems(samples), texts, completions.lengths, {}, turns, failed
            )
        columns |= {name: values for name, values in rewards.items() if name.startswith("reward_")}
        columns |= {"observation_tokens": completions.observed.sum(axis=1)} if turns else {}
        rows = [
            self._row(*divmod(row, samples), *graded) | {name: x[i].item() for name, x in columns.items()}
            for i, (row, *graded) in enumerate(zip(self._rows(samples).tolist(), texts, scores, strict=True))
        ]
        for row, own in zip(rows, turns, strict=False):  # there are none of a task of one turn
            row |= turn_counts(own) | {"transcript": unicode(transcript(own))}
        rows = processes.gather_records(rows)
        is_told = any(row["lenient"] is not None for row in rows)
        for row in rows:
            lenient = row.pop("lenient")
            row |= {"lenient": row["correct"] if lenient is None else lenient} if is_told else {}
        return with_behaviours(pd.DataFrame(rows))

    def _row(self, puzzle, sample, text, score):
        problem = self.task.problem(puzzle)
        row = {
            "puzzle": puzzle,
            "problem": problem_text(problem, self.task.prompt(problem)),
            **ask(self.task, "labels", problem, "a dictionary", dict),
            "sample": sample,
            "text": text,
            **{name: getattr(score, name) for name in ("reward", "correct", "lenient", "verdict", "well_formed")},
        }
        return {name: unicode(value) if isinstance(value, str) else value for name, value in row.items()}


def _sampling_of(rollouts: RolloutCallback | None) -> dict:
    if rollouts is None:
        return dict(max_completion_length=None, stop_tokens=TURN_ENDS, stop_strings=(), max_rows=_ROWS)
    rows = rollouts.prompts_per_epoch * rollouts.group_size
    return rollouts.sampling | dict(max_rows=rollouts.sampling["max_rows"] or rows)
