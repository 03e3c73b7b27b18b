import re

from keras_aha.recipes.values import RecipeError
from keras_aha.runs.check_marks import check_marks, check_text, fitting_form
from keras_aha.tasks import Countdown, Mixture
from keras_aha.tasks.chat import CHAT_FORMS, MARK, write_chat

import pytest
from tiny_models import tiny_tokenizer

CALLS = ["<|think|>", "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>']
FUNCTIONS = ["<start_function_call>", "<end_function_call>"]
FAMILIES = [("gemma", "gemma_2"), ("llama3", "llama_3"), ("chatml", "qwen_3"), ("chatml", "smollm_3")]
FAMILIES = [(own, tiny_tokenizer(shape)) for own, shape in FAMILIES]
FAMILIES += [("gemma4", tiny_tokenizer("gemma_4", CHAT_FORMS["gemma4"].marks + CALLS))]
FAMILIES += [("functiongemma", tiny_tokenizer("gemma_3", CHAT_FORMS["functiongemma"].marks + FUNCTIONS))]
CHAT = [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
CALL = '<|channel>thought\nx<channel|><|tool_call>call:f{x:<|"|>y<|"|>}<tool_call|>'
FUNCTION = "call:f{}".join(FUNCTIONS)
TOOLS = [("system", "<|think|>"), ("user", "b"), ("assistant", CALL), ("tool", "response:f{}"), ("assistant", "d")]
CONVERSATIONS = {"gemma4": TOOLS, "functiongemma": [*CHAT[:2], ("assistant", FUNCTION), ("tool", "x")]}


def as_text(messages, form):
    return "".join(x.text for x in write_chat([{"role": role, "content": content} for role, content in messages], form))


@pytest.mark.parametrize("own, tokenizer", FAMILIES)
def test_each_family_has_its_own_marks_and_others_are_refused(own, tokenizer):
    assert fitting_form(tokenizer) == own
    for template in (own, "plain", "compact"):
        check_marks(tokenizer, Countdown(template=template))
    for template, form in CHAT_FORMS.items():
        if form.before != CHAT_FORMS[own].before:
            with pytest.raises(RecipeError, match=rf"has no tokens <.*task\.template={own}, .*Received: a prompt"):
                check_marks(tokenizer, Countdown(template=template))


@pytest.mark.parametrize("own, tokenizer", FAMILIES)
def test_conversations_token_by_token(own, tokenizer):
    text = as_text(CONVERSATIONS.get(own, CHAT), own)
    check_text(tokenizer, text)
    (ids,), marks = tokenizer([text]), MARK.findall(text)
    assert [piece for piece in map(tokenizer.id_to_token, ids) if piece in marks] == marks
    assert tokenizer.detokenize([ids]) == [text]


@pytest.mark.parametrize("form, content", [("gemma4", CALL), ("functiongemma", FUNCTION)])
def test_marks_of_thoughts_and_calls_must_be_tokens_too(form, content):
    tokenizer, lacking = tiny_tokenizer("gemma_3", CHAT_FORMS[form].marks), sorted({*MARK.findall(content)})
    with pytest.raises(RecipeError, match=re.escape(f"has no tokens {', '.join(lacking)}, so")):
        check_text(tokenizer, as_text([("user", "a"), ("assistant", content)], form))


@pytest.mark.parametrize("own, tokenizer", FAMILIES)
@pytest.mark.parametrize("template", ["{}{{numbers}} {{target}}", "{{numbers}} {{target}}\n{}"])
def test_a_begin_token_in_the_template_is_refused(own, tokenizer, template):
    begins = {"<bos>", tokenizer.id_to_token(tokenizer.start_token_id)} if tokenizer.start_token_id else {"<bos>"}
    for begin in begins:
        with pytest.raises(RecipeError, match="stands before each prompt anyway"):
            check_marks(tokenizer, Countdown(template=template.format(begin)))


def test_each_task_of_a_mixture_is_looked_at():
    mixture = Mixture([Countdown(), Countdown(template="chatml")], weights=[1e9, 1])
    with pytest.raises(RecipeError, match=r"has no tokens <\|im_end\|>"):
        check_marks(tiny_tokenizer("gemma_2"), mixture)


def test_a_vocabulary_without_any_turns_is_told_so(monkeypatch):
    tokenizer = tiny_tokenizer("gemma_2")
    monkeypatch.setattr(type(tokenizer), "token_to_id", lambda self, token: 3)
    with pytest.raises(RecipeError, match=r"set a task\.template without marks, such as plain\. "):
        check_marks(tokenizer, Countdown(template="gemma"))
