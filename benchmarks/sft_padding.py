"""Tokens per second of priming with batches of like length, against batches in any order.

    python benchmarks/sft_padding.py

Rows of mixed length, from a dozen tokens to some hundreds, as worked solutions and traces are. Each kind of batches is
trained on once before it is timed, so that nothing is compiled then. Prints the share of padding and tokens per second
of each kind, padding not counted, and their ratio.
"""

import argparse
import itertools
import random
import time

from keras_aha.models.tiny_gemma import tiny_gemma
from keras_aha.tasks.chat import Piece
from keras_aha.training import example_batches
from keras_aha.training.example_batches import endless_batches, shuffled
from keras_aha.training.examples import Example, make_examples
from keras_aha.training.priming import prime

import keras
import numpy as np


class Timer(keras.callbacks.Callback):
    """Takes the seconds of each step."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the step
        self.seconds.append(time.perf_counter() - self._start)


def mixed_rows(tokenizer, count: int, longest: int) -> list[Example]:
    """Lengths as of traces: many short ones, a few long ones."""
    rng = random.Random(0)
    lengths = [min(longest, int(rng.lognormvariate(4, 1))) for _ in range(count)]
    return make_examples(tokenizer, [[Piece("Use 3 4", False), Piece("1 2 " * max(1, n // 4), True)] for n in lengths])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="(default: %(default)s)")
    parser.add_argument("--longest", type=int, default=512, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: %(default)s)")
    args = parser.parse_args()
    policy, found = tiny_gemma(num_layers=2), {}
    examples = mixed_rows(policy.preprocessor.tokenizer, args.rows, args.longest)
    steps = args.rows // args.batch_size
    by_length = example_batches.by_length
    in_any_order = lambda rows, size: [rows[i : i + size] for i in range(0, len(rows), size)]  # noqa: E731
    for name, group in (("any order", in_any_order), ("like length", by_length)):
        example_batches.by_length = group
        batches = list(itertools.islice(endless_batches(shuffled(examples, 0), args.batch_size, 0), steps))
        cells = sum(inputs["prompt_ids"].size + mask.size for inputs, mask in batches)
        tokens = sum(int(inputs["prompt_mask"].sum() + mask.sum()) for inputs, mask in batches)
        timer = Timer()
        for _ in range(2):
            prime(policy, examples, steps=steps, batch_size=args.batch_size, callbacks=[timer], verbose=0)
        found[name] = tokens / sum(timer.seconds)
        shapes = len({mask.shape for _, mask in batches})
        print(f"{name}: {1 - tokens / cells:.0%} padding, {found[name]:.0f} tokens/s, {shapes} lengths", flush=True)
    mean = np.mean([example.length for example in examples])
    print(f"ratio: {found['like length'] / found['any order']:.2f}; rows of {mean:.0f} tokens on average")


if __name__ == "__main__":
    main()
