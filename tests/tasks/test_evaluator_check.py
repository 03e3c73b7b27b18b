"""Which scorers hand text to an evaluator; `reasoning_gym`'s are held against what Python itself reports."""

import sys

from keras_aha.tasks.evaluator_check import evaluated_by

import pytest


def apart(text):
    return exec(text)


class Base:
    def inherited(self, text):
        return self.twice(text)

    @staticmethod
    def twice(text):
        return eval(text) * 2


class Scorer(Base):
    def plain(self, text):
        return int(text) + len(str(text))

    def direct(self, text):
        return eval(text)

    def by_a_function(self, text):
        return apart(text)

    def by_a_method(self, text):
        return self.by_a_function(text)

    def in_a_loop(self, text):
        return self.in_a_loop(text[1:]) if text else [ast.literal_eval(part) for part in text]  # noqa: F821


@pytest.mark.parametrize(
    ("method", "culprit"),
    [
        ("plain", None),
        ("direct", "eval"),
        ("by_a_function", "exec"),
        ("by_a_method", "exec"),
        ("inherited", "eval"),
        ("in_a_loop", "literal_eval"),
    ],
)
def test_calls_are_followed(method, culprit):
    assert evaluated_by(Scorer, method) == culprit


def test_no_scorer_that_compiles_an_answer_is_missed():
    factory = pytest.importorskip("reasoning_gym.factory", reason='needs pip install -e ".[gym]"')
    compiled, scored = set(), []

    def watch(event, arguments):  # stays for the life of the process, as audit hooks do
        if event == "compile" and scored and b"canary" in str(arguments[0]).encode():
            compiled.add(scored[-1])

    sys.addaudithook(watch)
    for name, (kind, config) in factory.DATASETS.items():
        if name == "composite":  # has no entries of its own
            continue
        entries = kind(config=config(seed=0, size=50))
        scored.append(name)
        for answer in ("canary", "[canary]", "[[canary]]", '["canary"]', "canary + 1", "(canary)", "{'canary': 1}"):
            try:
                entries.score_answer(answer, entries[0])
            except Exception:  # as many do at such texts
                pass
    scored.clear()
    found = {name for name, (kind, _) in factory.DATASETS.items() if evaluated_by(kind, "score_answer")}
    assert compiled and compiled <= found
    assert found - compiled <= {"bitwise_arithmetic", "number_sorting"}  # evaluate their own texts only
