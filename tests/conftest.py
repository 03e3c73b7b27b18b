"""Tiny real models that tests share. Nothing heavy is imported here, so that tests of tasks stay quick."""

import gc
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is first imported
# Tests compile much and compute little: no time for machine code of the best kind, nor for threads that make it, as
# tests keep all cores busy; and fusions written as LLVM at once, not by way of MLIR, which takes twice as long (jaxlib
# 0.12 knows MLIR only, and ends the process at a flag that it does not know). All else of XLA is as for users.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10"),
)

import keras_aha  # noqa: F401  chooses the JAX backend, so before any test imports Keras

import pytest
from tiny_models import ALL_LINEAR, SHAPES, randomize, tiny_policy  # noqa: F401  tests import them from here as well

# `compiler_options` where a test reads the program's text
AS_FOR_USERS = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}
GEMMA_2 = SHAPES["gemma_2"]
SMALL = [  # changes of a recipe that make a command quick
    *("rollouts.prompts_per_epoch=2", "rollouts.group_size=2", "rollouts.max_completion_length=8"),
    *("task.max_number=10", "evaluation.puzzles=3", "evaluation.samples=2", "lora.rank=2"),
    *("training.micro_batch_size=none", "priming.steps=2", "priming.batch_size=2"),
]


def pytest_configure(config):
    """What one test has compiled is there for the next, and for the processes that tests start."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # which xdist's workers have from the process that starts them
        folder = tempfile.mkdtemp(prefix="keras-aha-programs-")
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items):
    """Files with slow tests first: by pyproject.toml xdist takes files in this order. Within a file nothing moves."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="module")
def earlier_objects_frozen():
    """Garbage collection, which Keras asks for at each kernel that it quantizes, skips what earlier modules left."""
    gc.freeze()


@pytest.fixture(scope="session")
def make_policy():
    """A function that builds a tiny random policy of a shape of `tiny_models.py`, such as `make_policy("gemma_3")`."""
    return tiny_policy


@pytest.fixture(scope="session")
def gemma(make_policy):
    """A Gemma with random adapters, for reading only: programs compiled for it are shared by all tests."""
    return make_policy("gemma", lora_rank=2)


@pytest.fixture(scope="session")
def gemma_2(make_policy):
    return make_policy("gemma_2", lora_rank=2)


@pytest.fixture(scope="session")
def prompts():
    """Compact Countdown prompts of 8, 10 and 12 tokens, begin-token included."""
    return [
        "Use 3 4 each once to make 7.\n<think>\n",
        "Use 3 9 12 each once to make 24.\n<think>\n",
        "Use 1 5 6 10 each once to make 80.\n<think>\n",
    ]


@pytest.fixture(scope="session")
def one_batch():
    """A function that makes a `PyDataset` of one batch for `fit`."""
    from mesh_epochs import OneBatch

    return OneBatch
