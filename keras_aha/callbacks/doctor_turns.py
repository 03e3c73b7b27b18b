"""Findings about completions in turns: calls without end, no calls, and observations that the policy wrote."""

from keras_aha.callbacks.doctor_history import WINDOW, rising
from keras_aha.callbacks.finding import lasting


@lasting(
    "{endless_calls:.0%} of the completions called tools until turns or tokens ran out, after {turns:.1f} turns.",
    "They come to no answer, and accuracy does not rise.",
    "Let a call cost something, by a reward of your own; say in the prompt how many calls are enough; prime on worked "
    "turns that end in an answer (scripts/prime.py); if completions need the room, raise "
    "rollouts.max_completion_length or turns.max_turns.",
    epochs=WINDOW,  # which a rise of the accuracy needs to be seen
    unless=rising,
)
def endless_calls(e):
    """In 10 epochs more than half of the completions call without end, see `turn_habits`; accuracy does not rise."""
    return e["endless_calls"] > 0.5


@lasting(
    "completions had {turns:.2f} turns on average: hardly one was answered, and {accuracy:.0%} were right.",
    "The task answers calls or moves, and the policy makes none, so it cannot learn what they are good for.",
    "Prime it on worked turns (scripts/prime.py); say in the prompt how a call is written (turns.declare), in the form "
    "that this family knows (turns.tool_form); look in completions.jsonl for calls in another form.",
    epochs=WINDOW,
    unless=rising,
)
def no_calls(e):
    """In 10 epochs, of a task that answers, fewer than 1 completion in 100 is answered; accuracy does not rise."""
    return e["turns"] < 1.01 and e["accuracy"] < 0.9


@lasting(
    "{imitated_observations:.0%} of the completions wrote the beginning of an observation themselves.",
    "They make up what they should ask for, and are trained on what they made up.",
    'End completions at that mark, such as "<result>" (rollouts.stop_strings); let a reward of your own charge for it; '
    "prime longer on worked turns (scripts/prime.py), whose observations are read and not learned.",
)
def imitated_observations(e):
    """One completion in ten has an observation's mark in its own words, see `turn_habits`; healthy: none."""
    return e["imitated_observations"] > 0.1
