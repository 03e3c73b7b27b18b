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
        turn_ends: what ends a turn, beside the stop tokens; see `Task.turn_ends`.
        chat_form: the family of the form, whose turns another one's may look like.
        joint: what stands between a system's words and declarations.
    """

    begin = end = ""
    turn_ends: tuple[str, ...] = ()
    chat_form = ""
    joint = "\n\n"

    def __init__(self, tools: Sequence[Tool]):
        self.tools = {tool.name: tool for tool in tools}

    @property
    @abstractmethod
    def declarations(self) -> str:
        """What a prompt says of the tools, and of how they are called."""

    @abstractmethod
    def name(self, call: str) -> str:
        """Returns the name that seems to be called, of letters, digits and _; an empty text if there is none."""

    @abstractmethod
    def read(self, call: str, tool: Tool) -> dict:
        """Returns the arguments of a call of the tool; ToolError unless it is that, and nothing else."""

    @abstractmethod
    def write(self, name: str, arguments: dict) -> str:
        """Returns a call, as a policy should write it."""

    @abstractmethod
    def around(self, name: str) -> tuple[str, str]:
        """Returns what stands before and after the answer of a tool."""

    def find(self, text: str) -> int:
        """Returns where in a turn its calls begin, readable or not; -1 if there are none."""
        return text.find(self.begin)

    def inside(self, call: str, begin: str = "", end: str = "") -> str:
        """Returns what stands between the marks; ToolError if these are not around a single call."""
        call, begin, end = call.rstrip(), begin or self.begin, end or self.end
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
        for chat in (CHAT_FORMS[name] for name in sorted(CHAT_FORMS, key=lambda name: name != self.chat_form)):
            user, system = chat.before.format("user"), chat.system and chat.before.format(chat.system)
            if system and prompt.startswith(system):
                words, end, rest = prompt.partition(chat.end)
                return words + self.joint * (not words.endswith("\n")) + self.declarations + end + rest
            if system and prompt.startswith(user):
                return system + chat.preamble + self.declarations + chat.end + chat.after + prompt
            if prompt.startswith(user):
                return f"{user}{self.declarations}\n\n{prompt.removeprefix(user)}"
        return f"{self.declarations}\n\n{prompt}"
