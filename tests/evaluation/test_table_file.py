"""That tables come back stands in test_files.py."""

from keras_aha.evaluation.table_file import read_tables

import pytest


@pytest.mark.parametrize("content", ["", "[1, 2]\n", '{"text": "a"}\n', '{"text": 1, "greedy": true}\n', "{", "\xff"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "tables.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="The file holds no evaluated completions. Received: "):
        read_tables(tmp_path / "tables.jsonl")
