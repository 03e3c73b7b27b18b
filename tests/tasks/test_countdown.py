import itertools

from keras_aha.tasks import Countdown, CountdownProblem, Score
from keras_aha.tasks.countdown_file import read_puzzles

import numpy as np
import pandas
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


def test_known_problems():
    """In every process: published results quote puzzles by seed and index, so these must never change unnoticed."""
    task = Countdown()
    assert [str(task.problem(i)) for i in range(3)] == ["98 58 3 -> 43", "20 22 78 -> 36", "20 15 14 -> 19"]
    held_out = [str(problem) for problem in task.held_out(3).problems]
    assert held_out == ["70 96 73 -> 32", "25 83 13 -> 95", "49 70 99 -> 78"]


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
    [{"num_numbers": 1}, {"num_numbers": ()}, {"num_numbers": (3, 9)}, {"num_numbers": "34"},
     {"max_number": 9.5}, {"max_target": 0}, {"seed": "x"}],
)  # fmt: skip
def test_bad_arguments(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: {name}="):
        Countdown(**arguments)


@pytest.mark.parametrize(("numbers", "target"), [((), 5), ((-1, 2), 5), ((1, 2), 5.5), (3, 5), ("12", 3)])
def test_bad_problem(numbers, target):
    with pytest.raises(ValueError, match="Received: numbers=.*, target="):
        CountdownProblem(numbers=numbers, target=target)


def test_problem_made_by_hand():
    problem = CountdownProblem([np.int64(3), 1], np.int32(-4))
    assert (problem, str(problem), problem.solution) == (CountdownProblem((3, 1), -4), "3 1 -> -4", "-1-3")
    assert TASK.labels(problem) == {"num_numbers": 2, "difficulty": problem.difficulty}
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


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="Countdown draws no puzzle to train on. Received: seed=0, num_numbers="):
        Countdown(num_numbers=3, max_number=1, max_target=1)  # 1 1 1 -> 1 is all there is, and held out


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
    assert TASK.answer(completion) == TASK.held_out(1).answer(completion) == answer


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


def test_csv(tmp_path):
    path = tmp_path / "puzzles.csv"
    text = 'note,target,nums\nx\r\u2028,98,[44 19 35]\n,-3,1  2\n,7,[ 7 ]\n,6,"[1,2, 3,]"\n, 5 ," 2 3 "\n'
    path.write_bytes(text.encode())
    puzzles = read_puzzles(path)
    path.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))  # as Excel writes it
    assert puzzles == read_puzzles(path) == [((44, 19, 35), 98), ((1, 2), -3), ((7,), 7), ((1, 2, 3), 6), ((2, 3), 5)]


def test_parquet(tmp_path):
    path = tmp_path / "puzzles.parquet"
    pandas.DataFrame({"target": [98, 6], "nums": [[44, 19, 35], [1, 2, 3, 0]]}).to_parquet(path)
    assert read_puzzles(str(path)) == [((44, 19, 35), 98), ((1, 2, 3, 0), 6)]


@pytest.mark.parametrize("nums", ["", "[]", "[1 2", "1 2]", "[.5 2]", "[-1 2]", "[\u0661 2]", "1 2 3 4 5 6 7"])
def test_csv_bad_nums(tmp_path, nums):
    path = tmp_path / "puzzles.csv"
    path.write_text(f'nums,target\n[1 2],3\n"{nums}",3\n')
    with pytest.raises(ValueError, match=r"^Row 2 of the puzzle file needs 1 to 6 integers from 0 in nums. Received: "):
        read_puzzles(path)


@pytest.mark.parametrize("target", ["", "x", "3.0", "1e2", "--3", "\u0663"])
def test_csv_bad_target(tmp_path, target):
    path = write_csv(tmp_path / "puzzles.csv", [((1, 2), 3), ((1, 2), 4), ((1, 2), target)])
    with pytest.raises(ValueError, match=r"^Row 3 of the puzzle file needs an integer in target. Received: target="):
        read_puzzles(path)


@pytest.mark.parametrize(
    ("nums", "target", "row"),
    [
        ([[1, 2], [1.5, 2]], [3, 3], 1),  # Parquet makes all of a list column floats
        ([[1, 2], None], [3, 3], 2),
        ([[1, 2], [3, 4]], [3.0, None], 1),
        ([[True, False], [True, False]], [3, 3], 1),
        ([3, 4], [3, 3], 1),
    ],
)
def test_parquet_bad_rows(tmp_path, nums, target, row):
    path = tmp_path / "puzzles.parquet"
    pandas.DataFrame({"nums": nums, "target": target}).to_parquet(path)
    with pytest.raises(ValueError, match=f"^Row {row} of the puzzle file needs .* Received: "):
        read_puzzles(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("puzzles.csv", b"numbers,target\n1 2,3\n", "needs the columns nums and target. Received: columns=.'numbers'"),
        ("puzzles.csv", b"nums,target\n", "holds no puzzle. Received: puzzles="),
        ("puzzles.csv", b"", "cannot be read: .* Received: puzzles="),
        ("puzzles.csv", b"nums,target\n1 2,3,4,5\n1,2,3,4,5,6\n", "cannot be read: .* Received: puzzles="),
        ("puzzles.csv", b"nums,target\n\xff\xfe\x00,3\n", "cannot be read: .* Received: puzzles="),
        ("puzzles.parquet", b"PAR1 not really", "cannot be read: .* Received: puzzles="),
        ("puzzles.json", b"[]", "is a .csv or a .parquet file. Received: puzzles="),
        ("puzzles.csv", None, "cannot be read: .* Received: puzzles="),
    ],
)
def test_unreadable(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_puzzles(tmp_path / name)
    assert "\n" not in str(caught.value)
