"""The embedded model's vocabulary, and that it survives being saved."""

import random
import string

from keras_aha.tasks.countdown import Countdown

import jax
import keras_hub
import numpy as np
import pytest


@pytest.fixture(scope="module")
def tokenizer(gemma):
    return gemma.preprocessor.tokenizer


def test_special_ids(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.end_token_id, tokenizer.start_token_id) == (0, 1, 2)
    assert [tokenizer.id_to_token(i) for i in range(4)] == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert tokenizer.token_to_id("é") == 3


def test_numbers_tags_and_verdicts_are_single_pieces(tokenizer):
    tags = ["<think>\n", "</think>\n", "<answer>", "</answer>", " yes\n", " no\n", "<start_of_turn>", "<end_of_turn>"]
    for text in [*map(str, range(101)), *tags]:
        ids = tokenizer(text).tolist()
        assert len(ids) == 1 and tokenizer.detokenize(ids) == text


def test_prompts_and_traces_come_back(tokenizer):
    task, rng = Countdown(num_numbers=(3, 4), max_number=20, template="compact"), random.Random(0)
    for i in range(50):
        problem = task.problem(i)
        trace = task.worked_solution(problem, rng, slip_rate=0.2, misjudge_rate=0.1, give_up_rate=0.1, guess_rate=0.1)
        for text in (task.prompt(problem), trace):
            ids = tokenizer(text).tolist()
            assert tokenizer.detokenize(ids) == text
            assert 3 not in ids


def test_printable_ascii_comes_back(tokenizer):
    text = string.ascii_letters + string.digits + string.punctuation + " \n" + "a  b \n\n c 12345"
    ids = tokenizer(text).tolist()
    assert 3 not in ids
    assert tokenizer.detokenize(ids) == text


def test_a_verdict_is_one_piece_after_an_equation(tokenizer):
    ids = tokenizer("9-1=8,8/4=2 no\n").tolist()
    assert [tokenizer.id_to_token(i) for i in ids] == [*"9-1=8,8/4=2", "▁no\n"]


def test_saved_and_loaded_it_is_the_same(make_policy, tmp_path):
    policy = make_policy("gemma")
    policy.save_to_preset(str(tmp_path / "preset"))
    loaded = keras_hub.models.GemmaCausalLM.from_preset(str(tmp_path / "preset"))
    inputs = {"token_ids": np.arange(12).reshape(1, 12) + 4, "padding_mask": np.ones((1, 12), "int32")}
    np.testing.assert_array_equal(jax.jit(policy)(inputs), jax.jit(loaded)(inputs))
    text = "Use 3 4 each once to make 7.\n<think>\n3+4=7 yes\n"
    np.testing.assert_array_equal(loaded.preprocessor.tokenizer(text), policy.preprocessor.tokenizer(text))
    assert loaded.preprocessor.sequence_length == policy.preprocessor.sequence_length
