"""Prompt templates: format strings with a task's fields; some have names."""

import string
from collections.abc import Mapping, Sequence

from keras_aha.tasks.chat import CHAT_FORMS, write_chat

CHAT_TEMPLATES = (*CHAT_FORMS, "gemma4_thinking")


def named_templates(rule: str, compact: str) -> dict[str, str]:
    """The templates that tasks have by name: `"plain"` for base models, `"compact"`, and for models that were taught to
    converse each of `CHAT_FORMS`, and `"gemma4_thinking"`, in which Gemma 4 thinks in its own channel.

    Args:
        rule: the problem and its rule in words, exactly as the scorer applies it.
        compact: the problem in the few words of a tiny vocabulary.
    """
    ask = {"role": "user", "content": rule}
    return {
        "plain": rule + "\nLet me work it out step by step.\n<think>\n",
        "compact": compact + "\n<think>\n",
        **{template: write_prompt([ask], template) for template in CHAT_TEMPLATES},
    }


def write_prompt(messages: Sequence[Mapping[str, str]], template: str) -> str:
    """The text of messages (see `write_chat`) by a template of `CHAT_TEMPLATES`, up to where the thought begins."""
    form, thought = (template, "<think>\n") if template in CHAT_FORMS else ("gemma4", "<|channel>thought\n")
    if form != template:
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        messages = [{"role": "system", "content": f"<|think|>{system}"}, *messages[bool(system) :]]
    return "".join(piece.text for piece in write_chat(messages, form)) + thought


def format_fields(text: str) -> set[str] | None:
    """The fields of a format string, such as a rubric; `None` if it is none, or says how a field is to be written."""
    try:
        pieces = [piece for piece in string.Formatter().parse(text) if piece[1] is not None]
    except ValueError:
        return None
    return None if any(form or kind for _, _, form, kind in pieces) else {field for _, field, _, _ in pieces}


def resolve_template(template: str, templates: Mapping[str, str], fields: Mapping[str, object]) -> str:
    """Returns the format string that `template` stands for; ValueError if it stands for none.

    Args:
        template: a name in `templates`, name → format string, or a format string with the fields.
        fields: field → a value, with which the template is tried.
    """
    if template in templates:
        return templates[template]
    try:
        usable = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None} == set(fields)
        if usable:
            template.format(**fields)
    except (ValueError, TypeError, LookupError):
        usable = False
    if not usable:
        names = ", ".join(map(repr, templates))
        raise ValueError(
            f"A template is one of {names}, or a format string with the fields "
            f"{' and '.join(f'{{{field}}}' for field in fields)} and no others. Received: template={template!r}"
        )
    return template
