"""The forms in which tools may be called, by name, as the families' chat templates were published (`tasks/chat.py`)."""

from keras_aha.tasks.tools.chatml_form import ChatMLForm
from keras_aha.tasks.tools.marked_form import MarkedForm
from keras_aha.tasks.tools.tags_form import TagsForm

_DECLARATION = "<start_function_declaration>", "<end_function_declaration>"
_FUNCTION_GEMMA = "functiongemma", ("<start_function_call>", "<end_function_call>"), _DECLARATION, "<escape>", "\n"
_RULE = "You are a model that can do function calling with the following functions"
_GEMMA_4 = "gemma4", ("<|tool_call>", "<tool_call|>"), ("<|tool>", "<tool|>"), '<|"|>'
TOOL_FORMS = {
    "tags": TagsForm,
    "functiongemma": lambda tools: MarkedForm(tools, *_FUNCTION_GEMMA, _RULE),
    "gemma4": lambda tools: MarkedForm(tools, *_GEMMA_4),
    "chatml": ChatMLForm,
}
