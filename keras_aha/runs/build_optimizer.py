"""A recipe's optimizer, with the key named that does not fit."""

import inspect

from keras_aha.names import suggestion
from keras_aha.recipes.sections import Optimizer, RecipeError

import keras


def build_optimizer(section: Optimizer, steps: int) -> keras.optimizers.Optimizer:
    """The Keras optimizer of `[optimizer]`.

    `config.learning_rate` is a number or a schedule: a table of `class_name` and `config`. A schedule's `decay_steps`,
    where it takes one and the recipe leaves it out, are those of the run, so that `training.epochs` alone decides.

    Args:
        section: the recipe's section.
        steps: optimizer steps of the run.

    Raises:
        RecipeError: an unknown class or key (the message names the nearest), or a value that Keras does not take.
    """
    config = dict(section.config)
    rate = config.get("learning_rate")
    path = "optimizer.config.learning_rate"
    if type(rate) is int:
        config["learning_rate"] = float(rate)  # Keras takes no integer
    elif isinstance(rate, dict):
        inner = rate.get("config", {})
        known = {"class_name", "config", "module", "registered_name"}
        if not {"class_name"} <= rate.keys() <= known or not isinstance(inner, dict):
            raise RecipeError(f"A schedule is a table of class_name and config. Received: {path}={rate}")
        schedules = keras.optimizers.schedules
        config["learning_rate"] = _build(
            path, schedules, schedules.LearningRateSchedule, rate["class_name"], inner, steps
        )
    made, trial = (
        _build("optimizer", keras.optimizers, keras.optimizers.Optimizer, section.class_name, config, steps)
        for _ in range(2)
    )
    _check_steps(section, trial)
    return made


def _check_steps(section: Optimizer, optimizer) -> None:
    """Raises RecipeError where an optimizer, which is used up, cannot take steps: Keras looks at few values before."""
    received = f"Received: optimizer.class_name={section.class_name!r}, optimizer.config={section.config}"
    weights = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    try:
        for _ in range(2):
            optimizer.apply([keras.ops.ones((2, 2))], [weights])
        fits = bool(optimizer.learning_rate >= 0) and bool(keras.ops.all(keras.ops.isfinite(weights)))
    except Exception as error:  # whatever comes of a value of any type in Keras's arithmetic
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"The optimizer cannot take a step: {reason}. {received}") from error
    if not fits:
        raise RecipeError(
            f"The optimizer makes weights that are not finite, or its learning rate is below 0. {received}"
        )


def _build(path: str, module, base: type, class_name: str, config: dict, steps: int):
    classes = {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }
    if class_name not in classes:
        raise RecipeError(
            f"Keras has no {base.__name__} of that name{suggestion(class_name, classes)}. "
            f"Received: {path}.class_name={class_name!r}"
        )
    known = [name for name in inspect.signature(classes[class_name]).parameters if name != "kwargs"]
    for key, value in config.items():
        if key not in known:
            raise RecipeError(
                f"Unknown key {path}.config.{key}{suggestion(key, known, path + '.config.{}')}. "
                f"Received: {path}.config.{key}={value!r}"
            )
    if "decay_steps" in known:
        config = {"decay_steps": steps} | config
    try:
        return classes[class_name](**config)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"Keras cannot make {path}, {class_name}: {reason}") from error
