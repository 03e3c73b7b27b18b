import os
import subprocess
import sys
from pathlib import Path

from keras_aha.callbacks.compile_counter import CompileCounter

import jax
import numpy as np

ROOT = Path(__file__).parents[2]
PROGRAM = """
from keras_aha.callbacks.compile_counter import CompileCounter
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("compilation_cache/cache_hits")))
counter = CompileCounter()
jax.jit(lambda x: 2 * x + 1)(3.0)
print(counter.count, sum(hits))
"""


def test_a_program_counts_once():
    counter = CompileCounter()
    double = jax.jit(lambda x: 2 * x)
    for x in (np.zeros(3, "float32"), np.ones(3, "float32")):
        double(x)
    assert counter.count == 1
    double(np.ones(4, "float32"))  # another shape, another program
    assert counter.count == 2


def test_each_counts_from_when_it_was_made():
    first = CompileCounter()
    jax.jit(lambda x: 3 * x)(1.0)
    second = CompileCounter()
    jax.jit(lambda x: 4 * x)(1.0)
    assert (first.count, second.count) == (2, 1)


def test_a_program_from_the_persistent_cache_counts(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-c", PROGRAM]
    outputs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    ]
    assert [output.split() for output in outputs] == [["1", "0"], ["1", "1"]]
