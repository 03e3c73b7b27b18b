"""Files of rows as they come: with a byte-order mark, other line ends, U+2028 in a question, in Parquet.

github.com/microsoft/promptflow/pull/4188, github.com/datalad/datalad/pull/3523
"""

import json

from keras_aha.tasks import Rows

import pandas as pd

QUESTION, ANSWER = "Ann has {} bags\u2028of {} nuts.\x85How many?", "A product:\r\n{0}*{1}={2}\n#### {2}"
ROWS = [dict(question=QUESTION.format(n, n + 1), answer=ANSWER.format(n, n + 1, n * (n + 1))) for n in range(2, 60)]

COLUMNS = dict(prompt="question", answer_in="####", checker="number")


def check(folder):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (folder / "plain.jsonl").write_text(text, encoding="utf-8")
    (folder / "mark.jsonl").write_text(text, encoding="utf-8-sig")
    (folder / "windows.jsonl").write_bytes(text.replace("\n", "\r\n").encode())
    pd.DataFrame(ROWS).to_parquet(folder / "train-00000-of-00001.parquet")
    problems = {path.name: [Rows(path, **COLUMNS).problem(i) for i in range(99)] for path in sorted(folder.iterdir())}
    assert all(read == problems["plain.jsonl"] for read in problems.values())
    (folder / "utf16.jsonl").write_text(text, encoding="utf-16")
    try:
        Rows(folder / "utf16.jsonl", **COLUMNS)
    except ValueError as error:
        return f"{', '.join(problems)} read alike; UTF-16: {error}".partition(" Received")[0]
    raise AssertionError("UTF-16 passed for UTF-8")
