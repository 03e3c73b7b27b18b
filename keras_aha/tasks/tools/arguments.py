"""Arguments of a call: read from JSON, and checked against the schema of the tool."""

import json

from keras_aha.names import suggestion
from keras_aha.tasks.tools.tool import TYPES, Tool, ToolError


def read_object(text: str) -> dict:
    """The JSON object that a text is, in which nothing may stand twice; ToolError if it is none."""
    try:
        value = json.loads(text, object_pairs_hook=each_once)
    except RecursionError:
        raise ToolError("The JSON is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise ToolError(f"The JSON cannot be read at character {error.pos + 1}: {error.msg}.") from None
    if not isinstance(value, dict):
        raise ToolError("It must be a JSON object.")
    return value


def each_once(pairs: list[tuple]) -> dict:
    """A dictionary of pairs; ToolError if a key is given twice."""
    if len(unique := dict(pairs)) < len(pairs):
        raise ToolError("An argument may be given once only.")
    return unique


def check_arguments(tool: Tool, arguments: dict) -> None:
    """Raises ToolError unless these are arguments of the tool; one sentence says what is wrong."""
    properties = tool.parameters["properties"]
    for key, value in arguments.items():
        argument = f"The argument {key[:64]} of {tool.name}"
        if key not in properties:
            near = suggestion(key[:64], properties)
            raise ToolError(f"{argument} does not exist{near}. There is {', '.join(properties) or 'none'}.")
        kind, known = properties[key]["type"], properties[key].get("enum", [value])
        # Python's True is an integer, JSON's is not.
        if not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind == "boolean"):
            raise ToolError(f"{argument} must be of the type {kind}.")
        if isinstance(value, int | float) and not abs(value) < 2**63:  # infinite, or no number, in Python's JSON
            raise ToolError(f"{argument} must be a number of 64 bits.")
        if value not in known:
            raise ToolError(f"{argument} must be one of {', '.join(map(str, known))}.")
    for key in tool.parameters.get("required", ()):
        if key not in arguments:
            raise ToolError(f"The argument {key} of {tool.name} is missing.")
