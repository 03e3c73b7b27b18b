"""A token drawn by two random numbers a row against the Gumbel-max trick, which takes one for each of the vocabulary.

    python benchmarks/sampling.py                             64 rows, Gemma 3's vocabulary
    python benchmarks/sampling.py --vocabulary 202 --rows 256

ours:       `decoding.sampling.sample`, its log-prob included.
gumbel:     the best logit after Gumbel noise, and its log-prob.
unembedding:  the product before it, `(rows, width)` by `(vocabulary, width)`, for scale.

They take turns in a process, and medians of their seconds are compared.
"""

import argparse
import json
import statistics
import time

from keras_aha.decoding.sampling import row_keys, sample

import jax
import jax.numpy as jnp


def gumbel(logits, keys, positions):
    noise = jax.vmap(lambda key, p: jax.random.gumbel(jax.random.fold_in(key, p), logits.shape[1:]))(keys, positions)
    token_ids = jnp.argmax(logits + noise, axis=-1)
    return token_ids, jnp.take_along_axis(jax.nn.log_softmax(logits), token_ids[:, None], axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=10, help="timed calls of each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON line on standard output")
    args = parser.parse_args()
    hidden, embedding = (jax.random.normal(jax.random.key(0), (n, args.width)) for n in (args.rows, args.vocabulary))
    logits = hidden @ embedding.T / args.width**0.5
    keys, positions = row_keys(0, 0, jnp.arange(args.rows)), jnp.arange(args.rows)
    calls = {
        "ours": (jax.jit(lambda *draw: sample(*draw, 1.0)), logits, keys, positions),
        "gumbel": (jax.jit(gumbel), logits, keys, positions),
        "unembedding": (jax.jit(lambda x, e: x @ e.T), hidden, embedding),
    }
    seconds = {name: [] for name in calls}
    for i in range(args.repeats + 1):
        for name, (function, *arguments) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if i:  # the first call compiles
                seconds[name].append(time.perf_counter() - start)
    result = {name: round(statistics.median(values), 5) for name, values in seconds.items()}
    result["ratio"] = round(result["gumbel"] / result["ours"], 2)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{args.rows} rows, a vocabulary of {args.vocabulary:,}, on {jax.devices()[0].device_kind}")
    for name in calls:
        print(f"  {name:<12} {1000 * result[name]:8.1f} ms")
    print(f"  gumbel / ours {result['ratio']:7.2f}")


if __name__ == "__main__":
    main()
