"""A recipe's optimizer, with the key named that does not fit."""

import inspect

from keras_aha.recipe_sections import Optimizer, RecipeError, nearest

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
    if isinstance(rate, dict):
        if not {"class_name"} <= rate.keys() <= {"class_name", "config", "module", "registered_name"}:
            raise RecipeError(f"A schedule is a table of class_name and config. Received: {path}={rate}")
        schedules = keras.optimizers.schedules
        config["learning_rate"] = _build(
            path, schedules, schedules.LearningRateSchedule, rate["class_name"], rate.get("config", {}), steps
        )
    return _build("optimizer", keras.optimizers, keras.optimizers.Optimizer, section.class_name, config, steps)


def _build(path: str, module, base: type, class_name: str, config: dict, steps: int):
    classes = {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }
    if class_name not in classes:
        raise RecipeError(
            f"Keras has no {base.__name__} of that name; the nearest is {nearest(class_name, classes)}. "
            f"Received: {path}.class_name={class_name!r}"
        )
    known = [name for name in inspect.signature(classes[class_name]).parameters if name != "kwargs"]
    for key, value in config.items():
        if key not in known:
            raise RecipeError(
                f"Unknown key {path}.config.{key}; the nearest is {path}.config.{nearest(key, known)}. "
                f"Received: {path}.config.{key}={value!r}"
            )
    if "decay_steps" in known:
        config = {"decay_steps": steps} | config
    try:
        return classes[class_name](**config)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"Keras cannot make {path}, {class_name}: {reason}") from error
