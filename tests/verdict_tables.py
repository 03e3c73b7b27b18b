"""Tables of verdicts on answers, and texts that no checker may take long for, or stumble over."""

_TEXTS = r"""
1e999999999 ¦ 1e9999 ¦ 9**9**9 ¦ 10^{10^{10}} ¦ nan ¦ inf ¦ None ¦ True ¦ 5 or 6 ¦ between 5 and 6 ¦ 5 is not it ¦ not 5
A or B ¦ not B ¦ \ ¦ ~5 ¦ __import__('os').system('touch marker') ¦ ().__class__ ¦ {0.__class__} ¦ %n%n ¦ ${5}
<b>5</b> ¦ 5;6 ¦ B;C ¦ (?R) ¦ " ¦ ''' ¦ ٥ ¦ 𝟓 ¦ ⑤ ¦ Ⓑ ¦ \u0035 ¦ &#53; ¦ $(touch marker)
"""
HOSTILE = [text for line in _TEXTS.strip().split("\n") for text in line.split(" ¦ ")]  # none is right if 5 or B is
HOSTILE += [piece * 10**6 for piece in ("9", "(", " ", "1/", '"', "\\", "\ud800")] + [
    " " * 10**6 + "5",
    "5" + " " * 10**6,
]
HOSTILE += [piece * 49 for piece in ("$", "*", "-", "1/", "1,", "e1", "|", "^", "()", "\\boxed{", "{", "`")]
HOSTILE += ["[" * 9000, '{"a":' * 1500, '"\\' * 4000, "\\frac" * 180, "\\text{" * 120 + "}" * 120, "(A) " * 99]
HOSTILE += ["\x00", "\ud800", "\u202e5", "5\u200b", "\x1b[2J", "5\n6", "\ufeff"]


def read_table(text):
    """Triples (expected, answer, verdict): what is expected stands at the margin, then its verdicts with answers."""
    rows = []
    for line in text.strip("\n").split("\n"):
        if line[0] != " ":
            expected = line
        else:
            verdict, _, answers = line.strip().partition(" ")
            rows += [(expected, answer.strip(" "), verdict) for answer in answers.split("¦")]
    return rows


def other_verdicts(checker, rows):
    """The rows on which the checker has another verdict, which stands behind them. It takes what they expect."""
    assert len(rows) >= 40
    for expected in {row[0] for row in rows}:
        checker.check_expected(expected)
    seen = [(*row, checker.verdict(row[1], row[0])) for row in rows]
    return [(row[0][:60], row[1][:60], *row[2:]) for row in seen if row[2] != row[3]]
