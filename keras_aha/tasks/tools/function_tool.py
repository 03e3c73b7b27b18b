"""`FunctionTool`: a Python function of the user's own as a tool."""

import inspect
import typing
from collections.abc import Callable
from typing import Any, Literal

from keras_aha.tasks.tools.tool import Tool

_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


class FunctionTool(Tool):
    """A function, under its own name, and what its docstring says before the first empty line.

    Args:
        function: each of its arguments has an annotation: `str`, `int`, `float`, `bool`, or a `Literal` of texts. One
            with a default may be left out. One that is called `problem` gets the problem. It returns a text or a
            number, and raises `ToolError` to say what was wrong.

    Raises:
        ValueError: if the function lacks a docstring, or an annotation of that kind.
    """

    def __init__(self, function: Callable[..., str | float]):
        self.function = function
        self.name = function.__name__
        self.description = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
        hints, arguments = typing.get_type_hints(function), dict(inspect.signature(function).parameters)
        self._takes_problem = arguments.pop("problem", None) is not None
        properties = {name: _schema(hints.get(name)) for name in arguments}
        required = [name for name, argument in arguments.items() if argument.default is argument.empty]
        self.parameters = {"properties": properties, "required": required}
        starred = any("*" in str(argument) for argument in arguments.values())
        if not self.description or starred or not all(properties.values()):
            raise ValueError(
                "A function that is a tool needs a docstring, and for each argument an annotation str, int, float, "
                f"bool or Literal of texts. Received: {self.name}{inspect.signature(function)}"
            )

    def call(self, problem: Any, **arguments) -> str:
        answer = self.function(**arguments, **({"problem": problem} if self._takes_problem else {}))
        if not isinstance(answer, str | int | float):
            raise TypeError(f"The tool {self.name} must return a text or a number. Received: {type(answer).__name__}")
        return str(answer)


def _schema(hint) -> dict:
    """The schema of what is annotated so; empty if there is none."""
    if typing.get_origin(hint) is Literal and all(isinstance(word, str) for word in typing.get_args(hint)):
        return {"type": "string", "enum": list(typing.get_args(hint))}
    return {"type": _KINDS[hint]} if hint in _KINDS else {}
