"""`UtilizationCallback`: how fast and how well the updates of an epoch used the devices."""

import time

from keras_aha.distribution.devices import memory_gb, peak_flops
from keras_aha.models import lora
from keras_aha.models.flops import forward_flops, update_flops

import keras
import numpy as np


class UtilizationCallback(keras.callbacks.Callback):
    """Adds to the logs of an epoch what its optimizer updates took.

    - `update_seconds`: from the end of the rollout to the epoch's end.
    - `update_tokens_per_second`: prompt and completion tokens of the rollout, without padding, times updates.
    - `mfu`: model flops utilisation, 0 to 1, only if the peak of the devices is known; see `models.flops`. A prompt
      counts once, for all its completions. If the loss has a KL, the forward pass of the reference counts.
    - `memory_gb`, `peak_memory_gb`: see `distribution.devices.memory_gb`. The peak is the process's, rollouts included.

    The first epoch's seconds hold compiling.

    Args:
        peak_flops: of one device, dense operations a second in the policy's compute dtype. `None` looks it up.
    """

    def __init__(self, peak_flops: float | None = None):
        super().__init__()
        self.peak_flops = peak_flops

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        # Keras has read the metrics by now, so the device has done what it was given.
        seconds = time.perf_counter() - self._start
        rollout, updates = self.model.rollout, self.params["steps"]
        logs["update_seconds"] = seconds
        logs["update_tokens_per_second"] = float(updates * rollout.padding_mask.sum() / seconds)
        peak = self._peak_flops()
        if peak is not None:
            logs["mfu"] = updates * self._flops(rollout) / (seconds * peak)
        logs.update(memory_gb())

    def _peak_flops(self) -> float | None:
        """Of all devices that the policy is on."""
        backbone = self.model.policy.backbone
        devices = backbone.variables[0].value.sharding.device_set
        peak = self.peak_flops or peak_flops(next(iter(devices)).device_kind, backbone.token_embedding.compute_dtype)
        return peak and peak * len(devices)

    def _flops(self, rollout) -> float:
        """Model flops of one update."""
        backbone = self.model.policy.backbone
        completion_length = rollout.old_log_probs.shape[1]
        prompts = np.where(rollout.padding_mask, rollout.token_ids, -1)[:, :-completion_length]
        _, prompt_of_row, rows = np.unique(prompts, axis=0, return_inverse=True, return_counts=True)
        lengths = rollout.padding_mask.sum(axis=1), rollout.padding_mask[:, -completion_length:].sum(axis=1)
        counted = *lengths, 1.0 / rows[prompt_of_row]
        flops = update_flops(backbone, *counted)
        if self.model.grpo_loss.kl_coef:
            with lora.adapters_off(backbone):
                flops += forward_flops(backbone, *counted)
        if self.model.grpo_loss.teacher_coef:
            if rollout.teacher_prompt_mask is not None:
                counted = rollout.teacher_prompt_mask.sum(axis=1) + counted[1], *counted[1:]
            flops += forward_flops((self.model.teacher.policy or self.model.policy).backbone, *counted)
        return flops
