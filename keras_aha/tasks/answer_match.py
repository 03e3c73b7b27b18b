"""Exact match and F1 of an answer in words, as SQuAD computes them (Rajpurkar et al., 2016)."""

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_words(text: str) -> list[str]:
    """The words that are compared: lower case, without punctuation and without a, an, the."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(answer: str, expected: str) -> bool:
    """Whether both have the same words in the same order."""
    return answer_words(answer) == answer_words(expected)


def f1(answer: str, expected: str) -> float:
    """2·P·R / (P + R) of the words that both have; of two answers one of which has no words, whether both have none."""
    words, others = answer_words(answer), answer_words(expected)
    if not words or not others:
        return float(words == others)
    return 2 * (Counter(words) & Counter(others)).total() / (len(words) + len(others))


def holds(text: str, expected: str) -> bool:
    """Whether the words of an answer that is expected stand in a text, one behind the other."""
    words = " ".join(answer_words(expected))
    return bool(words) and f" {words} " in f" {' '.join(answer_words(text))} "
