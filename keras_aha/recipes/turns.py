"""Completions in several turns: `[turns]` and `[[tools]]`."""

from dataclasses import MISSING, field

from keras_aha.recipes.rules import above_zero, at_least, one_of, rule, section
from keras_aha.tasks.tools.forms import TOOL_FORMS


@section
class Turns:
    """Limits of turns, see `TurnLimits`, and how tools are called.

    Attributes:
        max_turns: of a completion, if there are `[[tools]]`; an environment says itself how many it has.
        tool_form: how a call is written, see `ToolForm`.
        declare: whether the prompt says which tools there are, and how they are called.
    """

    max_turn_length: int | None = at_least(1, default=None)
    max_observation_length: int = at_least(1, default=256)
    response_seconds: float | None = above_zero(default=10.0)
    response_workers: int = at_least(0, default=0)
    max_turns: int = at_least(1, default=8)
    tool_form: str = one_of(*TOOL_FORMS)
    declare: bool = True


@section
class Tool:
    """A table `[[tools]]`: a tool that the policy may call in any task.

    Attributes:
        name: one of ours, such as `calculator`, or a function of your own as `module:function`. Every other key is one
            of its arguments.
    """

    name: str = rule("a name", bool, default=MISSING)
    arguments: dict = field(default_factory=dict)
