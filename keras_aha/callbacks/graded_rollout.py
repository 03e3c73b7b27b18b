"""From completions that each process has sampled and graded to one `Rollout`, and the logs that describe it."""

import dataclasses

from keras_aha.distribution import processes
from keras_aha.evaluation.behaviours import mean_behaviours
from keras_aha.evaluation.turn_habits import imitated_observations
from keras_aha.losses import group_advantages
from keras_aha.tasks.checkers.unchecked import UNCHECKED
from keras_aha.tasks.mixture import Mixture
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.turn import Observation, Turn
from keras_aha.training.grader import groups_with_signal, reward_logs
from keras_aha.training.rollout import Rollout
from keras_aha.training.spoken import Spoken, turn_counts

import numpy as np
import pandas as pd


def gather(spoken: Spoken, scores: list[Score], rewards: dict[str, np.ndarray]) -> tuple:
    """The same three of all processes, in their order; all of them must call it, as it waits for them."""
    arrays = spoken.completions._asdict()
    gathered = processes.gather_rows(arrays | rewards)
    turns = [[_as_record(turn) for turn in own] for own in spoken.turns] or [None] * len(spoken.texts)
    records = zip(spoken.texts, map(dataclasses.astuple, scores), turns, strict=True)
    texts, scores, turns = zip(*processes.gather_records(list(records)), strict=True)
    turns = () if turns[0] is None else tuple(tuple(map(_as_turn, own)) for own in turns)
    completions = spoken.completions._replace(**{name: gathered[name] for name in arrays})
    rewards = {name: gathered[name] for name in rewards}
    return Spoken(completions, texts, turns), tuple(Score(*score) for score in scores), rewards


def join(prompts, problems, spoken: Spoken, scores, rewards, temperature: float) -> Rollout:
    """A rollout in which all that the policy drew is trained on, and no completion has an advantage yet.

    Prompts are `(token_ids, padding_mask)`, each `(P, L)`, of P problems; B = P·G completions were sampled at this
    temperature, and have B scores; rewards are as `Grader.grade` returns them.
    """
    completions = spoken.completions
    group_size = len(spoken.texts) // len(problems)
    token_ids, padding_mask = (np.repeat(x, group_size, axis=0) for x in prompts)
    token_mask = np.arange(completions.token_ids.shape[1]) < completions.lengths[:, None]
    parts = {name: values.tolist() for name, values in rewards.items() if name != "reward"}
    return Rollout(
        token_ids=np.hstack([token_ids, completions.token_ids]),
        padding_mask=np.hstack([padding_mask, token_mask]).astype("int32"),
        completion_mask=(token_mask & ~completions.observed).astype("float32"),
        old_log_probs=completions.log_probs,
        sampler_log_probs=completions.log_probs,
        advantages=np.zeros(len(scores), "float32"),
        temperature=np.full(len(scores), temperature, "float32"),
        rewards=rewards["reward"],
        truncated=~completions.stopped,
        problems=tuple(problem for problem in problems for _ in range(group_size)),
        texts=tuple(spoken.texts),
        scores=tuple(scores),
        parts=tuple(dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)),
        turns=tuple(spoken.turns),
        observed=completions.observed,
    )


def with_advantages(rollout: Rollout, rewards, loss, mask_truncated: bool, *, group_size: int, **settings) -> Rollout:
    """With advantages of `rewards`, and 0 in the mask of rows in which nothing counts for the `GRPOLoss`, so that
    nothing is computed for them. Others are as `RolloutCallback` and `group_advantages` have them."""
    has_signal = np.repeat(groups_with_signal(rewards, group_size), group_size) & ~np.isnan(rewards)
    others = bool(loss.kl_coef or loss.entropy_coef or loss.teacher_coef)  # terms that need no advantage
    counts = (has_signal | others) & ~(rollout.truncated & mask_truncated)
    mask = rollout.completion_mask * counts[:, None].astype("float32")
    advantages = np.asarray(group_advantages(rewards, group_size=group_size, **settings))
    arrays = dict(advantages=advantages, has_signal=has_signal.astype("float32"), completion_mask=mask)
    return dataclasses.replace(rollout, **arrays)


def with_trainers_log_probs(rollout: Rollout, model) -> tuple[Rollout, float]:
    """The rollout with the trainer's own log-probs as the old ones, and how far the sampler's are from them.

    That is the mean of |trainer's − sampler's| over the tokens that the policy drew.
    """
    length = rollout.completion_mask.shape[1]
    log_probs = model.log_probs(rollout.token_ids, rollout.padding_mask, length, rollout.temperature[0])
    log_probs = np.where(rollout.drawn, log_probs, 0.0).astype("float32")
    gap = np.abs(log_probs - rollout.sampler_log_probs).sum()  # 0 at all other tokens
    return dataclasses.replace(rollout, old_log_probs=log_probs), float(gap / rollout.drawn.sum())


def rollout_logs(rollout: Rollout, rewards: dict[str, np.ndarray], group_size: int, task: Task) -> dict[str, float]:
    """Means over a rollout, see `RolloutCallback`, of rewards as `Grader.grade` returns them; and its tokens."""
    return {
        **reward_logs(rollout.scores, rewards),
        **mean_behaviours(rollout.texts),
        "completion_length": float(np.mean(rollout.lengths)),
        "truncated": float(np.mean(rollout.truncated)),
        "zero_std_groups": float(np.mean(~groups_with_signal(rollout.rewards, group_size))),
        "generated_tokens": int(rollout.drawn.sum()),
        **_turn_logs(rollout),
        **(logs_by_task(task, rollout) if isinstance(task, Mixture) else {}),
    }


def logs_by_task(mixture: Mixture, rollout: Rollout) -> dict[str, float]:
    """`accuracy_<name>` and `mean_reward_<name>` of each task that was asked."""
    correct = [None if score.verdict == UNCHECKED else float(score.correct) for score in rollout.scores]
    columns = {"accuracy": np.array(correct, "float64"), "mean_reward": rollout.rewards}
    names = [mixture.names[problem.task] for problem in rollout.problems]
    means = pd.DataFrame(columns).groupby(names).mean()
    return {f"{kind}_{name}": float(mean) for kind in means for name, mean in means[kind].items()}


def _turn_logs(rollout):
    """Means over completions in turns."""
    if not rollout.turns:
        return {}
    logs = pd.DataFrame([turn_counts(turns) for turns in rollout.turns]).mean().to_dict()
    logs["observation_tokens"] = float(rollout.observed.sum(axis=1).mean())
    return logs | {"imitated_observations": imitated_observations(rollout.turns)}


def _as_record(turn: Turn) -> list:
    return [turn.text, None if turn.observation is None else dataclasses.astuple(turn.observation)]


def _as_turn(record) -> Turn:
    text, observation = record
    return Turn(text, None if observation is None else Observation(*observation))
