"""What a base model earns before any training, by the prompt's template: what there is for GRPO to begin with.

    python benchmarks/prompt_templates.py models/gemma3_270m_ascii        about ten minutes on two cores

Countdown by the recipe's numbers, held-out puzzles, temperature 1. Prints a Markdown table: tokens of the longest
prompt, shares of completions that are right and that are rewarded at all, of puzzles with a right answer among the
samples, and of groups with signal; and how often the first equation, or the answer, has each operation.
"""

import argparse
import re
from collections import Counter

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.models.policy import load_policy
from keras_aha.recipes.recipe import Recipe
from keras_aha.tasks import Countdown
from keras_aha.tasks.countdown_examples import EXAMPLES, QUESTION, shown
from keras_aha.training.grpo_model import GRPOModel

NAMED = ("plain", "compact", "examples", "thinking_examples")
_OPERATION = re.compile(r"[0-9] ?([-+*/]) ?[0-9]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", help="the folder of a base model")
    parser.add_argument("--recipe", default="gemma3_270m_zero")
    parser.add_argument("--numbers", type=int, default=2)
    parser.add_argument("--puzzles", type=int, default=48)
    parser.add_argument("--samples", type=int, default=8)
    args = parser.parse_args()
    arguments = Recipe.load(args.recipe).task.arguments | {"num_numbers": args.numbers}
    model = GRPOModel(load_policy(args.preset, lora_rank=0))
    columns = "template", "prompt", "right", "rewarded", "right in any", "signal", "tries", "operations"
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, template in templates(args.numbers).items():
        task = Countdown(**arguments | {"template": template})
        length = 16 if "answered at once" in name or name == "examples" else 64
        held_out = task.held_out(args.puzzles)
        evaluation = EvaluateCallback(
            held_out, samples=args.samples, max_completion_length=length, stop_strings=("</answer>",)
        )
        table = evaluation.evaluate(model)
        prompt = max(len(model.tokenizer(task.prompt(problem))) for problem in held_out.problems)
        groups = table.groupby("puzzle")
        found = Counter(match[1] for match in map(_OPERATION.search, table["text"]) if match)
        shares = table["correct"].mean(), (table["reward"] > 0).mean(), groups["correct"].max().mean()
        shares += ((groups["reward"].min() < groups["reward"].max()).mean(),)
        print(f"| {name} | {prompt} | " + " | ".join(f"{share:.1%}" for share in shares), end=" | ")
        operations = ", ".join(f"{sign} {n / len(table):.0%}" for sign, n in found.most_common())
        print(f"{table['attempts'].mean():.1f} | {operations} |", flush=True)


def templates(count: int) -> dict[str, str]:
    """Words → a template: the named ones, and other orders and spellings of the examples that are answered at once."""
    examples = EXAMPLES["examples"][count]
    orders = {"a sum last": examples, "a product last": examples[::-1]}
    if count == 2:
        orders["a difference last"] = (examples[0], examples[2], examples[1])
    found = {name: name for name in NAMED}
    for order, some in orders.items():
        for spelling in ("8+15", "8 + 15"):
            answers = [re.sub(r"([-+*/])", r" \1 ", x.answer) if " " in spelling else x.answer for x in some]
            solved = [
                f"{QUESTION.format(numbers=shown(x.numbers), target=x.target)}<answer>{answer}</answer>\n\n"
                for x, answer in zip(some, answers, strict=True)
            ]
            found[f"answered at once, {order}, `{spelling}`"] = "".join(solved) + QUESTION
    return found


if __name__ == "__main__":
    main()
