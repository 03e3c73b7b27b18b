"""From completions that each process has sampled and graded to one `Rollout`, and the logs that describe it."""

import dataclasses

from keras_aha.distribution import processes
from keras_aha.evaluation.behaviours import mean_behaviours
from keras_aha.tasks.checkers.unchecked import UNCHECKED
from keras_aha.tasks.mixture import Mixture
from keras_aha.tasks.task import Score
from keras_aha.training.grader import groups_with_signal, reward_logs
from keras_aha.training.rollout import Rollout

import numpy as np
import pandas as pd


def gather(completions, texts: list[str], scores: list[Score], rewards: dict[str, np.ndarray]) -> tuple:
    """The same four of all processes, in their order; all of them must call it, as it waits for them."""
    arrays = completions._asdict()
    gathered = processes.gather_rows(arrays | rewards)
    records = [(text, dataclasses.astuple(score)) for text, score in zip(texts, scores, strict=True)]
    texts, scores = zip(*((text, Score(*score)) for text, score in processes.gather_records(records)), strict=True)
    completions = completions._replace(**{name: gathered[name] for name in arrays})
    return completions, texts, scores, {name: gathered[name] for name in rewards}


def join(prompts, problems, completions, texts, scores, rewards, temperature: float) -> Rollout:
    """A rollout in which all completions are trained on, and none has an advantage yet.

    Prompts are `(token_ids, padding_mask)`, each `(P, L)`, of P problems; completions are a `decoding.Completions` of
    B = P·G rows, sampled at this temperature, with B texts and scores; rewards are as `Grader.grade` returns them.
    """
    group_size = len(texts) // len(problems)
    token_ids, padding_mask = (np.repeat(x, group_size, axis=0) for x in prompts)
    token_mask = np.arange(completions.token_ids.shape[1]) < completions.lengths[:, None]
    parts = {name: values.tolist() for name, values in rewards.items() if name != "reward"}
    return Rollout(
        token_ids=np.hstack([token_ids, completions.token_ids]),
        padding_mask=np.hstack([padding_mask, token_mask]).astype("int32"),
        completion_mask=token_mask.astype("float32"),
        old_log_probs=completions.log_probs,
        sampler_log_probs=completions.log_probs,
        advantages=np.zeros(len(texts), "float32"),
        temperature=np.full(len(texts), temperature, "float32"),
        rewards=rewards["reward"],
        truncated=~completions.stopped,
        problems=tuple(problem for problem in problems for _ in range(group_size)),
        texts=tuple(texts),
        scores=tuple(scores),
        parts=tuple(dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)),
    )


def rollout_logs(rollout: Rollout, rewards: dict[str, np.ndarray], group_size: int) -> dict[str, float]:
    """Means over a rollout, see `RolloutCallback`, of rewards as `Grader.grade` returns them; and its tokens."""
    return {
        **reward_logs(rollout.scores, rewards),
        **mean_behaviours(rollout.texts),
        "completion_length": float(np.mean(rollout.lengths)),
        "truncated": float(np.mean(rollout.truncated)),
        "zero_std_groups": float(np.mean(~groups_with_signal(rollout.rewards, group_size))),
        "generated_tokens": int(rollout.lengths.sum()),
    }


def logs_by_task(mixture: Mixture, rollout: Rollout) -> dict[str, float]:
    """`accuracy_<name>` and `mean_reward_<name>` of each task that was asked."""
    correct = [None if score.verdict == UNCHECKED else float(score.correct) for score in rollout.scores]
    columns = {"accuracy": np.array(correct, "float64"), "mean_reward": rollout.rewards}
    names = [mixture.names[problem.task] for problem in rollout.problems]
    means = pd.DataFrame(columns).groupby(names).mean()
    return {f"{kind}_{name}": float(mean) for kind in means for name, mean in means[kind].items()}
