"""Texts as token ids and masks, against hand-written expectations."""

from keras_aha.tasks.chat import Piece, write_chat
from keras_aha.training.examples import make_examples

import pytest

CHAT = [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4 5")]
MESSAGES = [{"role": role, "content": content} for role, content in CHAT]


def shown(tokenizer, example):
    """Its tokens, those that are learned with a `*`."""
    marks = [False] * len(example.prompt_ids) + list(example.learned)
    ids = [*example.prompt_ids, *example.completion_ids]
    return [tokenizer.id_to_token(int(i)) + "*" * bool(mark) for i, mark in zip(ids, marks, strict=True)]


def test_the_masks_of_a_conversation(gemma):
    tokenizer = gemma.preprocessor.tokenizer
    pieces = write_chat(MESSAGES, "gemma")
    start, end = "<start_of_turn>", "<end_of_turn>"
    user, model = [start, *"user", "\n"], [start, *"model", "\n"]
    before = ["<bos>", *user, "1", end, "\n", *model]
    between = [end + "*", "\n", *user, "3", end, "\n", *model]
    (all_turns,) = make_examples(tokenizer, [pieces])
    assert shown(tokenizer, all_turns) == [*before, "2*", *between, "4*", "▁*", "5*", f"{end}*"]
    assert len(all_turns.prompt_ids) == len(before)
    last = [Piece(text, i == len(pieces) - 1) for i, (text, _) in enumerate(pieces)]
    (example,) = make_examples(tokenizer, [last])
    between[0] = end
    assert shown(tokenizer, example) == [*before, "2", *between, "4*", "▁*", "5*", f"{end}*"]
    assert len(example.completion_ids) == 4


@pytest.mark.parametrize("shape, begin", [("gemma", ["<bos>"]), ("qwen_3", []), ("llama_3", ["<|begin_of_text|>"])])
def test_what_ends_a_turn_follows_once(make_policy, shape, begin):
    """Whether the text has it or not, and whichever it is."""
    tokenizer = make_policy(shape).preprocessor.tokenizer
    end = {"gemma": "<end_of_turn>", "qwen_3": "<|im_end|>", "llama_3": "<|eot_id|>"}[shape]
    first, second = make_examples(tokenizer, [[Piece("3", False), Piece(text, True)] for text in ("4", f"4{end}")])
    assert shown(tokenizer, first) == shown(tokenizer, second) == [*begin, "3", "4*", f"{end}*"]
    (other,) = make_examples(tokenizer, [[Piece("3", False), Piece("4", True)]], stop_token=tokenizer.end_token)
    assert shown(tokenizer, other)[-1] == f"{tokenizer.end_token}*"
    (alone,) = make_examples(tokenizer, [[Piece("", False), Piece("4", True)]])  # a first token has nothing before it
    assert shown(tokenizer, alone) == [*begin, "4" + "*" * bool(begin), f"{end}*"]


def test_many_texts_are_tokenized_in_their_order(gemma):
    tokenizer = gemma.preprocessor.tokenizer
    texts = [[Piece(f"{i % 7}", False), Piece("a" * (i % 5), True)] for i in range(2500)]
    examples = make_examples(tokenizer, iter(texts))
    assert [example.length for example in examples] == [3 + i % 5 for i in range(2500)]
    assert [tokenizer.id_to_token(int(e.prompt_ids[1])) for e in examples] == [f"{i % 7}" for i in range(2500)]
    assert len({example.prompt for example in examples}) == 7 and make_examples(tokenizer, []) == []
