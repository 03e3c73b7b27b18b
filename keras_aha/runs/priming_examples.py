"""What `[priming]` says to imitate: a file's rows, as examples to train on and held-out ones, or worked solutions."""

import warnings

from keras_aha.models.special_tokens import prompt_ids
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.runs.build_task import build_priming_task
from keras_aha.runs.check_marks import check_text, fitting_form
from keras_aha.tasks.example_rows import ExampleRows
from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.tasks.task import Task
from keras_aha.training.ask import ask_problem, ask_prompt
from keras_aha.training.examples import Example, make_examples

import numpy as np


def build_examples(recipe: Recipe, tokenizer, problems: Task) -> tuple[Task | list[Example], list[Example] | None]:
    """What is imitated, and what is held out of it, or `None`: the rows of `[priming] file`, or else worked solutions.

    No row to train on has the prompt of one that is held out, or of one of the held-out `problems`. What is left out is
    told. It raises RecipeError for rows that cannot be used, or are too long; no weights are read.
    """
    if recipe.priming.file is None:
        return build_priming_task(recipe), None
    priming = recipe.priming
    examples = _read(recipe, tokenizer, "file")
    if priming.held_out_file is not None:
        held_out = _read(recipe, tokenizer, "held_out_file")
    else:
        share = priming.held_out_share * 2**64
        sides = [], []
        for example in examples:
            sides[stable_hash("held-out", example.prompt) < share].append(example)
        examples, held_out = sides
    count = len(examples)
    prompts = prompt_ids(tokenizer, [ask_prompt(problems, ask_problem(problems, i)) for i in range(len(problems))])
    secret = {example.prompt for example in held_out} | {np.array(ids, "int32").tobytes() for ids in prompts}
    examples = [example for example in examples if example.prompt not in secret]
    if len(examples) < count:
        warnings.warn(f"{count - len(examples)} rows are not trained on: their prompts are held out.", stacklevel=2)
    if not examples:
        raise RecipeError(f"[priming]: No row is left to train on. Received: priming.file={priming.file!r}")
    return examples, held_out or None


def _read(recipe: Recipe, tokenizer, key: str) -> list[Example]:
    priming = recipe.priming
    with in_section("priming"):
        settings = {name: getattr(priming, name) for name in ("prompt", "completion", "messages", "loss_on")}
        form = priming.chat_form or (fitting_form(tokenizer) if priming.messages else None)
        rows = ExampleRows(getattr(priming, key), **settings, chat_form=form, key=f"priming.{key}")
        text = "".join(piece.text for piece in next(iter(rows)))
        check_text(tokenizer, text, "priming.chat_form", "none")
        examples = make_examples(tokenizer, rows, priming.stop_token)
    short = [example for example in examples if example.length <= priming.max_length]
    if len(short) < len(examples):
        longest = max(range(len(examples)), key=lambda index: examples[index].length)
        what = (
            f"{len(examples) - len(short)} of {len(examples)} rows are longer than {priming.max_length} tokens; the "
            f"longest has {examples[longest].length}, {rows.place(longest)}"
        )
        if priming.long_rows == "error":
            raise RecipeError(
                f'{what}: raise priming.max_length, or leave them out by priming.long_rows="skip". Received: '
                f"priming.max_length={priming.max_length}, priming.{key}={getattr(priming, key)!r}"
            )
        warnings.warn(f"{what}. They are left out.", stacklevel=2)
    return short
