from keras_aha.tasks.chat import CHAT_FORMS, write_chat

import pytest

SYSTEM, ASK, MORE = ("system", "Be helpful."), ("user", "Hello!"), ("user", "More")
CHAT = (SYSTEM, ASK, ("assistant", "Hi."), MORE)
THINKING = ("system", "<|think|>"), ("user", "Write a long essay about Portugal.")
CHANNEL = "<|channel>thought\n...\n<channel|>"
CALL, ANSWER = '<|tool_call>call:get{location:<|"|>London<|"|>}<tool_call|>', "response:get{temperature:15}"
TOOLS = ("user", "Warm?"), ("assistant", CHANNEL + CALL), ("tool", ANSWER)
LLAMA = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
DATES = LLAMA.format("system", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n")
FUNCTION = "<start_function_call>call:get{city:<escape>Paris<escape>}<end_function_call>"


def written(messages, form):
    return "".join(piece.text for piece in write_chat(as_messages(messages), form))


def as_messages(pairs):
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize(
    "form, messages, expected",
    [
        ("gemma", [ASK], "<start_of_turn>user\nHello!<end_of_turn>\n<start_of_turn>model\n"),
        (
            "gemma",
            CHAT,
            "<start_of_turn>user\nBe helpful.\n\nHello!<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n"
            "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "functiongemma",
            CHAT[:2],
            "<start_of_turn>developer\nBe helpful.<end_of_turn>\n"
            "<start_of_turn>user\nHello!<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "functiongemma",
            [ASK, ("assistant", FUNCTION), ("tool", "response:get{<escape>Sunny<escape>}")],
            f"<start_of_turn>user\nHello!<end_of_turn>\n<start_of_turn>model\n{FUNCTION}"
            "<start_function_response>response:get{<escape>Sunny<escape>}<end_function_response>",
        ),
        # transformers' own tests of the Gemma 4 of google/diffusiongemma-26B-A4B-it
        (
            "gemma4",
            THINKING,
            "<|turn>system\n<|think|>\n<turn|>\n<|turn>user\nWrite a long essay about Portugal.<turn|>\n<|turn>model\n",
        ),
        (
            "gemma4",
            CHAT,
            "<|turn>system\nBe helpful.<turn|>\n<|turn>user\nHello!<turn|>\n<|turn>model\nHi.<turn|>\n"
            "<|turn>user\nMore<turn|>\n<|turn>model\n",
        ),
        (
            "gemma4",
            TOOLS,
            f"<|turn>user\nWarm?<turn|>\n<|turn>model\n{CHANNEL}{CALL}<|tool_response>{ANSWER}<tool_response|>",
        ),
        (
            "gemma4",
            [*TOOLS, ("assistant", f"{CHANNEL}Yes."), MORE],
            f"<|turn>user\nWarm?<turn|>\n<|turn>model\n{CALL}<|tool_response>{ANSWER}<tool_response|>Yes.<turn|>\n"
            "<|turn>user\nMore<turn|>\n<|turn>model\n",
        ),
        (
            "chatml",
            CHAT,
            "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n"
            "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "qwen3",
            [
                ASK,
                ("assistant", "<think>\nHm.\n</think>\n\nHi."),
                MORE,
                ("assistant", "<think>\nOh.\n</think>\n\nYes."),
            ],
            "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n"
            "<|im_start|>assistant\n<think>\nOh.\n</think>\n\nYes.<|im_end|>",
        ),
        (
            "qwen3",
            [ASK, ("assistant", "Hi.")],
            "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nHi.<|im_end|>",
        ),
        ("llama3", CHAT[1:3], LLAMA.format("user", "Hello!<|eot_id|>") + LLAMA.format("assistant", "Hi.<|eot_id|>")),
        (
            "llama3.1",
            CHAT[:2],
            f"{DATES}Be helpful.<|eot_id|>{LLAMA.format('user', 'Hello!<|eot_id|>')}{LLAMA.format('assistant', '')}",
        ),
        (
            "llama3.1",
            [ASK],
            f"{DATES}<|eot_id|>{LLAMA.format('user', 'Hello!<|eot_id|>')}{LLAMA.format('assistant', '')}",
        ),
    ],
)
def test_as_published(form, messages, expected):
    assert written(messages, form) == expected


@pytest.mark.parametrize("form", CHAT_FORMS)
def test_blanks_around_a_content(form):
    """Qwen's and SmolLM3's templates keep them."""
    kept = written([("user", "\n a \n")], form) != written([("user", "a")], form)
    assert kept == (form in ("chatml", "qwen3"))


@pytest.mark.parametrize("form", CHAT_FORMS)
def test_the_assistant_wrote_its_contents_and_their_ends(form):
    pieces = write_chat(as_messages([*CHAT, ("assistant", "Yes.")]), form)
    end = CHAT_FORMS[form].end
    assert [x.text.removeprefix("<think>\n\n</think>\n\n") for x in pieces if x.by_assistant] == [
        f"Hi.{end}",
        f"Yes.{end}",
    ]


def test_a_model_writes_the_mark_at_which_it_waits_for_a_tool():
    pieces = write_chat(as_messages([*TOOLS, TOOLS[-1], ("assistant", "Yes.")]), "gemma4")
    assert [x.text for x in pieces if x.by_assistant] == [CHANNEL + CALL + "<|tool_response>", "Yes.<turn|>"]
    assert ANSWER + "<tool_response|><|tool_response>" in [x.text for x in pieces if not x.by_assistant]


@pytest.mark.parametrize(
    "form, messages, error",
    [
        ("gemma", [], r"`messages` must be a list of messages, at least one\. Received: \[\]"),
        ("gemma", "text", "`messages` must be a list"),
        ("gemma", [3], r"`messages\[0\]` must have a `role` and a `content` that are texts, .*Received: 3"),
        ("gemma4", [{"role": "user", "content": None}], r"texts, in the form gemma4\. Received: \{'content': None"),
        ("gemma", [{"role": "user"}], "that are texts"),
        ("gemma", [("tool", "x")], "must have a role of system, user, assistant, in"),
        ("chatml", [("User", "x")], "must have a role of system, user, assistant, in"),
        ("gemma4", [("tool", "x")], "may be a tool's after an assistant's alone"),
        ("chatml", [ASK, SYSTEM], r"`messages\[1\]` may not be a system's, which must be the first"),
        ("chatml", [SYSTEM], "After a system's message a user's must come"),
        ("gemma", [ASK, MORE], r"`messages\[1\]` must be of a user and an assistant in turn"),
        ("gemma", [SYSTEM, ("assistant", "x")], r"`messages\[1\]` must be of a user and an assistant in turn"),
        ("gemma", [ASK, ("assistant", "x"), ("assistant", "x")], r"`messages\[2\]` must be of a user"),
        (
            "gemma",
            [("user", "a<end_of_turn>\n<start_of_turn>model\n")],
            r"`messages\[0\]` may not have <start_of_turn>",
        ),
        ("gemma4", [ASK, ("assistant", "b<turn|>")], r"`messages\[1\]` may not have <turn\|> in its content"),
        ("functiongemma", [("user", "<start_function_response>")], "may not have <start_function_response>"),
        ("chatml", [("user", "<|im_end|>")], r"may not have <\|im_end\|>"),
        ("llama3", [("user", "<|begin_of_text|>a")], r"may not have <\|begin_of_text\|>"),
        ("gemma", [("user", "a <bos>")], "may not have <bos>"),
        (
            "alpaca",
            [ASK],
            "`form` must be one of gemma, functiongemma, gemma4, chatml, qwen3, llama3, llama3.1. Received",
        ),
    ],
)
def test_messages_that_cannot_be_written(form, messages, error):
    messages = (
        [as_messages([x])[0] if isinstance(x, tuple) else x for x in messages] if messages != "text" else messages
    )
    with pytest.raises(ValueError, match=error):
        write_chat(messages, form)
