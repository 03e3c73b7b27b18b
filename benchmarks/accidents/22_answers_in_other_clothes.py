"""Right answers as an instruct model writes them though it was asked for the number or the expression only.

They earn nothing by design, but for a closing full stop, which is forgiven: what one form may earn, a policy will learn.
github.com/unslothai/unsloth/issues/1761, github.com/volcengine/verl/pull/7274
"""

import json

from keras_aha.tasks import Countdown, CountdownProblem, WordProblems

NUMBERS = {"{n}": 1.0, "{n}.": 1.0, "= {n}": 0.0, "**{n}**": 0.0, "\\boxed{{{n}}}": 0.0, "{n} nuts": 0.0}
EXPRESSIONS = {"(1+2)*3": 1.0, "(1+2)*3.": 1.0, "(1+2)*3 = 9": 1.0}


def check(folder):
    path = folder / "train.jsonl"
    rows = [{"question": f"{n} nuts and one?", "answer": f"#### {n + 1}"} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = WordProblems(path)
    for answer in NUMBERS:
        score = words.score(words.problem(0), f"x\n</think>\n<answer>{answer.format(n=words.problem(0).number)}</answer>")
        print(answer, score)
