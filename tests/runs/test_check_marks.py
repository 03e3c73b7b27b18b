from keras_aha.recipes.values import RecipeError
from keras_aha.runs.check_marks import check_marks
from keras_aha.tasks import Countdown

import pytest
from tiny_models import tiny_tokenizer

FAMILIES = {"gemma_2": "gemma", "llama_3": "llama3", "qwen_3": "chatml", "smollm_3": "chatml"}
TURNS = ("gemma", "gemma4", "chatml", "llama3")


@pytest.mark.parametrize("shape, own", FAMILIES.items())
def test_each_family_has_its_own_marks_and_others_are_refused(shape, own):
    tokenizer = tiny_tokenizer(shape)
    for template in (own, "plain", "compact"):
        check_marks(tokenizer, Countdown(template=template))
    for template in {*TURNS} - {own}:
        with pytest.raises(RecipeError, match=rf"has no tokens <.*task\.template={own}, .*Received: a prompt"):
            check_marks(tokenizer, Countdown(template=template))


@pytest.mark.parametrize("shape", FAMILIES)
def test_a_begin_token_in_the_template_is_refused(shape):
    tokenizer = tiny_tokenizer(shape)
    begins = {"<bos>", tokenizer.id_to_token(tokenizer.start_token_id)} if tokenizer.start_token_id else {"<bos>"}
    for begin in begins:
        with pytest.raises(RecipeError, match="stands before each prompt anyway|has no tokens"):
            check_marks(tokenizer, Countdown(template=begin + "{numbers} {target}"))


def test_a_vocabulary_without_any_turns_is_told_so(monkeypatch):
    tokenizer = tiny_tokenizer("gemma_2")
    monkeypatch.setattr(type(tokenizer), "token_to_id", lambda self, token: 3)
    with pytest.raises(RecipeError, match=r"set a task\.template without marks, such as plain\. "):
        check_marks(tokenizer, Countdown(template="gemma"))
