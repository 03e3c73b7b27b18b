from keras_aha.tasks.chat import CHAT_FORMS, write_chat

import pytest

SYSTEM, ASK, MORE = ("system", "Be helpful."), ("user", "Hello!"), ("user", "More")
CHAT = (SYSTEM, ASK, ("assistant", "Hi."), MORE)
GEMMA = "<start_of_turn>user\n{}Hello!<end_of_turn>\n<start_of_turn>model\n"
GEMMA_4 = "<|turn>user\n{}<turn|>\n<|turn>model\n"
CHATML = "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>"
LLAMA = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
DATES = LLAMA.format("system", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n")
LLAMA_ASK = LLAMA.format("user", "Hello!<|eot_id|>") + LLAMA.format("assistant", "")
CHANNEL, CALL = "<|channel>thought\n...\n<channel|>", '<|tool_call>call:get{at:<|"|>London<|"|>}<tool_call|>'
TOOLS = ASK, ("assistant", CHANNEL + CALL), ("tool", "response:get{at:15}")
ANSWERED = "<|tool_response>response:get{at:15}<tool_response|>"
FUNCTION = "<start_function_call>call:get{}<end_function_call>"
THOUGHT = "<think>\nHm.\n</think>\n\n"


def as_messages(pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def written(pairs, form):
    return "".join(piece.text for piece in write_chat(as_messages(pairs), form))


PUBLISHED = [
    ("gemma", [ASK], GEMMA.format("")),
    ("gemma", [*CHAT[:3], ASK], GEMMA.format("Be helpful.\n\n") + "Hi.<end_of_turn>\n" + GEMMA.format("")),
    ("functiongemma", CHAT[:2], "<start_of_turn>developer\nBe helpful.<end_of_turn>\n" + GEMMA.format("")),
    ("functiongemma", [ASK, ("assistant", FUNCTION), ("tool", "response:get{x:1}")],
     f"{GEMMA.format('')}{FUNCTION}<start_function_response>response:get{{x:1}}<end_function_response>"),
    # What transformers' tests of Gemma 4's template expect, with thinking.
    ("gemma4", [("system", "<|think|>"), ASK], "<|turn>system\n<|think|>\n<turn|>\n" + GEMMA_4.format("Hello!")),
    ("gemma4", CHAT[:2], "<|turn>system\nBe helpful.<turn|>\n" + GEMMA_4.format("Hello!")),
    ("gemma4", TOOLS, GEMMA_4.format("Hello!") + CHANNEL + CALL + ANSWERED),
    ("gemma4", [*TOOLS, ("assistant", f"{CHANNEL}Yes."), MORE],
     GEMMA_4.format("Hello!") + CALL + ANSWERED + "Yes.<turn|>\n" + GEMMA_4.format("More")),
    ("chatml", CHAT[:3], "<|im_start|>system\nBe helpful.<|im_end|>\n" + CHATML.format("Hi.")),
    ("qwen3", [ASK, ("assistant", THOUGHT + "Hi."), ASK, ("assistant", THOUGHT + "Yes.")],
     CHATML.format("Hi.") + "\n" + CHATML.format(THOUGHT + "Yes.")),
    ("qwen3", [ASK, ("assistant", "Hi.")], CHATML.format("<think>\n\n</think>\n\nHi.")),
    ("llama3", CHAT[1:3], f"{LLAMA_ASK}Hi.<|eot_id|>"),
    ("llama3.1", CHAT[:2], f"{DATES}Be helpful.<|eot_id|>{LLAMA_ASK}"),
    ("llama3.1", [ASK], f"{DATES}<|eot_id|>{LLAMA_ASK}"),
]  # fmt: skip


@pytest.mark.parametrize("form, pairs, expected", PUBLISHED)
def test_as_published(form, pairs, expected):
    assert written(pairs, form) == expected


@pytest.mark.parametrize("form", CHAT_FORMS)
def test_blanks_around_a_content(form):
    """Qwen's and SmolLM3's templates keep them."""
    kept = written([("user", "\n a \n")], form) != written([("user", "a")], form)
    assert kept == (form in ("chatml", "qwen3"))


@pytest.mark.parametrize("form", CHAT_FORMS)
def test_the_assistant_wrote_its_contents_and_their_ends(form):
    pieces, end = write_chat(as_messages([*CHAT, ("assistant", "Yes.")]), form), CHAT_FORMS[form].end
    assert [x.text.split("\n\n")[-1] for x in pieces if x.by_assistant] == [f"Hi.{end}", f"Yes.{end}"]


def test_a_model_writes_the_mark_at_which_it_waits_for_a_tool():
    pieces = write_chat(as_messages([*TOOLS, TOOLS[-1], ("assistant", "Yes.")]), "gemma4")
    assert [x.text for x in pieces if x.by_assistant] == [CHANNEL + CALL + "<|tool_response>", "Yes.<turn|>"]
    assert "".join(x.text for x in pieces).endswith(ANSWERED * 2 + "Yes.<turn|>")


@pytest.mark.parametrize(
    "form, messages, error",
    [
        ("gemma", [], r"^`messages` must be a list of messages, at least one\. Received: \[\]$"),
        ("gemma", [3], r"^`messages\[0\]` must have a `role` and a `content` that are texts, .*Received: 3$"),
        ("chatml", [("tool", "x")], "must have a role of system, user, assistant, in"),
        ("gemma4", [("tool", "x")], "may be a tool's after an assistant's alone"),
        ("gemma4", [*TOOLS, ASK], r"^`messages\[3\]` must be an assistant's, after a tool's"),
        ("chatml", [ASK, SYSTEM], r"^`messages\[1\]` may not be a system's, which must be the first"),
        ("chatml", [SYSTEM], "^`messages` must go on after a system's"),
        ("gemma", [ASK, MORE], r"^`messages\[1\]` must be of a user and an assistant in turn"),
        (
            "gemma",
            [("user", "a<end_of_turn>\n<start_of_turn>")],
            r"^`messages\[0\]` may not have <start_of_turn>",
        ),
        ("gemma4", [ASK, ("assistant", "b<turn|>")], r"^`messages\[1\]` may not have <turn\|> in its content"),
        ("llama3", [("user", "<|begin_of_text|>a")], r"may not have <\|begin_of_text\|>"),
        ("gemma", [("user", "a <bos>")], "may not have <bos>"),
        (
            "alpaca",
            [ASK],
            "^`form` must be one of gemma, functiongemma, gemma4, chatml, qwen3, llama3, llama3.1. R",
        ),
    ],
)
def test_messages_that_cannot_be_written(form, messages, error):
    with pytest.raises(ValueError, match=error):
        write_chat([as_messages([x])[0] if isinstance(x, tuple) else x for x in messages], form)
