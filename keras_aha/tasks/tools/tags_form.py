"""`TagsForm`: `<calculator>1 + 2</calculator>`, which every vocabulary can write."""

import json
import re

from keras_aha.tasks.tools.arguments import read_object
from keras_aha.tasks.tools.tool import Tool, ToolError
from keras_aha.tasks.tools.tool_form import ToolForm


class TagsForm(ToolForm):
    """A call is `<NAME>ARGUMENT</NAME>`: the text itself if the tool has one argument, a string that it needs; else a
    JSON object. `<result>…</result>` answers it.
    """

    def __init__(self, tools):
        super().__init__(tools)
        if taken := self.tools.keys() & {"answer", "result", "think"}:
            raise ValueError(f"In tags no tool may have the name of another tag. Received: name={taken.pop()!r}")
        self.turn_ends = tuple(f"</{name}>" for name in self.tools)
        self._mark = re.compile(f"</?(?:{'|'.join(self.tools)})>")

    @property
    def declarations(self):
        rule = "You may call tools. End with a call, and its answer follows inside <result> </result>."
        lines = (f"<{name}>{_usage(tool)}</{name}>: {tool.description}" for name, tool in self.tools.items())
        return "\n".join([rule, *lines])

    def find(self, text):
        return self._mark.search(text).start() if text.rstrip().endswith(self.turn_ends) else -1

    def read(self, call):
        name = call.rstrip().rpartition("</")[2][:-1]
        text, key = self.inside(call, f"<{name}>", f"</{name}>"), _text_argument(self.tools[name])
        if self._mark.search(text):
            raise ToolError("There may be one call a turn only.")
        return name, {key: text} if key else read_object(text)

    def write(self, name, arguments):
        key = _text_argument(self.tools[name])
        return f"<{name}>{arguments[key] if key else json.dumps(arguments, ensure_ascii=False)}</{name}>"

    def around(self, name):
        return "\n<result>", "</result>\n"


def _text_argument(tool: Tool) -> str | None:
    """The only argument of a tool, if that is a string that it needs."""
    ((key, schema), *others) = [*tool.parameters["properties"].items(), ("", {})]
    is_one = len(others) == 1 and schema["type"] == "string" and key in tool.parameters.get("required", ())
    return key if is_one else None


def _usage(tool: Tool) -> str:
    pairs, required = tool.parameters["properties"].items(), tool.parameters.get("required", ())
    words = ", ".join(f'"{key}": {x["type"]}{"" if key in required else " or left out"}' for key, x in pairs)
    return _text_argument(tool) or f"{{{words}}}"
