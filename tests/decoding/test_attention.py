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
    """Random parts, `(X, S)` each; every query sees something."""
    rng = np.random.default_rng(0)
    parts = []
    for arrays, slots in shapes:
        keys, values = (rng.normal(size=(arrays, KV_HEADS, slots, HEAD_DIM)).astype("float32") for _ in range(2))
        visible = rng.random((ROWS, length, slots)) < 0.7
        visible[..., 0] = True
        parts.append((keys, values, visible))
    return rng.normal(size=(ROWS, length, heads, HEAD_DIM)).astype("float32"), parts


def exact(layer, query, parts):
    """One query head of one row at a time, from the definition."""
    scale = 1 / np.sqrt(HEAD_DIM if layer.query_head_dim_normalize else HIDDEN // query.shape[2])
    output = np.zeros(query.shape)
    for row, t, head in np.ndindex(query.shape[:3]):
        keys, values = [], []
        for part_keys, part_values, visible in parts:
            source, seen = row * len(part_keys) // ROWS, visible[row, t]
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
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_equals_the_definition(layer, shapes, dtype):
    """In float32, whatever the dtype of the cache."""
    query, parts = make_parts(*shapes)
    parts = [(keys.astype(dtype), values.astype(dtype), visible) for keys, values, visible in parts]
    output = jax.jit(lambda query, parts: attend(layer, scaled(layer, query), parts))(query, parts)
    assert output.dtype == "float32"
    np.testing.assert_allclose(output, exact(layer, query, parts), atol=2e-6)


def test_each_query_head_with_keys_of_its_own(layer):
    """As Gemma 7B has them: still products of matrices, for which a TPU leaves the cache as it lies."""
    query, parts = make_parts((6, 5), length=1, heads=KV_HEADS)
    attended = jax.jit(lambda query, parts: attend(layer, scaled(layer, query), parts))
    np.testing.assert_allclose(attended(query, parts), exact(layer, query, parts), atol=2e-6)
    products = [e for e in attended.trace(query, parts).jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(products) == 2
    for product in products:
        axes = [set(c) | set(b) for c, b in zip(*product.params["dimension_numbers"], strict=True)]
        for operand, used in zip(product.invars, axes, strict=True):
            assert np.prod([size for axis, size in enumerate(operand.aval.shape) if axis not in used]) > 1
