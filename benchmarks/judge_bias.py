"""What a judge knows, and what it takes for it: right and wrong completions, their lengths, and words that say nothing.

    python benchmarks/judge_bias.py --judge models/gemma3-1b-it --chat-form gemma \\
        --completions runs/x/held_out_after.jsonl --rubric $'{problem}\\n\\n{completion}\\n\\nIs this right? Yes or No.'

`--completions` is a file of JSON lines, each with `problem` (or `prompt`), `text` (or `completion`), `correct` and, for
a rubric with {reference}, `answer`: a run's completions.jsonl or held_out_after.jsonl, or rows of your own. What is the
same is counted once.

- AUC: how often a right completion has a larger number than a wrong one, equal numbers counting half.
- Spearman correlation of the number with the length in characters, among right ones and among wrong ones.
- Padding: how the number changes if the same completion says `--sentence` so many times before its answer, with 95 %
  intervals (bootstrap) over problems.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from keras_aha.evaluation.intervals import bootstrap_interval  # noqa: E402
from keras_aha.files import read_lines  # noqa: E402
from keras_aha.tasks import Score, Task  # noqa: E402
from keras_aha.training.judges.model_judge import ModelJudge  # noqa: E402
from keras_aha.training.judges.reward_model import RewardModel, is_reward_model  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scipy.stats  # noqa: E402

SENTENCE = "Let me think about this carefully."
ANSWER = re.compile(r"</think>|<answer>|\\boxed|####")  # what the answer begins with


class Asked(Task):
    """Problems that are texts, with the answers that are expected, if there are any."""

    def __init__(self, answers: dict):
        self.answers = answers

    def problem(self, index):
        return [*self.answers][index]

    def prompt(self, problem):
        return problem

    def reference(self, problem):
        return self.answers[problem]

    def score(self, problem, completion):
        return Score(0.0, False, "unknown")

    def held_out(self, n):
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", required=True, metavar="PRESET", help="a preset, or a folder of a reward model")
    parser.add_argument("--completions", required=True, type=Path, metavar="FILE")
    parser.add_argument("--rubric", required=True)
    parser.add_argument(
        "--answers", type=json.loads, default={"Yes": 1, "No": 0}, metavar="JSON", help="(default: Yes, No)"
    )
    parser.add_argument("--chat-form", metavar="NAME")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quantization")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--limit", type=int, help="take so many completions, drawn at random")
    parser.add_argument("--sentence", default=SENTENCE, help="(default: %(default)s)")
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    table = read(args.completions, args.limit)
    task = Asked(dict(zip(table["problem"], table["answer"], strict=True)))
    settings = dict(dtype=args.dtype, quantization=args.quantization)
    settings |= dict(max_length=args.max_length, batch_size=args.batch_size)
    if is_reward_model(args.judge):
        judge = RewardModel(task, args.judge, args.rubric, **settings)
    else:
        settings |= dict(answers=args.answers, chat_form=args.chat_form)
        judge = ModelJudge(task, args.judge, args.rubric, **settings)
    table["number"] = numbers(judge, table["problem"], table["text"])
    padded = [pad(text, args.sentence, args.times) for text in table["text"]]
    table["change"] = numbers(judge, table["problem"], padded) - table["number"]
    print(report(table))


def read(path: Path, limit: int | None = None) -> pd.DataFrame:
    """Distinct completions: `problem`, `text`, `correct`, `answer`, `length` in characters."""
    table = pd.DataFrame(map(json.loads, read_lines(path)))
    table = table.rename(columns={"completion": "text"} | ({} if "problem" in table else {"prompt": "problem"}))
    table["answer"] = table["answer"].astype(str) if "answer" in table else None
    table = table[["problem", "text", "correct", "answer"]].drop_duplicates(["problem", "text"])
    table = table if limit is None or limit >= len(table) else table.sample(limit, random_state=0)
    return table.assign(correct=table["correct"].astype(bool), length=table["text"].str.len())


def numbers(judge, problems, texts) -> np.ndarray:
    """NaN for what the judge cannot read; the first failure is told."""
    values = judge(list(problems), list(texts))
    failures = [value for value in values if isinstance(value, Exception)]
    if failures:
        print(f"{len(failures)} of {len(values)} have no number: {failures[0]}", file=sys.stderr)
    return np.array([np.nan if isinstance(value, Exception) else value for value in values])


def pad(text: str, sentence: str, times: int) -> str:
    """The completion with a sentence that says nothing, so many times, on a line before its answer, or before all."""
    place = ANSWER.search(text)
    start = place.start() if place else 0
    return f"{text[:start]}{' '.join([sentence] * times)}\n{text[start:]}"


def report(table: pd.DataFrame) -> str:
    right, wrong = (table[table["correct"] == is_right].dropna(subset="number") for is_right in (True, False))
    lines = [f"{len(right)} right and {len(wrong)} wrong completions of {table['problem'].nunique()} problems"]
    lines.append(
        f"number: mean {table['number'].mean():.3f}, of right ones {right['number'].mean():.3f}, of wrong ones "
        f"{wrong['number'].mean():.3f}"
    )
    lines.append(f"AUC, right against wrong: {auc(right['number'], wrong['number']):.3f}")
    lines.append(f"AUC of the length alone:  {auc(right['length'], wrong['length']):.3f}")
    for name, some in {"right": right, "wrong": wrong}.items():
        lines.append(f"Spearman with the length, {name} ones: {correlation(some)}")
    for name, some in {"all": table, "right": right, "wrong": wrong}.items():
        by_problem = some.dropna(subset="change").groupby("problem")["change"].mean()
        if len(by_problem):
            low, high = bootstrap_interval(by_problem.to_numpy())
            lines.append(f"change by padding, {name}: {by_problem.mean():+.4f} ({low:+.4f} to {high:+.4f})")
    return "\n".join(lines)


def auc(right, wrong) -> float:
    """P(right > wrong) + P(equal) / 2 (Mann and Whitney 1947)."""
    if not len(right) or not len(wrong):
        return float("nan")
    return scipy.stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))


def correlation(table: pd.DataFrame) -> str:
    if table["number"].nunique() < 2 or table["length"].nunique() < 2:
        return "none, as all are equal"
    found = scipy.stats.spearmanr(table["number"], table["length"])
    return f"{found.statistic:+.3f} (p = {found.pvalue:.2g}, n = {len(table)})"


if __name__ == "__main__":
    main()
