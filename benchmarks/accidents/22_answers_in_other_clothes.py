"""Right answers as an instruct model writes them though it was asked for the number or the expression only.

A closing full stop is forgiven, and around a number marks of Markdown and TeX and a currency. Other clothes earn
nothing, by design: what is paid beside the answer, a policy learns to write.
github.com/unslothai/unsloth/issues/1761, github.com/volcengine/verl/pull/7274
"""

import json

from keras_aha.tasks import Countdown, CountdownProblem, Rows

RIGHT = (1.0, "correct")
NUMBERS = dict.fromkeys(["{n}", "{n}.", " {n}\n", "${n}", "{n}%", "{n}.0", "{n}/1"], RIGHT)
NUMBERS |= dict.fromkeys(["**{n}**", "\\boxed{{{n}}}", "${n}$", "`{n}`", "€{n}"], RIGHT)
NUMBERS |= dict.fromkeys(["{n} nuts", "= {n}", "{n},00", "{n}.."], (0.0, "not_a_number"))
EXPRESSIONS = dict.fromkeys(["(1+2)*3", "(1+2)*3.", "(1+2)×3", "(1+2)*3 = 9", "(1+2)*3 = 9."], RIGHT)
OTHERS = ["(1+2)x3", "(1+2)⋅3", "(1+2) \\times 3", "\\boxed{(1+2)*3}", "**(1+2)*3**", "```\n(1+2)*3\n```"]
EXPRESSIONS |= dict.fromkeys([*OTHERS, "9 = (1+2)*3", "(1+2)*3..", "$(1+2)*3$"], (0.0, "not_an_expression"))


def check(folder):
    path = folder / "train.jsonl"
    rows = [{"question": f"{n} nuts and one?", "answer": f"#### {n + 1}"} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = Rows(path, prompt="question", answer_in="####", checker="number")
    countdown = Countdown(num_numbers=3)
    asked, puzzle = words.problem(0), CountdownProblem((1, 2, 3), 9)
    answers = [(words, asked, answer.format(n=asked.answer), expected) for answer, expected in NUMBERS.items()]
    answers += [(countdown, puzzle, answer, expected) for answer, expected in EXPRESSIONS.items()]
    for task, problem, answer, expected in answers:
        score = task.score(problem, f"x\n</think>\n<answer>{answer}</answer>")
        assert (score.reward, score.verdict) == expected, (answer, score)
    return f"{len(answers)} answers earn what they should: 1 with a closing full stop, 0 with other words"
