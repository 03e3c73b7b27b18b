"""The rewards of `[[rewards]]`: functions, and judges that are made of the other keys."""

import contextlib
import functools
from collections.abc import Callable, Mapping

from keras_aha.names import import_name
from keras_aha.recipes.feedback import Reward
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import in_section
from keras_aha.runs.check_marks import check_rubric
from keras_aha.runs.from_keys import make_from_keys
from keras_aha.runs.other_model import OtherModel, find_other
from keras_aha.tasks import Task
from keras_aha.training.judges.endpoint_judge import EndpointJudge
from keras_aha.training.judges.local_judge import LocalJudge
from keras_aha.training.judges.model_judge import ModelJudge
from keras_aha.training.judges.reward_model import RewardModel, is_reward_model

import keras
import keras_hub

Rewards = Mapping[str, tuple[Callable, float]]


def build_rewards(recipe: Recipe, task: Task) -> Rewards:
    """What `[[rewards]]` name, as `RolloutCallback` takes it; judges have no weights before `load_judges`.

    It raises RecipeError or ValueError for a function or a model that there is not, a key that a judge does not take,
    and marks of turns in a rubric that the judge's vocabulary does not have.
    """
    rewards, models = {}, judges_here(recipe)
    for i, reward in enumerate(recipe.rewards):
        path = f"rewards[{i}]"
        if reward.function is not None:
            value = import_name(reward.function, f"{path}.function")
        elif i not in models:
            value = make_from_keys(functools.partial(EndpointJudge, task, reward.judge), reward, path, reward.judge)
        else:
            make = functools.partial(judge_class(reward.judge), task, models[i].preset)
            value = make_from_keys(make, reward, path, reward.judge, dtype=models[i].weights["dtype"])
            with in_section(path):
                check_rubric(value, path)
        rewards[reward.name] = value, reward.weight
    return rewards


def load_judges(recipe: Recipe, rewards: Rewards) -> dict[str, keras_hub.models.CausalLM]:
    """Loads the weights of judges that `build_rewards` made, after `distribute`; returns key of the recipe → model."""
    models, distribution = {}, keras.distribution.distribution()
    for i, other in judges_here(recipe).items():
        judge, _ = rewards[recipe.rewards[i].name]
        with in_section(f"rewards[{i}]"):
            with distribution.rollouts.scope() if distribution else contextlib.nullcontext():
                policy = other.load() if other.run else None
            judge.load(policy)
        models[f"rewards[{i}].judge"] = judge.policy
    return models


def judges_here(recipe: Recipe) -> dict[int, OtherModel]:
    """Number of the table → model, of those judges that have one in this process."""
    judges = {i: x for i, x in enumerate(recipe.rewards) if x.judge is not None and not is_server(x.judge)}
    return {i: _find(judge, f"rewards[{i}].judge", recipe.model.dtype) for i, judge in judges.items()}


def is_server(judge: str) -> bool:
    """Whether a judge is the address of a server."""
    return judge.startswith(("http://", "https://"))


def judge_class(judge: str) -> type[LocalJudge]:
    """The class of a judge that has a model in this process."""
    return RewardModel if is_reward_model(judge) else ModelJudge


def _find(reward: Reward, key: str, policy_dtype: str) -> OtherModel:
    given = (reward.arguments.get(name) for name in ("dtype", "quantization"))
    given = (value if isinstance(value, str) and value != "none" else None for value in given)  # its class checks them
    return find_other(reward.judge, key, *given, policy_dtype)
