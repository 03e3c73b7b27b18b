"""keras-aha: teach Gemma to reason from a verifiable reward alone, as plain Keras 3 on JAX.

Import it before Keras: it chooses the JAX backend if `KERAS_BACKEND` is unset. Names are loaded on first use.
"""

import importlib
import os
import sys

from keras_aha.versions import check_versions

_HOMES = {
    "CheckpointCallback": "callbacks.checkpoint_callback",
    "CompletionsCallback": "callbacks.completions_callback",
    "DoctorCallback": "callbacks.doctor_callback",
    "EvaluateCallback": "callbacks.evaluate_callback",
    "Experiment": "runs.experiment",
    "GRPOLoss": "losses",
    "GRPOModel": "training.grpo_model",
    "Recipe": "recipes.recipe",
    "RolloutCallback": "callbacks.rollout_callback",
    "Run": "runs.run",
    "TimeLimitCallback": "callbacks.time_limit_callback",
    "distribute": "distribution.distribute",
    "in_order": "callbacks.order",
    "load_policy": "models.policy",
    "prime": "training.priming",
    "write_report": "runs.report",
}
_HOMES |= dict(check="planner", evaluate="runs.evaluate", export="runs.export", plan="planner")
_HOMES |= dict(ModelJudge="training.judges.model_judge", RewardModel="training.judges.reward_model")
_HOMES |= dict(EndpointJudge="training.judges.endpoint_judge")
_HOMES |= dict(Teacher="training.teacher", TurnLimits="training.turn_limits")
_ROOMS = ("losses", "tasks")
# XLA for TPUs compiles each fusion of a gather and a product by itself: with 42 layers that takes twice as long.
_LIBTPU_FLAG = "xla_tpu_enable_async_collective_fusion"
__all__ = [*_HOMES, *_ROOMS]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"keras_aha.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"keras_aha.{name}")
    raise AttributeError(f"module 'keras_aha' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _require_jax_backend() -> None:
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if "keras" in sys.modules:
        backend = sys.modules["keras"].config.backend()
    if backend != "jax":
        raise ImportError(
            f"keras-aha needs Keras on JAX: unset KERAS_BACKEND, and import keras_aha before keras. Received: {backend}"
        )


def _set_libtpu_flag() -> None:
    """Adds to what libtpu reads when a TPU, or its compiler, is first used; what the user has set stays."""
    if _LIBTPU_FLAG not in (flags := os.environ.get("LIBTPU_INIT_ARGS", "")):
        os.environ["LIBTPU_INIT_ARGS"] = f"{flags} --{_LIBTPU_FLAG}=false".strip()


check_versions()
_require_jax_backend()
_set_libtpu_flag()
