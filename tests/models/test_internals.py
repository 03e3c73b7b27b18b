"""Every private name that is used stands in one file, and is still there, and still does what it is used for."""

import ast
import inspect
import re
from pathlib import Path

import keras_aha
from keras_aha.models import internals

import jax
import keras
import numpy as np
import pytest

PACKAGE = Path(keras_aha.__file__).parent
PUBLIC = {"_replace", "_asdict", "_exit"}  # of named tuples, and of `os`


def private_names(source: str) -> set[str]:
    """Private attributes of something else than `self`, and modules that libraries keep for themselves."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr) and node.attr not in PUBLIC:
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and re.match(r"(keras|keras_hub)\.src|jax\._src", node.module or ""):
            found.add(node.module)
    return found


def test_private_names_of_other_libraries_stand_in_one_file():
    found = {path.relative_to(PACKAGE): private_names(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    assert [str(path) for path, names in found.items() if names] == ["models/internals.py"]
    source = "from keras.src.a import b\nlayer._kernel\nself._own\nrows._replace(x=1)\nf()._value = 1\nx.__name__"
    assert private_names(source) == {"keras.src.a", "_kernel", "_value"}


def test_orbax_counts_bytes_by_a_function_that_can_be_replaced(monkeypatch):
    from orbax.checkpoint._src.serialization import jax_array_handlers, tensorstore_utils

    monkeypatch.setattr(tensorstore_utils, "get_tensorstore_raw_bytes", tensorstore_utils.get_tensorstore_raw_bytes)
    internals.count_no_bytes()
    assert jax_array_handlers.ts_utils.get_tensorstore_raw_bytes("write") == 0
    assert "ts_utils.get_tensorstore_raw_bytes(" in inspect.getsource(jax_array_handlers)


def test_layers_and_variables(gemma):
    backbone = gemma.backbone
    layers = internals.flatten_layers(backbone)
    assert layers[0] is backbone and internals.flatten_layers(backbone, include_self=False) == layers[1:]
    query = backbone.transformer_layers[0].attention.query_dense
    assert query in layers
    kernel = internals.kernel_variable(query)
    assert kernel.path.endswith("query/kernel") and kernel is not query.kernel
    table = internals.embeddings_variable(backbone.token_embedding)
    assert table.shape == (backbone.vocabulary_size, backbone.hidden_dim)


def test_a_variable_without_a_value():
    with internals.without_values():
        variable = keras.Variable("zeros", shape=(2, 3), dtype="float32")
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])  # Keras gives all that wait their values then
    assert variable._value is None
    internals.set_value(variable, jax.ShapeDtypeStruct((2, 3), "float32"))
    assert variable.value.shape == (2, 3)


def test_layouts():
    variable = keras.Variable(np.zeros((2, 4)))
    assert internals.layout_of(variable) is None
    mesh = keras.distribution.DeviceMesh((1,), ["batch"], jax.devices()[:1])
    try:
        keras.distribution.set_distribution(keras.distribution.DataParallel(mesh, auto_shard_dataset=False))
        with internals.without_values():
            waiting = keras.Variable("zeros", shape=(2, 4), dtype="float32")
        internals.initialize_layout(waiting)
        assert internals.layout_of(waiting).device_mesh is mesh
    finally:
        keras.distribution.set_distribution(None)


def test_replaced_calls_wrap_one_another_and_are_taken_back():
    layer, said = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False), []
    layer.build((None, 2))

    def saying(word):
        return lambda layer, call: lambda *args, **kwargs: (said.append(word), call(*args, **kwargs))[1]

    with internals.replaced_calls([layer], saying("outer")):
        with internals.replaced_calls([layer], saying("inner")):
            assert float(layer(np.ones((1, 2)))[0, 0]) == 2.0
        assert said == ["inner", "outer"]
        layer(np.ones((1, 2)))
    layer(np.ones((1, 2)))
    assert said == ["inner", "outer", "outer"] and "call" not in vars(layer)


def test_attention_without_the_fused_operation(make_policy, monkeypatch):
    attention = make_policy("gemma_2").backbone.transformer_layers[0].attention
    assert isinstance(attention._use_fused_attention_op(), bool)
    monkeypatch.setattr(type(attention), "_use_fused_attention_op", lambda self: True)
    with internals.plain_attention([attention]):
        assert attention._use_fused_attention_op() is False
    assert attention._use_fused_attention_op() is True
    monkeypatch.delattr(type(attention), "_use_fused_attention_op")
    with pytest.raises(AttributeError, match="_use_fused_attention_op any more"):
        with internals.plain_attention([attention]):
            pass


def test_rotation_starts_where_it_is_told(gemma):
    attention = gemma.backbone.transformer_layers[0].attention
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 8)).astype("float32")
    at_5, from_4 = internals.rotate(attention, x, 5), internals.rotate(attention, np.roll(x, 1, axis=1), 4)
    np.testing.assert_allclose(at_5[:, :2], from_4[:, 1:], atol=1e-5)
    assert np.abs(at_5 - internals.rotate(attention, x, 0)).max() > 0.1


def test_an_empty_cache(gemma):
    _, cache = internals.empty_cache(gemma, np.zeros((1, 4), "int32"))
    assert cache.shape[:2] == (1, 2)  # rows, layers


def test_jax_answers_as_elsewhere():
    devices = jax.devices()
    with internals.as_if_on(["chip"], "tpu"):
        assert jax.devices() == ["chip"] and jax.default_backend() == "tpu" and jax.devices("cpu") == devices
    assert jax.devices() == devices and jax.default_backend() == "cpu"
