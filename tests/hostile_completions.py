"""Completions that try to fool a verifier: right ones spoiled by edits, and heaps of what might confuse a reader.

All is drawn from the `random.Random` that is handed in. `EDITS` are functions of it, a problem and a completion.
"""

import re

OPEN, CLOSE = "<answer>", "</answer>"
TAGS = [
    *(OPEN, CLOSE, OPEN, CLOSE, "<answer", "answer>", "</answer", "< answer>", "<Answer>", "<answer/>", "<answer >"),
    *("<think>", "</think>", "<answer><answer>", "</answer></answer>", "<answer></answer>", "&lt;answer&gt;"),
]
LOOKALIKES = {
    "+": ["\uff0b", "\ufe62", "\u2795", "++"],
    "-": ["\u2212", "\u2013", "\u2010", "\uff0d", "--", "- -"],
    "*": ["\u00d7", "\u00b7", "\u2217", "\uff0a", "x", "**", "* *"],
    "/": ["\u00f7", "\u2215", "\u2044", "\uff0f", ":", "//", "/ /"],
    "(": ["\uff08", "[", "{", "((", "(("],
    ")": ["\uff09", "]", "}", "))", "))"],
    "=": ["==", "\uff1d", "\u2248", "= ", "<="],
}
DIGIT_SETS = ["\uff10", "\u0660", "\u06f0", "\u0966", "\U0001d7ce"]  # their zeros; nine more follow each
SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
BLANKS = [" ", "\n", "\t", "\r", "\v", "\f", "\r\n", "\u00a0", "\u2028", "\x85", "\u3000", "\x1c"]
ODDITIES = [
    *("\x00", "\ud800", "\udfff", "\u200b", "\ufeff", "\u202e", "\x1b[2J", "\u00bd", "\u2167", "\U0001f600"),
    *("\\", "'", '"', "#", ";", ",", "_", ".", "%", "^", "!", "~", "<<", ":=", "@", "$", "`", "\\frac{1}{2}"),
    *("e", "e0", "1e3", "0x10", "0b1", "0o7", "1j", "nan", "inf", "None", "True", "if", "or", "lambda:1"),
    *("__import__('os')", "0", "1", "=", "(", ")", "+", "-", "*", "/", "no", "yes"),
]


def right_expression(rng, problem):
    """The problem's solution, more or less dressed up; of a problem without one, any expression."""
    text = problem.solution
    if text is None:
        return random_expression(rng, problem.numbers)
    for _ in range(rng.choice((0, 0, 1, 2))):
        text = rng.choice((f"({text})", f"--({text})", f" {text}\n", text.replace("*", "\u00d7")))
    return text


def random_expression(rng, numbers):
    """An expression that uses `numbers` as asked, its value a matter of luck."""
    texts = [str(number) for number in rng.sample(numbers, len(numbers))]
    while len(texts) > 1:
        left, right = texts.pop(rng.randrange(len(texts))), texts.pop(rng.randrange(len(texts)))
        joined = f"{left}{rng.choice('+-*/')}{right}"
        texts.append(rng.choice((f"({joined})", f"({joined})", f"-({joined})", joined)))
    return texts[0]


def plain(rng, expression):
    thinking = rng.choice(("", "", "9-1=8,8/4=2 no\n</think>\n", "I write <answer> tags.\n", "let me see \u2026\n"))
    return f"{thinking}{OPEN}{expression}{CLOSE}"


def hostile_completion(rng, problem):
    """One completion: half of them a right one with up to three edits, then other expressions and heaps."""
    kind = rng.random()
    if kind < 0.5:
        text = plain(rng, right_expression(rng, problem))
    elif kind < 0.8:
        text = plain(rng, random_expression(rng, problem.numbers))
    else:
        text = heap(rng)
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        text = rng.choice(EDITS)(rng, problem, text)
    return text


def heap(rng):
    """Pieces without sense, some of them many times, half the time between tags."""
    pieces = [*TAGS, *BLANKS, *ODDITIES, *ODDITIES, *"0123456789+-*/()="]
    text = "".join(rng.choice(pieces) * rng.choice((1, 1, 1, 1, 2, 60, 250)) for _ in range(rng.randint(1, 12)))
    return f"{OPEN}{text}{CLOSE}" if rng.random() < 0.5 else text


