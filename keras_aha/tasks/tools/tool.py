"""`Tool`: what a policy may call."""

from abc import ABC, abstractmethod
from typing import Any

TYPES = {"string": str, "integer": int, "number": int | float, "boolean": bool}  # of a schema


class ToolError(ValueError):
    """What was wrong with a call, in words that the policy reads."""


class Tool(ABC):
    """A named function with a schema of its arguments.

    Attributes:
        name: as a call writes it: letters, digits and _.
        description: what it does, in a sentence.
        parameters: a JSON schema of its arguments, an object with `properties` and `required`; types are string,
            integer, number and boolean. Arguments are checked against it before `call` sees them.
    """

    name: str
    description: str
    parameters: dict

    @abstractmethod
    def call(self, problem: Any, **arguments) -> str:
        """Returns the answer, a text.

        Args:
            problem: the one that the policy works on.
            **arguments: as `parameters` declares them.

        Raises:
            ToolError: if the policy must call otherwise: it reads why. Any other error costs the completion its reward.
        """

    def check(self, problem: Any) -> None:
        """Raises ValueError if the schema cannot be checked, or the tool cannot work on a task's first problem."""
        properties = self.parameters["properties"]
        are_names = all(name.isascii() and name.isidentifier() for name in (self.name, *properties))
        if not are_names or not all(schema.get("type") in TYPES for schema in properties.values()):
            raise ValueError(
                "A tool and its arguments need names of letters, digits and _, and these a type of "
                f"{', '.join(TYPES)}. Received: name={self.name!r}, parameters={self.parameters}"
            )
