import itertools
import math
from fractions import Fraction

from keras_aha.tasks.countdown_solver import MAX_NUMBERS, difficulty, shortest_solution
from keras_aha.tasks.expression import parse_expression

import pytest


def all_texts(numbers, signs):
    """Every text that uses the numbers in this order, with brackets around any part, and perhaps a minus before it."""
    if len(numbers) == 1:
        texts = [str(numbers[0])]
    else:
        texts = [
            left + symbol + right
            for cut in range(1, len(numbers))
            for left in all_texts(numbers[:cut], signs)
            for right in all_texts(numbers[cut:], signs)
            for symbol in "+-*/"
        ]
        texts += [f"({text})" for text in texts]
    if signs:
        texts += [f"-{text}" for text in texts if not text.startswith("-")]
    return list(dict.fromkeys(texts))


def best_texts(numbers, signs):
    best = {}
    for order in sorted(set(itertools.permutations(numbers))):
        for text in all_texts(order, signs):
            value = parse_expression(text).value
            if value is not None and value.denominator == 1:
                best[value] = min(best.get(value, text), text, key=lambda text: (len(text), text))
    return best


@pytest.mark.parametrize("numbers", [(5,), (0, 7), (4, 4), (1, 2, 3), (0, 5, 10)])
def test_shortest_solution_of_any_target(numbers):
    best = best_texts(numbers, signs=True)
    for target in range(-110, 111):
        assert shortest_solution(numbers, target) == best.get(target)


def test_shortest_solution_of_four_numbers():
    best = best_texts((1, 3, 4, 6), signs=False)
    assert best[24] == "6/(1-3/4)"
    for target in range(0, 100):
        assert shortest_solution((6, 4, 3, 1), target) == best.get(target)


def every_value(numbers):
    """The value of every ordered tree over all the numbers; `None` for a division by zero."""
    if len(numbers) == 1:
        yield Fraction(numbers[0])
    places = range(len(numbers))
    for size in range(1, len(numbers)):
        for chosen in itertools.combinations(places, size):
            lefts = list(every_value([numbers[place] for place in chosen]))
            rights = list(every_value([numbers[place] for place in places if place not in chosen]))
            for a, b in itertools.product(lefts, rights):
                if a is None or b is None:
                    yield from (None,) * 4
                else:
                    yield from (a + b, a - b, a * b, a / b if b else None)


@pytest.mark.parametrize("numbers", [(3,), (2, 3), (1, 1), (0, 4, 4), (1, 2, 3), (2, 2, 5, 7)])
def test_difficulty_against_every_expression(numbers):
    values = list(every_value(numbers))
    for target in range(0, 40):
        share = Fraction(values.count(target) or 1, len(values) * (1 if target in values else 2))
        assert difficulty(numbers, target) == round(-math.log2(share))


def test_difficulty_of_a_negative_target():
    assert difficulty((2, 3), -1) == 3
    assert difficulty((2, 3), -5) == difficulty((2, 3), 5) == 2  # by a unary minus only


def test_six_numbers():
    """In seconds, as there is no table over all six."""
    expression = parse_expression(shortest_solution((1, 3, 7, 10, 25, 50), 832))
    assert expression.value == 832 and sorted(expression.numbers) == [1, 3, 7, 10, 25, 50]


def test_too_many_numbers():
    for function in (shortest_solution, difficulty):
        with pytest.raises(ValueError, match=rf"at most {MAX_NUMBERS} numbers. Received: numbers="):
            function(range(MAX_NUMBERS + 1), 5)
