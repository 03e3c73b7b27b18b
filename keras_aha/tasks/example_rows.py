"""`ExampleRows`: rows of a user's own files as texts to imitate."""

import json
from collections.abc import Iterator, Sequence
from os import PathLike

from keras_aha.tasks.chat import Piece, write_chat
from keras_aha.tasks.column_text import ColumnText
from keras_aha.tasks.rows_file import read_rows

_COMPLETIONS = ("completion", "answer")


class ExampleRows:
    """Prompts with completions, or conversations, of files of rows; iterating gives the pieces of each.

    Args:
        files: of JSON lines, JSON, CSV, TSV or Parquet: one, several, or a folder; see `read_rows`.
        prompt: the column of what is read, or a text with columns in it, such as `"{question}\\n<think>\\n"`.
        completion: the same, of what is learned; `None` takes the column `completion`, or else `answer`.
        messages: instead of both: the column of a conversation, a list of objects with a `role` and a `content`, or
            the text of one. The assistant has the last word.
        chat_form: the family's form (see `CHAT_FORMS`) in which conversations are written, and prompts and completions
            too, as a user's turn and the assistant's; `None` leaves these as they are.
        loss_on: which turns of the assistant are learned, `"all"` or the `"last"` alone.
        key: what `files` is called, for errors.

    Raises:
        ValueError: if a file cannot be read; and as rows are looked at, if one cannot be used. It is named.
    """

    def __init__(
        self,
        files: str | PathLike | Sequence[str | PathLike],
        prompt: str = "prompt",
        completion: str | None = None,
        messages: str | None = None,
        chat_form: str | None = None,
        loss_on: str = "all",
        key: str = "file",
    ):
        if messages is not None and chat_form is None:
            raise ValueError(f"`messages` need a `chat_form`. Received: messages={messages!r}, chat_form=None")
        self._messages, self._form, self._last = messages, chat_form, loss_on == "last"
        texts = {"prompt": prompt} | ({} if completion is None else {"completion": completion})
        self._texts = {key: ColumnText(text, key) for key, text in texts.items()}
        columns = [column for text in self._texts.values() for column in text.columns]
        optional = [] if messages or completion else _COMPLETIONS
        self._received = f"Received: {key}={str(files)!r}"
        self._rows = read_rows(files, key, [messages] if messages else columns, optional)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[list[Piece]]:
        for index, row in enumerate(self._rows):
            try:
                yield self._pieces(row)
            except ValueError as error:
                raise ValueError(f"{self.place(index)} cannot be imitated: {error}. {self._received}") from error

    def place(self, index: int) -> str:
        """Where row `index` stands, from 0: its line or number and its file."""
        return self._rows.place(index)

    def _pieces(self, row: dict[str, str | None]) -> list[Piece]:
        if self._messages is not None:
            return self._chat(_read_messages(row[self._messages]))
        texts = {"completion": next((row[name] for name in _COMPLETIONS if row.get(name)), "")}
        texts |= {key: text.filled(row) for key, text in self._texts.items()}
        prompt, completion = texts["prompt"], texts["completion"]
        if not prompt.strip() or not completion.strip():
            raise ValueError(f"it has no {'completion' if prompt.strip() else 'prompt'}, or an empty one")
        if self._form is None:
            return [Piece(prompt, False), Piece(completion, True)]
        turns = ("user", prompt), ("assistant", completion)
        return self._chat([{"role": role, "content": content} for role, content in turns])

    def _chat(self, messages: list[dict]) -> list[Piece]:
        *before, last = write_chat(messages, self._form)
        return [*(Piece(text, learned and not self._last) for text, learned in before), last]


def _read_messages(text: str) -> list[dict]:
    messages = json.loads(text)
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        raise ValueError(f"its messages must be a list of objects: {text[:200]}")
    if messages[-1].get("role") != "assistant":
        raise ValueError("its last message must be the assistant's, as that is learned")
    return messages
