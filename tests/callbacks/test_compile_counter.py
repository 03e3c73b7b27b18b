from keras_aha.callbacks.compile_counter import CompileCounter

import jax
import numpy as np


def test_a_program_counts_once_from_when_a_counter_is_made_until_it_is_closed():
    first = CompileCounter()
    double = jax.jit(lambda x: 2 * x)
    for x in (np.zeros(3, "float32"), np.ones(3, "float32")):
        double(x)
    assert first.count == 1
    second = CompileCounter()
    double(np.ones(4, "float32"))  # another shape, another program
    second.close()
    double(np.ones(5, "float32"))
    first.close()
    double(np.ones(6, "float32"))
    assert (first.count, second.count) == (3, 1)
    assert first.seconds > second.seconds > 0


def test_a_program_from_the_persistent_cache_counts():
    hits = []

    def listen(event, **_):
        hits.append(event.endswith("compilation_cache/cache_hits"))

    jax.monitoring.register_event_listener(listen)
    counter = CompileCounter()
    for _ in range(2):  # two functions and one program
        jax.jit(lambda x: 2 * x + 1)(np.float32(3))
    counter.close()
    jax.monitoring.unregister_event_listener(listen)
    assert counter.count == 2 and sum(hits) >= 1
