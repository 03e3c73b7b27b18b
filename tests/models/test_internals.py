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


@pytest.mark.parametrize("shape", ("gemma", "gemma_3", "gemma_4"))
def test_an_array_of_positions_places_each_token_by_itself(make_policy, shape):
    """As keras-hub's own cached forward does, which counts from a number on."""
    layers = make_policy(shape).backbone.transformer_layers
    for attention in (layers[0].attention, layers[-1].attention):  # with a window and without, which rotate otherwise
        x = np.random.default_rng(0).normal(size=(2, 4, 2, attention.head_dim)).astype("float32")
        found = internals.rotate(attention, x, np.array([7, 0, 8, 0], "int32"))
        for t, position in enumerate((7, 0, 8, 0)):
            alone = attention._apply_rope(x[:, t : t + 1], position)
            np.testing.assert_allclose(found[:, t : t + 1], alone, atol=1e-6)
        assert np.abs(found[:, 0] - attention._apply_rope(x[:, :1], 0)[:, 0]).max() > 0.1


def test_a_layer_knows_whether_it_is_rematerialised():
    layers = [keras.layers.Dense(1, name="plain")]
    with keras.RematScope(mode="list_of_layers", layer_names=["again"]):
        layers += [keras.layers.Dense(1, name="again"), keras.layers.Dense(1, name="other")]
    assert [internals.is_rematerialised(layer) for layer in layers] == [False, True, False]
    x = np.ones((1, 1))
    programs = [str(jax.make_jaxpr(jax.grad(lambda x, layer=layer: layer(x).sum()))(x)) for layer in layers]
    assert ["remat" in program for program in programs] == [False, True, False]  # Keras itself does so


def test_an_empty_cache(gemma):
    _, cache = internals.empty_cache(gemma, np.zeros((1, 4), "int32"))
    assert cache.shape[:2] == (1, 2)  # rows, layers


def test_jax_answers_as_elsewhere():
    devices = jax.devices()
    with internals.as_if_on(["chip"], "tpu"):
        assert jax.devices() == ["chip"] and jax.default_backend() == "tpu" and jax.devices("cpu") == devices
    assert jax.devices() == devices and jax.default_backend() == "cpu"
