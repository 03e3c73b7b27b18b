"""Prompt templates: format strings with a task's fields; some have names."""

import string
from collections.abc import Mapping

# Name → (before the user's text, between it and the answer), as the models were taught; tokenizers add begin-tokens.
TURNS = {
    "gemma": ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),  # Gemma 1 to 3
    "gemma4": ("<|turn>user\n", "<turn|>\n<|turn>model\n"),
    "chatml": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),  # Qwen and SmolLM3
    "llama3": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}


def named_templates(rule: str, compact: str) -> dict[str, str]:
    """The templates that tasks have by name: `"plain"` for base models, `"compact"`, and for models that were taught to
    converse `"gemma"` (1 to 3), `"gemma4"`, `"chatml"` (Qwen, SmolLM3) and `"llama3"`.

    Args:
        rule: the problem and its rule in words, exactly as the scorer applies it.
        compact: the problem in the few words of a tiny vocabulary.
    """
    return {
        "plain": rule + "\nLet me work it out step by step.\n<think>\n",
        "compact": compact + "\n<think>\n",
        **{name: before + rule + between + "<think>\n" for name, (before, between) in TURNS.items()},
    }


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
