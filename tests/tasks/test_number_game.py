import math
import random
import re

from keras_aha.tasks import NumberGame, NumberGameProblem, Turn
from keras_aha.tasks.chat import CHAT_FORMS, write_chat
from keras_aha.tasks.number_game import TEMPLATES

import pytest
from hypothesis import given
from hypothesis import strategies as st

PROBLEM = NumberGameProblem(12, 75, 50)
GAME = NumberGame(max_number=100, max_turns=4, turn_cost=0.1, template="compact")


def play(task, texts):
    """All that the policy wrote and read, as a rollout plays it."""
    turns, transcript = [], ""
    for text in texts:
        turns.append(Turn(text))
        observation = task.respond(PROBLEM, turns) if len(turns) < task.max_turns else None
        turns[-1] = Turn(text, observation)
        transcript += text + (observation.written if observation else "")
        if observation is None:
            break
    return turns, transcript


GAMES = [  # by hand: what is guessed, what is read, the reward, the verdict
    (["50"], "50", 1.0, "found"),
    (["43", "59", "50"], "43>\n59<\n50", 0.8, "found"),
    (["43", "43", "12", "75"], "43>\n43>\n12>\n75", 0.0, "not_found"),
    (["49", "51", "11", "50"], "49>\n51<\n11?\n50", 0.7, "found"),  # 11 is not in the range
    (["76", "fifty", "5 0", ""], "76?\nfifty?\n5 0?\n", 0.0, "no_answer"),
]


@pytest.mark.parametrize("guesses, read, reward, verdict", GAMES)
def test_games(guesses, read, reward, verdict):
    turns, transcript = play(GAME, [f"{guess}\n" for guess in guesses])
    assert transcript.replace("\n>", ">").replace("\n<", "<").replace("\n?", "?").strip("\n") == read.strip("\n")
    score = GAME.score_turns(PROBLEM, turns)
    assert score.reward == pytest.approx(reward) and (score.correct, score.verdict) == (verdict == "found", verdict)
    assert [turn.observation.is_error for turn in turns[:-1]] == [
        "?" in part for part in read.split("\n")[: len(turns) - 1]
    ]
    assert GAME.score(PROBLEM, "\n\n".join(guesses)).verdict == verdict


HOSTILE = [
    "50 12",
    "12\n50\n51",
    "-50",
    "5\u0660",
    "\u0665\u0660",
    "50.0",
    "9" * 10**6,
    "50;",
    "1e9",
    "5_0",
    "\x00",
    "\n" * 9,
]


def test_hostile_turns():
    """They find nothing, cost a turn each, and are answered with an error; an unended turn is read like others."""
    for text in HOSTILE:
        assert GAME.score_turns(PROBLEM, [Turn(text)]).reward == 0
        assert GAME.respond(PROBLEM, [Turn(text)]).is_error or text.endswith("51")
    assert GAME.score_turns(PROBLEM, [Turn("12 > 40\n 0050 ")]).reward == 1
    assert GAME.score_turns(PROBLEM, [Turn("1")] * 4 + [Turn("50")]).verdict == "no_answer"  # one turn too late


@given(st.text(alphabet="0123456789 \n>?-x\u0665", max_size=12))
def test_only_the_number_is_found(text):
    lines = re.sub(r"\s+\Z", "", text).split("\n")
    assert GAME.score_turns(PROBLEM, [Turn(text)]).correct == (re.fullmatch(r"\s*0{0,5}50\s*", lines[-1]) is not None)


def test_halving_finds_each_number_in_log2_of_the_range():
    task = NumberGame()
    for i in range(300):
        problem = task.problem(i)
        width = problem.high - problem.low + 1
        assert 1 <= problem.low <= problem.number <= problem.high <= 64 and width >= 32
        turns = task.worked_turns(problem, random.Random(i))
        assert len(turns) <= math.floor(math.log2(width)) + 1
        assert task.score_turns(problem, turns).reward == pytest.approx(1 - 0.05 * (len(turns) - 1))


def test_bad_habits():
    """Guesses that heed nothing are within the range and mostly lose; guesses anywhere in what is left mostly find."""
    task = NumberGame(template="compact")
    found = {}
    for habits in ((1.0, 1.0), (0.0, 0.0)):
        games = []
        for i in range(300):
            problem = task.problem(i)
            turns = task.worked_turns(problem, random.Random(i), guess_rate=habits[0], middle_rate=habits[1])
            assert (
                len(turns) <= 10
                and (turns[-1].observation is None)
                and not any(t.observation.is_error for t in turns[:-1])
            )
            games.append(task.score_turns(problem, turns).correct)
        found[habits] = sum(games) / 300
    assert 0.13 < found[1.0, 1.0] < 0.29  # 1 - (1 - 1/w)**10 is 0.15 to 0.27 for 64 to 32 numbers
    assert found[0.0, 0.0] > 0.93


def test_ranges_are_held_out():
    task = NumberGame()
    held_out = task.held_out(256)
    ranges = {(held_out.problem(i).low, held_out.problem(i).high) for i in range(256)}
    trained = {(problem.low, problem.high) for problem in map(task.problem, range(2000))}
    assert len(ranges) > 80 and not ranges & trained and len({held_out.problem(i) for i in range(256)}) == 256


def test_a_chat_is_the_familys():
    """Prompt, guesses and answers of a game are what the family writes of the same conversation."""
    for form in CHAT_FORMS:
        task = NumberGame(template=form)
        assert task.turn_ends == ()
        turns, _ = play(task, ["40", "50"])
        chat = [("user", TEMPLATES["plain"].removesuffix("\nGuess: ").format(low=12, high=75)), ("assistant", "40")]
        written = "".join(
            p.text for p in write_chat([dict(role=r, content=c) for r, c in [*chat, ("user", "Higher.")]], form)
        )
        end = CHAT_FORMS[form].end  # the token that ended the policy's turn
        assert task.prompt(PROBLEM) + turns[0].text + end + turns[0].observation.written == written
    assert play(NumberGame(), ["40\n", "50\n"])[1] == "40\nHigher.\nGuess: 50\n"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"max_number": 7}, "`max_number` must be an integer from 8 to a million. Received: max_number=7"),
        ({"max_turns": 0}, "Received: max_turns=0"),
        ({"turn_cost": 0.2}, "as no reward may be below 0. Received: turn_cost=0.2, max_turns=10"),
        ({"turn_cost": math.nan}, "Received: turn_cost=nan"),
        ({"template": "{low}"}, r"fields \{low\} and \{high\} and no others. Received: template='\{low\}'"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        NumberGame(**arguments)
