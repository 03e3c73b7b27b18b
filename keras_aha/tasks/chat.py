"""Chat forms: messages as the text with which each family of models was taught to converse.

The published chat templates say what is written; tests compare with strings that those give:
Gemma 1 to 3: ai.google.dev/gemma/docs/core/prompt-structure, google/gemma-3-1b-it on Hugging Face
FunctionGemma: ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices
Gemma 4: ai.google.dev/gemma/docs/core/prompt-formatting-gemma4, google/gemma-4-E2B-it
Qwen3: Qwen/Qwen3-0.6B. Llama 3: meta-llama/Meta-Llama-3-8B-Instruct; 3.1 to 3.3: Llama-3.2-1B-Instruct
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROLES = ("system", "user", "assistant", "tool")
MARK = re.compile(r'<\|(?:\w+|")\|?>|<\w+\|>|<(?:start|end)_(?:of|function)_\w+>|<[be]os>')  # a token of some family
BEGIN_TOKENS = ("<bos>", "<|begin_of_text|>")  # tokenizers add them


class ChatForm(NamedTuple):
    """How a family writes a conversation.

    Attributes:
        before: what begins a turn, with the role's name in it.
        end: what ends a turn.
        after: what stands between turns.
        assistant: the assistant's name.
        system: the system's name; `None` is a family without a system turn, which reads those words at the beginning
            of the first user's turn.
        preamble: what begins the system turn, which is then always there.
        alternates: whether the family takes nothing but a user and an assistant in turn.
        strips: whether a content loses the blanks around it.
        thoughts: matches what the assistant's turns lose when the user has written again: what it thought.
        no_thought: what stands before the last answer if it has no thought.
        think_mark: switches thinking on, at the beginning of the system turn.
        tool_marks: what stands around the answer of a tool, inside the assistant's turn.
    """

    before: str
    end: str
    after: str = "\n"
    assistant: str = "assistant"
    system: str | None = "system"
    preamble: str = ""
    alternates: bool = False
    strips: bool = True
    thoughts: str | None = None
    no_thought: str = ""
    think_mark: str = ""
    tool_marks: tuple[str, str] | None = None

    @property
    def marks(self) -> list[str]:
        """The tokens that the form itself writes, which no content may have."""
        return MARK.findall(" ".join([self.before, self.end, *(self.tool_marks or ())]))


_GEMMA = ChatForm("<start_of_turn>{}\n", "<end_of_turn>", assistant="model", system=None, alternates=True)
_CHATML = ChatForm("<|im_start|>{}\n", "<|im_end|>", strips=False)
_LLAMA_3 = ChatForm("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", after="")
CHAT_FORMS = {
    "gemma": _GEMMA,  # Gemma 1 to 3
    "functiongemma": _GEMMA._replace(
        system="developer", alternates=False, tool_marks=("<start_function_response>", "<end_function_response>")
    ),
    "gemma4": ChatForm(
        "<|turn>{}\n",
        "<turn|>",
        assistant="model",
        think_mark="<|think|>",
        thoughts=r"<\|channel>.*?(?:<channel\|>|\Z)|<channel\|>",
        tool_marks=("<|tool_response>", "<tool_response|>"),
    ),
    "chatml": _CHATML,  # SmolLM3, and Qwen without thoughts
    "qwen3": _CHATML._replace(thoughts=r".*</think>\n*", no_thought="<think>\n\n</think>\n\n"),
    "llama3": _LLAMA_3,
    # 3.1 to 3.3, on the day that their templates write if the server gives none.
    "llama3.1": _LLAMA_3._replace(preamble="Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"),
}


class Piece(NamedTuple):
    """A stretch of a conversation's text, and whether the assistant wrote it, its end-mark included."""

    text: str
    by_assistant: bool


