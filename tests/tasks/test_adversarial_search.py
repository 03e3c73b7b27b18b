"""A hunt for completions that earn more than they deserve, by a search that climbs towards reward.

That it finds none is worth something only because the same hunt finds the hole in verifiers as they are often written.
"""

import random
import re
import unicodedata
import warnings

from keras_aha.tasks import Countdown, CountdownProblem
from keras_aha.tasks.expression import parse_expression

import pytest
from hostile_completions import CLOSE, OPEN, edit, heap, plain, random_expression, right_expression
from verdict_oracle import find_answer, judge

TASK = Countdown(num_numbers=3, max_number=20)
PUZZLES = [((1, 2, 3), 9), ((7, 7, 7), 100), ((8, 4, 2), 4)]
PROBLEMS = [CountdownProblem(*puzzle) for puzzle in PUZZLES] + [TASK.problem(index) for index in range(5)]
LONGEST = 2000  # characters of a completion in the search


def hunt(reward_of, seed, steps=400):
    """Yields each completion that is not correct and earns more than it deserves, what it earns, and its true verdict.

    A problem has a population of completions, none correct. One of the better ones is edited; the child takes its place
    unless it earns less, so that the search climbs where it can and wanders along plateaus.
    """
    rng = random.Random(seed)
    for problem in PROBLEMS:
        population = [plain(rng, random_expression(rng, problem.numbers)) for _ in range(10)]
        population += [rng.choice((heap(rng), CLOSE + OPEN, "", str(problem.target))) for _ in range(10)]
        rewards = [reward_of(problem, completion) for completion in population]
        for _ in range(steps):
            place = max(rng.sample(range(len(population)), 2), key=rewards.__getitem__)
            child = population[place]
            if rng.random() < 0.2:  # a step aside, to where right answers live
                child = plain(rng, right_expression(rng, problem))
            for _ in range(rng.choice((1, 1, 2, 3))):
                child = edit(rng, problem, child)
            verdict, deserved = judge(problem.numbers, problem.target, child)
            if len(child) > LONGEST or verdict == "correct":
                continue
            earned = reward_of(problem, child)
            if earned > deserved:
                yield child, earned, verdict
            if earned >= rewards[place]:
                population[place], rewards[place] = child, earned


@pytest.mark.parametrize("seed", range(3))
def test_nothing_earns_more_than_it_deserves(seed):
    assert list(hunt(lambda problem, completion: TASK.score(problem, completion).reward, seed)) == []


# Verifiers with one hole each.


def first_answer(problem, completion):
    """So that any number of answers may follow the right one."""
    return TASK.score(problem, completion.partition(CLOSE)[0] + CLOSE).reward


def free_tails(problem, completion):
    return TASK.score(problem, completion[: completion.rfind(CLOSE) + len(CLOSE)] or completion).reward


def tags_alone(problem, completion):
    return max(TASK.score(problem, completion).reward, 0.1 * (OPEN in completion and CLOSE in completion))


def all_of_unicode(problem, completion):
    return TASK.score(problem, unicodedata.normalize("NFKC", completion)).reward


def a_set_of_numbers(problem, completion):
    score = TASK.score(problem, completion)
    if score.verdict != "wrong_numbers":
        return score.reward
    expression = parse_expression(find_answer(completion)[0])
    return float(set(expression.numbers) == set(problem.numbers) and expression.value == problem.target)


def python_itself(problem, completion):
    """Numbers by a regular expression, the value by `eval`, within a tolerance."""
    answer = find_answer(completion)[0] or ""
    found = [int(number) for number in re.findall(r"\d+", answer)]
    if not re.fullmatch(r"[-+*/().\d\s]+", answer) or sorted(found) != sorted(problem.numbers):
        return 0.0
    if len(answer) > 60 or answer.count("**") > 1:
        return 0.0  # because this test wants to end
    try:
        with warnings.catch_warnings(action="ignore"):
            value = eval(answer.strip(), {"__builtins__": None})
        return 1.0 if abs(value - problem.target) < 1e-5 else 0.1
    except Exception:  # whatever `eval` may raise
        return 0.0


@pytest.mark.parametrize(
    ("reward_of", "earned", "verdict"),
    [
        (first_answer, 1.0, "not_an_expression"),
        (free_tails, 0.1, "wrong_value"),
        (tags_alone, 0.1, "not_an_expression"),
        (all_of_unicode, 1.0, "not_an_expression"),
        (a_set_of_numbers, 1.0, "wrong_numbers"),
        (python_itself, 1.0, "not_an_expression"),
    ],
)
def test_the_hunt_finds_a_hole(reward_of, earned, verdict):
    assert (earned, verdict) in {(found[1], found[2]) for found in hunt(reward_of, seed=0)}
