"""`Choice`: an answer is the letter of one choice out of several."""

import re

from keras_aha.tasks.checkers.checker import Checker
from keras_aha.tasks.checkers.markup import unwrapped

_LEAD = re.compile(
    r"(?:so |thus |therefore |hence )?,? ?(?:the |my )?(?:correct |right |best |final )*(?:answer|choice|option)"
    r"(?: is| would be)?:? *(?:the |option |choice |answer )*",
    re.IGNORECASE,
)
_LETTER = re.compile("[A-Ja-j]")
_PLAIN = re.compile(r"[\w ()\[\].,:;/&+-]*")  # no sign that says "not"
_WITH_TEXT = re.compile(r"(?:[(\[]([A-Ja-j])[)\]] ?[.:)-]?|([A-Ja-j]) ?[.:)\]] |([A-J]) - )(.*)")
_OTHER = re.compile(
    r"(?<!\w)[(\[]([A-J])[)\]]|(?<![\w(])([A-J])\)|(?:[,;/]|\bor|\band) ([A-J])[.:]"
)  # behind the first one
_AND = {"and", "or", "both", "either", "nor"}


class Choice(Checker):
    """An answer is right if it names the expected one of the choices A to J, and no other one.

    The letter may be small, stand in brackets, and begin the text of its choice, as in `(B) Paris`. If the expected
    answer has a text too, the texts must be the same, and the text alone is right as well.
    """

    max_length = 500
    expects = "one letter from A to J, alone or with its text, as in (B) Paris"

    def compare(self, answer: str, expected: str) -> str:
        (letters, text), (expected_letters, expected_text) = _read(answer), _read(expected)
        if not expected_letters or not (letters or (expected_text and text == expected_text)):
            return "not_readable"
        if letters and (letters != expected_letters or len(letters) > 1):
            return "wrong_value"
        return "correct" if not text or not expected_text or text == expected_text else "wrong_value"

    def canonical(self, answer: str) -> str | None:
        """Returns the letters that are named, or else the text."""
        letters, text = _read(answer) if len(answer) <= self.max_length else (set(), "")
        return " ".join(sorted(letters)) or text or None


def _read(answer: str) -> tuple[set[str], str]:
    """The letters that an answer names, and the text behind the first one, or without one the whole text."""
    text = unwrapped(" ".join(answer.split()).replace("**", ""))
    text = unwrapped(text[_LEAD.match(text).end() :] if _LEAD.match(text) else text)
    words = re.findall(r"\w+", text)
    letters = {word.upper() for word in words if _LETTER.fullmatch(word)}
    if letters and _PLAIN.fullmatch(text) and all(word.upper() in letters or word.casefold() in _AND for word in words):
        return letters, ""
    if found := _WITH_TEXT.fullmatch(text):
        others = {letter for letters in _OTHER.findall(found[4]) for letter in letters if letter}
        return {(found[1] or found[2] or found[3]).upper()} | others, unwrapped(found[4]).casefold()
    return set(), text.casefold()
