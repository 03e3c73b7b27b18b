"""Long attention, by chunks and by the kernel, against `attend` with the logits of all pairs, forward and backward."""

import functools
import types

from keras_aha.decoding import self_attention as module
from keras_aha.decoding.attention import attend
from keras_aha.distribution.distribute import over_mesh
from keras_aha.models.internals import as_if_on

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

HEAD_DIM = 128  # the kernel takes multiples of it
# queries, keys, their heads, and the window; the second row's text begins in the prompt, or near its end
SHAPES = [(40, 60, 4, 2, None), (130, 130, 4, 1, 50), (200, 290, 2, 2, 100)]


def settings(dtype, cap):
    softmax = keras.layers.Softmax(dtype=dtype)
    return types.SimpleNamespace(logit_soft_cap=cap, softmax=softmax)


def inputs(queries, slots, heads, kv_heads, dtype):
    rng = np.random.default_rng(0)
    shapes = (queries, heads), (slots, kv_heads), (slots, kv_heads)
    arrays = [rng.normal(size=(2, *shape, HEAD_DIM)).astype(dtype) for shape in shapes]
    arrays[0] /= HEAD_DIM**0.5
    positions = np.arange(slots) - 1
    starts = np.array([0, slots - queries - 3 if slots > queries else queries // 3])
    is_text = positions[-queries:] >= starts[:, None]
    return arrays, positions, starts, rng.normal(size=arrays[0].shape) * is_text[..., None, None]


def outputs(function, arrays, directions):
    """What a function of query, keys and values gives where there is text, and its gradients in a random direction."""

    def weighted(*arrays):
        output = function(*arrays)
        return jnp.sum(output * directions.astype(output.dtype)), output

    gradients, output = jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True))(*arrays)
    return [np.where(directions, output, 0), *gradients]


@pytest.mark.parametrize("cap", [None, 0.5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("way", ["chunks", "chunks in float64", "kernel"])
def test_equals_attention_of_all_pairs(way, shape, cap, monkeypatch):
    monkeypatch.setattr(module, "_LONG", 8)
    monkeypatch.setattr(module, "_CHUNK", 48)
    dtype, window = "float64" if "64" in way else "float32", shape[-1]
    with jax.enable_x64(dtype == "float64"):
        attention = settings(dtype, cap)
        arrays, positions, starts, directions = inputs(*shape[:-1], dtype)

        def plain(query, keys, values):
            part = module.by_head(keys), module.by_head(values), positions
            return attend(attention, query, [part], positions[-shape[0] :], starts, window)

        def long(query, keys, values):
            if way == "kernel":
                kernel = functools.partial(module.splash_attention, first=-1, soft_cap=cap, window=window)
                return over_mesh(functools.partial(kernel, interpret=True), query, keys, values, starts)
            return module.self_attention(attention, query, keys, values, jnp.asarray(positions), starts, window)

        pairs = zip(outputs(long, arrays, directions), outputs(plain, arrays, directions), strict=True)
        for found, expected in pairs:
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found, expected, atol=scale * (1e-12 if dtype == "float64" else 5e-6))


def test_no_logits_of_all_pairs(monkeypatch):
    """Neither in the forward program nor in the backward one; with `_LONG` out of reach they are there."""
    queries, slots, attention = 144, 160, settings("float32", 0.5)
    arrays, positions, starts, directions = inputs(queries, slots, 4, 2, "float32")

    def program():
        def loss(*arrays):
            return jnp.sum(module.self_attention(attention, *arrays, jnp.asarray(positions), starts) * directions)

        return str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(*arrays))

    assert f"{queries},{slots}]" in program()
    monkeypatch.setattr(module, "_LONG", 8)
    monkeypatch.setattr(module, "_CHUNK", 48)
    assert f"{queries},{slots}]" not in program() and f"48,{slots}]" in program()


@pytest.mark.parametrize(
    "kind, queries, expected", [("TPU v5 lite", 256, 1), ("TPU v5 lite", 255, 0), ("TPU v3", 256, 0)]
)
def test_where_the_kernel_is_used(kind, queries, expected, monkeypatch):
    used = []
    monkeypatch.setattr(module, "over_mesh", lambda kernel, query, *arrays: used.append(kernel) or query)
    arrays, positions, starts, _ = inputs(queries, queries, 2, 1, "float32")
    with as_if_on([types.SimpleNamespace(device_kind=kind)], "tpu"):
        module.self_attention(settings("float32", None), *arrays, jnp.asarray(positions), starts)
    assert len(used) == expected
