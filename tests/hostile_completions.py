"""Completions that try to fool a verifier: right ones spoiled by edits, and heaps of what might confuse a reader.

All is drawn from the `random.Random` that is handed in; `problem` is a `CountdownProblem`.
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
ZEROS = ["\uff10", "\u0660", "\u06f0", "\u0966", "\U0001d7ce"]  # of other digits; nine more follow each
SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
BLANKS = [" ", "\n", "\t", "\r", "\v", "\f", "\r\n", "\u00a0", "\u2028", "\x85", "\u3000", "\x1c"]
ODDITIES = [
    *("\x00", "\ud800", "\udfff", "\u200b", "\ufeff", "\u202e", "\x1b[2J", "\u00bd", "\u2167", "\U0001f600"),
    *("\\", "'", '"', "#", ";", ",", "_", ".", "%", "^", "!", "~", "<<", ":=", "@", "$", "`", "\\frac{1}{2}"),
    *("e", "e0", "1e3", "0x10", "0b1", "0o7", "1j", "nan", "inf", "None", "True", "if", "or", "lambda:1"),
    *("__import__('os')", "9**9**9", "0", "1", "=", "(", ")", "+", "-", "*", "/", "no", "yes"),
]
REPEATED = ["1", "(", ")", " ", "-", "+1", "/1", "*(", "\u00d7", "<"]


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


def heap(rng):
    """Pieces without sense, some of them many times, half the time between tags."""
    pieces = [*TAGS, *BLANKS, *ODDITIES, *ODDITIES, *"0123456789+-*/()="]
    text = "".join(rng.choice(pieces) * rng.choice((1, 1, 1, 1, 2, 60, 250)) for _ in range(rng.randint(1, 12)))
    return f"{OPEN}{text}{CLOSE}" if rng.random() < 0.5 else text


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
        text = edit(rng, problem, text)
    return text


def edit(rng, problem, text):
    """The completion with one change, most of them within its last answer."""
    target, pick = problem.target, rng.choice
    kind = rng.randrange(15)
    if kind < 5:  # something there is replaced
        pattern, choose = (
            (r"(?<![<a-z])[-+*/()=]", lambda c: pick(LOOKALIKES[c])),
            (r"(?<![<a-z])[-+*/]", lambda c: pick("+-*/%")),
            (r"(?<=[0-9])[-+*/](?=[0-9])", lambda c: pick(("", " ", "\n", "()", "*-", "/-"))),
            ("[0-9]", lambda digit: pick((chr(ord(pick(ZEROS)) + int(digit)), SUPERSCRIPTS[int(digit)]))),
            ("[0-9]{1,30}", lambda number: pick(_other_numbers(rng, number, target))),
        )[kind]
        matches = [*re.finditer(pattern, text)]
        match = pick(matches) if matches else None
        return text[: match.start()] + choose(match[0]) + text[match.end() :] if match else text
    if kind == 5:
        head, close, tail = text.rpartition(CLOSE)
        return head + pick(_statements(target)) + close + tail
    if kind == 6:
        other = pick((right_expression(rng, problem), random_expression(rng, problem.numbers), "1", "", "x"))
        other = pick((f"{OPEN}{other}{CLOSE}", f"{OPEN}{other}", f"{other}{CLOSE}"))
        return pick((text + other, other + text, text + "\n" + other))
    if kind == 7:
        pieces = (" done.", "\n", "\n" * 10, "\n" * 11, " " * 500, ".", "\u200b", "\x00", text, CLOSE, OPEN)
        return text + pick(pieces) * pick((1, 1, 2, 5))
    start, end = text.rfind(OPEN), text.rfind(CLOSE)
    inside = 0 <= start < end and rng.random() < 0.7
    at = rng.randint(start + len(OPEN), end) if inside else rng.randint(0, len(text))
    if kind == 8:
        return text[:at] + text[at + pick((1, 1, 2, 5)) :]
    if kind == 9:
        piece = text[at : at + rng.randint(1, 12)]
        return text[:at] + piece * pick((2, 2, 3, 30)) + text[at + len(piece) :]
    inserted = (
        lambda: pick(TAGS),
        lambda: pick(ODDITIES),
        lambda: chr(rng.randrange(0x110000)),
        lambda: pick(BLANKS) * pick((1, 1, 3, 12)),
        lambda: pick(REPEATED) * pick((21, 51, 400, 1200)),
    )[kind - 10]()
    return text[:at] + inserted + text[at:]


def _other_numbers(rng, number, target):
    return (
        *(f"0{number}", f"{number}.0", f"{number}e0", f"{number}_0", number * 2, f"{number} {number}", f"{number},"),
        *(f"{number}+{number}-{number}", str(int(number) + 1), hex(int(number)), str(target), f"{number}**1", ""),
        *(f"{number}//1", f"({number})({number})", f"1{'0' * 20}", f"{number}#", f"{'(' * 60}{number}{')' * 60}"),
        *(f"+{number}", f"{'-' * rng.choice((2, 99, 202))}{number}"),
    )


def _statements(target):
    return (
        *(f"={target}", f" = {target}", f"={target + 1}", f"={target}={target}", f"={target}.0", "=", f"=--{target}"),
        *(f"=-{target}", f"=+{target}", f"=({target})", f"=0{target}", f"=={target}", f"={target}/1"),
        *(f"\u2248{target}", f"={'-' * 150}{target}", f"={'9' * 21}"),
    )


def any_texts(problem):
    """A strategy of hypothesis: any text at all, pieces of hostile ones, one of them up to 20,000 times, and edits."""
    from hypothesis import strategies as st

    pieces = [*TAGS, *BLANKS, *ODDITIES, *"1239", "(1+2)*3", "1+2+3", "1/(2-2)"]
    pieces += [f"{OPEN}(1+2)*3{CLOSE}", f"{OPEN}1+2+3{CLOSE}"]
    return (
        st.text(st.characters())  # lone surrogates too
        | st.lists(st.sampled_from(pieces), max_size=30).map("".join)
        | st.lists(st.sampled_from(pieces), max_size=12).map(lambda texts: f"{OPEN}{''.join(texts)}{CLOSE}")
        | st.tuples(st.sampled_from(pieces), st.integers(0, 20_000)).map(lambda pair: pair[0] * pair[1])
        | st.builds(hostile_completion, st.randoms(use_true_random=False), st.just(problem))
    )
