"""`ChatMLForm`: calls in JSON, as Qwen, SmolLM3 and Hermes write them."""

import json

from keras_aha.tasks.tools.arguments import read_object
from keras_aha.tasks.tools.tool import ToolError
from keras_aha.tasks.tools.tool_form import ToolForm

_RULE = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class ChatMLForm(ToolForm):
    """A call is a JSON object with a `name` and `arguments` inside `<tool_call>`, and ends the assistant's turn. A
    user's turn answers it, and the assistant's begins anew."""

    begin, end, stop, family = "<tool_call>", "</tool_call>", "<|im_end|>", "chatml"

    @property
    def declarations(self):
        functions = [
            {"name": x.name, "description": x.description, "parameters": {"type": "object"} | x.parameters}
            for x in self.tools.values()
        ]
        return _RULE.format("\n".join(json.dumps({"type": "function", "function": x}) for x in functions))

    def read(self, call):
        written = read_object(self.inside(call, self.begin, self.end))
        name, arguments = written.get("name"), written.get("arguments")
        if len(written) != 2 or not isinstance(name, str) or not isinstance(arguments, dict):
            raise ToolError("A call must have a name, which is a text, and arguments, which are a JSON object.")
        return name, arguments

    def write(self, name, arguments):
        call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        return f"{self.begin}\n{call}\n{self.end}"

    def around(self, name):
        return "\n<|im_start|>user\n<tool_response>\n", "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
