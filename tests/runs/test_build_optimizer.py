import re

from keras_aha.recipes.sections import Optimizer, RecipeError
from keras_aha.runs.build_optimizer import build_optimizer

import keras
import pytest

DECAY = {"class_name": "PolynomialDecay", "config": {"initial_learning_rate": 0.1, "end_learning_rate": 0.0}}


def test_config_is_kerass_own():
    optimizer = build_optimizer(Optimizer(class_name="Adam", config={"learning_rate": 0.5, "beta_2": 0.9}), steps=3)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert optimizer.beta_2 == 0.9 and float(optimizer.learning_rate) == 0.5


@pytest.mark.parametrize("decay_steps, half", [({}, 0.05), ({"decay_steps": 40}, 0.075)])
def test_a_schedule_runs_over_the_run_unless_it_says_otherwise(decay_steps, half):
    rate = DECAY | {"config": DECAY["config"] | decay_steps}
    optimizer = build_optimizer(Optimizer(config={"learning_rate": rate}), steps=20)
    assert float(optimizer._learning_rate(10)) == pytest.approx(half)


@pytest.mark.parametrize(
    "name", "Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lion Muon Nadam RMSprop SGD".split()
)
def test_kerass_optimizers_are_all_taken(name):
    """With what most of them have, and a step that waits for others."""
    optimizer = build_optimizer(Optimizer(class_name=name, config={"gradient_accumulation_steps": 2}), steps=3)
    assert int(optimizer.iterations) == 0 and not optimizer.built


@pytest.mark.parametrize(
    "section, sentence",
    [
        (
            {"class_name": "Adamm"},
            "keras.optimizers has no class of that name; the nearest is Adam. Received: ",
        ),
        ({"class_name": "Optimizer"}, "keras.optimizers has no class of that name"),
        (
            {"config": {"lerning_rate": 1}},
            "Unknown key optimizer.config.lerning_rate; the nearest is optimizer.config.learning_rate. "
            "Received: optimizer.config.lerning_rate=1",
        ),
        ({"config": {"learning_rate": (1, 2)}}, "Keras cannot make optimizer, AdamW: Argument `learning_rate`"),
        ({"config": {"clipnorm": 1.0, "clipvalue": 1.0}}, "Keras cannot make optimizer, AdamW: "),
        ({"config": {"learning_rate": {"config": {}}}}, "A schedule is a table of class_name and config"),
        (
            {"config": {"learning_rate": {"class_name": "Poly"}}},
            "keras.optimizers.schedules has no class of that name; the nearest is ",
        ),
        (
            {"config": {"learning_rate": DECAY | {"config": {"power": 1, "decay_stesp": 3}}}},
            "Unknown key optimizer.config.learning_rate.config.decay_stesp; the nearest is "
            "optimizer.config.learning_rate.config.decay_steps. ",
        ),
        ({"config": {"learning_rate": {"class_name": "CosineDecay", "config": 3}}}, "A schedule is a table of"),
        (
            {"config": {"learning_rate": -0.1}},
            "The learning rate must not be below 0. Received: optimizer.class_name='AdamW'",
        ),
        ({"config": {"beta_2": 5.0}}, "The optimizer makes weights that are not finite"),
        ({"config": {"weight_decay": "much"}}, "The optimizer cannot take a step: "),
        ({"config": {"global_clipnorm": "much"}}, "The optimizer cannot take a step: "),
        (
            {"config": {"learning_rate": DECAY | {"config": {"initial_learning_rate": "x"}}}},
            "The optimizer cannot take a step: ",
        ),
        (
            {"config": {"learning_rate": {"class_name": "PolynomialDecay"}}},
            "Keras cannot make optimizer.config.learning_rate, PolynomialDecay: ",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(section, sentence):
    with pytest.raises(RecipeError, match=re.escape(sentence)) as error:
        build_optimizer(Optimizer(**section), steps=3)
    assert "\n" not in str(error.value)
