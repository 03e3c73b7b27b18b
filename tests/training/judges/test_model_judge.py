"""Judges of tiny random models against one forward of Keras for each text; as a script, in one of two processes."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras_aha as aha
from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.models import lora
from keras_aha.models.quantization import quantize_base
from keras_aha.models.special_tokens import prompt_ids
from keras_aha.tasks.chat import CHAT_FORMS, write_chat
from keras_aha.tasks.multiplication import Multiplication
from keras_aha.training.judges.model_judge import ModelJudge

import jax
import keras
import numpy as np
import pytest
import scipy.special
from finished_runs import logits

ROOT = Path(__file__).parents[3]
TASK = Multiplication(template="compact")
ANSWERS = {"1": 1.0, "7": 2.5, "9": -3.0}
LENGTH = 40
TEXTS = ["Use 3 4", "7", "to make 12 and 9 and 31", "Use 3 4 each", "12", "yes no yes", "5 6 7 8 9 10 11"]
PROBLEMS = [TASK.problem(0)] * len(TEXTS)


def judge_of(folder, **settings):
    settings = dict(answers=ANSWERS, max_length=LENGTH, batch_size=4) | settings
    return ModelJudge(TASK, str(folder), settings.pop("rubric", "{completion} is"), **settings)


def expected(policy, text, answers=ANSWERS):
    return scipy.special.softmax(answer_logits(policy, text, answers)) @ [*answers.values()]


def answer_logits(policy, text, answers):
    """By Keras, of one row; nothing looks ahead to what is behind it, which saves a program for each length."""
    tokenizer = policy.preprocessor.tokenizer
    (row,) = prompt_ids(tokenizer, [text])
    found = logits(policy, row + [7] * (LENGTH - len(row)))[len(row) - 1].astype("float64")
    return found[[tokenizer.token_to_id(answer) for answer in answers]]


@pytest.fixture(scope="module")
def save(make_policy, tmp_path_factory):
    """A function of a shape that returns a policy, and the folder in which it is saved."""

    @functools.cache
    def save(shape):
        policy, folder = make_policy(shape), tmp_path_factory.mktemp(shape) / "preset"
        policy.save_to_preset(str(folder))
        return policy, folder

    return save


@pytest.fixture(scope="module")
def gemma_folder(save):
    return save("gemma")[1]


@pytest.mark.parametrize("shape", ["gemma_2", "gemma_3", "qwen_3"])  # decoders read the first two, and Keras the third
def test_its_number_is_the_expected_value_of_the_answers_whatever_the_batch(save, shape):
    policy, folder = save(shape)
    judge = judge_of(folder)
    numbers = judge(PROBLEMS, TEXTS)
    np.testing.assert_allclose(numbers, [expected(policy, f"{text} is") for text in TEXTS], atol=1e-5)
    assert np.ptp(numbers) > 0.1
    counter = CompileCounter()
    fresh = [f"{text}!" for text in TEXTS]
    alone = [judge([PROBLEMS[0]], [text])[0] for text in fresh[:3]]  # other numbers of rows, 1, 2 and 4 + 1
    pair, five = judge(PROBLEMS[:2], fresh[3:5]), judge.judge([f"{text} is" for text in fresh[:5]])
    assert counter.count == 0
    counter.close()
    np.testing.assert_allclose(five, alone + pair, atol=1e-6)


def test_yes_against_no(save):
    policy, folder = save("gemma")
    (number,) = judge_of(folder, answers={"3": 1, "4": 0})([PROBLEMS[0]], ["5"])
    yes, no = answer_logits(policy, "5 is", "34")
    assert number == pytest.approx(scipy.special.expit(yes - no), abs=1e-6) and abs(number - 0.5) > 0.01


def test_a_text_that_is_too_long_fails_alone(gemma_folder):
    judge = judge_of(gemma_folder, max_length=12)
    first, failure, last = judge(PROBLEMS[:3], ["1", "a" * 20, "2"])
    assert isinstance(failure, ValueError) and isinstance(first, float) and isinstance(last, float)
    assert str(failure) == "A judge's text must have 1 to 12 tokens: set `max_length`. Received: 24 tokens"


def test_adapters_of_a_policy_judge_too(make_policy, gemma_folder):
    policy, judge = make_policy("gemma", lora_rank=2), judge_of(gemma_folder)
    judge.load(policy)
    on = judge(PROBLEMS[:2], TEXTS[:2])
    np.testing.assert_allclose(on, [expected(policy, f"{text} is") for text in TEXTS[:2]], atol=1e-5)
    with lora.adapters_off(policy.backbone):
        assert abs(expected(policy, f"{TEXTS[0]} is") - on[0]) > 1e-3


def test_quantized_weights(make_policy, gemma_folder):
    judge, policy = judge_of(gemma_folder, quantization="int8"), make_policy("gemma")
    quantize_base(policy.backbone, "int8")
    numbers = judge(PROBLEMS[:2], TEXTS[:2])
    np.testing.assert_allclose(numbers, [expected(policy, f"{text} is") for text in TEXTS[:2]], atol=1e-5)
    assert judge.policy.backbone.token_embedding.quantization_mode == "int8" and not judge.policy.trainable_variables


@pytest.mark.parametrize("form", CHAT_FORMS)
def test_the_users_turn_of_a_chat(gemma_folder, form):
    """With no mark that the form does not write, whoever wrote it."""
    judge, marks = judge_of(gemma_folder, chat_form=form, rubric="{completion}? <bos>"), CHAT_FORMS[form].marks
    text = judge.write(judge._text(PROBLEMS[0], " ".join(marks)))
    asked = [{"role": "user", "content": f"{' '.join(f'{mark[0]} {mark[1:]}' for mark in marks)}? < bos>"}]
    assert text == "".join(piece.text for piece in write_chat(asked, form))
    assert form != "gemma" or text.endswith("? < bos><end_of_turn>\n<start_of_turn>model\n")


WRONG = {
    "token of the judge's vocabulary.* Received: 'Yes', which is 3: ['Y', 'e', 's']": dict(answers={"Yes": 1, "1": 0}),
    "Received: '', which is 0: []": dict(answers={"": 1, "1": 0}),
    "must be a table of two texts": dict(answers={"1": 1}),
    "must have numbers in [0, 1]": dict(rubric="{completion} {other}"),
    "`chat_form` must be one of gemma, ": dict(chat_form="gema"),
    "`max_length` must be an int of 1 or more. Received: max_length=0": dict(max_length=0),
    "`batch_size` must be an int of 1 or more. Received: batch_size=2.5": dict(batch_size=2.5),
    "`dtype` must be one of ": dict(dtype="float8"),
    "`quantization` must be int8 or int4, or None": dict(quantization="int2"),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_wrong_is_said_before_weights_are_loaded(sentence, gemma_folder, monkeypatch):
    monkeypatch.setattr("keras_aha.training.judges.local_judge.load_frozen", None)
    with pytest.raises(ValueError) as caught:
        judge_of(gemma_folder, **WRONG[sentence])
    assert all(words in str(caught.value) for words in sentence.split(".*"))


@pytest.mark.slow
def test_a_process_judges_without_the_others(save):
    """On its two devices of four: weights that training would split, and a model of which rows alone can be."""
    folders = [save(shape)[1] for shape in ("gemma", "qwen_3")]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": path}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command, pipes = [sys.executable, __file__, port], dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children = [subprocess.Popen([*command, str(i), *map(str, folders)], env=environment, **pipes) for i in range(2)]
    outputs = [child.communicate(timeout=600) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    for folder, (devices, numbers) in zip(folders, json.loads(outputs[1][0].splitlines()[-1]), strict=True):
        assert devices == 2
        np.testing.assert_allclose(numbers, judge_of(folder)(PROBLEMS, TEXTS), atol=1e-5)


def in_a_process(port, process, *folders):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(f"127.0.0.1:{port}", 2, int(process))
    judges = []
    for folder, weights in zip(folders, ("split", "whole"), strict=True):
        aha.distribute(batch=4, weights=weights)
        judges.append(judge_of(folder, batch_size=3))  # of two parts: 4
        judges[-1].load()
        assert all(variable.value.is_fully_replicated for variable in judges[-1].policy.backbone.variables)
    if process == "1":
        print(json.dumps([(len(judge._values[0].sharding.device_set), judge(PROBLEMS, TEXTS)) for judge in judges]))


if __name__ == "__main__":
    in_a_process(*sys.argv[1:])
