"""`MarkedForm`: the forms of FunctionGemma and of Gemma 4, whose marks are tokens of theirs."""

import json
import re

from keras_aha.tasks.chat import CHAT_FORMS
from keras_aha.tasks.tools.arguments import each_once, read_object
from keras_aha.tasks.tools.tool import ToolError
from keras_aha.tasks.tools.tool_form import ToolForm


class MarkedForm(ToolForm):
    """A call is `call:NAME{key:<escape>text<escape>,other:3}` between marks. The model then writes the mark that begins
    an answer, which is a stop token.

    Args:
        tools: those that may be called.
        family: the name of its chat form, which has the marks around an answer.
        call, declaration: the marks around a call, and around a declaration.
        quote: the mark before and after a text.
        joint, rule: what stands before the declarations, after the system's words and always.
    """

    def __init__(self, tools, family, call, declaration, quote, joint="", rule=""):
        super().__init__(tools)
        (self.begin, self.end), (self.stop, self._after) = call, CHAT_FORMS[family].tool_marks
        self.family, self.joint, self._declaration, self._quote, self._rule = family, joint, declaration, quote, rule
        text = f"{re.escape(quote)}((?:(?!{re.escape(quote)}).)*){re.escape(quote)}"
        self._pair = re.compile(rf"(\w{{1,64}}):(?:{text}|([-+.\w]+))(?:,(?=\w)|\Z)", re.ASCII | re.DOTALL)

    @property
    def declarations(self):
        begin, end = self._declaration
        return self._rule + "".join(f"{begin}declaration:{self._declared(x)}{end}" for x in self.tools.values())

    def _declared(self, tool) -> str:
        schema = tool.parameters | {"type": "OBJECT"}
        schema["properties"] = {key: x | {"type": x["type"].upper()} for key, x in schema["properties"].items()}
        return tool.name + self._written({"description": tool.description, "parameters": schema})

    def _written(self, value) -> str:
        if isinstance(value, dict):
            pairs = (f"{key}:{self._written(x)}" for key, x in sorted(value.items()) if x not in ({}, []))
            return f"{{{','.join(pairs)}}}"
        if isinstance(value, list | tuple):
            return f"[{','.join(map(self._written, value))}]"
        return f"{self._quote}{value}{self._quote}" if isinstance(value, str) else json.dumps(value)

    def read(self, call):
        inside = self.inside(call, self.begin, self.end)
        if not (head := re.match(r"call:(\w{1,64})\{", inside, re.ASCII)) or not inside.endswith("}"):
            raise ToolError("A call must be written as call:NAME{NAME OF AN ARGUMENT:VALUE}.")
        pairs, place, end = [], head.end(), len(inside) - 1
        while place < end:
            if not (pair := self._pair.match(inside, place, end)):
                raise ToolError(f"The arguments cannot be read from {inside[place:end][:20]!r} on.")
            key, text, value = pair.groups()
            pairs.append((key, text if value is None else read_object(f'{{"x":{value}}}')["x"]))
            place = pair.end()
        return head[1], each_once(pairs)

    def write(self, name, arguments):
        return f"{self.begin}call:{name}{self._written(arguments)}{self.end}"

    def around(self, name):
        return f"response:{name}{{value:{self._quote}", f"{self._quote}}}{self._after}"