def write_chat(messages: Sequence[Mapping[str, str]], form: str) -> list[Piece]:
    """The text of a conversation, without a begin-token, which tokenizers add.

    `<|think|>` at the beginning of the system's content switches Gemma 4's thinking on. A thought stands in the
    assistant's content as the family writes it: `<|channel>thought\\n…<channel|>`, or `<think>\\n…\\n</think>\\n\\n`.
    Calls of tools stand there too, and declarations in the system's.

    Args:
        messages: each with a `role` and its `content`, a text. A `"system"` may be the first alone; then come `"user"`
            and `"assistant"`, and in Gemma 4's form and FunctionGemma's `"tool"`, which answers the assistant.
        form: a name in `CHAT_FORMS`.

    Returns:
        The pieces in order. If the last message is a user's, the last piece opens the assistant's turn.

    Raises:
        ValueError: for messages that the family does not read, or a content with a mark that would be read as a turn.
    """
    check_messages(messages, form)
    chat = CHAT_FORMS[form]
    if chat.preamble and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": ""}, *messages]
    roles = [message["role"] for message in messages]
    names = {"assistant": chat.assistant, "system": chat.system, "user": "user"}
    last_user = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
    pieces, words = [], ""
    for i, (role, message) in enumerate(zip(roles, messages, strict=True)):
        content = message["content"].strip() if chat.strips else message["content"]
        if names.get(role, "") is None:
            words = message["content"] + "\n\n"
            continue
        answered = roles[i + 1 : i + 2] == ["tool"]  # inside this turn, whose next mark the one before writes
        if role != "tool" and roles[max(i - 1, 0)] != "tool":
            pieces.append(Piece(chat.after * bool(pieces) + chat.before.format(names[role]), False))
        end = chat.tool_marks[0] if answered else chat.end
        if role == "system":
            pieces.append(Piece(chat.preamble + _with_think_mark(content, chat) + end, False))
        elif role == "user":
            pieces.append(Piece(words + content + end, False))
            words = ""
        elif role == "assistant":
            pieces.append(Piece(_with_thoughts(content, chat, i < last_user, i + 1 == len(roles)) + end, True))
        else:
            pieces.append(Piece(content + chat.tool_marks[1] + (chat.tool_marks[0] if answered else ""), False))
    if roles[-1] in ("assistant", "tool"):
        return pieces
    return [*pieces, Piece(chat.after + chat.before.format(chat.assistant), False)]


def _with_think_mark(content: str, chat: ChatForm) -> str:
    """The system's content, in which a line of its own holds the mark that switches thinking on."""
    if not (chat.think_mark and content.startswith(chat.think_mark)):
        return content
    return f"{chat.think_mark}\n{content.removeprefix(chat.think_mark).strip()}"


def _with_thoughts(content: str, chat: ChatForm, is_past: bool, is_last: bool) -> str:
    """The assistant's content as the family reads it: without a thought if the user has written again."""
    if chat.thoughts is None:
        return content
    answer = re.sub(chat.thoughts, "", content, count=0, flags=re.DOTALL)
    if is_past:
        return answer.strip() if chat.strips else answer
    return chat.no_thought + content.lstrip("\n") if is_last and answer == content else content


def check_messages(messages: Sequence[Mapping[str, str]], form: str) -> None:
    """Raises ValueError for messages that `write_chat` cannot write in the form; the first that is wrong is named."""
    if form not in CHAT_FORMS:
        raise ValueError(f"`form` must be one of {', '.join(CHAT_FORMS)}. Received: form={form!r}")
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f"`messages` must be a list of messages, at least one. Received: {reprlib.repr(messages)}")
    before = None
    for i, message in enumerate(messages):
        wrong = _what_is_wrong(message, before, CHAT_FORMS[form])
        if wrong:
            raise ValueError(f"`messages[{i}]` {wrong}, in the form {form}. Received: {reprlib.repr(message)}")
        before = message["role"]
    if before == "system":
        raise ValueError(f"After a system's message a user's must come. Received: messages={reprlib.repr(messages)}")


def _what_is_wrong(message, before: str | None, chat: ChatForm) -> str | None:
    """What a message must be and is not, after one of the role `before`."""
    if not isinstance(message, Mapping) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
        return "must have a `role` and a `content` that are texts"
    role, content = message["role"], message["content"]
    if role not in ROLES[: None if chat.tool_marks else -1]:
        return f"must have a role of {', '.join(ROLES[: None if chat.tool_marks else -1])}"
    if role == "system" and before is not None:
        return "may not be a system's, which must be the first"
    if role == "tool" and before not in ("assistant", "tool"):
        return "may be a tool's after an assistant's alone"
    if chat.alternates and role != "system" and (role == "user") != (before in (None, "system", "assistant")):
        return "must be of a user and an assistant in turn, the user first"
    marks = [mark for mark in (*chat.marks, *BEGIN_TOKENS) if mark in content]
    return f"may not have {marks[0]} in its content, which would be read as a mark of turns" if marks else None
