"""Prompt templates for Countdown: format strings with `{numbers}` and `{target}`."""

from __future__ import annotations

import string

# The rule as the scorer applies it; a prompt that promised more or less would teach the wrong game.
_RULE = (
    "Numbers: {numbers}\nTarget: {target}\n"
    "Write one arithmetic expression that equals the target. Use each number exactly once. "
    "Only +, -, *, / and parentheses are allowed. "
    "Think inside <think> </think> tags, then give only the expression inside <answer> </answer> tags, "
    "for example <answer>(1 + 2) * 3</answer>."
)

TEMPLATES = {
    "plain": _RULE + "\nLet me work it out step by step.\n<think>\n",
    "gemma": "<start_of_turn>user\n" + _RULE + "<end_of_turn>\n<start_of_turn>model\n<think>\n",
    "compact": "Use {numbers} each once to make {target}.\n<think>\n",
}


def resolve_template(template: str) -> str:
    """Returns the format string that `template` stands for.

    Args:
        template: a name (`"plain"` for base models, `"gemma"` for instruct models, `"compact"` for a tiny
            vocabulary) or a format string with the fields `{numbers}` and `{target}`.

    Raises:
        ValueError: if it is neither.
    """
    if template in TEMPLATES:
        return TEMPLATES[template]
    choices = ", ".join(repr(name) for name in TEMPLATES)
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        usable = fields == {"numbers", "target"}
        if usable:
            render_template(template, (1, 2), 3)
    except (ValueError, TypeError, LookupError):
        usable = False
    if not usable:
        raise ValueError(
            f"A template is one of {choices}, or a format string with the fields {{numbers}} and {{target}} "
            f"and no others. Received: template={template!r}"
        )
    return template


def render_template(format_string: str, numbers: tuple[int, ...], target: int) -> str:
    """Returns the prompt: numbers joined by single spaces, the target as an integer."""
    return format_string.format(numbers=" ".join(map(str, numbers)), target=target)
