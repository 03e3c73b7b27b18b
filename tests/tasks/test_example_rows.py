"""Rows of one's own as pieces to imitate."""

import json

from keras_aha.tasks.chat import Piece
from keras_aha.tasks.example_rows import ExampleRows

import pytest

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3?"},
    {"role": "assistant", "content": "5"},
]


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="a.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return tmp_path / name

    return write


def learned(rows):
    return [[piece.text for piece in pieces if piece.by_assistant] for pieces in rows]


def test_columns_and_texts_of_columns(write):
    """As s1's thousand traces have them, too: what is thought, and the answer after it."""
    file = write({"prompt": "2+2=", "answer": "4"}, {"prompt": "3+3=", "completion": "6", "answer": "{8}"})
    assert list(ExampleRows(file)) == [
        [Piece("2+2=", False), Piece("4", True)],
        [Piece("3+3=", False), Piece("6", True)],
    ]
    assert learned(ExampleRows(file, completion="answer")) == [["4"], ["{8}"]]
    traces = write({"question": "2+2?", "thinking": "Two, and {two}.", "answer": 4}, name="traces.jsonl")
    completion = "{thinking}\n</think>\n<answer>{answer}</answer> {{}}"
    (pieces,) = ExampleRows(traces, prompt="{question}\n<think>\n", completion=completion)
    assert pieces[0] == Piece("2+2?\n<think>\n", False)
    assert pieces[1] == Piece("Two, and {two}.\n</think>\n<answer>4</answer> {}", True)
    chat = ExampleRows(traces, prompt="question", completion="answer", chat_form="chatml")
    assert "".join(piece.text for piece in next(iter(chat))) == (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>"
    )


@pytest.mark.parametrize("form, end", [("gemma", "<end_of_turn>"), ("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>")])
def test_conversations(write, form, end):
    file = write({"chat": CHAT}, {"chat": json.dumps(CHAT[1:3])})
    assert learned(ExampleRows(file, messages="chat", chat_form=form)) == [[f"4{end}", f"5{end}"], [f"4{end}"]]
    last = ExampleRows(file, messages="chat", chat_form=form, loss_on="last")
    assert learned(last) == [[f"5{end}"], [f"4{end}"]]
    texts = (
        "".join(p.text for p in next(iter(rows))) for rows in (last, ExampleRows(file, messages="chat", chat_form=form))
    )
    assert len(set(texts)) == 1 and len(last) == 2


BAD = {  # a row, and what is said of it
    "no column": ({"question": "a", "answer": "b"}, "Line 2 of a.jsonl has no `prompt`"),
    "no completion": (
        {"prompt": "a", "solution": "b"},
        "Line 2 of a.jsonl cannot be imitated: it has no completion, or",
    ),
    "an empty prompt": ({"prompt": " \n", "answer": "b"}, "it has no prompt, or an empty one. Received: priming.file="),
    "no object": ([1], "Line 2 of a.jsonl must be an object"),
}
BAD_CHATS = {
    "a user's word last": (CHAT[:4], "its last message must be the assistant's"),
    "nothing": ([], "its messages must be a list of objects: "),
    "no list": ("hello", "cannot be imitated: "),
    "a role": ([{"role": "model", "content": "a"}, *CHAT[1:3]], r"`messages\[0\]` must have a role of system, user"),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "a"}]}, CHAT[2]], "`content` that are texts"),
    "marks": ([CHAT[1], {"role": "assistant", "content": "4<end_of_turn>"}], "may not have <end_of_turn>"),
}


@pytest.mark.parametrize("row, words", BAD.values(), ids=BAD)
def test_a_bad_row_is_named(write, row, words):
    with pytest.raises(ValueError, match=words):
        list(ExampleRows(write({"prompt": "a", "answer": "b"}, row), key="priming.file"))


@pytest.mark.parametrize("chat, words", BAD_CHATS.values(), ids=BAD_CHATS)
def test_a_bad_conversation_is_named(write, chat, words):
    rows = ExampleRows(write({"messages": CHAT}, {"messages": chat}), messages="messages", chat_form="gemma")
    with pytest.raises(ValueError, match=words) as error:
        list(rows)
    assert str(error.value).startswith("Line 2 of a.jsonl cannot be imitated: ")
    with pytest.raises(ValueError, match="`messages` need a `chat_form`"):
        ExampleRows("a.jsonl", messages="messages")
