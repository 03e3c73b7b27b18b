from keras_aha.tasks.countdown_file import read_puzzles

import pandas
import pytest


def test_csv(tmp_path):
    path = tmp_path / "puzzles.csv"
    path.write_text(
        'note,target,nums\nx,98,[44 19 35]\n,98,"[44, 19, 35]"\n,-3,1  2\n,7,[ 7 ]\n,6,"[1,2, 3,]"\n, 5 ," 2 3 "\n'
    )
    puzzles = [((44, 19, 35), 98), ((44, 19, 35), 98), ((1, 2), -3), ((7,), 7), ((1, 2, 3), 6), ((2, 3), 5)]
    assert read_puzzles(path) == puzzles


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


@pytest.mark.parametrize("target", ["", "x", "3.0", "1e2", "nan", "--3", "\u0663"])
def test_csv_bad_target(tmp_path, target):
    path = tmp_path / "puzzles.csv"
    path.write_text(f"nums,target\n[1 2],3\n[1 2],4\n[1 2],{target}\n")
    with pytest.raises(ValueError, match=r"^Row 3 of the puzzle file needs an integer in target. Received: target="):
        read_puzzles(path)


@pytest.mark.parametrize(
    ("nums", "target", "row"),
    [
        ([[1, 2], [1.5, 2]], [3, 3], 1),  # Parquet makes all of a list column floats
        ([[1, 2], None], [3, 3], 2),
        ([[1, 2], []], [3, 3], 2),
        ([[1, 2], [-1, 2]], [3, 3], 2),
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
        ("puzzles.parquet", None, "cannot be read: .* Received: puzzles="),
    ],
)
def test_unreadable(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_puzzles(tmp_path / name)
    assert "\n" not in str(caught.value)
