"""What a tiny Gemma samples and learns on the devices that a process finds, or several processes do; run as a script.

    python tests/mesh_epochs.py OUT '[{"model": 2}, null]' [PORT PROCESSES PROCESS]

For each mesh, arguments of `distribute`, or none of it: one epoch, an evaluation, and five epochs on given rollouts.
"""

import functools
import json
import sys
from pathlib import Path

import keras_aha as aha
from keras_aha.decoding.self_attention import splash_attention
from keras_aha.distribution import processes
from keras_aha.distribution.checksums import checksums
from keras_aha.distribution.distribute import over_mesh, whole
from keras_aha.tasks import Observation, Score, Task
from keras_aha.training.teacher import Teacher

import jax
import jax.numpy as jnp
import keras
import numpy as np
from tiny_models import randomize, tiny_policy

PROMPTS, GROUP, LENGTH = 8, 4, 8


class ShortWords(Task):
    """Any completion has some reward, so that a policy of random weights has gradients; every other problem answers."""

    max_turns, turn_ends = 3, tuple("abcdefghijklmnopqrstuvwxyz")

    def __init__(self, first=0):
        self.first = first

    def __len__(self):
        return 5

    def problem(self, index):
        return self.first + index

    def prompt(self, problem):
        return f"Use {problem % 100} {problem % 7} each once to make 7.\n"

    def score(self, problem, completion):
        return Score(0.0 if problem % 4 == 1 else 1 / (1 + len(completion)), len(completion) % 2 == 0, "length")

    def respond(self, problem, turns):
        return Observation(str(len(turns)), "<", tool="x") if problem % 2 == 0 else None

    def held_out(self, n):
        return ShortWords(first=1000)

    def reference(self, problem):
        return f"say {problem % 7}\n"


