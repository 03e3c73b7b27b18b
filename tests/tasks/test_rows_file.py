import csv
import datetime
import json

from keras_aha.tasks.rows_file import read_rows

import pandas as pd
import pytest

ENDS = "\u2028 \u2029 \x85 \x0b \x0c \x1c"  # Python's own ends of lines, which are none in these files
ROWS = [
    {"prompt": f'{n}, "ü" 🙂{ENDS}\n{n}?', "answer": n, "tags": [n, None], "note": "é" if n % 2 else None}
    for n in range(2500)
]
TEXTS = [row | {"answer": str(row["answer"]), "tags": json.dumps(row["tags"])} for row in ROWS]


def write(path, rows):
    """As programs on several systems write a file of that name."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".jsonl" or path.stem == "lines":
        path.write_bytes(
            lines.replace("\n", "\r\n\r\n").encode("utf-8-sig") if "windows" in path.stem else lines.encode()
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8-sig")
    elif path.suffix.lower() == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\r\n" if "windows" in path.stem else "\n")
            writer.writeheader()
            writer.writerows(row | {"tags": json.dumps(row["tags"])} for row in rows)
            file.write(",,,\n\n")
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "windows.jsonl", "a.json", "lines.json", "a.csv", "windows.csv", "A.PARQUET", "a.parquet"]
)
def test_files_as_they_come(tmp_path, name):
    table = read_rows(write(tmp_path / name, ROWS), "file", ["prompt", "answer", "tags"], ["note", "absent"])
    expected = [row | {"absent": None, "note": row["note"] or ("" if name.endswith("csv") else None)} for row in TEXTS]
    assert list(table) == expected and len(table) == 2500
    assert [table[i] for i in (0, 1999, 2000, 2499)] == [expected[i] for i in (0, 1999, 2000, 2499)]


def test_several_files_and_folders(tmp_path):
    (tmp_path / "parts").mkdir()
    for number in (2, 1):
        write(tmp_path / "parts" / f"{number}.jsonl", [{"prompt": f"{number}{letter}"} for letter in "ab"])
    for name in ("README.md", ".hidden.jsonl"):
        (tmp_path / "parts" / name).write_text("no rows")
    write(tmp_path / "0.jsonl", [{"prompt": "0a"}])
    table = read_rows([tmp_path / "0.jsonl", tmp_path / "parts"], "file", ["prompt"])
    assert [row["prompt"] for row in table] == ["0a", "1a", "1b", "2a", "2b"]
    assert [table.place(i) for i in (0, 2, 3)] == ["Line 1 of 0.jsonl", "Line 2 of 1.jsonl", "Line 1 of 2.jsonl"]


def test_a_gap_in_a_table_of_numbers_is_no_value_and_a_date_is_a_text(tmp_path):
    table = pd.DataFrame({"prompt": [1.5, None], "day": [datetime.date(2026, 1, 2)] * 2, "": [True, False]})
    table.to_parquet(tmp_path / "a.parquet")
    rows = [tuple(row.values()) for row in read_rows(tmp_path / "a.parquet", "file", ["day"], ["prompt", ""])]
    assert rows == [("2026-01-02", "1.5", "true"), ("2026-01-02", None, "false")]


GOOD = b'{"prompt": "1"}\n\n'


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", GOOD + b'{"prompt": 1\n' + GOOD, r"Line 3 of a.jsonl is not JSON, Expecting .*: '\{\"prompt\": 1"),
        ("a.jsonl", GOOD + b"[1]", r"Line 3 of a.jsonl must be an object, with a value for each column: \[1\]"),
        ("a.jsonl", GOOD + b'{"promt": "1"}', "Line 3 of a.jsonl has no `prompt`; the nearest is `promt`: {"),
        ("a.jsonl", GOOD + b'{"prompt": null}', 'Line 3 of a.jsonl has no `prompt`: {"prompt": null}'),
        ("a.jsonl", GOOD + rb'{"prompt": "\ud800"}', "Line 3 of a.jsonl has a lone surrogate in `prompt`"),
        ("a.jsonl", GOOD + b"[" * 10**5, "Line 3 of a.jsonl is not JSON, maximum recursion"),
        ("a.jsonl", GOOD + b'"\xff"', "Line 3 of a.jsonl must be saved in UTF-8: invalid start byte"),
        ("a.jsonl", GOOD.decode().encode("utf-16"), "Line 1 of a.jsonl must be saved in UTF-8"),
        ("a.json", b'[{"prompt": 1}, {"prompt" 1}]', "Row 2 of a.json is not JSON, Expecting ':'"),
        (
            "a.json",
            b'[{"prompt": 1} {"prompt": 1}]',
            "Row 1 of a.json is followed by neither , nor the end of the list",
        ),
        ("a.json", b'[{"prompt": 1}', "Row 1 of a.json is followed by neither"),
        ("a.json", b'[{"prompt": 1}, ]', "Row 2 of a.json is not JSON"),
        ("a.json", b'[{"prompt": 1}] more', "Row 1 of a.json is followed by neither"),
        ("a.json", b'[{"prompt": 1}]]', "Row 1 of a.json is followed by neither"),
        ("a.json", b"[ ]", "a.json must have a row or more"),
        ("a.json", b"", "a.json must have a row or more"),
        ("a.json", b'{"data": [\n1]}', "Row 1 of a.json is not JSON"),
        (
            "a.csv",
            b"prompt,answer\n\n1,2\n1,2,3\n",
            r"Line 4 of a.csv has 3 cells, and the header 2: \['1', '2', '3'\]",
        ),
        ("a.csv", b'prompt\n1\n"2\n3\n', "Line 3 of a.csv is not CSV, unexpected end of data"),
        ("a.csv", b"Prompt, answer\n1,2\n", "Line 2 of a.csv has no `prompt`; the nearest is `Prompt`"),
        ("a.csv", b"prompt,answer, prompt\n1,2,3\n", "a.csv must have a name of its own for each column: "),
        ("a.csv", b"prompt\n", "a.csv must have a row or more"),
        ("a.jsonl", b"\xef\xbb\xbf\r\n \n", "a.jsonl must have a row or more"),
        ("a.parquet", b"\xff", "a.parquet cannot be read: .*"),
        ("a.txt", b"1", "`file` must be a file, a list of files, or a folder .*of the kinds .'.txt'"),
    ],
)
def test_what_is_no_row_is_named(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{sentence}") as error:
        read_rows(path, "file", ["prompt"])
    assert "Received: file='" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / name).write_text("1")
    (tmp_path / "empty").mkdir()
    for files in (tmp_path, tmp_path / "empty", tmp_path / "none", [tmp_path / "a.jsonl", tmp_path / "b.csv"], []):
        with pytest.raises(ValueError, match="`key` must be a file, a list of files, or a folder .*Received: key="):
            read_rows(files, "key", ["prompt"])
    with pytest.raises(ValueError, match="none.csv cannot be read: .*No such file.*Received: key="):
        read_rows(tmp_path / "none.csv", "key", ["prompt"])
    with pytest.raises(ValueError, match="must be a path of this machine"):
        read_rows(["gs://bucket/a.csv"], "key", ["prompt"])
