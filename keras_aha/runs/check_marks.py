"""Are the marks of turns in a task's prompts tokens of the vocabulary, or would they be spelled out?"""

from keras_aha.models.special_tokens import prompt_ids, token_id
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError
from keras_aha.tasks import Mixture, Task
from keras_aha.tasks.chat import BEGIN_TOKENS, CHAT_FORMS, MARK
from keras_aha.tasks.tools.forms import TOOL_FORMS
from keras_aha.training.ask import ask_problem, ask_prompt
from keras_aha.training.judges.local_judge import LocalJudge


def check_marks(tokenizer, task: Task) -> None:
    """Raises RecipeError if marks in the prompt of the first problem, in a mixture of each task's, are no tokens, or if
    there is a begin-token in it; TaskError if there is no such prompt."""
    for part in task.tasks if isinstance(task, Mixture) else [task]:
        check_text(tokenizer, ask_prompt(part, ask_problem(part, 0)))


def check_tool_form(tokenizer, recipe: Recipe) -> None:
    """Raises RecipeError if marks with which calls of the recipe's tools are written are no tokens."""
    if not recipe.tools:
        return
    form = TOOL_FORMS[recipe.turns.tool_form](())
    lacking = _lacking(tokenizer, "".join((form.begin, form.end, form.stop, *form.around(""))))
    if lacking:
        raise RecipeError(
            f"The vocabulary has no tokens {', '.join(lacking)}, with which calls are written: set "
            f"turns.tool_form=tags. Received: turns.tool_form={recipe.turns.tool_form!r}"
        )


def check_rubric(judge: LocalJudge, path: str) -> None:
    """Raises RecipeError if marks in what a judge reads are no tokens of its vocabulary; `path` is of its section."""
    problem = ask_problem(judge.task, 0) if "prompt" in judge.fields else None
    prompt = "" if problem is None else ask_prompt(judge.task, problem)
    rubric = judge.rubric.replace("{prompt}", prompt)
    check_text(judge.tokenizer, rubric, f"{path}.rubric", None)
    check_text(judge.tokenizer, judge.write(rubric), f"{path}.chat_form", "none")


def check_text(tokenizer, text: str, key="task.template", plain: str | None = "plain") -> None:
    """Raises RecipeError if marks in a prompt or a conversation are no tokens, or if there is a begin-token in it; the
    error names `key`, and `plain`, a value without marks; `None` if the key's value is a text and no form's name."""
    begin = None if tokenizer.start_token_id is None else tokenizer.id_to_token(tokenizer.start_token_id)
    if any(token in text for token in {*BEGIN_TOKENS, begin or "<bos>"}):
        raise RecipeError(
            f"The begin-token stands before each prompt anyway: leave it out of {key} and of messages. "
            f"Received: a prompt that begins {text[:80]!r}"
        )
    if lacking := _lacking(tokenizer, text):
        form = fitting_form(tokenizer)
        remedy = f"{key}={form}, its family's, or one" if form and plain else f"a {key}"
        remedy += f" without marks, such as {plain}" if plain else " without them"
        raise RecipeError(
            f"The vocabulary has no tokens {', '.join(lacking)}, so the model would read them letter by letter: set "
            f"{remedy}. Received: a prompt that begins {text[:80]!r}"
        )


def _lacking(tokenizer, text: str) -> list[str]:
    """The marks in a text that are not tokens there."""
    (ids,) = prompt_ids(tokenizer, [text])
    return sorted({mark for mark in MARK.findall(text) if token_id(tokenizer, mark) not in ids})


def fitting_form(tokenizer) -> str | None:
    """The form of `CHAT_FORMS` with the most marks, all of which are tokens of the vocabulary; `None` if none fits."""
    marks = {form: chat.marks for form, chat in CHAT_FORMS.items()}
    fitting = [form for form in marks if all(token_id(tokenizer, mark) is not None for mark in marks[form])]
    return max(fitting, key=lambda form: len(marks[form]), default=None)
