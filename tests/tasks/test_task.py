import random

from keras_aha.tasks import Score, Task

import pytest


class Echo(Task):
    def problem(self, index):
        return index

    def prompt(self, problem):
        return str(problem)

    def score(self, problem, completion):
        return Score(float(completion == str(problem)), completion == str(problem), "correct")

    def held_out(self, n):
        return self


def test_what_a_task_need_not_define():
    assert Echo().labels(3) == {}
    assert Echo().difficulty(3) == 0
    assert Echo().answer(" 3\n") == "3" and Echo().answer(" ") is None
    with pytest.raises(NotImplementedError, match="Echo has no worked solutions"):
        Echo().worked_solution(3, random.Random(0))


def test_a_task_must_define_the_rest():
    with pytest.raises(TypeError, match="abstract"):
        Task()


def test_well_formed():
    verdicts = ("correct", "wrong_value", "no_answer", "not_an_expression", "too_long")
    assert [Score(0.0, False, verdict).well_formed for verdict in verdicts] == [True, True, False, False, False]
