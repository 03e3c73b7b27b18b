"""Chat forms: messages as the text with which each family of models was taught to converse."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROLES = ("system", "user", "assistant")


class ChatForm(NamedTuple):
    """How a family writes a turn: `before`, with the role's own name, the content, `end`, and `after`.

    A family without a system turn (`system=False`) reads those words at the beginning of the first user's turn.
    """

    before: str
    end: str
    after: str
    assistant: str
    system: bool


CHAT_FORMS = {
    "gemma": ChatForm("<start_of_turn>{}\n", "<end_of_turn>", "\n", "model", False),  # Gemma 1 to 3
    "gemma4": ChatForm("<|turn>{}\n", "<turn|>", "\n", "model", True),
    "chatml": ChatForm("<|im_start|>{}\n", "<|im_end|>", "\n", "assistant", True),  # Qwen and SmolLM3
    "llama3": ChatForm("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", "", "assistant", True),
}


class Piece(NamedTuple):
    """A stretch of a conversation's text, and whether the assistant wrote it, its end-mark included."""

    text: str
    by_assistant: bool


def write_chat(messages: Sequence[Mapping[str, str]], form: str) -> list[Piece]:
    """The text of a conversation, without a begin-token, which tokenizers add.

    Args:
        messages: each with a `role` (`"system"`, which only the first may have, `"user"` or `"assistant"`) and its
            `content`, a text. See `check_messages`.
        form: a name in `CHAT_FORMS`.

    Returns:
        The pieces in order. If the last message is not the assistant's, the last piece opens the assistant's turn.
    """
    chat, pieces, words = CHAT_FORMS[form], [], ""
    for message in messages:
        role, content = message["role"], message["content"].strip()
        if role == "system" and not chat.system:
            words = f"{content}\n\n"
            continue
        by_assistant = role == "assistant"
        pieces.append(Piece(chat.before.format(chat.assistant if by_assistant else role), False))
        pieces.append(Piece(words + content + chat.end, by_assistant))
        pieces.append(Piece(chat.after, False))
        words = ""
    if messages[-1]["role"] == "assistant":
        return pieces[:-1]
    return [*pieces, Piece(chat.before.format(chat.assistant), False)]