def _place(rng, text):
    """A place in the text, mostly within the last answer."""
    start, end = text.rfind(OPEN), text.rfind(CLOSE)
    if 0 <= start < end and rng.random() < 0.7:
        return rng.randint(start + len(OPEN), end)
    return rng.randint(0, len(text))


def _replace_one(rng, text, pattern, choose):
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    at = rng.choice(found)
    return text[: at.start()] + choose(at[0]) + text[at.end() :]


def _into(rng, text, piece):
    at = _place(rng, text)
    return text[:at] + piece + text[at:]


def _look_alike(rng, problem, text):
    return _replace_one(rng, text, r"(?<![<a-z])[-+*/()=]", lambda c: rng.choice(LOOKALIKES[c]))


def _other_digit(rng, problem, text):
    zero = rng.choice(DIGIT_SETS)
    other = rng.choice((lambda c: chr(ord(zero) + int(c)), lambda c: SUPERSCRIPTS[int(c)]))
    return _replace_one(rng, text, "[0-9]", other)


def _other_number(rng, problem, text):
    def choose(number):
        return rng.choice((
            "0" + number, number + ".0", f"{number}e0", f"{number}_0", f"{number}{number}", f"{number} {number}",
            f"{number}+{number}-{number}", str(int(number) + 1), hex(int(number)), "", str(problem.target),
            f"{number}**1", f"{number}//1", f"+{number}", f"({number})({number})", f"1{'0' * 20}", f"{number},",
            f"{number}#", f"{'-' * rng.choice((2, 99, 202))}{number}", f"{'(' * 60}{number}{')' * 60}",
        ))  # fmt: skip

    return _replace_one(rng, text, "[0-9]{1,30}", choose)


def _joined_numbers(rng, problem, text):
    return _replace_one(
        rng, text, r"(?<=[0-9])[-+*/](?=[0-9])", lambda _: rng.choice(("", " ", "\n", "()", "*-", "/-"))
    )


def _other_operator(rng, problem, text):
    return _replace_one(rng, text, r"(?<![<a-z])[-+*/]", lambda _: rng.choice("+-*/%"))


def _stated(rng, problem, text):
    target = problem.target
    piece = rng.choice((f"={target}", f" = {target}", f"={target + 1}", f"={target}={target}", f"={target}.0", "=",
                        f"=--{target}", f"=-{target}", f"=+{target}", f"=({target})", f"=0{target}", f"=={target}",
                        f"={target}/1", f"\u2248{target}", f"={'-' * 150}{target}", f"={'9' * 21}"))  # fmt: skip
    head, close, tail = text.rpartition(CLOSE)
    return head + piece + close + tail


def _blank(rng, problem, text):
    return _into(rng, text, rng.choice(BLANKS) * rng.choice((1, 1, 3, 12)))


def _oddity(rng, problem, text):
    return _into(rng, text, rng.choice(ODDITIES))


def _any_character(rng, problem, text):
    return _into(rng, text, chr(rng.randrange(0x110000)))


def _tag(rng, problem, text):
    return _into(rng, text, rng.choice(TAGS))


def _second_answer(rng, problem, text):
    other = rng.choice((right_expression(rng, problem), random_expression(rng, problem.numbers), "1", "", "x"))
    other = rng.choice((f"{OPEN}{other}{CLOSE}", f"{OPEN}{other}", f"{other}{CLOSE}"))
    return rng.choice((text + other, other + text, text + "\n" + other))


def _tail(rng, problem, text):
    piece = rng.choice((" done.", "\n", "\n" * 10, "\n" * 11, " " * 500, ".", "\u200b", "\x00", text, CLOSE, OPEN))
    return text + piece * rng.choice((1, 1, 2, 5))


def _long(rng, problem, text):
    return _into(
        rng,
        text,
        rng.choice(("1", "(", ")", " ", "-", "+1", "/1", "*(", "\u00d7", "<")) * rng.choice((21, 51, 400, 1200)),
    )


def _without(rng, problem, text):
    at = _place(rng, text)
    return text[:at] + text[at + rng.choice((1, 1, 2, 5)) :]


def _again(rng, problem, text):
    at = _place(rng, text)
    piece = text[at : at + rng.randint(1, 12)]
    return text[:at] + piece * rng.choice((2, 2, 3, 30)) + text[at + len(piece) :]


EDITS = (
    _look_alike, _other_digit, _other_number, _joined_numbers, _other_operator, _stated, _blank, _oddity,
    _any_character, _tag, _second_answer, _tail, _long, _without, _again,
)  # fmt: skip
