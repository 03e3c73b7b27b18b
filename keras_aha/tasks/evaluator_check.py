"""Whether a method, or what it calls in its own package, hands text to Python's evaluator."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import FunctionType

_EVALUATORS = {"eval", "exec", "compile", "parse_expr", "sympify", "literal_eval"}  # two of them SymPy's


def evaluated_by(kind: type, method: str) -> str | None:
    """Returns the name of the first evaluator that `kind.method` may come to, or `None`.

    Calls are followed by their names, into methods of the class and functions of its package. What a name refers to
    only when the program runs is not seen.

    Args:
        kind: a class.
        method: the name of one of its methods.
    """
    package = kind.__module__.partition(".")[0]
    waiting, seen = [_function(inspect.getattr_static(kind, method))], set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        for name in _called(function):
            called = _function(inspect.getattr_static(kind, name, function.__globals__.get(name)))
            if called is not None and called.__module__.partition(".")[0] == package:
                waiting.append(called)
            elif name in _EVALUATORS:
                return name
    return None


def _function(value) -> FunctionType | None:
    """What a function, or a method as a class holds it, is made of."""
    value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    return value if isinstance(value, FunctionType) else None


def _called(function: FunctionType) -> set[str]:
    """The names that are called in a function, whatever stands before a dot."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    return names | {call.attr for call in calls if isinstance(call, ast.Attribute)}
