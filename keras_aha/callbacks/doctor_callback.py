"""`DoctorCallback`: says in plain words what is wrong with a run, once each."""

import dataclasses
import os

from keras_aha.callbacks.doctor_findings import examine
from keras_aha.callbacks.doctor_history import HISTORY, observe
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.callbacks.run_folder import FINDINGS
from keras_aha.callbacks.stateful_callback import StatefulCallback
from keras_aha.distribution import processes
from keras_aha.distribution.checksums import checksums, combined
from keras_aha.files import json_lines, local_path

import numpy as np
import tensorflow as tf

_LEAST_EPOCHS, _PROBE_ROWS = 10, 4  # before the policy's movement is judged; completions that it is measured on


class DoctorCallback(StatefulCallback):
    """Looks at the logs and the rollout of each epoch and says what is wrong, what it means and what to do.

    `doctor_findings` has a function for each thing that it knows. A healthy run hears nothing.

    A finding is said once in a run: printed, added to `findings.jsonl` (`epoch`, counted from 1, and what a `Finding`
    has), and written to TensorBoard as the text `doctor` of the run `doctor`. With several processes each of them must
    have one, as all of them look at the weights; the first speaks.

    Args:
        log_dir: the run's folder; nothing is written there before there is a finding.
        rollouts: the `RolloutCallback` of the same training, by whose weights a reward that is pleased, while held-out
            accuracy does not rise, is named. `None` speaks of their sum alone.
    """

    def __init__(self, log_dir: str | os.PathLike, rollouts: RolloutCallback | None = None):
        super().__init__()
        rewards = {} if rollouts is None else rollouts.grader.rewards
        self.weights = {name: weight for name, (_, weight) in rewards.items()}
        self.log_dir = local_path(log_dir, "log_dir")
        self._said = []
        self._history = []
        self._probe = None  # completions of the first epoch, and their log-probs after its update
        self._writer = None  # until there is something to say: TensorBoard would show an empty run

    def get_state(self) -> dict:
        return {"said": list(self._said), "history": list(self._history), "probe": self._probe}

    def set_state(self, state: dict) -> None:
        self._said, self._probe = list(state["said"]), state["probe"]
        # What another process compiled says nothing: each compiles its evaluations when it comes to the first.
        self._history = [{k: v for k, v in epoch.items() if k != "compiles"} for epoch in state["history"]]

    def on_train_begin(self, logs=None):
        self._compiling = True  # the first epoch compiles everything, that of a resumed run too
        self._weights = self._fingerprint()

    def on_epoch_end(self, epoch, logs=None):
        before, self._weights = self._weights, self._fingerprint()
        logs = dict(logs)
        if self._compiling:
            logs.pop("compiles", None)
        if self.params["steps"] > 1 and self.model.grpo_loss.importance_cap is None:
            logs.pop("sampler_gap", None)  # from the second update on a rollout it is the policy's own change, too
        self._compiling = False
        moved = dict(moved=before != self._weights, **self._movement(epoch))
        latest = observe(logs, self.model.rollout, self.weights, **moved)
        self._history = [*self._history, latest][-HISTORY:]
        findings = [finding for finding in examine(self._history) if finding.name not in self._said]
        self._said += [finding.name for finding in findings]
        if findings and processes.is_first():
            self._tell(epoch, findings)

    def on_train_end(self, logs=None):
        if self._writer:
            self._writer.close()
            self._writer = None

    def _movement(self, epoch) -> dict[str, float]:
        """Once in a run, how far the policy has moved since its first epoch, and where it ends at this pace."""
        epochs = self.params["epochs"]
        due = max(_LEAST_EPOCHS, epochs // 6)
        if epoch == 0 and epochs > due:
            rollout = self.model.rollout
            rows = slice(None, None, max(1, len(rollout.token_ids) // _PROBE_ROWS))
            arrays = rollout.token_ids[rows], rollout.padding_mask[rows], rollout.completion_mask.shape[1]
            self._probe = [*(x.tolist() if isinstance(x, np.ndarray) else x for x in arrays), self._log_probs(*arrays)]
        if epoch != due or self._probe is None:
            return {}
        *arrays, before = self._probe
        self._probe = None  # each checkpoint would hold it
        change = np.array(self._log_probs(*arrays)) - np.array(before)
        tokens = np.sum(np.array(arrays[1])[:, -arrays[2] :])
        kl = float(np.sum(np.expm1(change) - change) / tokens)  # K3 of http://joschu.net/blog/kl-approx.html
        return {"policy_kl": kl, "final_kl": kl * ((epochs - 1) / due) ** 2}

    def _log_probs(self, *arrays) -> list:
        return self.model.log_probs(*arrays).tolist()

    def _fingerprint(self) -> int:
        return combined(checksums([variable.value for variable in self.model.trainable_variables]))

    def _tell(self, epoch, findings):
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with open(self.log_dir / FINDINGS, "ab") as file:
            file.write(json_lines({"epoch": epoch + 1, **dataclasses.asdict(finding)} for finding in findings))
        self._writer = self._writer or tf.summary.create_file_writer(str(self.log_dir / "doctor"))
        with self._writer.as_default():
            tf.summary.text("doctor", [str(finding) for finding in findings], step=epoch)
        self._writer.flush()
        for finding in findings:
            # The first line break ends the line of a progress bar that is redrawn in place: the next one begins below.
            print(f"\nDoctor, epoch {epoch + 1}: {finding}", flush=True)
