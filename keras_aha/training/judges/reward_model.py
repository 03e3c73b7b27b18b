"""`RewardModel`: a language model with a head that gives a text one number, of a folder of Hugging Face."""

import json
import os
from pathlib import Path

from keras_aha.files import local_path
from keras_aha.tasks.task import Task
from keras_aha.training.judges.local_judge import LocalJudge

import jax.numpy as jnp
from safetensors import SafetensorError, safe_open


class RewardModel(LocalJudge):
    """A judge that is a `…ForSequenceClassification` of Hugging Face with one label, such as RM-Gemma-2B.

    Its number is the hidden state of the text's last token times the head, of any size: `ranks` makes it comparable.

    Args:
        preset: a folder with config.json, safetensors and tokenizer, as the hub has them, of an architecture whose
            `…ForCausalLM` keras-hub reads.
        rubric: it should write a conversation as the model read it in its training.
        task, **settings: as of `LocalJudge`.

    Raises:
        ValueError: for what `LocalJudge` does, a folder that holds no such model, and a rubric with `{other}`.
    """

    def __init__(self, task: Task, preset: str | os.PathLike, rubric: str = "{prompt}{completion}", **settings):
        if not is_reward_model(preset):
            raise ValueError(
                "`preset` must be a folder whose config.json has `architectures` of one …ForSequenceClassification. "
                f"Received: preset={str(preset)!r}"
            )
        super().__init__(task, str(preset), rubric, **settings)
        if "other" in self.fields:
            raise ValueError(f"A reward model reads one completion: leave {{other}} out. Received: rubric={rubric!r}")
        self._head = _head(local_path(preset))

    def numbers(self, hidden):
        return jnp.sum(hidden.astype("float32") * self._head, axis=-1)


def is_reward_model(folder: str | os.PathLike) -> bool:
    """Whether a folder's config.json names an architecture `…ForSequenceClassification`."""
    try:
        config = json.loads((local_path(folder) / "config.json").read_text(encoding="utf-8"))
        return config["architectures"][0].endswith("ForSequenceClassification")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # whatever the file holds
        return False


def _head(folder: Path):
    """`(D,)` float32, of one file of safetensors or of several with an index."""
    try:
        index = folder / "model.safetensors.index.json"
        file = json.loads(index.read_text())["weight_map"]["score.weight"] if index.exists() else "model.safetensors"
        with safe_open(folder / file, framework="np") as tensors:
            weight = tensors.get_tensor("score.weight")
        if len(weight) != 1:
            raise ValueError(f"it has {len(weight)} labels")
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise ValueError(
            "`preset` must be a folder whose safetensors hold `score.weight` of one label, whose logit is the reward. "
            f"Received: preset={str(folder)!r}, {type(error).__name__}: {error}"
        ) from error
    return weight[0].astype("float32")
