import time

from keras_aha.tasks.answer_form import ANSWER_FORMS, stated_answers
from keras_aha.tasks.answer_tag import read_answer

import pytest

TEXTS = {
    "tag": [("<answer>1</answer> or <answer>2</answer>", "2", 0.1), ("<answer>1", None, 0)],
    "boxed": [
        (r"so $\boxed{3}$ dollars.", "3", 0),
        (r"\boxed{1}, no, \boxed {\frac{1}{2}}", r"\frac{1}{2}", 0),
        (r"\boxed{1} and \boxed{2", "1", 0),
        (r"\boxed{\boxed{3}}", "3", 0),
        (r"a set {1, 2 and \boxed{\{1, 2\}}}", r"\{1, 2\}", 0),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right.", 0),
        (r"\boxed{x\\}", r"x\\", 0),
        ("\\boxed{}\nDone.\n", "", 0.1),
        (r"boxed{3} \fbox{3} }\boxed", None, 0),
    ],
    "####": [
        ("#### Step 1\nso\n#### 1,234 \n\n", "1,234 ", 0),
        ("####7\nDone.", "7", 0.1),
        ("### 7", None, 0),
        ("so ####", "", 0),
    ],
    "last_line": [("a\nb\n \n", "b", 0), ("\n ", None, 0), ("b\u2028c", "b\u2028c", 0)],
}


@pytest.mark.parametrize("name", ANSWER_FORMS)
def test_where_an_answer_stands(name):
    form = ANSWER_FORMS[name]
    for text, answer, deduction in TEXTS[name]:
        assert form.read(text) == (answer, deduction), text
    assert form.read(f"so\n</think>\n{form.written('x^{2}')}") == ("x^{2}", 0)
    assert form.read(form.written("two\n\nlines")).text.split() == ["two", "lines"]


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "{", "}", "\\", "####", "\n", "<answer>", "1,", "\\boxed {}", " is ", "$"]
)
def test_hostile_texts_take_linear_time(piece):
    start = time.process_time()
    stated_answers(piece * (1_000_000 // len(piece)) + "x")
    assert time.process_time() - start < 3


def test_what_might_be_meant():
    assert stated_answers("I think.\n</think>\nThe answer is **(B)**.") == ["The answer is **(B)**.", "(B)"]
    for text in ("That makes 1,234 nuts, I think", "Answer: 1,234", r"\boxed{1,234} or so", "<answer>1,234</answer>!"):
        assert "1,234" in stated_answers(text)
    assert stated_answers("") == [] and ANSWER_FORMS["tag"].read is read_answer
