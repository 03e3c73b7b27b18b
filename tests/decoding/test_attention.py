"""Attention over one or two arrays of keys and values, against plain NumPy in float64."""

from keras_aha.decoding.attention import attend, scaled

import jax
import numpy as np
import pytest

ROWS, LENGTH, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 6, 2, 16, 4, 2, 8


@pytest.fixture(scope="module", params=[(True, None), (True, 0.5), (False, None), (False, 0.5)], ids=str)
def layer(request, make_policy):
    """keras-hub's attention layer, which scales queries by the head dim or by the hidden one, and may have a cap."""
    normalize, cap = request.param
    layer = make_policy("gemma_2", num_layers=1, attention_logit_soft_cap=cap).backbone.transformer_layers[0].attention
    layer.query_head_dim_normalize = normalize  # not by way of the backbone, since keras-hub 0.32 does not pass it on
    return layer


def make_parts(*shapes, length=LENGTH, heads=HEADS):
    """`(query, parts, positions, starts)`, random, parts of `(X, S)` each; every query sees its own position.

    The positions of all parts are different ones, in no order, and some slots hold nothing.
    """
    rng = np.random.default_rng(0)
    total = sum(slots for _, slots in shapes)
    places, parts = iter(rng.permutation(total)), []
    for arrays, slots in shapes:
        keys, values = (rng.normal(size=(arrays, KV_HEADS, slots, HEAD_DIM)).astype("float32") for _ in range(2))
        held = np.array([next(places) for _ in range(slots)])
        parts.append((keys, values, np.where(np.isin(held, (0, 2)), -1, held).astype("int32")))
    positions = rng.permutation(np.arange(3, total))[:length].astype("int32")
    starts = rng.integers(0, positions.min() + 1, ROWS).astype("int32")
    return rng.normal(size=(ROWS, length, heads, HEAD_DIM)).astype("float32"), parts, positions, starts


def exact(layer, query, parts, positions, starts, window=None):
    """One query head of one row at a time, from the definition."""
    scale = 1 / np.sqrt(HEAD_DIM if layer.query_head_dim_normalize else HIDDEN // query.shape[2])
    output = np.zeros(query.shape)
    for row, t, head in np.ndindex(query.shape[:3]):
        keys, values = [], []
        for part_keys, part_values, held in parts:
            age = positions[t] - held
            source, seen = row * len(part_keys) // ROWS, (age >= 0) & (age < (window or 99)) & (held >= starts[row])
            kv_head = head * KV_HEADS // query.shape[2]
            keys.append(part_keys[source, kv_head][seen])
            values.append(part_values[source, kv_head][seen])
        logits = np.concatenate(keys).astype("float64") @ query[row, t, head] * scale
        if layer.logit_soft_cap is not None:
            logits = np.tanh(logits / layer.logit_soft_cap) * layer.logit_soft_cap
        weights = np.exp(logits - logits.max())
        output[row, t, head] = weights / weights.sum() @ np.concatenate(values).astype("float64")
    return output


# A cache of each row's own; all rows read one; three rows share a prompt; a prompt of one token.
@pytest.mark.parametrize("shapes", [[(6, 5)], [(1, 5)], [(2, 5), (6, 3)], [(1, 1), (6, 4)]], ids=str)
@pytest.mark.parametrize("dtype, window", (("float32", None), ("bfloat16", None), ("float32", 2), ("float32", 9)))
def test_equals_the_definition(layer, shapes, dtype, window):
    """In float32, whatever the dtype of the cache."""
    query, parts, *places = make_parts(*shapes)
    parts = [(keys.astype(dtype), values.astype(dtype), held) for keys, values, held in parts]
    output = jax.jit(lambda query, *rest: attend(layer, scaled(layer, query), *rest, window))(query, parts, *places)
    assert output.dtype == "float32"
    np.testing.assert_allclose(output, exact(layer, query, parts, *places, window), atol=2e-6)


def test_each_query_head_with_keys_of_its_own(layer):
    """As Gemma 7B has them: still products of matrices, for which a TPU leaves the cache as it lies."""
    arguments = make_parts((6, 5), length=1, heads=KV_HEADS)
    attended = jax.jit(lambda query, *rest: attend(layer, scaled(layer, query), *rest))
    np.testing.assert_allclose(attended(*arguments), exact(layer, *arguments), atol=2e-6)
    products = [e for e in attended.trace(*arguments).jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(products) == 2
    for product in products:
        axes = [set(c) | set(b) for c, b in zip(*product.params["dimension_numbers"], strict=True)]
        for operand, used in zip(product.invars, axes, strict=True):
            assert np.prod([size for axis, size in enumerate(operand.aval.shape) if axis not in used]) > 1
