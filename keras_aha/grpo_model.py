"""`GRPOModel`: a keras-hub `CausalLM` that `fit` trains by group-relative policy optimisation."""

from keras_aha import lora
from keras_aha.decoding import Completions
from keras_aha.log_probs import completion_log_probs
from keras_aha.losses import GRPOLoss, aggregation_weights
from keras_aha.policy_sampler import PolicySampler
from keras_aha.rollout import micro_batches
from keras_aha.stop_table import stop_token_ids

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import ops

_METRICS = ("loss", "entropy", "ratio", "clip_fraction", "sampler_gap", "grad_norm")


class GRPOModel(keras.Model):
    """Wraps a policy so that `compile` takes a `GRPOLoss` and `fit` takes rollouts.

    GRPO: arXiv:2402.03300. The reference policy is the policy with its adapters off, so it needs no second model.

    Args:
        policy: a `keras_hub.models.CausalLM`, such as a `GemmaCausalLM`, with a preprocessor, adapters enabled on its
            backbone or not.
        micro_batch_size: rows whose activations are held at a time; it must divide the rows of a step. `None` holds
            them all. The update is the same to rounding.

    Attributes:
        policy: what was passed.
        rollout: the latest `Rollout`, set by whoever makes it; callbacks read it.
    """

    def __init__(self, policy, micro_batch_size: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.policy = policy
        self.micro_batch_size = micro_batch_size
        self.rollout = None
        self._sampler = PolicySampler(policy)
        # Where a layer is not built, `fit` draws a batch before the first rollout exists.
        if not policy.preprocessor.built:
            policy.preprocessor.build(None)
        for layer in self._flatten_layers():
            layer.built = True

    def call(self, inputs):
        """Logits `(B, T, V)` of the policy, for `{"token_ids", "padding_mask"}`, each `(B, T)`."""
        return self.policy(inputs)

    def compile(self, optimizer="adamw", loss: GRPOLoss | None = None, **kwargs):
        """Configures training: `optimizer` as in Keras, `loss` a `GRPOLoss` (the default one where `None`).

        Raises:
            ValueError: if the loss is something else, or needs a reference where there are no adapters to turn off.
        """
        loss = loss or GRPOLoss()
        if not isinstance(loss, GRPOLoss):
            raise ValueError(f"GRPOModel trains with a GRPOLoss. Received: loss={loss!r}")
        if loss.kl_coef and not lora.has_adapters(self.policy):
            raise ValueError(
                "A KL to the reference needs adapters, whose absence is the reference: call "
                f"policy.backbone.enable_lora(rank) first, or set kl_coef=0. Received: kl_coef={loss.kl_coef}"
            )
        super().compile(optimizer=optimizer, loss=None, **kwargs)
        self.grpo_loss = loss
        names = (*_METRICS, "kl") if loss.kl_coef else _METRICS
        self.trackers = [keras.metrics.Mean(name=name) for name in names]
        self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        """Running means of an epoch, which Keras resets."""
        return self.trackers

    # === Training ===

    def train_step(self, state, rollout):
        """One optimizer update from one rollout, its gradient accumulated over micro-batches.

        Args:
            state: trainable, non-trainable, optimizer and metric variables, as Keras's JAX trainer passes them.
            rollout: the arrays of `Rollout.batch()`, `(B, …)`.

        Returns:
            `(logs, state)`.
        """
        trainable, non_trainable, optimizer_variables, metric_variables = state
        mask = rollout["completion_mask"]
        rollout = {**rollout, "weights": aggregation_weights(mask, self.grpo_loss.aggregation)}
        gradient = jax.grad(self._loss, has_aux=True)

        def accumulate(total, micro_batch):
            return jax.tree.map(jnp.add, total, gradient(trainable, non_trainable, micro_batch)), None

        parts = micro_batches(rollout, self.micro_batch_size)
        shapes = jax.eval_shape(gradient, trainable, non_trainable, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, "float32"), shapes)
        (gradients, sums), _ = jax.lax.scan(accumulate, zeros, parts)

        trainable, optimizer_variables = self.optimizer.stateless_apply(optimizer_variables, gradients, trainable)
        tokens = jnp.maximum(jnp.sum(mask), 1.0)
        values = {name: value if name == "loss" else value / tokens for name, value in sums.items()}
        values["grad_norm"] = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradients))
        metric_variables = self._track(metric_variables, values)
        return values, (trainable, non_trainable, optimizer_variables, metric_variables)

    def _loss(self, trainable, non_trainable, batch):
        """Loss of a micro-batch, and its metrics as sums over tokens."""
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        mask = batch["completion_mask"] > 0

        def log_probs_of(trainable):
            with keras.StatelessScope(list(zip(variables, [*trainable, *non_trainable], strict=True))):
                return self._log_probs(batch)

        ref_log_probs = None
        if self.grpo_loss.kl_coef:
            with lora.adapters_off(self.policy):
                ref_log_probs = jax.lax.stop_gradient(log_probs_of(trainable)[0])
            # Keeping activations for the backward pass makes XLA round otherwise; this way equal weights have KL 0.
            log_probs_of = jax.checkpoint(log_probs_of)
        log_probs, entropy = log_probs_of(trainable)
        loss, metrics = self.grpo_loss(
            log_probs, batch["old_log_probs"], batch["advantages"], mask, batch["weights"], ref_log_probs
        )
        gap = jnp.where(mask, jnp.abs(log_probs - batch["old_log_probs"]), 0.0)
        metrics |= {"loss": loss, "entropy": jnp.sum(jnp.where(mask, entropy, 0.0)), "sampler_gap": jnp.sum(gap)}
        return loss, jax.lax.stop_gradient(metrics)

    def _log_probs(self, batch):
        completion_length = batch["completion_mask"].shape[1]
        return completion_log_probs(
            self.policy, batch["token_ids"], batch["padding_mask"], completion_length, batch["temperature"]
        )

    def _track(self, metric_variables, values):
        """Updates the running means; `metric_variables` are those of `self.metrics`, two a metric."""
        updated, rest = [], list(metric_variables)
        for tracker in self.trackers:
            own, rest = rest[: len(tracker.variables)], rest[len(tracker.variables) :]
            updated += tracker.stateless_update_state(own, values[tracker.name])
        return updated

    # === Sampling ===

    def generate(self, token_ids, padding_mask=None, **settings) -> Completions:
        """Samples completions with the current weights.

        Args:
            token_ids: `(P, L)` int32, left-padded prompts, as `tokenize` returns them.
            padding_mask: `(P, L)`, 1 at tokens; `None` if there is no padding.
            **settings: keyword arguments of `PolicySampler.generate`: group size, length, temperature, stops, seed, …
        """
        return self._sampler.generate(token_ids, padding_mask, **settings)

    def log_probs(self, token_ids, padding_mask, completion_length: int, temperature: float = 1.0):
        """Log-probs of given completions, teacher-forced.

        Args:
            token_ids, padding_mask: `(B, T)`, left-padded prompts followed by completions.
            completion_length: C, the last positions of `token_ids`.
            temperature: divides the logits.

        Returns:
            `(B, C)` float32.
        """
        temperatures = jnp.full(len(token_ids), temperature, "float32")
        log_probs, _ = completion_log_probs(self.policy, token_ids, padding_mask, completion_length, temperatures)
        return ops.convert_to_numpy(log_probs)

    # === Text ===

    @property
    def tokenizer(self):
        """The policy's SentencePiece tokenizer."""
        return self.policy.preprocessor.tokenizer

    def tokenize(self, prompts: list[str], length: int | None = None, multiple: int = 1):
        """Texts → `(token_ids, padding_mask)`, `(P, L)` int32, begin-token first, left-padded to `length`.

        Args:
            prompts: P texts.
            length: L; `None` takes the longest prompt's, rounded up to a multiple of `multiple`.
            multiple: in tokens.

        Raises:
            ValueError: if a prompt is longer than `length`.
        """
        rows = [[self.tokenizer.start_token_id, *row] for row in self.tokenizer(list(prompts))]
        longest = max(map(len, rows))
        length = length or -(-longest // multiple) * multiple
        if longest > length:
            raise ValueError(f"A prompt has more tokens than the limit. Received: {longest} tokens, limit {length}")
        token_ids = np.zeros((len(rows), length), "int32")
        padding_mask = np.zeros((len(rows), length), "int32")
        for i, row in enumerate(rows):
            token_ids[i, length - len(row) :] = row
            padding_mask[i, length - len(row) :] = 1
        return token_ids, padding_mask

    def detokenize(
        self, completions: Completions, stop_tokens: tuple[str, ...] = ("<end_of_turn>", "<turn|>")
    ) -> list[str]:
        """The text of each completion, without the stop token that ended it; a stop string stays.

        Args:
            completions: B of them.
            stop_tokens: those that `generate` was given.
        """
        last = completions.token_ids[np.arange(len(completions.lengths)), completions.lengths - 1]
        ends = completions.lengths - np.isin(last, stop_token_ids(self.tokenizer, stop_tokens))
        known = self.tokenizer.vocabulary_size()  # a model's may be larger, and then some ids are no text
        rows = [row[:end] for row, end in zip(completions.token_ids, ends, strict=True)]
        return self.tokenizer.detokenize([row[row < known].tolist() for row in rows])
