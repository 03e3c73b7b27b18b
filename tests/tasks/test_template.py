from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.tasks import Countdown, CountdownProblem
from keras_aha.tasks.countdown import TEMPLATES
from keras_aha.tasks.countdown_examples import EXAMPLE_PUZZLES, EXAMPLE_TEMPLATES, EXAMPLES

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
        ("gemma4_thinking", "<|turn>system\n<|think|>\n<turn|>\n<|turn>user\n", "<|turn>model\n<|channel>thought\n"),
        ("examples", "Numbers: 8 1 5. Target: 12.\n<answer>", "</answer>\n\nNumbers: 44 19 35. Target: 98.\n"),
        ("thinking_examples", "Numbers: 8 1 5. Target: 12.\n<think>\n8-1=7,", "Target: 98.\n<think>\n"),
        ("llama3", LLAMA.format("user"), f"<|eot_id|>{LLAMA.format('assistant')}<think>\n"),
    ],
)
def test_named(name, begins, ends):
    prompt = Countdown(template=name).prompt(PROBLEM)
    assert prompt.startswith(begins) and prompt.endswith(ends)
    assert "44 19 35" in prompt and "98" in prompt and "{" not in prompt


@pytest.mark.parametrize("name", sorted({*TEMPLATES} - {"compact", *EXAMPLE_TEMPLATES}))
def test_says_the_rule_of_the_scorer(name):
    prompt = Countdown(template=name).prompt(PROBLEM)
    assert "Use each number exactly once." in prompt
    assert "Only +, -, *, / and parentheses are allowed." in prompt
    # The example is what the scorer reads as an answer: appended to a completion it counts as one.
    example = prompt[prompt.index("<answer>(") : prompt.rindex("</answer>") + len("</answer>")]
    assert Countdown().score(CountdownProblem((1, 2, 3), 9), example).correct


@pytest.mark.parametrize("count", (2, 3))
def test_examples_are_right(count):
    """Each answer is what the scorer wants; each thought is an attempt whose equations hold, the last one right."""
    prompt = Countdown(template="thinking_examples").prompt(CountdownProblem((9, 4, 7, 1)[:count], 5))
    assert prompt.count("Numbers: ") == prompt.count("Target: ") == 4 and prompt.count("<think>\n") == 4
    for tries, example in zip((3, 1, 2), EXAMPLES[count], strict=True):
        text = "\n".join(example.thoughts) + f"</think><answer>{example.answer}</answer>"
        assert Countdown().score(CountdownProblem(example.numbers, example.target), text).reward == 1.0
        counts = count_behaviours(text)
        assert (counts.attempts, counts.verifications, counts.backtracks, counts.slips) == (tries, tries, tries - 1, 0)
        assert [thought.endswith("yes") for thought in example.thoughts] == [False] * (tries - 1) + [True]
        assert example.thoughts[-1].split("=")[-1] == f"{example.target}, yes"
        assert example.answer in prompt


def test_examples_are_never_asked(tmp_path):
    """Neither drawn nor taken from a file; without the examples in the prompt they are."""
    few = dict(num_numbers=2, max_number=20, max_target=40)
    drawn = {name: {Countdown(template=name, **few).problem(i).canonical for i in range(3000)}
             | {x.canonical for x in Countdown(template=name, **few).held_out(120).problems}
             for name in ("plain", *EXAMPLE_TEMPLATES)}  # fmt: skip
    assert len(drawn["plain"] & EXAMPLE_PUZZLES) == 3
    assert not any(drawn[name] & EXAMPLE_PUZZLES for name in EXAMPLE_TEMPLATES)
    file = tmp_path / "puzzles.csv"
    file.write_text("nums,target\n" + "".join(f'"{[*numbers]}",{target}\n' for numbers, target in EXAMPLE_PUZZLES))
    with pytest.raises(ValueError, match="leaves no puzzle"):
        Countdown(puzzles=file, template="examples")


def test_custom():
    assert Countdown(template="{target} from {numbers}: {{think}}").prompt(PROBLEM) == "98 from 44 19 35: {think}"


@pytest.mark.parametrize(
    "template",
    ["nope", "", "{numbers}", "{target}", "{numbers} {target} {x}", "{numbers} {target", "{} {numbers} {target}",
     "{numbers.__class__} {target}", "{numbers:d} {target}", "{numbers[0]} {target}", None, 3],
)  # fmt: skip
def test_neither_name_nor_format(template):
    names = (
        "'plain', 'compact', 'gemma', 'functiongemma', 'gemma4', 'chatml', 'qwen3', 'llama3', 'llama3.1', "
        "'gemma4_thinking', 'examples', 'thinking_examples', or a format string"
    )
    with pytest.raises(ValueError, match=f"{names}.* Received: template="):
        Countdown(template=template)
