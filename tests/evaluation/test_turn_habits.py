from keras_aha.evaluation.turn_habits import calls_without_end, imitated_observations
from keras_aha.tasks.turn import Observation, Turn

import pytest

CALL = Turn("so <search>Emma</search>\n", Observation("none", "\n<result>", "</result>\n", tool="search"))
BAD_CALL = Turn("<search></search>", Observation("no query", "\n<result>", "</result>\n", is_error=True))
HIGHER = Turn("<guess>7</guess>", Observation("higher", "\n"))


@pytest.mark.parametrize(
    "turns, truncated, endless",
    [
        ([CALL, BAD_CALL, Turn("<search>Emma</search>")], False, True),
        ([CALL, CALL, Turn("<answer>Austen</answer>")], False, False),
        ([CALL, CALL, Turn("no tag")], False, False),
        ([CALL, CALL, Turn("Let me")], True, True),
        ([CALL, Turn("<search>Emma</search>")], False, False),  # called once only
        ([CALL, Turn("Let me")], True, False),
        ([HIGHER, HIGHER, Turn("<guess>7</guess>")], False, False),  # a game has no calls
        ([Turn("9+1=10")], True, False),
    ],
)
def test_calls_without_end(turns, truncated, endless):
    assert calls_without_end(turns, truncated) == endless


def test_observations_that_the_policy_wrote():
    """Two of four hold the mark; that of the game is a line break, which anyone may write."""
    forged = [Turn("<result>Austen</result>")], [Turn("a"), Turn("b<result>")]
    assert imitated_observations([[CALL, Turn("<answer>result</answer>")], [HIGHER, Turn("\n")], *forged]) == 0.5
    assert imitated_observations([[HIGHER], *forged]) == 0
    chat = Turn("call", Observation("2", "<|im_start|>user\n<tool_response>\n"))
    assert imitated_observations([[chat], [Turn("<tool_response>")]]) == 0.5
