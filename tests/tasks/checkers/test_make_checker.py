import ast
import re
from pathlib import Path

import keras_aha
from keras_aha.tasks import Score
from keras_aha.tasks.checkers.make_checker import make_checker

import pytest

NAMES = set("eval exec compile __import__ literal_eval sympify parse_expr pickle cPickle marshal".split())


def evaluators(source):
    """Names of the source that run a text or bytes as code, `re.compile` aside, and modules that it imports for it."""
    for node in ast.walk(ast.parse(source)):
        of_re = isinstance(node, ast.Attribute) and ast.unparse(node) == "re.compile"
        names = {"Name": "id", "Attribute": "attr", "alias": "name"}.get(type(node).__name__)
        if names and not of_re and NAMES & set(vars(node)[names].split(".")):
            yield ast.unparse(node)


def test_no_task_evaluates_a_text():
    found = sorted(evaluators("eval(a); b.sympify(c); import os.pickle; re.compile(d); compile(e)"))
    assert found == ["b.sympify", "compile", "eval", "os.pickle"]
    sources = sorted((Path(keras_aha.__file__).parent / "tasks").rglob("*.py"))
    found = {path.name: [*evaluators(path.read_text(encoding="utf-8"))] for path in sources}
    assert len(found) > 25 and {name: names for name, names in found.items() if names} == {
        "child_program.py": ["sympy_parser.parse_expr"]  # it takes SymPy's evaluator away
    }


FUNCTIONS = """
def starts(answer, expected):
    return answer.startswith(expected)

def graded(answer, expected):
    return "correct" if answer == expected else "wrong_case" if answer.lower() == expected.lower() else "wrong_value"

def count(answer, expected):
    return len(answer)

def sentence(answer, expected):
    return "it is wrong"

def fails(answer, expected):
    raise KeyError(expected)
"""


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_checkers.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("starts", "graded", "count", "sentence", "fails")
    starts, graded, count, sentence, fails = (make_checker(f"my_checkers:{name}", {}) for name in names)
    assert [starts.verdict(text, "Pa") for text in ("Paris", "Rome", " ")] == ["correct", "wrong_value", "no_answer"]
    assert [graded.verdict(text, "a") for text in "aAb"] == ["correct", "wrong_case", "wrong_value"]
    assert starts.verdict("Pa" * 10**6, "Pa") == "too_long" and starts.check_expected("") is None
    for checker, shown in ((count, "5"), (sentence, "'it is wrong'")):
        with pytest.raises(TypeError, match=f"The checker my_checkers:.* must return True, False.*Received: {shown}"):
            checker.verdict("Paris", "Paris")
    with pytest.raises(KeyError):
        fails.verdict("Paris", "Paris")
    with pytest.raises(ValueError, match="takes no options. Received: checker='my_checkers:starts', {'seconds': 3}"):
        make_checker("my_checkers:starts", {"seconds": 3})


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("numbr", {}, "or MODULE:FUNCTION; the nearest is number. Received: checker='numbr'"),
        ("", {}, "`checker` must be one of exact, number, choice, math, contains, regex, json, none, or MODULE"),
        ("number", {"toleranz": 1}, "has no option 'toleranz'; the nearest is tolerance. Received: toleranz=1"),
        ("choice", {"ignore_case": True}, "has no option 'ignore_case'; it takes none. Received: ignore_case=True"),
        ("exact", {"seconds": 1}, "has no option 'seconds'; it takes ignore_case. Received: seconds=1"),
        ("exact", {"ignore_case": "no"}, "`ignore_case` must be true or false. Received: ignore_case='no'"),
        ("no_such_module:f", {}, "The module of checker cannot be imported"),
        ("os:getcwdd", {}, "has no function 'getcwdd'; the nearest is os:getcwd"),
    ],
)
def test_names_and_options(name, options, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make_checker(name, options)


EXPECTED = [  # a checker, what its error says, and texts with which no answer could be compared
    ("exact", "a text, of at most 1,000 characters", ("", " \n", "x" * 1001)),
    ("number", "a number, alone or with its unit", ("", "seven", "3 or 4", "1,2", "3 or more", "1" * 101)),
    ("choice", "one letter from A to J, alone or with its text", ("", "K", "2", "Paris", "A or B", "AB")),
    ("math", "a formula of LaTeX", ("", " ", r"\frac{1}{2", "x" * 1001)),
    ("contains", "a text, of at most 200 characters", ("", " ", "x" * 201)),
    ("regex", "a regular expression of Python: ", ("", "(", "[a", "a{99999999999}", "*", "x" * 1001)),
    ("json", "JSON with at most 50 open brackets", ("", "{", "NaN", "[" * 51 + "]" * 51)),
]


@pytest.mark.parametrize(("name", "sentence", "texts"), EXPECTED)
def test_what_no_answer_can_be_compared_with(name, sentence, texts):
    for expected in texts:
        with pytest.raises(ValueError, match=f"`answer` must be {sentence}.*Received: answer="):
            make_checker(name, {}).check_expected(expected)


VOTES = [  # a checker, the vote of several answers, and those; None is no answer
    ("exact", "New York", ("New York", " New\nYork. ")),
    ("exact", None, ("", " ")),
    ("number", "1/2", ("$0.50", "1/2", "\\frac12", "5e-1 m")),
    ("number", "3 ?apple", ("3 apples", "3 apple.")),
    ("number", None, ("3 or 4", "9" * 101, " ")),
    ("choice", "B", ("b", "(B) Paris", "The answer is B.", "\\boxed{B}")),
    ("choice", "A B", ("A or B", "B, A")),
    ("choice", None, (" ", "B" * 501)),
    ("json", '{"a":[],"b":1}', ('{"b": 1.0, "a": [ ]}', '{"a":[],"b":1}')),
    ("json", None, ("x", "[" * 60)),
]


@pytest.mark.parametrize(("name", "vote", "answers"), VOTES)
def test_answers_that_say_the_same_have_one_vote(name, vote, answers):
    assert {make_checker(name, {}).canonical(answer) for answer in answers} == {vote}


def test_which_verdicts_are_of_a_form():
    words = "correct wrong_value wrong_case no_answer not_a_number not_readable too_long too_slow error".split()
    assert [word for word in words if Score(0.0, False, word).well_formed] == words[:3]


PAGE = (Path(__file__).parents[3] / "docs" / "checkers.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))
ROW = re.compile(r"^\| `(.+)` \| `(.+)` \| `(\w+)` \|$", re.MULTILINE)


@pytest.mark.parametrize("name", SECTIONS)
def test_the_manual_is_true(name):
    checker, rows = make_checker(name, {"seconds": 5} if name == "math" else {}), ROW.findall(SECTIONS[name])
    assert len(rows) >= 4 and len(SECTIONS) == 7
    assert [(*row, checker.verdict(row[1], row[0])) for row in rows] == [(*row, row[2]) for row in rows]
