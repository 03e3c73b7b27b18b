import random

from keras_aha.behaviours import Behaviours, count_behaviours
from keras_aha.tasks import Countdown

import pytest

SOLVED = "9-1=8,8/4=2 no\n9-1=8,8+4=12 yes\n</think>\n<answer>(9-1)+4</answer>"


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", (0, 0, 0)),
        (SOLVED, (2, 2, 1)),
        ("</think>\n<answer>1+2=3</answer>", (0, 0, 0)),
        ("<answer>1+2=3</answer> no", (0, 0, 0)),
        ("9-1=8,8/4=2 no\n</think>\n<answer>9</answer>", (1, 1, 0)),  # it failed, and nothing followed
        ("9-1=8,8/4=2\n9-1=8,8+4=12\n", (2, 0, 0)),
        ("9-1=8,8/4=2 yes\n9-1=8,8+4=12 no", (2, 2, 0)),
        ("Let me try 3 + 4 = 7, that is not 10\nThen 3 * 4 = 12, too big.\n3 + 7 = 10, correct!", (3, 3, 2)),
        ("3 + 4 = 7\nthat is not 10.\n\n6 + 4 = 10 is right", (2, 2, 1)),
        ("3 + 4 = 7 - no\n2 + 4 = 6. Nope", (2, 2, 1)),
        ("3 + 4 = 7. Hmm.\nThat doesn't work, so (3 + 3) * 4 = 24", (2, 1, 1)),  # said on the next attempt's line
        ("3+4=7\nAll right, let me see 5+5=10", (2, 0, 0)),
        ("8\u00f72=4 no\n8\u00d72=16 no\n8\u22122=6 yes", (3, 3, 2)),
        ("2*-3=-6 no\n(1+2)=3 yes", (2, 2, 1)),
        ("7 / 2 = 3.5 no\n7 / 2 = 7/2 yes", (2, 2, 1)),
        ("x = 3 + 4\nthe target = 10\n= 5\n3 = 3\n-3 = 5\n2010-2020", (0, 0, 0)),
        ("1+2+3+4 no number follows", (0, 0, 0)),
    ],
)
def test_counts(text, counts):
    assert count_behaviours(text) == Behaviours(*counts)


def test_worked_solution():
    task = Countdown(num_numbers=3, max_number=20, seed=0)
    text = task.worked_solution(task.problem(0), random.Random(0), max_attempts=6)
    lines = text.partition("</think>")[0].strip().splitlines()
    assert count_behaviours(text) == Behaviours(len(lines), len(lines), len(lines) - 1)


@pytest.mark.parametrize("text", ["1+1" * 100_000, "=" * 300_000, "1+1=2\n" + "\n" * 300_000, "1+1=" + " " * 300_000])
def test_long_texts(text):
    assert count_behaviours(text).checks == 0
