"""What stands around an answer and says nothing: Markdown's marks, TeX's marks of a formula, a closing full stop."""

_PAIRS = [(rf"\{name}{{", "}") for name in ("boxed", "text", "textbf", "mathrm", "mathbf")]
_PAIRS += [(r"\(", r"\)"), (r"\[", r"\]"), ("$", "$"), ("**", "**"), ("*", "*"), ("`", "`"), ('"', '"')]


def unwrapped(text: str) -> str:
    """`text` without the pairs of marks around all of it, as in `**B**`, `$72$.` and `\\boxed{\\text{B}}`."""
    while True:
        text = text.strip().removesuffix(".").rstrip()
        for opening, closing in _PAIRS:
            if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing):
                text = text[len(opening) : -len(closing)]
                break
        else:
            return text
