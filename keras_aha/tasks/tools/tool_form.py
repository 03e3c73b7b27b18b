"""`ToolForm`: how calls of tools are written and read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from keras_aha.tasks.chat import CHAT_FORMS
from keras_aha.tasks.tools.tool import Tool, ToolError

LONGEST_CALL = 4000  # characters


class ToolForm(ABC):
    """A way to write calls. What a policy writes is parsed strictly, and never evaluated.

    Args:
        tools: those that may be called.

    Attributes:
        begin, end: the marks around a call.
        stop: the stop token that a policy writes after a call; an empty text if the call itself ends the turn.
        turn_ends: see `Task.turn_ends`.
        family: the name of its chat form; another one may begin turns alike.
        joint: what stands between a system's words and declarations.
    """

    begin = end = stop = family = ""
    turn_ends: tuple[str, ...] = ()
    joint = "\n\n"

    def __init__(self, tools: Sequence[Tool]):
        self.tools = {tool.name: tool for tool in tools}

    @property
    @abstractmethod
    def declarations(self) -> str:
        """What a prompt says of the tools, and of how they are called."""

    @abstractmethod
    def read(self, call: str) -> tuple[str, dict]:
        """Returns the name and the arguments of a call; ToolError unless it is one call, and nothing else."""

    @abstractmethod
    def write(self, name: str, arguments: dict) -> str:
        """Returns a call, as a policy should write it."""

    @abstractmethod
    def around(self, name: str) -> tuple[str, str]:
        """Returns what stands before and after the answer of a tool."""

    def find(self, text: str) -> int:
        """Returns where in a turn its calls begin, readable or not; -1 if there are none."""
        return text.find(self.begin)

    def inside(self, call: str, begin: str, end: str) -> str:
        """Returns what stands between the marks; ToolError if these are not around a single call."""
        call = call.rstrip()
        if len(call) > LONGEST_CALL:
            raise ToolError(f"A call may have at most {LONGEST_CALL} characters.")
        if call.count(begin) > 1 or call.count(end) > 1:
            raise ToolError("There may be one call a turn only.")
        if not call.startswith(begin) or not call.endswith(end):
            raise ToolError(f"A call must begin with {begin} and end with {end}, and nothing may follow it.")
        return call[len(begin) : -len(end)]

    def declare(self, prompt: str) -> str:
        """Returns a prompt with the declarations: at the end of the system's turn, or in one of their own if the family
        has such turns; else at the beginning of the first user's turn, or of a prompt that is no conversation."""
        for chat in (CHAT_FORMS[name] for name in sorted(CHAT_FORMS, key=lambda name: name != self.family)):
            user, system = chat.before.format("user"), chat.system and chat.before.format(chat.system)
            if system and prompt.startswith(system):
                words, end, rest = prompt.partition(chat.end)
                return words + self.joint * (not words.endswith("\n")) + self.declarations + end + rest
            if system and prompt.startswith(user):
                return system + chat.preamble + self.declarations + chat.end + chat.after + prompt
            if prompt.startswith(user):
                return f"{user}{self.declarations}\n\n{prompt.removeprefix(user)}"
        return f"{self.declarations}\n\n{prompt}"
