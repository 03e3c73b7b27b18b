"""Findings about completions in turns: calls without end, no calls, and observations that the policy wrote."""

import dataclasses

from keras_aha.callbacks.doctor_history import WINDOW, rising
from keras_aha.callbacks.finding import Finding, lasting


def endless_calls(history: list[dict]) -> Finding | None:
    """In 10 epochs more than half of the completions call on until turns or tokens end, and accuracy does not rise.

    See `evaluation.turn_habits.calls_without_end`. It takes as many epochs as a rise of the accuracy needs to be seen.
    """
    return _unless_rising("endless_calls", _endless, history)


@lasting(
    "{endless_calls:.0%} of the completions called tools until turns or tokens ran out, after {turns:.1f} turns.",
    "They come to no answer, and accuracy does not rise.",
    "Let a call cost something, by a reward of your own; say in the prompt how many calls are enough; prime on worked "
    "turns that end in an answer (scripts/prime.py); if completions need the room, raise "
    "rollouts.max_completion_length or turns.max_turns.",
    epochs=WINDOW,
)
def _endless(e):
    return e["endless_calls"] > 0.5


def no_calls(history: list[dict]) -> Finding | None:
    """In 5 epochs fewer than one completion in 100 is answered, many are wrong, and accuracy does not rise.

    It is said of tasks that answer, by tools or as environments: others have no turns.
    """
    return _unless_rising("no_calls", _unanswered, history)


@lasting(
    "completions had {turns:.2f} turns on average: hardly one was answered, and {accuracy:.0%} were right.",
    "The task answers calls or moves, and the policy makes none, so it cannot learn what they are good for.",
    "Prime it on worked turns (scripts/prime.py); say in the prompt how a call is written (turns.declare), in the form "
    "that this family knows (turns.tool_form); look in completions.jsonl for calls in another form.",
    epochs=5,
)
def _unanswered(e):
    return e["turns"] < 1.01 and e["accuracy"] < 0.9


@lasting(
    "{imitated_observations:.0%} of the completions wrote the beginning of an observation themselves.",
    "They make up what they should ask for, and are trained on what they made up.",
    'End completions at that mark, such as "<result>" (rollouts.stop_strings); let a reward of your own charge for it; '
    "prime longer on worked turns (scripts/prime.py), whose observations are read and not learned.",
)
def imitated_observations(e):
    """One completion in ten has an observation's mark in its own words; healthy: none.

    See `evaluation.turn_habits.imitated_observations`.
    """
    return e["imitated_observations"] > 0.1


def _unless_rising(name, ill, history) -> Finding | None:
    finding = ill(history)
    return None if finding is None or rising(history[-2 * WINDOW :]) else dataclasses.replace(finding, name=name)
