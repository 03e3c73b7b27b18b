from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.tasks import Countdown, CountdownProblem
from keras_aha.tasks.countdown import TEMPLATES
from keras_aha.tasks.countdown_examples import EXAMPLE_TEMPLATES, EXAMPLES
from keras_aha.tasks.sound_thoughts import sound_thoughts

import pytest

PROBLEM = CountdownProblem(numbers=(44, 19, 35), target=98)


@pytest.mark.parametrize(
    "name, begins, ends",
    [
        ("plain", "Numbers: 44 19 35\nTarget: 98\n", "\nLet me work it out step by step.\n<think>\n"),
        ("compact", "Use 44 19 35 each once to make 98.", "\n<think>\n"),
        ("gemma4", "<|turn>user\n", "<turn|>\n<|turn>model\n<think>\n"),
        ("gemma4_thinking", "<|turn>system\n<|think|>\n<turn|>\n<|turn>user\n", "<|turn>model\n<|channel>thought\n"),
        ("examples", "Numbers: 8 1 5. Target: 12.\n<answer>", "</answer>\n\nNumbers: 44 19 35. Target: 98.\n"),
        ("thinking_examples", "Numbers: 8 1 5. Target: 12.\n<think>\n8-1=7,", "Target: 98.\n<think>\n"),
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
    for tries, example in zip(
        (3, 2, 2) if count == 2 else (3, 1, 2), EXAMPLES["thinking_examples"][count], strict=True
    ):
        text = "\n".join(example.thoughts) + f"</think><answer>{example.answer}</answer>"
        problem = CountdownProblem(example.numbers, example.target)
        assert Countdown().score(problem, text).reward == sound_thoughts(problem, text) == 1.0
        counts = count_behaviours(text)
        assert (counts.attempts, counts.verifications, counts.backtracks, counts.slips) == (tries, tries, tries - 1, 0)
        assert [thought.endswith("yes") for thought in example.thoughts] == [False] * (tries - 1) + [True]
        assert example.thoughts[-1].split("=")[-1] == f"{example.target}, yes"
        assert example.answer in prompt


@pytest.mark.parametrize("name", EXAMPLE_TEMPLATES)
def test_examples_are_never_asked(name, tmp_path):
    """Neither drawn nor taken from a file; without the examples in the prompt they are."""
    examples = {(tuple(sorted(x.numbers)), x.target) for some in EXAMPLES[name].values() for x in some}
    few = dict(num_numbers=2, max_number=20, max_target=40)
    drawn = {template: {Countdown(template=template, **few).problem(i).canonical for i in range(3000)}
             | {x.canonical for x in Countdown(template=template, **few).held_out(120).problems}
             for template in ("plain", name)}  # fmt: skip
    assert len(examples) == 6 and len(drawn["plain"] & examples) == 3 and not drawn[name] & examples
    file = tmp_path / "puzzles.csv"
    file.write_text("nums,target\n" + "".join(f'"{[*numbers]}",{target}\n' for numbers, target in examples))
    with pytest.raises(ValueError, match="leaves no puzzle"):
        Countdown(puzzles=file, template=name)


SOUND = {
    "9*2=18, yes": 1,
    "9-2=7, no": 1,
    "2+9=11, no\n9*2=18, yes": 1,
    "2+9=11, no\n9*2=18, no": 1 / 2,  # the target, and a no
    "2+9=12, no\n9*2=18, yes": 1 / 2,  # false
    "9+9=18, yes": 0,  # the 9 twice
    "2+9=11, yes": 0,
    "2-9=-7, no": 0,  # no number below 0 is read
    "9/2=4, no": 0,
    "18=18, yes": 0,
    "yes": 0,
    "": 0,
    "9*2=18": 0,
    "9*2=18, yes, 9*2=18, yes": 0,
    f"{'9' * 10**6}+2=18, yes": 0,
    "9-2=7, no\n" * 10**5: 100 / 101,  # all that stands behind the first hundred lines is one more
}


@pytest.mark.parametrize("thoughts", SOUND, ids=lambda text: text[:30])
def test_sound_thoughts(thoughts):
    problem = CountdownProblem((2, 9), 18)
    assert sound_thoughts(problem, f"{thoughts}\n</think>\n<answer>9*2</answer>") == pytest.approx(SOUND[thoughts])
    assert sound_thoughts(problem, f"{thoughts}\n</think>\n<answer>9*2") == 0  # no answer


def test_sound_thoughts_with_steps():
    problem = CountdownProblem((8, 1, 5), 12)
    lines = {"8-1=7, 7+5=12, yes": 1, "8*1=8, 8+5=13, no": 1, "8+5=13, no": 1, "8-1=7, 8+5=13, no": 0, "7+5=12, yes": 0}
    for line, share in lines.items():
        assert sound_thoughts(problem, f"{line}\n</think><answer>1</answer>") == share, line


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
