import itertools
import os
import subprocess
import sys

from keras_aha.tasks import Countdown, CountdownProblem, Score

import numpy as np
import pytest
from verdict_oracle import reachable

TASK = Countdown(num_numbers=3, max_number=20, template="compact")

# === Problems ===


def test_problem_is_a_function_of_seed_and_index():
    first = [TASK.problem(index) for index in range(50)]
    again = Countdown(num_numbers=3, max_number=20)
    assert [again.problem(index) for index in reversed(range(50))] == first[::-1]
    assert TASK.problem(np.int64(7)) == first[7]
    assert [Countdown(num_numbers=3, max_number=20, seed=1).problem(index) for index in range(50)] != first
    assert len({problem.canonical for problem in first}) > 40


def test_problem_does_not_depend_on_the_process():
    program = (
        "from keras_aha.tasks import Countdown; task = Countdown(seed=3);"
        "print([str(task.problem(index)) for index in range(20)], task.held_out(20).problems)"
    )
    outputs = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.append(subprocess.check_output([sys.executable, "-c", program], env=environment))
    assert outputs[0] == outputs[1] != b""


def test_known_problems():
    # Published results quote puzzles by seed and index: these must never change unnoticed.
    assert [str(Countdown().problem(index)) for index in range(3)] == [
        "98 58 3 -> 43",
        "20 22 78 -> 36",
        "20 15 14 -> 19",
    ]


@pytest.mark.parametrize(
    ("num_numbers", "max_number", "max_target"), [(3, 20, 100), ((3, 4), 99, 100), ([2, 4], 10, 30), (2, 3, 4)]
)
def test_problems_are_in_range_and_solvable(num_numbers, max_number, max_target):
    task = Countdown(num_numbers=num_numbers, max_number=max_number, max_target=max_target, seed=5)
    counts = set()
    for index in range(60):
        problem = task.problem(index)
        counts.add(len(problem.numbers))
        assert all(1 <= number <= max_number for number in problem.numbers)
        assert 1 <= problem.target <= max_target
        assert problem.target in reachable(problem.numbers)
        assert task.score(problem, f"<answer>{problem.solution}</answer>") == Score(1.0, True, "correct")
    assert counts == set(num_numbers if isinstance(num_numbers, (tuple, list)) else [num_numbers])


@pytest.mark.parametrize(
    "arguments",
    [{"num_numbers": 1}, {"num_numbers": 7}, {"num_numbers": ()}, {"num_numbers": (3, 9)}, {"num_numbers": "34"},
     {"max_number": 0}, {"max_number": 9.5}, {"max_target": 0}, {"seed": "x"}],
)  # fmt: skip
def test_bad_arguments(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: {name}="):
        Countdown(**arguments)


def test_labels_and_text():
    with pytest.raises(IndexError, match="Received: index=-1"):
        TASK.problem(-1)
    problem = CountdownProblem(numbers=(2, 3), target=5)
    assert TASK.labels(problem) == {"num_numbers": 2, "difficulty": 2}
    assert str(problem) == "2 3 -> 5"
    assert problem.solution == "2+3"


@pytest.mark.parametrize(
    ("numbers", "target"), [((), 5), ((-1, 2), 5), ((1.0, 2), 5), ((1, 2), 5.5), (3, 5), ("12", 3), ((1, 2), None)]
)
def test_bad_problem(numbers, target):
    with pytest.raises(ValueError, match="Received: numbers=.*, target="):
        CountdownProblem(numbers=numbers, target=target)


def test_problem_made_by_hand():
    assert CountdownProblem([np.int64(3), 1], np.int32(-4)) == CountdownProblem((3, 1), -4)
    assert CountdownProblem((0,), 0).solution == "0"
    assert CountdownProblem((1, 2), -3).solution == "-1-2"
    assert CountdownProblem((2, 2), 100).solution is None
    many = CountdownProblem(tuple(range(9)), 36)
    assert TASK.score(many, "<answer>0+1+2+3+4+5+6+7+8</answer>").correct


def test_held_out_has_an_end():
    task = Countdown(num_numbers=2, max_number=4, max_target=9)
    every = {
        problem.canonical
        for numbers in itertools.combinations_with_replacement(range(1, 5), 2)
        for target in reachable(numbers)
        if target <= 9 and task.is_held_out(problem := CountdownProblem(numbers, target))
    }
    assert {problem.canonical for problem in task.held_out(len(every)).problems} == every
    with pytest.raises(ValueError, match=f"there are only {len(every)} distinct .* Received: n=999"):
        task.held_out(999)
    with pytest.raises(ValueError, match="must be positive. Received: n=0"):
        task.held_out(0)


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="Countdown draws no puzzle to train on. Received: seed=0, num_numbers="):
        Countdown(num_numbers=3, max_number=1, max_target=1)  # 1 1 1 -> 1 is all there is, and held out


# === Puzzle files ===


def write_csv(path, puzzles):
    rows = [f"[{' '.join(map(str, numbers))}],{target}" for numbers, target in puzzles]
    path.write_text("\n".join(["nums,target", *rows]))
    return path


def test_puzzles_of_a_file(tmp_path):
    puzzles = [((a, b, 7), a + b) for a in range(1, 8) for b in range(a, 8)]
    path = write_csv(tmp_path / "puzzles.csv", [*puzzles, *puzzles])
    task = Countdown(puzzles=path, seed=1)
    every = {CountdownProblem(numbers, target) for numbers, target in puzzles}
    training = {problem for problem in every if not TASK.is_held_out(problem)}

    cycle = [task.problem(index) for index in range(2 * len(training))]
    assert set(cycle) == training
    assert [task.problem(index + len(cycle)) for index in range(len(cycle))] == cycle
    assert [Countdown(puzzles=str(path), seed=1).problem(index) for index in range(len(cycle))] == cycle
    assert [Countdown(puzzles=path, seed=2).problem(index) for index in range(len(cycle))] != cycle

    rest = every - training
    assert set(task.held_out(len(rest)).problems) == rest
    with pytest.raises(ValueError, match=f"there are only {len(rest)} distinct held-out problems"):
        task.held_out(len(rest) + 1)


def test_file_without_a_training_puzzle(tmp_path):
    problem = TASK.held_out(1).problem(0)
    path = write_csv(tmp_path / "puzzles.csv", [(problem.numbers, problem.target)])
    with pytest.raises(ValueError, match="leaves no puzzle to train on. Received: puzzles="):
        Countdown(puzzles=path)


@pytest.mark.parametrize(
    "completion, answer",
    [
        ("<answer>1</answer> no <answer> (9 - 1)*4\n</answer>.", "( 9 - 1 ) * 4"),
        ("<answer>12+3 = 15</answer>", "12 + 3 = 15"),
        ("<answer>1 2+3</answer>", None),
        ("12+3", None),
    ],
)
def test_what_a_majority_votes_on(completion, answer):
    task = Countdown(num_numbers=3)
    assert task.answer(completion) == task.held_out(1).answer(completion) == answer
