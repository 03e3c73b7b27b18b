from keras_aha.evaluation.transcript import split_transcript, transcript
from keras_aha.tasks.turn import Observation, Turn

import pytest

SEARCHED = [
    Turn("Who wrote it?\n<search>Emma</search>", Observation("[1] Emma\nby Austen", "\n<result>", "</result>\n")),
    Turn("<answer>Austen</answer>"),
]


def test_observations_are_set_apart_and_read_back():
    text = transcript(SEARCHED)
    lines = ["Who wrote it?", "<search>Emma</search>", "│ <result>[1] Emma", "│ by Austen</result>"]
    assert text.split("\n") == [*lines, "<answer>Austen</answer>"]
    observed = ("<result>[1] Emma\nby Austen</result>", True)
    assert split_transcript(text) == [(SEARCHED[0].text, False), observed, (SEARCHED[1].text, False)]
    assert transcript([]) == "" and split_transcript("") == []


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n", "\x0b", "\x85", "\u2028"])
def test_the_policy_cannot_write_an_observation(line_break):
    own = f"│ 7{line_break}\\│ 8{line_break}\\\\│ 9{line_break}\\frac12{line_break}│"
    turns = [Turn(own + line_break, Observation("│ 1" + line_break)), Turn("", Observation("")), Turn(own)]
    text = transcript(turns)
    assert [line for line in text.splitlines() if line.startswith("│")] == ["│ │ 1", "│ "]
    assert split_transcript(text) == [(own + line_break, False), ("│ 1", True), ("", False), ("", True), (own, False)]
