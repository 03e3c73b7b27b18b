from keras_aha.tasks import Countdown, CountdownProblem
from keras_aha.tasks.countdown import TEMPLATES

import pytest

PROBLEM = CountdownProblem(numbers=(44, 19, 35), target=98)
LLAMA = "<|start_header_id|>{}<|end_header_id|>\n\n"


@pytest.mark.parametrize(
    "name, begins, ends",
    [
        ("plain", "Numbers: 44 19 35\nTarget: 98\n", "\nLet me work it out step by step.\n<think>\n"),
        ("compact", "Use 44 19 35 each once to make 98.", "\n<think>\n"),
        ("gemma", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n<think>\n"),
        ("gemma4", "<|turn>user\n", "<turn|>\n<|turn>model\n<think>\n"),
        ("chatml", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n"),
        ("llama3", LLAMA.format("user"), f"<|eot_id|>{LLAMA.format('assistant')}<think>\n"),
    ],
)
def test_named(name, begins, ends):
    prompt = Countdown(template=name).prompt(PROBLEM)
    assert prompt.startswith(begins) and prompt.endswith(ends)
    assert "44 19 35" in prompt and "98" in prompt and "{" not in prompt


@pytest.mark.parametrize("name", sorted({*TEMPLATES} - {"compact"}))
def test_says_the_rule_of_the_scorer(name):
    prompt = Countdown(template=name).prompt(PROBLEM)
    assert "Use each number exactly once." in prompt
    assert "Only +, -, *, / and parentheses are allowed." in prompt
    # The example is what the scorer reads as an answer: appended to a completion it counts as one.
    example = prompt[prompt.index("<answer>(") : prompt.rindex("</answer>") + len("</answer>")]
    assert Countdown().score(CountdownProblem((1, 2, 3), 9), example).correct


def test_custom():
    assert Countdown(template="{target} from {numbers}: {{think}}").prompt(PROBLEM) == "98 from 44 19 35: {think}"


@pytest.mark.parametrize(
    "template",
    ["nope", "", "{numbers}", "{target}", "{numbers} {target} {x}", "{numbers} {target", "{} {numbers} {target}",
     "{numbers.__class__} {target}", "{numbers:d} {target}", "{numbers[0]} {target}", None, 3],
)  # fmt: skip
def test_neither_name_nor_format(template):
    names = "'plain', 'compact', 'gemma', 'gemma4', 'chatml', 'llama3', or a format string"
    with pytest.raises(ValueError, match=f"{names}.* Received: template="):
        Countdown(template=template)
