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

import numpy as np
import pytest

# `compiler_options` where a test reads the program's text
AS_FOR_USERS = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}
GEMMA = dict(num_layers=2, num_query_heads=2, num_key_value_heads=1, hidden_dim=16, intermediate_dim=32, head_dim=8)
# Caps and window so small that they bite: a forward that left them out would be far off.
GEMMA_2 = dict(
    num_layers=2,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=16,
    intermediate_dim=32,
    head_dim=8,
    use_post_attention_norm=True,
    use_post_ffw_norm=True,
    attention_logit_soft_cap=0.5,
    final_logit_soft_cap=2.0,
    use_sliding_window_attention=True,
    sliding_window_size=4,
)
ALL_LINEAR = ["query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear"]


def pytest_configure(config):
    """What one test has compiled is there for the next, and for the processes that tests start."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # which xdist's workers have from the process that starts them
        folder = tempfile.mkdtemp(prefix="keras-aha-programs-")
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items):
    """Files with slow tests first, as pyproject.toml asks xdist to take files in this order: short ones fill the gaps
    at the end. Within a file nothing moves."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What the modules of tests have loaded stays: garbage collection, which Keras asks for at each kernel that it
    quantizes, need not go through it."""
    gc.freeze()


@pytest.fixture(scope="session")
def make_policy():
    """A function that builds a tiny random policy; the weights depend on `seed` alone."""

    def make(shape="gemma", seed=0, lora_rank=0, fresh_adapters=False, **architecture):
        from keras_aha.models.tiny_gemma import tiny_gemma

        policy = tiny_gemma(**{**{"gemma": GEMMA, "gemma_2": GEMMA_2}[shape], **architecture})
        randomize(policy.backbone.variables, seed)
        if lora_rank:
            policy.backbone.enable_lora(lora_rank, target_layer_names=ALL_LINEAR)
            adapters = policy.trainable_variables
            randomize([v for v in adapters if not (fresh_adapters and v.name.endswith("kernel_b"))], seed + 1)
        return policy

    return make


@pytest.fixture(scope="session")
def gemma(make_policy):
    """A Gemma with random adapters, for reading only: programs compiled for it are shared by all tests."""
    return make_policy("gemma", lora_rank=2)


@pytest.fixture(scope="session")
def gemma_2(make_policy):
    """The same of the shape of Gemma 2."""
    return make_policy("gemma_2", lora_rank=2)


def randomize(variables, seed):
    """Weights far from an initialiser's: norm scales that are not 0, logits of about unit variance."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(rng.normal(0.0, 0.3, variable.shape))


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
    import keras

    class OneBatch(keras.utils.PyDataset):
        def __init__(self, batch):
            super().__init__()
            self.batch = batch

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return self.batch

    return OneBatch
