"""`GRPOModel`: a keras-hub `CausalLM` that `fit` trains by group-relative policy optimisation."""

import contextlib
import math

from keras_aha.decoding import decoder_for
from keras_aha.distribution import processes
from keras_aha.distribution.distribute import batch_parts, global_rows, local_rows, split_rows
from keras_aha.distribution.fsdp import as_split, gathering
from keras_aha.losses import GRPOLoss, aggregation_weights
from keras_aha.models import lora
from keras_aha.models.abstract_backbone import copy_backbone
from keras_aha.models.internals import flatten_layers
from keras_aha.training.check_optimizer import check_optimizer
from keras_aha.training.linear_gradients import linear_gradients
from keras_aha.training.log_probs import check_positions, completion_log_probs
from keras_aha.training.micro_batches import fold_trimmed, micro_batches, rows_per_prompt
from keras_aha.training.policy_model import PolicyModel, mark_as_built
from keras_aha.training.rollout import split_texts

import jax
import jax.numpy as jnp
import keras
import numpy as np

_METRICS = ("loss", "entropy", "ratio", "clip_fraction", "sampler_gap", "grad_norm", "skipped_updates")
_SURROGATE = ("ratio", "clip_fraction", "importance_weight")  # means over its tokens, and others over all that count


class GRPOModel(PolicyModel):
    """A policy that `fit` trains on rollouts, and `compile` gives a `GRPOLoss`.

        model = GRPOModel(policy)
        model.compile(keras.optimizers.Adam(1e-4), loss=GRPOLoss())
        model.fit(rollouts.dataset, epochs=100, callbacks=[rollouts])

    GRPO: arXiv:2402.03300. From a reward to its gradient: `RolloutCallback.on_epoch_begin` makes advantages of rewards,
    `train_step` splits the rollout into micro-batches, `GRPOLoss` has the mathematics.

    The reference policy is the policy with its adapters off, so it needs no second model. Only if every weight is
    trained, and with a KL, a copy is kept.

    Args:
        policy: a `keras_hub.models.CausalLM`, such as a `GemmaCausalLM`, adapters enabled on its backbone or not,
            and with a preprocessor, without which it can be compiled but has no texts.
        micro_batch_size: rows whose activations are held at a time; it must divide the rows of a step. `None` holds
            them all. The update is the same to rounding.
        completion_lengths: for so many lengths of completions the step is compiled, C, C / 2, C / 4, …, and a
            micro-batch takes the shortest that holds it. 1 compiles fastest and trains slowest.
        teacher: a `Teacher` that the policy learns from too, if the loss has a `teacher_coef`. Its variables are part
            of the training state, but not of `variables`, so they are not saved.

    Attributes:
        policy: what was passed.
        rollout: the latest `Rollout`, set by whoever makes it; callbacks read it.
    """

    def __init__(self, policy, micro_batch_size: int | None = None, completion_lengths=3, teacher=None, **kwargs):
        super().__init__(policy, **kwargs)
        if teacher is not None:
            teacher.check_vocabulary(policy)
        self.teacher = teacher
        self.micro_batch_size = micro_batch_size
        self.completion_lengths = completion_lengths
        self.rollout = None
        self.reference = None
        self._jitted_log_probs = jax.jit(self._folded_log_probs, static_argnums=0)

    def compile(self, optimizer="adamw", loss: GRPOLoss | None = None, **kwargs):
        """Configures training, and copies the policy as it is now if it needs a reference of its own (see above).

        Args:
            optimizer: as in Keras, without `gradient_accumulation_steps`, `loss_scale_factor` and `use_ema`.
            loss: a `GRPOLoss`; `None` takes the default one.
            **kwargs: `run_eagerly`, `jit_compile` and `steps_per_execution`, as in Keras.

        Raises:
            ValueError: if the loss is something else, if there are metrics, which a rollout has no labels for, if the
                optimizer cannot be used (see above), or if the policy has embeddings of absolute positions.
        """
        loss = loss or GRPOLoss()
        if not isinstance(loss, GRPOLoss):
            raise ValueError(f"`loss` must be a GRPOLoss. Received: loss={loss!r}")
        for name in ("metrics", "weighted_metrics", "loss_weights"):
            if kwargs.get(name):
                raise ValueError(
                    f"`{name}` need labels, and a rollout has none: give a number that you want to follow to "
                    f"`RolloutCallback(rewards=…)`, with weight 0. Received: {name}={kwargs[name]!r}"
                )
        if loss.teacher_coef and self.teacher is None:
            raise ValueError(
                "`teacher_coef` needs a teacher: `GRPOModel(policy, teacher=Teacher(…))`. Received: teacher=None, "
                f"teacher_coef={loss.teacher_coef}"
            )
        check_positions(self.policy)
        super().compile(optimizer=optimizer, loss=None, **kwargs)
        check_optimizer(self.optimizer)
        self.grpo_loss = loss
        if loss.kl_coef and not lora.has_adapters(self.policy):
            self.reference = _frozen_copy(self.policy)
            mark_as_built(self.reference)
        more = {"kl": loss.kl_coef, "importance_weight": loss.importance_cap, "teacher_kl": loss.teacher_coef}
        names = [*_METRICS, *(name for name, is_on in more.items() if is_on)]
        self.trackers = [_Mean(name=name) for name in names]
        self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self):
        """Running means of an epoch, which Keras resets. NaN if nothing has counted: no log of a `RolloutCallback`."""
        return self.trackers

    @property
    def non_trainable_variables(self):
        """As in Keras, and a teacher's, which are in no file of weights."""
        return super().non_trainable_variables + ([] if self.teacher is None else self.teacher.variables)

    # === Training ===

    def fit(self, x=None, *args, validation_data=None, **kwargs):
        """Trains as in Keras.

        Args:
            x: the `dataset` of a `RolloutCallback`, or another `PyDataset` of `Rollout.batch()`.
            *args, **kwargs: as in Keras; that callback must be among `callbacks`.

        Raises:
            ValueError: if `x` is something else.
            NotImplementedError: if there is `validation_data`, see `evaluate`.
        """
        if not isinstance(x, keras.utils.PyDataset):
            raise ValueError(
                "`fit` takes rollouts, not texts or arrays: `fit(rollouts.dataset, callbacks=[rollouts])`, where "
                f"`rollouts = RolloutCallback(task)`. Received: x={x!r}"
            )
        if validation_data is not None:
            self.evaluate(validation_data)
        return super().fit(x, *args, **kwargs)

    def train_step(self, state, rollout):
        """One optimizer update from one rollout, its gradient accumulated over micro-batches; returns `(logs, state)`.

        An update whose loss or gradient is not finite is skipped: weights and moments stay as they are, and only the
        optimizer's count of iterations goes on, so that the next rollout is another one.

        Args:
            state: trainable, non-trainable, optimizer and metric variables, as Keras's JAX trainer passes them.
            rollout: the arrays of `Rollout.batch()`, `(B, …)`; adjacent rows may share a prompt, then `(P, …)`.
        """
        trainable, non_trainable, optimizer_variables, metric_variables = state
        rollout = jax.tree.map(jnp.asarray, rollout)  # of NumPy if `run_eagerly`
        mask, has_signal = rollout["completion_mask"], rollout.pop("has_signal", rollout["advantages"] != 0)
        masks = {"weights": mask, "surrogate_weights": mask * has_signal[:, None]}
        rollout |= {name: aggregation_weights(mask, self.grpo_loss.aggregation) for name, mask in masks.items()}

        scale = _loss_scale(self.policy, mask)

        def gradient(micro_batch):
            gradients, sums = jax.grad(self._loss, has_aux=True)(trainable, non_trainable, micro_batch, scale)
            return as_split(self.trainable_variables, gradients), sums

        def accumulate(total, _, micro_batch):
            return jax.tree.map(jnp.add, total, gradient(micro_batch))

        parts = micro_batches(rollout, self.micro_batch_size)
        shapes = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], parts))
        gradients, sums = jax.tree.map(lambda x: jnp.zeros(x.shape, "float32"), shapes)
        zeros = as_split(self.trainable_variables, gradients), sums
        gradients, sums = fold_trimmed(accumulate, zeros, parts, self.completion_lengths)
        gradients = [g / scale for g in gradients]

        values, counted = _means(sums, masks)
        values["grad_norm"] = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradients))
        finite = jnp.isfinite(values["loss"]) & jnp.isfinite(values["grad_norm"])
        trainable, optimizer_variables = self._update(finite, gradients, trainable, optimizer_variables)
        values["skipped_updates"] = 1.0 - finite
        counted = {name: finite & flag for name, flag in counted.items()} | {"grad_norm": finite}
        metric_variables = self._track(metric_variables, values, counted | {"skipped_updates": True})
        return values, (trainable, non_trainable, optimizer_variables, metric_variables)

    def _loss(self, trainable, non_trainable, batch, scale):
        """Loss of a micro-batch times `scale`, and its metrics as sums over tokens."""
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        mask = batch["completion_mask"] > 0
        ref_log_probs, reference = None, self.policy if self.reference is None else self.reference
        with keras.StatelessScope(list(zip(variables, [*trainable, *non_trainable], strict=True))) as scope:
            if self.grpo_loss.kl_coef:
                with lora.adapters_off(self.policy), gathering(reference, scope, batch["temperature"]):
                    ref_log_probs = jax.lax.stop_gradient(self._log_probs(reference, batch)[0])
            has_teacher = self.grpo_loss.teacher_coef > 0
            reading = self.teacher.reading(self.policy, batch, scope) if has_teacher else contextlib.nullcontext()
            with reading as states, linear_gradients(self.policy), gathering(self.policy, scope, batch["temperature"]):
                settings = dict(entropy_gradient=self.grpo_loss.entropy_coef > 0, teacher=states)
                log_probs, entropy, *teacher_kl = self._log_probs(self.policy, batch, **settings)
        old, sampler = batch["old_log_probs"], batch["sampler_log_probs"]
        others = batch["weights"], ref_log_probs, entropy, sampler, batch["surrogate_weights"], *teacher_kl
        loss, metrics = self.grpo_loss(log_probs, old, batch["advantages"], mask, *others)
        gap = jnp.where(mask, jnp.abs(log_probs - sampler), 0.0)
        metrics |= {"loss": loss, "entropy": jnp.sum(jnp.where(mask, entropy, 0.0)), "sampler_gap": jnp.sum(gap)}
        return loss * scale, jax.lax.stop_gradient(metrics)

    def _log_probs(self, policy, batch, **settings):
        arrays = (batch[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "temperature"))
        return completion_log_probs(policy, *arrays, **settings)

    def rows_per_prompt(self, rows: int, group_size: int, prompt_length: int, completion_length: int) -> int:
        """How many rows of a group share a prompt in an update of so many rows, see `micro_batches.rows_per_prompt`."""
        if decoder_for(self.policy.backbone) is None:  # it reads a prompt for each row
            return 1
        on_a_device = (self.micro_batch_size or rows) // batch_parts()
        return rows_per_prompt(group_size, on_a_device, prompt_length, completion_length)

    def _update(self, finite, gradients, trainable, optimizer_variables):
        """The optimizer's step; where it is not `finite`, the clock goes on and nothing else changes."""
        weights, moments = self.optimizer.stateless_apply(optimizer_variables, gradients, trainable)
        clock = [variable is self.optimizer.iterations for variable in self.optimizer.variables]
        weights = [jnp.where(finite, new, old) for new, old in zip(weights, trainable, strict=True)]
        rows = zip(moments, optimizer_variables, clock, strict=True)
        return weights, [new if moves else jnp.where(finite, new, old) for new, old, moves in rows]

    def _track(self, metric_variables, values, counted):
        """Updates the running means by what is `counted`; `metric_variables` are those of `self.metrics`, two each."""
        updated, rest = [], list(metric_variables)
        for tracker in self.trackers:
            own, rest = rest[: len(tracker.variables)], rest[len(tracker.variables) :]
            value = jnp.where(counted[tracker.name], values[tracker.name], 0.0)
            updated += tracker.stateless_update_state(own, value, sample_weight=counted[tracker.name])
        return updated

    # === Log-probs ===

    def log_probs(self, token_ids, padding_mask, completion_length: int, temperature: float = 1.0):
        """Log-probs of given completions, teacher-forced, each with a prompt of its own.

        Args:
            token_ids, padding_mask: `(B, T)`, left-padded prompts followed by completions.
            completion_length: C, the last positions of `token_ids`.
            temperature: divides the logits.

        Returns:
            `(B, C)` float32, 0 where there is padding.
        """
        token_ids, padding_mask = np.asarray(token_ids, "int32"), np.asarray(padding_mask, "int32")
        rows, batch = len(token_ids), split_texts(token_ids, padding_mask, completion_length)
        batch["completion_mask"] = padding_mask[:, -completion_length:].astype("float32")
        batch["temperature"] = np.full(rows, temperature, "float32")
        size = self.micro_batch_size if rows > (self.micro_batch_size or rows) else None
        missing = -rows % math.lcm(batch_parts(), size or 1)  # rows that are added are left out again
        own = processes.share(rows + missing)
        batch = {name: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])[own] for name, x in batch.items()}
        values = [variable.value for variable in self.policy.variables]
        log_probs = local_rows(self._jitted_log_probs(size, values, global_rows(batch)))
        return processes.gather_rows({"log_probs": log_probs})["log_probs"][:rows]

    def _folded_log_probs(self, micro_batch_size, values, batch):
        def write(log_probs, i, micro_batch):
            mask = micro_batch["completion_mask"] > 0
            with linear_gradients(self.policy), gathering(self.policy, scope, micro_batch["temperature"]):
                own = jnp.where(mask, self._log_probs(self.policy, micro_batch)[0], 0.0)
            return log_probs.at[i, :, : mask.shape[1]].set(own)

        parts = micro_batches(batch, micro_batch_size)
        pairs = list(zip(self.policy.variables, values, strict=True))
        with keras.StatelessScope(pairs) as scope:
            log_probs = fold_trimmed(write, jnp.zeros_like(parts["completion_mask"]), parts, self.completion_lengths)
        return split_rows(log_probs.swapaxes(0, 1).reshape(batch["completion_mask"].shape))


