"""Are the marks of turns in a task's prompts tokens of the vocabulary, or would they be spelled out?"""

import re

from keras_aha.models.special_tokens import prompt_ids, token_id
from keras_aha.recipes.values import RecipeError
from keras_aha.tasks import Task
from keras_aha.tasks.template import TURNS
from keras_aha.training.ask import ask_problem, ask_prompt

_MARK = re.compile(r"<\|\w+\|?>|<\w+\|>|<(?:start|end)_of_\w+>|<[be]os>")


def check_marks(tokenizer, task: Task) -> None:
    """Raises RecipeError if marks in the prompt of the task's first problem are no tokens, or if it begins with the
    begin-token; TaskError if there is no such prompt."""
    prompt = ask_prompt(task, ask_problem(task, 0))
    (ids,) = prompt_ids(tokenizer, [prompt])
    begin = None if tokenizer.start_token_id is None else tokenizer.id_to_token(tokenizer.start_token_id)
    if prompt.startswith(("<bos>", begin or "<bos>")):
        raise RecipeError(
            "The begin-token stands before each prompt anyway: leave it out of task.template. Received: a prompt that "
            f"begins {prompt[:80]!r}"
        )
    lacking = sorted({mark for mark in _MARK.findall(prompt) if token_id(tokenizer, mark) not in ids})
    if lacking:
        marks = {name: _MARK.findall("".join(turns)) for name, turns in TURNS.items()}
        fitting = [name for name in marks if all(token_id(tokenizer, mark) is not None for mark in marks[name])]
        remedy = f"task.template={fitting[0]}, its family's, or one" if fitting else "a task.template"
        raise RecipeError(
            f"The vocabulary has no tokens {', '.join(lacking)}, so the model would read them letter by letter: set "
            f"{remedy} without marks, such as plain. Received: a prompt that begins {prompt[:80]!r}"
        )
