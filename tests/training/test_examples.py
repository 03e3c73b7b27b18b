"""Texts as token ids and masks, against hand-written expectations."""

from keras_aha.tasks.chat import Piece, write_chat
from keras_aha.training.examples import Examples, hold_out

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
    (all_turns,) = Examples(tokenizer, [pieces])
    assert shown(tokenizer, all_turns) == [*before, "2*", *between, "4*", "▁*", "5*", f"{end}*"]
    assert len(all_turns.prompt_ids) == len(before)
    last = [Piece(text, i == len(pieces) - 1) for i, (text, _) in enumerate(pieces)]
    (example,) = Examples(tokenizer, [last])
    between[0] = end
    assert shown(tokenizer, example) == [*before, "2", *between, "4*", "▁*", "5*", f"{end}*"]
    assert len(example.completion_ids) == 4


@pytest.mark.parametrize("shape, begin", [("gemma", ["<bos>"]), ("qwen_3", []), ("llama_3", ["<|begin_of_text|>"])])
def test_what_ends_a_turn_follows_once(make_policy, shape, begin):
    """Whether the text has it or not, and whichever it is."""
    tokenizer = make_policy(shape).preprocessor.tokenizer
    end = {"gemma": "<end_of_turn>", "qwen_3": "<|im_end|>", "llama_3": "<|eot_id|>"}[shape]
    first, second = Examples(tokenizer, [[Piece("3", False), Piece(text, True)] for text in ("4", f"4{end}")])
    assert shown(tokenizer, first) == shown(tokenizer, second) == [*begin, "3", "4*", f"{end}*"]
    (other,) = Examples(tokenizer, [[Piece("3", False), Piece("4", True)]], stop_token=tokenizer.end_token)
    assert shown(tokenizer, other)[-1] == f"{tokenizer.end_token}*"
    (alone,) = Examples(tokenizer, [[Piece("", False), Piece("4", True)]])  # a first token has nothing before it
    assert shown(tokenizer, alone) == [*begin, "4" + "*" * bool(begin), f"{end}*"]


def test_a_sequence_of_them(gemma):
    texts = [[Piece(f"{i % 7}", False), Piece("1 " * (i % 5), True)] for i in range(2500)]  # several chunks
    examples = Examples(gemma.preprocessor.tokenizer, texts)
    assert len(examples) == 2500 and examples[2499].prompt_ids[-1] == examples[0].prompt_ids[-1]
    assert [example.length for example in examples] == examples.lengths.tolist()
    chosen = examples.select([3, 1]).select([1])
    assert [e.length for e in chosen] == [examples[1].length] == chosen.lengths.tolist()
    again = Examples(gemma.preprocessor.tokenizer, texts)
    assert again.checksum() == examples.checksum() != examples.select(range(2499)).checksum()
    assert len(Examples(gemma.preprocessor.tokenizer, [])) == 0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_a_prompt_is_held_out_or_not(gemma, share):
    texts = [[Piece(f"{i // 2} {i // 200}", False), Piece(f"{i}", True)] for i in range(2000)]
    own, held_out = hold_out(Examples(gemma.preprocessor.tokenizer, texts), share)
    assert len(own) + len(held_out) == 2000 and abs(len(held_out) / 2000 - share) < 0.05
    assert not set(own.prompts()) & set(held_out.prompts())
