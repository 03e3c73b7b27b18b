from keras_aha.evaluation.table_file import read_tables, write_tables
from keras_aha.evaluation.tables import with_behaviours

import pandas as pd
import pytest


def make_table(texts):
    return with_behaviours(pd.DataFrame({"puzzle": range(len(texts)), "text": texts, "correct": True, "reward": 0.1}))


def test_tables_come_back(tmp_path):
    tables = make_table(["1+1=2 no\n2+2=4", "\x00 </pre>"]), make_table(["3*3=10 yes"])
    write_tables(tmp_path / "tables.jsonl", *tables)
    for table, back in zip(tables, read_tables(tmp_path / "tables.jsonl"), strict=True):
        pd.testing.assert_frame_equal(back.reset_index(drop=True), table)


@pytest.mark.parametrize("content", ["", "[1, 2]\n", '{"text": "a"}\n', '{"text": 1, "greedy": true}\n', "{", "\xff"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "tables.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="The file holds no evaluated completions. Received: "):
        read_tables(tmp_path / "tables.jsonl")
