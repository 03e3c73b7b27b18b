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
    schedule = DECAY | {"config": DECAY["config"] | decay_steps}
    optimizer = build_optimizer(Optimizer(config={"learning_rate": schedule}), steps=20)
    assert float(optimizer._learning_rate(10)) == pytest.approx(half)


@pytest.mark.parametrize("decay_steps, end", [({}, 0.01), ({"decay_steps": 20}, 0.01 + 0.99 / 2)])
def test_a_schedule_with_a_warm_up_ends_with_the_run(decay_steps, end):
    """`decay_steps` count after the warm-up; if they are given, they are as in Keras."""
    config = dict(initial_learning_rate=0.0, warmup_target=1.0, warmup_steps=10, alpha=0.01) | decay_steps
    schedule = {"class_name": "CosineDecay", "config": config}
    rate = build_optimizer(Optimizer(config={"learning_rate": schedule}), steps=20)._learning_rate
    assert [float(rate(step)) for step in (0, 10, 20)] == pytest.approx([0.0, 1.0, end])
    assert float(build_optimizer(Optimizer(config={"learning_rate": schedule}), steps=5)._learning_rate(5)) == 0.5


NAMES = "Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lion Muon Nadam RMSprop SGD".split()


@pytest.mark.parametrize("name", NAMES)
def test_kerass_optimizers_are_all_taken(name):
    optimizer = build_optimizer(Optimizer(class_name=name, config={"global_clipnorm": 2.0}), steps=3)
    assert int(optimizer.iterations) == 0 and not optimizer.built
    with pytest.raises(RecipeError, match="leave `use_ema` out, so that the policy that is saved"):
        build_optimizer(Optimizer(class_name=name, config={"use_ema": True, "ema_momentum": 0.9}), steps=3)


def rate(table):
    return {"config": {"learning_rate": table}}


@pytest.mark.parametrize(
    "section, sentence",
    [
        ({"class_name": "Optimizer"}, "keras.optimizers has no class of that name"),
        (
            {"config": {"lerning_rate": 1}},
            "Unknown key optimizer.config.lerning_rate; the nearest is optimizer.config.learning_rate. "
            "Received: optimizer.config.lerning_rate=1",
        ),
        (rate((1, 2)), "Keras cannot make optimizer, AdamW: Argument `learning_rate`"),
        (rate({"config": {}}), "A schedule is a table of class_name and config"),
        (rate({"class_name": "Poly"}), "keras.optimizers.schedules has no class of that name; the nearest is "),
        (
            rate(DECAY | {"config": {"power": 1, "decay_stesp": 3}}),
            "Unknown key optimizer.config.learning_rate.config.decay_stesp; the nearest is "
            "optimizer.config.learning_rate.config.decay_steps. ",
        ),
        (rate({"class_name": "CosineDecay", "config": 3}), "A schedule is a table of"),
        (rate(-0.1), "The learning rate must not be below 0. Received: optimizer.class_name='AdamW'"),
        ({"config": {"beta_2": 5.0}}, "The optimizer makes weights that are not finite"),
        ({"config": {"global_clipnorm": "much"}}, "The optimizer cannot take a step: "),
        (rate(DECAY | {"config": {"initial_learning_rate": "x"}}), "The optimizer cannot take a step: "),
        (rate({"class_name": "CosineDecay", "config": {"warmup_steps": 3}}), "A warm-up needs the rate that"),
        ({"config": {"gradient_accumulation_steps": 2}}, "in a recipe training.micro_batch_size. Received: grad"),
        ({"config": {"loss_scale_factor": 32768.0}}, "[optimizer.config]: `loss_scale_factor` must be left out"),
        ({"config": {"clipvalue": 0.0}}, "[optimizer.config]: `clipvalue` must be above 0, or left out"),
        (rate({"class_name": "PolynomialDecay"}), "Keras cannot make optimizer.config.learning_rate, "),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(section, sentence):
    with pytest.raises(RecipeError, match=re.escape(sentence)) as error:
        build_optimizer(Optimizer(**section), steps=3)
    assert "\n" not in str(error.value)
