"""A recipe's optimizer, with the key named that does not fit."""

import inspect

from keras_aha.names import suggestion
from keras_aha.recipes.sections import Optimizer
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.training.check_optimizer import check_optimizer

import keras

_BASES = ("Optimizer", "LossScaleOptimizer", "LearningRateSchedule")


def build_optimizer(section: Optimizer, steps: int) -> keras.optimizers.Optimizer:
    """The Keras optimizer of `[optimizer]`, see `sections.Optimizer`, of a run of so many optimizer steps.

    It raises RecipeError for an unknown class or key, and a value that Keras or a `GRPOModel` does not take.
    """
    config, path = dict(section.config), "optimizer.config.learning_rate"
    rate = config.get("learning_rate")
    if type(rate) is int:
        config["learning_rate"] = float(rate)  # Keras takes no integer
    elif isinstance(rate, dict):
        if rate.keys() - {"config"} != {"class_name"} or not isinstance(rate.get("config", {}), dict):
            raise RecipeError(f"A schedule is a table of class_name and config. Received: {path}={rate}")
        rate = {"config": {}} | rate
        decay = max(1, steps - _warm_up(path, rate["config"]))  # which counts after the warm-up
        config["learning_rate"] = _build(path, keras.optimizers.schedules, **rate, decay_steps=decay)
    _check_steps(section, _build("optimizer", keras.optimizers, section.class_name, config))
    optimizer = _build("optimizer", keras.optimizers, section.class_name, config)
    with in_section("optimizer.config"):
        check_optimizer(optimizer)
    return optimizer


def _warm_up(path: str, config: dict) -> int:
    """The steps of a schedule's warm-up, which Keras leaves out if it has no target."""
    steps = config.get("warmup_steps", 0)
    if steps and config.get("warmup_target") is None:
        raise RecipeError(
            f"A warm-up needs the rate that it goes up to: set {path}.config.warmup_target. Received: {path}={config}"
        )
    return steps if isinstance(steps, int) else 0  # what is none, Keras refuses


def _build(path: str, module, class_name: str, config: dict, **defaults):
    """`keras.optimizers.deserialize` would not name the nearest key."""
    classes = {name: kind for name, kind in vars(module).items() if inspect.isclass(kind) and name not in _BASES}
    if class_name not in classes:
        raise RecipeError(
            f"{module.__name__} has no class of that name{suggestion(class_name, classes)}. "
            f"Received: {path}.class_name={class_name!r}"
        )
    known = [name for name in inspect.signature(classes[class_name]).parameters if name != "kwargs"]
    for key, value in config.items():
        if key not in known:
            raise RecipeError(
                f"Unknown key {path}.config.{key}{suggestion(key, known, path + '.config.{}')}. "
                f"Received: {path}.config.{key}={value!r}"
            )
    try:
        return classes[class_name](**{key: value for key, value in defaults.items() if key in known} | config)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"Keras cannot make {path}, {class_name}: {' '.join(str(error).split())}") from error


def _check_steps(section: Optimizer, optimizer) -> None:
    """Raises RecipeError if an optimizer, which is used up, cannot take steps: Keras looks at few values before."""
    received = f"Received: optimizer.class_name={section.class_name!r}, optimizer.config={section.config}"
    weights = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    try:
        for _ in range(2):
            optimizer.apply([keras.ops.ones((2, 2))], [weights])
        rate, finite = float(optimizer.learning_rate), bool(keras.ops.all(keras.ops.isfinite(weights)))
    except Exception as error:  # whatever comes of a value of any type in Keras's arithmetic
        raise RecipeError(
            f"The optimizer cannot take a step: {' '.join(str(error).split())[:200]}. {received}"
        ) from error
    if rate < 0:
        raise RecipeError(f"The learning rate must not be below 0. {received}")
    if not finite:
        raise RecipeError(f"The optimizer makes weights that are not finite. {received}")
