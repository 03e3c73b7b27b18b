"""Worked search traces: true when asked to be, and wrong as often as asked."""

import operator
import re
from random import Random

from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.tasks.countdown import Countdown, CountdownProblem
from keras_aha.tasks.countdown_trace import search_trace

import pytest
from verdict_oracle import reachable

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
TASK = Countdown(num_numbers=(3, 4), max_number=20)
PROBLEMS = [TASK.problem(i) for i in range(150)]


def traces(count=600, **habits):
    """`(problem, lines, answer)` of so many traces of one task's problems."""
    for i in range(count):
        problem = PROBLEMS[i % len(PROBLEMS)]
        yield problem, *parsed(search_trace(problem.numbers, problem.target, Random(i), **habits))


def parsed(trace):
    """`([(steps, said yes), …], answer)`, a step being `(left, operator, right, result)`."""
    match = re.fullmatch(r"((?:\S+ (?:yes|no)\n)*)</think>\n<answer>(\S+)</answer>", trace)
    assert match, trace
    lines = []
    for line in match[1].splitlines():
        equations, verdict = line.split(" ")
        steps = [re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", equation).groups() for equation in equations.split(",")]
        lines.append(([(int(a), sign, int(b), int(c)) for a, sign, b, c in steps], verdict == "yes"))
    return lines, match[2]


def is_true(step):
    left, sign, right, result = step
    return OPERATORS[sign](left, right) == result and (sign != "/" or left % right == 0)


def test_every_line_is_true_and_rightly_judged():
    for problem, lines, answer in traces():
        for steps, said_yes in lines:
            numbers = list(problem.numbers)
            for step in steps:  # takes two of the numbers left and puts its result back
                assert is_true(step) and 1 <= step[3] <= 100
                numbers.remove(step[0])
                numbers.remove(step[2])
                numbers.append(step[3])
            assert len(numbers) == 1
            assert said_yes == (steps[-1][3] == problem.target)
        assert not any(said_yes for _, said_yes in lines[:-1])
        # The answer is the last attempt.
        made = CountdownProblem(problem.numbers, lines[-1][0][-1][3])
        assert TASK.score(made, f"<answer>{answer}</answer>").correct


def test_a_patient_searcher_solves_what_can_be_solved():
    for problem in PROBLEMS[:40]:
        trace = search_trace(problem.numbers, problem.target, Random(0), max_attempts=10**6)
        assert TASK.score(problem, trace).correct == (problem.target in reachable(problem.numbers, 100))


def test_attempts_and_values_have_a_limit():
    for _, lines, _ in traces(300, max_value=40, slip_rate=0.5, max_attempts=5):
        assert len(lines) == 5 or lines[-1][1] and 1 <= len(lines) < 5
        assert all(1 <= step[3] <= 40 for steps, _ in lines for step in steps)
    trace = search_trace((90, 80), 5, Random(0), max_value=5)  # nothing can be combined
    assert trace == "</think>\n<answer>90+80</answer>"


def test_imperfections():
    """Within four standard deviations. Only last equations slip, by 1 or 2, and the verdict is on what was written."""

    def near(hits, rate):
        assert len(hits) > 500
        return abs(sum(hits) / len(hits) - rate) < 4 * (rate * (1 - rate) / len(hits)) ** 0.5

    assert near([not lines for _, lines, _ in traces(guess_rate=0.3)], 0.3)
    failed = [
        (i, lines) for _, lines, _ in traces(give_up_rate=0.2) for i in range(len(lines)) if not lines[i][1] and i < 23
    ]
    assert near([i == len(lines) - 1 for i, lines in failed], 0.2)
    misjudged = [(problem, line) for problem, lines, _ in traces(misjudge_rate=0.1) for line in lines]
    assert near([said_yes != (steps[-1][3] == problem.target) for problem, (steps, said_yes) in misjudged], 0.1)
    slipped = [(problem, line) for problem, lines, _ in traces(slip_rate=0.1) for line in lines]
    assert near([not is_true(steps[-1]) for _, (steps, _) in slipped], 0.1)
    for problem, (steps, said_yes) in slipped:
        a, sign, b, result = steps[-1]
        assert all(map(is_true, steps[:-1])) and abs(OPERATORS[sign](a, b) - result) <= 2
        assert said_yes == (result == problem.target)


def attempts_in_words(trace):
    """`(attempts as shorthand writes them, answer)` of a trace in words."""
    match = re.fullmatch(r"((?:.+\n)*)</think>\n<answer>(\S+)</answer>", trace)
    lines, beginning = [], ""
    for line in match[1].splitlines():
        if line.startswith("Let me try "):
            beginning = line.removeprefix("Let me try ").removesuffix(":").replace(", ", ",") + ","
        else:
            equation, verdict = re.fullmatch(r"(\S+), (yes|no)", line).groups()
            lines.append(f"{beginning}{equation} {verdict}\n")
    return "".join(lines), match[2]


@pytest.mark.parametrize("numbers", (2, 3, 4))
def test_words_say_what_shorthand_says(numbers):
    task, habits = Countdown(num_numbers=numbers, max_number=20), dict(give_up_rate=0.1, slip_rate=0.1, guess_rate=0.1)
    saved = 0
    for i in range(200):
        problem = task.problem(i)
        short, long = (task.worked_solution(problem, Random(i), in_words=w, **habits) for w in (False, True))
        thoughts, answer = attempts_in_words(long)
        assert thoughts + f"</think>\n<answer>{answer}</answer>" == short
        saved += short.count("=") - long.count("=")
        in_both = [count_behaviours(text) for text in (short, long)]
        assert in_both[0].attempts == in_both[1].attempts
        assert in_both[0].verifications == in_both[1].verifications == in_both[1].attempts
        assert in_both[0].backtracks == in_both[1].backtracks
    assert (saved > 200) == (numbers > 2)  # what attempts begin with alike is written once


def test_words_by_hand():
    ends = "3*2=6, yes\n</think>\n<answer>3*2</answer>"
    beginnings = {"", "3-2=1, no\n", "3+2=5, no\n3-2=1, no\n"}
    assert {search_trace((3, 2), 6, Random(i), in_words=True) for i in range(30)} == {b + ends for b in beginnings}
    lines = (
        "Let me try 2+3=5:\n5+4=9, no\n5-4=1, no\n5*4=20, no\n"
        "Let me try 3-2=1:\n1+4=5, no\n4-1=3, yes\n"
        "</think>\n<answer>4-(3-2)</answer>"
    )
    assert lines in {search_trace((2, 3, 4), 3, Random(i), in_words=True) for i in range(100)}
