import re

from keras_aha.recipes.values import RecipeError
from keras_aha.runs.check_marks import check_marks, check_text, fitting_form
from keras_aha.tasks import Countdown, Mixture
from keras_aha.tasks.chat import CHAT_FORMS, MARK, write_chat

import pytest
from tiny_models import marked_tokenizer, tiny_tokenizer

GEMMA_4 = [
    *CHAT_FORMS["gemma4"].marks,
    "<|think|>",
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    '<|"|>',
]
FUNCTION_GEMMA = [*CHAT_FORMS["functiongemma"].marks, "<start_function_call>", "<end_function_call>"]
TOKENIZERS = {
    "gemma": lambda: tiny_tokenizer("gemma_2"),
    "gemma4": lambda: marked_tokenizer("gemma_4", GEMMA_4),
    "functiongemma": lambda: marked_tokenizer("gemma_3", FUNCTION_GEMMA),
    "llama3": lambda: tiny_tokenizer("llama_3"),
    "chatml": lambda: tiny_tokenizer("qwen_3"),
}
FAMILIES = {"gemma_2": "gemma", "llama_3": "llama3", "qwen_3": "chatml", "smollm_3": "chatml"}
CHAT = [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
CALL = ("assistant", '<|channel>thought\nx<channel|><|tool_call>call:f{x:<|"|>y<|"|>}<tool_call|>')
TOOLS = [("system", "<|think|>"), ("user", "b"), CALL, ("tool", "response:f{}"), ("assistant", "d")]


def as_text(messages, form):
    return "".join(x.text for x in write_chat([{"role": role, "content": content} for role, content in messages], form))


@pytest.mark.parametrize("own", TOKENIZERS)
def test_each_family_has_its_own_marks_and_others_are_refused(own):
    tokenizer = TOKENIZERS[own]()
    assert fitting_form(tokenizer) == own
    for template in (own, "plain", "compact"):
        check_marks(tokenizer, Countdown(template=template))
    for template, form in CHAT_FORMS.items():
        if form.before != CHAT_FORMS[own].before:
            with pytest.raises(RecipeError, match=rf"has no tokens <.*task\.template={own}, .*Received: a prompt"):
                check_marks(tokenizer, Countdown(template=template))


@pytest.mark.parametrize(
    "own, messages",
    [*((form, CHAT) for form in TOKENIZERS), ("gemma4", TOOLS), ("functiongemma", [*CHAT[1:3], ("tool", "x")])],
)
def test_conversations_token_by_token(own, messages):
    """Each mark is one token, and the ids are those of the text between marks and of the marks."""
    tokenizer, text = TOKENIZERS[own](), as_text(messages, own)
    check_text(tokenizer, text)
    (ids,) = tokenizer([text])
    marks = [mark for mark in MARK.findall(text)]
    assert [piece for piece in map(tokenizer.id_to_token, ids) if piece in marks] == marks
    between = [[tokenizer.token_to_id(x)] if x in marks else tokenizer([x])[0] for x in split(text)]
    assert [i for part in between for i in part] == [*ids]


def split(text):
    """The marks of a text, and what stands between them."""
    parts, place = [], 0
    for mark in MARK.finditer(text):
        parts += [text[place : mark.start()], mark[0]]
        place = mark.end()
    return [part for part in [*parts, text[place:]] if part]


@pytest.mark.parametrize(
    "form, content, lacking",
    [
        ("gemma4", "<|channel>thought\nx<channel|>y", "<channel|>, <|channel>"),
        ("gemma4", CALL[1].partition("<channel|>")[2], '<tool_call|>, <|"|>, <|tool_call>'),
        (
            "functiongemma",
            "<start_function_call>call:f{}<end_function_call>",
            "<end_function_call>, <start_function_call>",
        ),
    ],
)
def test_marks_of_thoughts_and_calls_must_be_tokens_too(form, content, lacking):
    tokenizer = marked_tokenizer("gemma_3", CHAT_FORMS[form].marks)
    with pytest.raises(RecipeError, match=re.escape(f"has no tokens {lacking}, so")):
        check_text(tokenizer, as_text([("user", "a"), ("assistant", content)], form))


@pytest.mark.parametrize("shape", FAMILIES)
@pytest.mark.parametrize("place", [0, 1])
def test_a_begin_token_in_the_template_is_refused(shape, place):
    tokenizer = tiny_tokenizer(shape)
    begins = {"<bos>", tokenizer.id_to_token(tokenizer.start_token_id)} if tokenizer.start_token_id else {"<bos>"}
    for begin in begins:
        template = f"{begin}{{numbers}} {{target}}" if place == 0 else f"{{numbers}} {{target}}\n{begin}"
        with pytest.raises(RecipeError, match="stands before each prompt anyway"):
            check_marks(tokenizer, Countdown(template=template))


def test_each_task_of_a_mixture_is_looked_at():
    mixture = Mixture([Countdown(), Countdown(template="chatml")], weights=[1e9, 1])
    with pytest.raises(RecipeError, match=r"has no tokens <\|im_end\|>"):
        check_marks(tiny_tokenizer("gemma_2"), mixture)


def test_a_vocabulary_without_any_turns_is_told_so(monkeypatch):
    tokenizer = tiny_tokenizer("gemma_2")
    monkeypatch.setattr(type(tokenizer), "token_to_id", lambda self, token: 3)
    with pytest.raises(RecipeError, match=r"set a task\.template without marks, such as plain\. "):
        check_marks(tokenizer, Countdown(template="gemma"))
