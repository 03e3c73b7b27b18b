"""Whole GRPO iterations, to hold against other trainers: a rollout, rewards, advantages, one update with a KL.

    python benchmarks/iteration.py --workload W1 --iters 5            LoRA of rank 8 on query and value
    python benchmarks/iteration.py --workload W2 --iters 5 --full     every weight is trained

The Gemma 2 of `rivals_gemma.py`, 4,067,584 parameters in float32; Adam at 1e-4, clip range 0.2, KL 0.04 by k3, mean of
completions; the reward is the share of token ids below 256. Nothing ends a completion early, so each has exactly its
number of tokens. Prompts are token ids, new ones each iteration.

W1: 8 prompts of 64 tokens × 8 completions of 128.
W2: 4 × 8, 64 + 512.
W3: 8 × 8, 256 + 64, as with worked examples in the prompt.
T:  2 × 4, 16 + 16, to see that it runs.

Prints one JSON line: medians of seconds, tokens per second, peak memory of the process, the cores that were busy with
this process and with others. `ref_s` is 0: the log-probs of the reference are computed in the train step. The line is
comparable with another's only if the cores agree. It prints nothing unless lengths, samples, losses, rewards and
parameters are what they should be.
"""

import argparse
import json
import math
import resource
import statistics
import sys
import time
from typing import NamedTuple

from keras_aha.losses import GRPOLoss, group_advantages
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.micro_batches import by_length

import jax
import keras
import keras_hub
import numpy as np
from process import CoreSeconds
from rivals_gemma import VOCABULARY, endless_preprocessor, rivals_backbone, rollout_of, variables_of


class Workload(NamedTuple):
    """Prompts an iteration, completions a prompt, tokens of both, and rows a micro-batch."""

    prompts: int
    group_size: int
    prompt_length: int
    completion_length: int
    micro_batch_size: int

    @property
    def rows(self) -> int:
        return self.prompts * self.group_size