class OneBatch(keras.utils.PyDataset):
    """For `fit`."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


def build():
    """A compiled model with a teacher, always of the same weights."""
    policy = tiny_policy("gemma_2", lora_rank=2, num_layers=1, num_query_heads=8)
    teacher = Teacher(tiny_policy("gemma_2", 3, num_layers=1, num_query_heads=8), hint="{prompt}{solution}")
    model = aha.GRPOModel(policy, micro_batch_size=16, completion_lengths=2, teacher=teacher)
    model.compile(keras.optimizers.Adam(1e-3), aha.GRPOLoss(kl_coef=0.04, importance_cap=2.0, teacher_coef=0.5))
    return model


def start_anew(model):
    """Weights as `build` made them and a fresh optimizer, in the same model: its train step is compiled once."""
    randomize(model.trainable_variables, 1)
    optimizer = model.optimizer
    for variable in (optimizer.iterations, *optimizer._momentums, *optimizer._velocities):
        variable.assign(np.zeros(variable.shape))


def given_batch(vocabulary_size, length, shared=2):
    """A rollout's arrays, of no policy in particular; prompts of up to `length` tokens, each of `shared` rows."""
    rng = np.random.default_rng(0)
    rows = PROMPTS * GROUP
    mask = (np.arange(LENGTH) < rng.integers(1, LENGTH + 1, (rows, 1))).astype("float32")
    prompt_mask = (np.arange(length) >= rng.integers(0, length // 2, (rows // shared, 1))).astype("int32")
    log_probs = rng.normal(-5, 1, mask.shape).astype("float32") * mask
    return {
        "prompt_ids": rng.integers(1, vocabulary_size, prompt_mask.shape).astype("int32") * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": rng.integers(1, vocabulary_size, mask.shape).astype("int32") * mask.astype("int32"),
        "completion_mask": mask,
        "old_log_probs": log_probs,
        "sampler_log_probs": log_probs,
        "advantages": rng.normal(0, 1, rows).astype("float32"),
        "temperature": np.ones(rows, "float32"),
    }


def epochs(sizes) -> dict:
    """What is compared."""
    if sizes is not None:
        aha.distribute(**sizes)
    model, task = build(), ShortWords()
    rollouts = aha.RolloutCallback(
        task, prompts_per_epoch=PROMPTS, group_size=GROUP, max_completion_length=LENGTH, refills=1
    )
    rewards = {"long": (lambda problems, completions: [len(text) if text else None for text in completions], 0.0)}
    sampling = dict(samples=2, greedy=False, max_completion_length=LENGTH)
    evaluation = aha.EvaluateCallback(task.held_out(5), rewards=rewards, **sampling)
    doctor = aha.DoctorCallback("nothing is said")
    before = checksums([variable.value for variable in model.trainable_variables])
    history = model.fit(rollouts.dataset, callbacks=[rollouts, evaluation, doctor], verbose=0).history
    backbone = model.policy.backbone
    result = {
        "token_ids": model.rollout.token_ids,
        "rewards": model.rollout.rewards,
        "old_log_probs": model.rollout.old_log_probs,
        "observed": model.rollout.observed,
        "transcripts": np.array([repr(turns) for turns in model.rollout.turns]),
        "val_transcripts": np.array(evaluation.latest[1]["transcript"].tolist()),
        "val_texts": np.array(evaluation.latest[1]["text"].tolist()),
        "first_adapters": flat(model),
        "checksums": np.array(before),
        "moved": np.array(doctor.get_state()["history"][0]["moved"]),
    } | {name: np.array(values) for name, values in history.items() if "seconds" not in name and "per" not in name}
    start_anew(model)
    given = given_batch(backbone.vocabulary_size, model.rollout.token_ids.shape[1] - LENGTH)
    hinted = given_batch(backbone.vocabulary_size, model.rollout.teacher_prompt_ids.shape[1])
    given |= {f"teacher_{name}": hinted[name] for name in ("prompt_ids", "prompt_mask")}
    own = {name: x[processes.share(len(x))] for name, x in given.items()}  # this process's rows
    model.fit(OneBatch(own), epochs=5, verbose=0, shuffle=False)
    query = model.policy.backbone.get_layer("decoder_block_0").attention.query_dense
    shards = {name: getattr(query, name).value for name in ("_kernel", "lora_kernel_a", "lora_kernel_b")}
    if jax.process_count() == 1:
        result["kernel_outputs"] = kernel_outputs()
    return result | {
        "adapters": flat(model),
        "losses": np.array(model.history.history["loss"]),
        "devices": np.array(len(shards["_kernel"].sharding.device_set)),
        **{f"shard{name}": np.array(x.addressable_shards[0].data.shape) for name, x in shards.items()},
    }


def kernel_outputs():
    """Of the attention kernel, two key-value heads or one: each device computes its rows and heads."""
    rng = np.random.default_rng(0)
    query, keys, values = (rng.normal(size=(4, n, heads, 128)) for n, heads in ((3, 8), (5, 2), (5, 2)))
    kernel = functools.partial(splash_attention, first=0, soft_cap=5.0, window=None, interpret=True)

    def gradients(*arrays):
        return jax.grad(lambda *arrays: jnp.sum(over_mesh(kernel, *arrays) ** 2), (0, 1, 2))(*arrays)

    starts = np.array([0, 1, 2, 2])
    outputs = [jax.jit(gradients)(query, keys[:, :, :n], values[:, :, :n], starts) for n in (1, 2)]
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(outputs)])


def flat(model):
    with whole(model.trainable_variables):
        return np.concatenate([np.asarray(variable.value).ravel() for variable in model.trainable_variables])


def main(out, meshes, port=None, count=1, process=0):
    if port is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(f"127.0.0.1:{port}", int(count), int(process))
    for i, sizes in enumerate(json.loads(meshes)):
        np.savez(Path(out, f"{i}-{process}.npz"), **epochs(sizes))


if __name__ == "__main__":
    main(*sys.argv[1:])
