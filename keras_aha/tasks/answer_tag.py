"""The answer that a completion gives in `<answer>…</answer>`, and what is deducted for its form."""

from typing import NamedTuple

FORM_DEDUCTION = 0.1  # for text after the answer, and again for a second answer tag
MAX_BLANK_TAIL = 10  # blanks that may follow an answer; more are text as well


class Answer(NamedTuple):
    """What a completion answers.

    Attributes:
        text: what stands in the last tag that closes; `None` if there is none.
        deduction: once or twice `FORM_DEDUCTION`, or 0.
    """

    text: str | None
    deduction: float


def read_answer(completion: str) -> Answer:
    """Finds the last complete `<answer>…</answer>`, in time that is linear in the text, whatever is in it.

    An inner `<answer>` begins the answer anew: the one before it never closes.
    """
    start = completion.rfind("<answer>", 0, max(completion.rfind("</answer>"), 0))
    if start < 0:
        return Answer(None, 0.0)
    start += len("<answer>")
    end = completion.index("</answer>", start)
    rest = completion[end + len("</answer>") :]
    several = max(completion.count("<answer>"), completion.count("</answer>")) > 1
    tail = len(rest) > MAX_BLANK_TAIL or bool(rest.strip())
    return Answer(completion[start:end], FORM_DEDUCTION * (tail + several))
