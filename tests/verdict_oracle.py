"""Countdown's verdict and reward again, from the docstrings alone: tags are walked through from the left, and Python's
own parser reads what is left of an answer when all but digits, `+-*/()` and blanks is refused."""

import ast
import itertools
import math
import re
from fractions import Fraction
from functools import cache
from operator import add, mul, sub

LENGTH, BRACKETS, OPERATORS, DIGITS, BLANK_TAIL = 1000, 50, 200, 20, 10
VERDICTS = ("no_answer", "too_long", "not_an_expression", "wrong_numbers", "division_by_zero", "false_equation",
            "wrong_value", "correct")  # fmt: skip
REWARDS = {"correct": (1.0, 0.9, 0.8)} | dict.fromkeys(VERDICTS[4:7], (0.1, 0.0, 0.0))  # by faults of form


class Unreadable(Exception):
    """The text is no expression of the four operations."""


def judge(numbers, target, completion):
    """Returns verdict and reward."""
    answer, tail, tags = find_answer(completion)
    verdict = "no_answer" if answer is None else verdict_of(numbers, target, answer)
    faults = (len(tail) > BLANK_TAIL or not (tail == "" or tail.isspace())) + (tags > 1)
    return verdict, REWARDS.get(verdict, (0.0, 0.0, 0.0))[faults]


def find_answer(completion):
    """Returns the last answer, what follows it, and how often the tag that stands more often does."""
    start, answer, tail = None, None, ""
    tags = {"<answer>": 0, "</answer>": 0}
    for tag in re.finditer("</?answer>", completion):
        tags[tag[0]] += 1
        if tag[0] == "<answer>":
            start = tag.end()
        elif start is not None:
            answer, tail, start = completion[start : tag.start()], completion[tag.end() :], None
    return answer, tail, max(tags.values())


def verdict_of(numbers, target, answer):
    """Returns the verdict on what stands between the tags."""
    if is_too_long(answer):
        return "too_long"
    left, equals, right = in_ascii(re.sub(r"\.[ \t\r\n\f\v]*\Z", "", answer)).partition("=")
    try:
        tree = parsed(left)
        stated = signed_integer(right) if equals else None
    except Unreadable:
        return "not_an_expression"
    used = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    if any(used.count(number) != numbers.count(number) for number in {*used, *numbers}):
        return "wrong_numbers"
    try:
        value = value_of(tree)
    except ZeroDivisionError:
        return "division_by_zero"
    if equals and stated != value:
        return "false_equation"
    return "correct" if value == target else "wrong_value"


def in_ascii(answer):
    return answer.replace("\u00d7", "*").replace("\u00f7", "/").replace("\u2212", "-")


def is_too_long(answer):
    if len(answer) > LENGTH or any(len(run) > DIGITS for run in re.findall("[0-9]+", answer)):
        return True
    if len(re.sub("[^-+*/]", "", in_ascii(answer))) > OPERATORS:
        return True
    still_open = itertools.accumulate(answer, lambda n, c: n + 1 if c == "(" else max(n - (c == ")"), 0), initial=0)
    return max(still_open) > BRACKETS


def parsed(text):
    """Returns Python's tree of `text`, which holds nothing but integers, the four operations and unary minus."""
    if not re.fullmatch(r"[-+*/()0-9 \t\r\n\f\v]*", text) or re.search(r"(?<![0-9])0[0-9]", text):
        raise Unreadable
    try:
        # Not between brackets, or `1)+(2` would be read.
        tree = ast.parse(re.sub("[^-+*/()0-9]", " ", text).strip(), mode="eval").body
    except SyntaxError:
        raise Unreadable from None
    for node in ast.walk(tree):
        if not isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)):
            raise Unreadable
        if isinstance(node, (ast.UAdd, ast.Pow, ast.FloorDiv)):
            raise Unreadable
    return tree


def signed_integer(text):
    tree = parsed(text)
    if re.search("[+*/()]", text) or not isinstance(tree, (ast.UnaryOp, ast.Constant)):
        raise Unreadable
    return value_of(tree)


def value_of(node):
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        return -value_of(node.operand)
    left, right = value_of(node.left), value_of(node.right)
    if isinstance(node.op, ast.Div):
        return left / right
    return {ast.Add: add, ast.Sub: sub, ast.Mult: mul}[type(node.op)](left, right)


@cache
def attainable(numbers):
    """All values of all ways to combine all of `numbers`, a sorted tuple of at most five, by brute force."""
    if len(numbers) == 1:
        return frozenset({Fraction(numbers[0]), -Fraction(numbers[0])})
    values = set()
    for size in range(1, len(numbers)):
        for chosen in itertools.combinations(range(len(numbers)), size):
            some = tuple(numbers[i] for i in chosen)
            others = tuple(numbers[i] for i in range(len(numbers)) if i not in chosen)
            for a, b in itertools.product(attainable(some), attainable(others)):
                values |= {a + b, a - b, a * b} | ({a / b} if b else set())
    return frozenset(values | {-value for value in values})


def reachable(numbers, largest=math.inf):
    """All values that all of `numbers` make, two at a time, through integers from 1 to `largest` only."""
    if len(numbers) == 1:
        return set(numbers)
    values = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = tuple(number for k, number in enumerate(numbers) if k not in (i, j))
        for value in {a + b, a - b, a * b, a // b if b and a % b == 0 else 0}:
            if 1 <= value <= largest:
                values |= reachable((value, *rest), largest)
    return values
