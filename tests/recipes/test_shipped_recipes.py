"""Each recipe in presets/ suits its model and the machine it is planned for; whether it fits, the planner says."""

import math
import random
import re
from pathlib import Path

from keras_aha.files import presets_folder
from keras_aha.models import lora, policy
from keras_aha.models.abstract_backbone import abstract_backbone, known_presets
from keras_aha.models.internals import without_values
from keras_aha.models.tiny_gemma import tiny_tokenizer
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_task import build_priming_task, build_task
from keras_aha.tasks.chat import CHAT_FORMS
from keras_aha.training.example_batches import solutions

import pytest

NAMES = sorted(path.stem for path in presets_folder().glob("*.toml"))
EMBEDDED = [name for name in NAMES if Recipe.load(name).model.preset == "countdown_tiny"]
PLANNED = [name for name in NAMES if name not in EMBEDDED and not name.endswith("_cpu")]  # others run anywhere
OF_FILES = [name for name in PLANNED if Recipe.load(name).task.name == "rows"]  # that the user has: see test_rows.py
MANUAL = (Path(__file__).parents[2] / "docs" / "tpu.md").read_text(encoding="utf-8")
MACHINE = re.compile(r"^# Planned for: (v\w+:\d+(?:x\d+)+)$", re.MULTILINE)
PLAN = re.compile(
    r"^# By scripts/plan\.py it fits, ([\d.]+) of ([\d.]+) GB a chip; at best (.+) an epoch, (.+) for (\d+)\.$",
    re.MULTILINE,
)


def comment(name):
    text = (presets_folder() / f"{name}.toml").read_text(encoding="utf-8")
    return text[: text.index("[model]")]


def chips(name):
    """Of the machine that the recipe's comment names, as the TPU compiler writes it: `# Planned for: v5e:2x4`."""
    return math.prod(map(int, MACHINE.search(comment(name))[1].split(":")[1].split("x")))


@pytest.mark.parametrize("name", NAMES)
def test_its_adapters_find_their_layers(name):
    recipe = Recipe.load(name)
    backbone = abstract_backbone(recipe.model.preset, recipe.model.dtype)
    with without_values():
        policy._enable_lora(backbone, recipe.lora.rank, recipe.lora.alpha, recipe.lora.target)
    adapted = {layer.name for layer in backbone._flatten_layers() if lora.has_adapters(layer) and not layer._layers}
    assert adapted == set(recipe.lora.target)


@pytest.mark.parametrize("name", PLANNED)
def test_its_preset_is_known_and_rows_fill_micro_batches_and_chips(name):
    recipe = Recipe.load(name)
    assert recipe.model.preset == name.removesuffix("_zero") or name in OF_FILES
    assert recipe.model.preset in known_presets()
    rows = recipe.rollouts.prompts_per_epoch * recipe.rollouts.group_size
    assert rows % recipe.training.micro_batch_size == 0
    assert recipe.training.micro_batch_size % chips(name) == 0
    assert (recipe.rollouts.max_rows or rows) % chips(name) == 0


@pytest.mark.parametrize("name", [name for name in PLANNED if PLAN.search(comment(name))])
def test_its_plan_is_the_manuals(name):
    used, limit, epoch, run, epochs = PLAN.search(comment(name)).groups()
    assert float(used) <= float(limit)
    assert int(epochs) == Recipe.load(name).training.epochs
    row = f"| `{name}` | `{MACHINE.search(comment(name))[1]}` | {used} of {limit} GB | {epoch} | {run} |"
    assert row in MANUAL


@pytest.mark.parametrize("name", sorted({*PLANNED} - {*OF_FILES}))
def test_prompts_fit(name):
    """Counted as if every word, digit, sign and line break were a token, and a space before a digit as well.

    Gemma's vocabularies split digits and hold the words of the template whole, so that they need no more.
    """
    recipe = Recipe.load(name)
    task = build_task(recipe)
    prompts = [task.prompt(task.problem(i)) for i in range(200)]
    longest = max(len(re.findall(r" (?=\d)|\d|[A-Za-z]+|[^\w\s]|\n", prompt)) for prompt in prompts)
    assert longest + 1 <= recipe.rollouts.max_prompt_length
    lengths = {"thinking_examples": 256 + 896, "examples": 256 + 16}  # worked examples come on top
    assert recipe.rollouts.max_prompt_length + recipe.rollouts.max_completion_length == lengths.get(task.template, 1024)


@pytest.mark.parametrize("name", PLANNED)
def test_instruct_models_are_spoken_to_as_they_were_taught(name):
    """Qwen's and SmolLM's names do not tell; those that keras-hub has were taught to converse."""
    recipe = Recipe.load(name)
    template, preset = recipe.task.arguments.get("template", "plain"), recipe.model.preset
    families = {"qwen3": "chatml", "smollm3": "chatml", "gemma4_instruct": "gemma4", "function_gemma": "functiongemma"}
    family = next(
        (x for begin, x in families.items() if preset.startswith(begin)), "gemma" if "instruct" in preset else None
    )
    assert template == family if family else template not in CHAT_FORMS


@pytest.mark.parametrize("name", ["guessing_tiny", "search_tiny", "multiplication_calculator_tiny"])
def test_what_is_imitated_in_turns_fits(name):
    recipe = Recipe.load(name)
    task, rollouts = build_priming_task(recipe), recipe.rollouts
    for example in solutions(task, tiny_tokenizer(), None, 0, {})(range(200)):
        assert len(example.prompt_ids) <= rollouts.max_prompt_length
        assert len(example.completion_ids) <= rollouts.max_completion_length
    assert max(len(task.worked_turns(task.problem(i), random.Random(i))) for i in range(50)) > 1
