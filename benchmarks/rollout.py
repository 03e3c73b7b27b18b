"""Rollouts against keras-hub's own `generate()`: same weights, same prompts, same numbers of tokens, one process.

    python benchmarks/rollout.py                       all workloads, in about fifteen minutes on two cores
    python benchmarks/rollout.py --workloads fixed-128 --repeats 1

A Gemma 2 of 4 layers and width 256, random weights, float32; 64 sequences, which are 8 completions each of 8 prompts
(`--prompts`) of 64 tokens. The two take turns, and medians of their tokens per second are compared.

fixed-128, fixed-512: exactly so many new tokens a sequence, no early stop.
long-tail: up to 512 tokens; five of the 512 token ids end a sequence, so that lengths are geometric and their mean is a
    fifth of the maximum. Tokens after the end do not count.
"""

import argparse
import json
import statistics
import sys
import time

from keras_aha import decoding
from keras_aha.callbacks.compile_counter import CompileCounter

import jax
import keras_hub
import numpy as np
from process import forget_peak, peak_mib
from rivals_gemma import VOCABULARY, rivals_backbone

GROUP_SIZE, PROMPT_LENGTH = 8, 64
# Longest completion, stop ids; not 0, which is in generate()'s buffer from the beginning and would stop it at once.
WORKLOADS = {"fixed-128": (128, []), "fixed-512": (512, []), "long-tail": (512, [1, 2, 3, 4, 5])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--prompts", type=int, default=8, help="of 8 completions each (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON line a workload on standard output")
    args = parser.parse_args()
    policy = random_policy()
    for name in args.workloads:
        result = compare(policy, name, args.prompts, args.repeats)
        if args.json:
            print(json.dumps({key: result[key] for key in result if "peak" not in key}), flush=True)
        report(result, sys.stderr if args.json else sys.stdout)


def random_policy():
    """The Gemma of the rivals, as keras-hub samples from it."""
    policy = keras_hub.models.GemmaCausalLM(backbone=rivals_backbone(), preprocessor=None)
    policy.compile(sampler=keras_hub.samplers.RandomSampler(seed=0))
    return policy


def compare(policy, workload: str, prompts: int, repeats: int) -> dict:
    """Medians of tokens per second, their ratio, and what was compiled while ours was timed."""
    longest, stops = WORKLOADS[workload]
    rows = prompts * GROUP_SIZE
    prompts = np.random.default_rng(1).integers(8, VOCABULARY, (repeats + 1, prompts, PROMPT_LENGTH)).astype("int32")
    decoder = decoding.decoder_for(policy.backbone)
    weights = [variable.value for variable in policy.backbone.variables]
    stop_table = np.array([np.isin(np.arange(VOCABULARY), stops), np.ones(VOCABULARY)], "int8")

    def ours(run: int) -> int:
        completions = decoding.generate(
            decoder,
            weights,
            prompts[run],
            np.ones_like(prompts[run]),
            decoding.row_keys(0, run, np.arange(rows)),
            group_size=GROUP_SIZE,
            max_completion_length=longest,
            stop_table=stop_table,
            warm_up=run == 0,
        )
        return int(completions.lengths.sum())

    def generate(run: int) -> int:
        token_ids = np.zeros((rows, PROMPT_LENGTH + longest), "int32")
        token_ids[:, :PROMPT_LENGTH] = np.repeat(prompts[run], GROUP_SIZE, axis=0)
        mask = np.broadcast_to(np.arange(token_ids.shape[1]) < PROMPT_LENGTH, token_ids.shape).astype("int32")
        inputs = {"token_ids": token_ids, "padding_mask": mask}
        output = policy.generate(inputs, stop_token_ids=stops or None)
        ended = np.isin(output["token_ids"][:, PROMPT_LENGTH:], stops)
        return int(np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, longest).sum())

    counter, compiles = CompileCounter(), 0
    speeds, peaks = {ours: [], generate: []}, {ours: 0, generate: 0}
    for run in range(repeats + 1):
        for rollout in (ours, generate):
            forget_peak()
            before, start = counter.count, time.perf_counter()
            tokens = rollout(run)
            seconds = time.perf_counter() - start
            if run:  # the first compiles
                speeds[rollout].append(tokens / seconds)
                peaks[rollout] = max(peaks[rollout], peak_mib())
                compiles += counter.count - before if rollout is ours else 0
    medians = {rollout: statistics.median(values) for rollout, values in speeds.items()}
    return {
        "workload": workload,
        "ours_tok_per_s": round(medians[ours], 1),
        "generate_tok_per_s": round(medians[generate], 1),
        "ratio": round(medians[ours] / medians[generate], 2),
        "compiles_after_warmup": compiles,
        "ours_peak_mib": peaks[ours],
        "generate_peak_mib": peaks[generate],
    }


def report(result: dict, file) -> None:
    """One readable line."""
    print(
        "{workload}: {ratio} times generate(); {ours_tok_per_s} against {generate_tok_per_s} tokens/s, "
        "process peak {ours_peak_mib} against {generate_peak_mib} MiB, "
        "{compiles_after_warmup} compiles after warm-up".format(**result),
        file=file,
        flush=True,
    )


if __name__ == "__main__":
    if jax.default_backend() != "cpu":
        sys.exit("This benchmark reads the memory of the process, so it measures on CPU: set JAX_PLATFORMS=cpu.")
    main()
