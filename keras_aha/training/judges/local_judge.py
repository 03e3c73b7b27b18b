"""`LocalJudge`: a judge whose model is in this process, and reads many texts at a time."""

import contextlib
import functools
from abc import abstractmethod

from keras_aha.decoding import decoder_for
from keras_aha.decoding.placement import Placement
from keras_aha.distribution.distribute import rollout_values
from keras_aha.models import lora
from keras_aha.models.policy import check_frozen, load_frozen
from keras_aha.models.presets import load_tokenizer
from keras_aha.models.special_tokens import prompt_ids
from keras_aha.names import unicode
from keras_aha.tasks.task import Task
from keras_aha.training.judges.judge import Judge

import jax
import jax.numpy as jnp
import keras
import keras_hub
import numpy as np


class LocalJudge(Judge):
    """The base of judges that make a number of what a model's last layer says at a text's last token.

    Texts are padded to `max_length` tokens, and read `batch_size` at a time, by one program, which is compiled once:
    `max_length` is what a text costs, however short it is. One that is longer fails. Weights lie as rollouts' weights
    do, see `distribute`, on the devices of this process, which judges without the others.

    Args:
        task, rubric, ranks, opponents: as of `Judge`.
        preset: a preset as `load_policy` takes it.
        dtype, quantization: of the weights, as of `load_policy`.
        max_length: in tokens, with the begin-token.
        batch_size: texts at a time; on several devices the next multiple of the parts that they split a batch into.

    Attributes:
        policy: the model, a `CausalLM`; `None` until it is loaded.

    Raises:
        ValueError: for what `Judge` does, what `load_policy` does before it loads weights, and sizes below 1.
    """

    def __init__(
        self,
        task: Task,
        preset: str,
        rubric: str,
        *,
        dtype: str = "float32",
        quantization: str | None = None,
        max_length: int = 2048,
        batch_size: int = 16,
        ranks: bool = False,
        opponents: int = 2,
    ):
        super().__init__(task, rubric, ranks=ranks, opponents=opponents)
        for name, size in {"max_length": max_length, "batch_size": batch_size}.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"`{name}` must be an int of 1 or more. Received: {name}={size!r}")
        self.preset = preset
        self.weights = dict(dtype=dtype, quantization=quantization)
        self.max_length = max_length
        self.batch_size = batch_size
        check_frozen(preset, **self.weights)
        self.tokenizer = load_tokenizer(preset)
        self.policy = None

    def load(self, policy: keras_hub.models.CausalLM | None = None) -> None:
        """Loads the weights, or takes those of a `policy`, such as of a run; else the first call does so.

        It is to be called after `distribute`, with several processes in all of them at once. The policy's vocabulary
        must be the preset's; if it has adapters, they judge as they are now.
        """
        distribution = keras.distribution.distribution()
        if policy is None:
            with distribution.rollouts.scope() if distribution else contextlib.nullcontext():
                policy = load_frozen(self.preset, **self.weights)
        backbone = policy.backbone
        adapted = {id(variable): value for variable, value in lora.adapted_values(backbone)}
        values = [adapted.get(id(variable), variable.value) for variable in backbone.variables]
        self.policy = policy
        self._values = rollout_values(backbone.variables, values)
        self._placement = Placement(self._values)
        self._program = jax.jit(functools.partial(read_texts, backbone, self.numbers))

    def judge(self, texts: list[str]) -> list[float | Exception]:
        """Returns a number for each text; exceptions for those that the model cannot read."""
        if self.policy is None:
            self.load()
        rows = prompt_ids(self.tokenizer, [unicode(self.write(text)) for text in texts])
        numbers = [row if 0 < len(row) <= self.max_length else self._failure(row) for row in rows]
        readable = [i for i, row in enumerate(numbers) if not isinstance(row, Exception)]
        size = -(-self.batch_size // self._placement.parts) * self._placement.parts
        for first in range(0, len(readable), size):
            batch = readable[first : first + size]
            token_ids, lengths = np.zeros((size, self.max_length), "int32"), np.ones(size, "int32")
            for row, i in enumerate(batch):
                lengths[row] = len(numbers[i])
                token_ids[row, : lengths[row]] = numbers[i]
            found = self._program(self._values, *self._placement.rows((token_ids, lengths)))
            for i, number in zip(batch, np.asarray(found), strict=False):  # the rest is padding
                numbers[i] = float(number)
        return numbers

    def write(self, text: str) -> str:
        """Returns what the model reads of a filled rubric, by default the same text."""
        return text

    @abstractmethod
    def numbers(self, hidden):
        """`(B, D)`, last hidden states of B texts → `(B,)` float32; inside a jit, with the model's weights in place."""

    def _failure(self, row) -> ValueError:
        words = f"A judge's text must have 1 to {self.max_length} tokens: set `max_length`"
        return ValueError(f"{words}. Received: {len(row)} tokens")


def read_texts(backbone, numbers, values, token_ids, lengths):
    """What `numbers` makes of the last hidden states of B texts, `(B, D)`; the program of a `LocalJudge`.

    Args:
        backbone: with its `values`, in the order of its variables, adapters merged.
        numbers: a function of those states, as `LocalJudge.numbers`.
        token_ids: `(B, L)`, padded on the right.
        lengths: `(B,)`.
    """
    decoder = decoder_for(backbone)
    with lora.using_merged(backbone, list(zip(backbone.variables, values, strict=True))):
        if decoder is None:
            padding_mask = jnp.arange(token_ids.shape[1]) < lengths[:, None]
            hidden = backbone({"token_ids": token_ids, "padding_mask": padding_mask})
            return numbers(hidden[jnp.arange(len(lengths)), lengths - 1])
        # As prompts are read, padded on the left: it holds the attention of some queries at a time, not of all.
        starts = token_ids.shape[1] - lengths
        hidden, _ = decoder.prefill(jax.vmap(jnp.roll)(token_ids, starts), starts, 0)
        return numbers(hidden)
