"""`WithTools`: a task whose policy may call tools before it answers."""

import random
from collections.abc import Sequence
from typing import Any

from keras_aha.names import suggestion
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.task_view import TaskView
from keras_aha.tasks.tools.arguments import check_arguments
from keras_aha.tasks.tools.forms import TOOL_FORMS
from keras_aha.tasks.tools.tool import Tool, ToolError
from keras_aha.tasks.turn import Observation, Turn


class WithTools(TaskView):
    """The problems of a task, with tools: a turn that ends with a call is answered, and any other one ends the
    completion, or is the task's to answer if it is an environment itself.

    The task scores the policy's words without the calls, so that nothing in a call is taken for an answer.

    Args:
        task: any task.
        tools: those that may be called, each with another name.
        form: how a call is written, a name in `TOOL_FORMS`.
        max_turns: of a completion, those that an environment answers aside.
        declare: whether the prompt says which tools there are, and how they are called.

    Raises:
        ValueError: if an argument is out of range, or a tool does not fit the task.
    """

    def __init__(
        self, task: Task, tools: Sequence[Tool], *, form: str = "tags", max_turns: int = 8, declare: bool = True
    ):
        super().__init__(task)
        names = [tool.name for tool in tools]
        if not names or len(set(names)) < len(names) or form not in TOOL_FORMS or max_turns < 1:
            raise ValueError(
                f"`tools` must be one or more of different names, `form` one of {', '.join(TOOL_FORMS)}, and "
                f"`max_turns` at least 1. Received: the tools {', '.join(names)}, form={form!r}, max_turns={max_turns}"
            )
        for tool in tools:
            tool.check(task.problem(0))
        self.form = TOOL_FORMS[form](tools)
        self.tools = self.form.tools
        self._max_turns, self._declare = max_turns, declare

    def problem(self, index: int) -> Any:
        return self.task.problem(index)

    def problem_count(self) -> int | None:
        return self.task.problem_count()

    def held_out(self, n: int) -> HeldOut:
        problems = self.task.held_out(n)
        return HeldOut(self, [problems.problem(i) for i in range(n)])

    def prompt(self, problem: Any) -> str:
        prompt = self.task.prompt(problem)
        return self.form.declare(prompt) if self._declare else prompt

    @property
    def max_turns(self) -> int:
        return self._max_turns + self.task.max_turns - 1

    @property
    def turn_ends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.form.turn_ends, *self.task.turn_ends)))

    def respond(self, problem: Any, turns: Sequence[Turn]) -> Observation | None:
        """Returns what the call at the end of the last turn is answered, or what is wrong with it."""
        text = turns[-1].text
        start = self.form.find(text)
        if start < 0:
            own = self._own_turns(turns)
            return self.task.respond(problem, own) if len(own) < self.task.max_turns else None
        name, is_error = "", False
        try:
            name, arguments = self.form.read(text[start:])
            answer = self._answer(problem, name, arguments)
        except ToolError as error:
            answer, is_error = str(error), True
        before, after = self.form.around(name or "error")
        return Observation(answer, before, after, tool=name if name in self.tools else "", is_error=is_error)

    def _answer(self, problem: Any, name: str, arguments: dict) -> str:
        if name not in self.tools:
            near = suggestion(name[:64], self.tools)
            raise ToolError(f"No tool is called {name[:64]}{near}. There is {', '.join(self.tools)}.")
        check_arguments(self.tools[name], arguments)
        answer = self.tools[name].call(problem, **arguments)
        if not isinstance(answer, str):
            raise TypeError(f"The tool {name} must return a text. Received: {type(answer).__name__}")
        return answer

    def score_turns(self, problem: Any, turns: Sequence[Turn]) -> Score:
        return self.task.score_turns(problem, self._own_turns(turns))

    def worked_turns(self, problem: Any, rng: random.Random, *, calls: float = 0.0, **habits) -> list[Turn]:
        """Returns turns to imitate: with the probability `calls` those of `Task.worked_calls`, else the task's."""
        if calls:  # they are made before it is known whether they are wanted, so that a task without them fails at once
            turns = self._worked_calls(problem, rng, habits)
            if rng.random() < calls:
                return turns
        return self.task.worked_turns(problem, rng, **habits)

    def _worked_calls(self, problem, rng, habits) -> list[Turn]:
        turns = []

        def call(words, name, **arguments):
            if name not in self.tools:
                raise ValueError(
                    f"The habit `calls` needs the tool {name}. Received: the tools {', '.join(self.tools)}"
                )
            turns.append(Turn(words + self.form.write(name, arguments)))
            turns[-1] = turns[-1]._replace(observation=self.respond(problem, turns))
            return turns[-1].observation.text

        last = self.task.worked_calls(problem, rng, call, **habits)
        return [*(turn._replace(text=turn.text + self.form.stop) for turn in turns), Turn(last)]

    def _own_turns(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns that are the task's: without calls, whose words begin the next one."""
        own, words = [], ""
        for turn in turns:
            if (start := self.form.find(turn.text)) < 0:
                own.append(Turn(words + turn.text, turn.observation))
            words = "" if start < 0 else f"{words}{turn.text[:start]}\n"
        return [*own, Turn(words)] if words else own