WORKLOADS = {
    "W1": Workload(8, 8, 64, 128, 16),
    "W2": Workload(4, 8, 64, 512, 4),
    "W3": Workload(8, 8, 256, 64, 16),
    "T": Workload(2, 4, 16, 16, 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="W1")
    parser.add_argument("--iters", type=int, default=5, help="timed iterations (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=2, help="iterations before these (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="train every weight, against a copy as reference")
    parser.add_argument(
        "--micro-batch-size", type=int, help="rows whose activations are held at a time (default: 16, 4 for W2 and T)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.iters < 1 or args.warmup < 1:
        parser.error("the first iteration compiles, so both --warmup and --iters must be 1 or more")

    args.micro_batch_size = args.micro_batch_size or WORKLOADS[args.workload].micro_batch_size
    keras.utils.set_random_seed(args.seed)
    model, parameters = build(args.full, args.micro_batch_size, args.seed)
    before = flat(model.trainable_variables)
    trainer = Trainer(model, WORKLOADS[args.workload], args.seed)
    iterations, start = [], None
    for number in range(args.warmup + args.iters):
        if number == args.warmup:
            start = CoreSeconds.now()
        iterations.append(trainer.iterate(number))
        seconds = {name: round(value, 3) for name, value in iterations[-1].seconds.items()}
        print(f"iteration {number}: {seconds}", file=sys.stderr, flush=True)
    cores = start.until(CoreSeconds.now())
    moved = float(np.abs(flat(model.trainable_variables) - before).max())
    check(iterations, WORKLOADS[args.workload], moved, parameters)
    result = summarize(iterations, args, cores) | {"n_params": parameters, "trainable": before.size}
    print(json.dumps(result | {"max_dparam": moved, "notes": notes(args)}), flush=True)


def build(full: bool, micro_batch_size: int | None, seed: int) -> tuple[GRPOModel, int]:
    """The model, and how many parameters it has without adapters."""
    policy = keras_hub.models.GemmaCausalLM(
        backbone=rivals_backbone(seed), preprocessor=endless_preprocessor(VOCABULARY)
    )
    parameters = policy.count_params()
    if not full:
        policy.backbone.enable_lora(rank=8, target_layer_names=["query", "value"])  # alpha is the rank
    model = GRPOModel(policy, micro_batch_size)
    loss = GRPOLoss(clip_range=0.2, kl_coef=0.04, kl_estimator="k3", aggregation="sequence_mean")
    model.compile(keras.optimizers.Adam(1e-4), loss)
    return model, parameters


class Iteration(NamedTuple):
    """What an iteration made, and seconds by phase."""

    seconds: dict[str, float]
    completions: np.ndarray
    lengths: np.ndarray
    rewards: np.ndarray
    loss: float


class Trainer:
    """Does what `RolloutCallback` and `fit` do in an epoch, on token ids."""

    def __init__(self, model: GRPOModel, workload: Workload, seed: int):
        self.model = model
        self.workload = workload
        self.seed = seed
        self.prompts = np.random.default_rng(seed)
        self.step = jax.jit(model.train_step, donate_argnums=0)

    def iterate(self, number: int) -> Iteration:
        """One iteration; `number` is the one that sampling keys are made of."""
        workload, begin = self.workload, time.perf_counter()
        prompts = self.prompts.integers(8, VOCABULARY, (workload.prompts, workload.prompt_length)).astype("int32")
        completions = self.model.generate(
            prompts,
            group_size=workload.group_size,
            max_completion_length=workload.completion_length,
            stop_tokens=(),
            seed=self.seed,
            iteration=number,
        )
        sampled = time.perf_counter()
        rewards = np.array([np.mean(row < VOCABULARY // 2) for row in completions.token_ids], "float32")
        rollout = rollout_of(
            np.repeat(prompts, workload.group_size, axis=0),
            completions.token_ids,
            completions.lengths,
            completions.log_probs,
            rewards,
            group_advantages(rewards, workload.group_size),
        )
        rewarded = time.perf_counter()
        shape = workload.rows, workload.group_size, workload.prompt_length, workload.completion_length
        shared = self.model.rows_per_prompt(*shape)
        loss = self.train(by_length(rollout.batch(), self.model.micro_batch_size, shared, workload.group_size))
        end = time.perf_counter()
        seconds = {"wall": end - begin, "rollout": sampled - begin, "train": end - rewarded}
        return Iteration(seconds, completions.token_ids, completions.lengths, rewards, loss)

    def train(self, batch: dict) -> float:
        """One update of the model's variables."""
        variables = variables_of(self.model)
        logs, state = jax.block_until_ready(self.step(jax.tree.map(lambda x: x.value, variables), batch))
        for variable, value in zip(jax.tree.leaves(variables), jax.tree.leaves(state), strict=True):
            variable.assign(value)
        return float(logs["loss"])


def flat(variables) -> np.ndarray:
    return np.concatenate([np.ravel(variable) for variable in variables])


def check(iterations: list[Iteration], workload: Workload, moved: float, parameters: int) -> None:
    """Fails where the iterations were not whole ones."""
    assert parameters == 4_067_584, f"the model has {parameters} parameters"
    for number, iteration in enumerate(iterations):
        shape = (workload.rows, workload.completion_length)
        assert iteration.completions.shape == shape, f"iteration {number}: shape {iteration.completions.shape}"
        lengths = set(iteration.lengths.tolist())
        assert lengths == {workload.completion_length}, f"iteration {number}: completions of lengths {lengths}"
        assert ((iteration.completions >= 0) & (iteration.completions < VOCABULARY)).all(), "token out of vocabulary"
        assert len(np.unique(iteration.completions, axis=0)) == workload.rows, f"iteration {number}: equal completions"
        assert iteration.rewards.std() > 0, f"iteration {number}: all rewards are {iteration.rewards[0]}"
        assert math.isfinite(iteration.loss), f"iteration {number}: loss {iteration.loss}"
    assert len({iteration.completions.tobytes() for iteration in iterations}) == len(iterations), "equal iterations"
    assert 0 < moved < math.inf, f"parameters changed by {moved}"


def summarize(iterations: list[Iteration], args, cores: tuple[float, float]) -> dict:
    """The numbers of the timed iterations, by the names that all rivals use."""
    timed = iterations[args.warmup :]
    seconds = {name: [iteration.seconds[name] for iteration in timed] for name in timed[0].seconds}
    median = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    tokens = WORKLOADS[args.workload].rows * WORKLOADS[args.workload].completion_length
    return {
        "peer": "keras_aha",
        "workload": args.workload,
        "lora": not args.full,
        "iter_s_median": median["wall"],
        "iter_s_min": round(min(seconds["wall"]), 4),
        "iter_s_max": round(max(seconds["wall"]), 4),
        "rollout_s": median["rollout"],
        "ref_s": 0.0,
        "train_s": median["train"],
        "gen_tok_per_s": round(tokens / median["rollout"], 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "first_iter_s": round(iterations[0].seconds["wall"], 2),
        "iters": len(timed),
        "vocab": VOCABULARY,
        "loss_last": iterations[-1].loss,
        "own_cores": round(cores[0], 2),
        "other_cores": round(cores[1], 2),
    }


def notes(args) -> str:
    versions = f"keras {keras.__version__}, keras-hub {keras_hub.__version__}, jax {jax.__version__}"
    reference = "a copy" if args.full else "the adapters off"
    return (
        f"{versions}, {jax.default_backend()}; micro-batches of {args.micro_batch_size}; the reference is {reference}"
    )


if __name__ == "__main__":
    main()
