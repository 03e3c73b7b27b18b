"""The fuzzer's own reading of inputs, and that it tells what it finds."""

import sys
from pathlib import Path

from keras_aha.tasks import Score

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import fuzz_verifier

FIRST = fuzz_verifier.PUZZLES[0]  # 1, 2, 3 and 9


@pytest.fixture
def reading(tmp_path):
    return fuzz_verifier.Reading(tmp_path)


def test_inputs_of_all_kinds_are_read(reading):
    for data in (b"", b"\x00", b"\x07\x00\xff\xfe", bytes([0, 1, 0, 255, 255]), bytes(range(256)) * 9):
        reading.of_bytes(data)
    reading.of_bytes(fuzz_verifier.as_bytes(0, "<answer>(1+2)*3</answer>\ud800"))
    assert reading.executions == 6 and not reading.findings
    assert reading.verdicts["correct", 0.9] == 1


def test_a_byte_is_a_piece(reading):
    texts = []
    reading.of_text = lambda problem, text: texts.append(text)
    opening, closing = (6 + reading.pieces.index(tag) - 1 for tag in ("<answer>", "</answer>"))
    reading.of_bytes(bytes([0, 1, opening, 0, closing, 240]))
    assert texts == [f"<answer>{reading.problems[0].solution}</answer></answer></answer>"]


def test_findings_are_told_and_kept(reading, tmp_path, capsys):
    def broken(problem, completion):
        if "\x00" in completion:
            raise ZeroDivisionError
        return Score(1.0, True, "correct")

    reading.task.score = broken
    texts = ["<answer>1+2+3</answer>", "\x00", "<answer>(1+2)*3</answer>"]
    for text in texts:
        reading.of_text(reading.problems[0], text)
    assert reading.findings == {"disagreement-correct-wrong_value": 1, "accepted": 1, "crash-ZeroDivisionError": 1}
    reading.report("broken")
    assert "'accepted': 1" in capsys.readouterr().out
    kept = sorted(path.read_bytes() for path in tmp_path.glob("finding-*"))
    assert kept == sorted(fuzz_verifier.as_bytes(0, text) for text in (texts[0], texts[0], texts[1]))


def test_a_random_run(tmp_path, monkeypatch, capsys):
    arguments = ["--engine", "random", "--minutes", "0.01", "--corpus", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["fuzz_verifier.py", *arguments])
    fuzz_verifier.main()
    assert capsys.readouterr().out.endswith("findings: none\n")