class _Mean(keras.metrics.Mean):
    """Keras's, but NaN, and not 0, of nothing."""

    def result(self):
        return self.total / self.count


def _means(sums, masks):
    """Means over the tokens that count, NaN where none do; and whether any do."""
    counts = {name: jnp.sum(masks["surrogate_weights" if name in _SURROGATE else "weights"]) for name in sums}
    counts["loss"] = 1.0  # its weights have divided it
    return {name: x / counts[name] for name, x in sums.items()}, {name: n > 0 for name, n in counts.items()}


def _loss_scale(policy, mask):
    """What the loss is multiplied by while its gradient is taken, because float16 would round a token's share to 0.

    With it a share is about 64: with 8 to 256, gradients of Gemma 3 270M were float32's (LOG.md). A power of two, by
    which nothing else is rounded; 1 for a policy without float16.
    """
    if all(layer.compute_dtype != "float16" for layer in flatten_layers(policy)):
        return 1.0
    return jnp.ldexp(64.0, jnp.ceil(jnp.log2(jnp.maximum(jnp.sum(mask), 1.0))).astype("int32"))


def _frozen_copy(policy):
    """The policy as it is, in variables of its own that are not trained."""
    backbone = copy_backbone(policy.backbone)
    for variable, source in zip(backbone.variables, policy.backbone.variables, strict=True):
        variable.assign(jnp.array(source.value))  # a copy, or both would be donated
    backbone.trainable = False
    return type(policy)(backbone=backbone, preprocessor=policy.preprocessor, compile=False)
