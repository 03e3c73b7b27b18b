"""`chat_template`: the prompts of a training as the chat template that tokenizers of Hugging Face keep."""

import json

from keras_aha.tasks.template import TURNS

_BEFORE, _BETWEEN = TURNS["gemma"]  # formats of Hugging Face are written of Gemmas alone
# As Google's, but a message is written as it is, spaces around it too: a Gemma has no system turn.
_TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    r"{% set preface = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set preface = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}"
    r"{{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else turn['role']) + '\n' }}"
    r"{{ (preface if loop.first else '') + turn['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<start_of_turn>model\n' + OPENING }}{% endif %}"
)


def chat_template(prompts: list[str]) -> str | None:
    """The template that writes `prompts`, of several problems of a task, for the messages in them.

    It begins the answer as they do, such as with `<think>`. If they are not in a Gemma's turns, or answers begin
    differently, there is none.
    """
    in_turns = all(prompt.startswith(_BEFORE) and _BETWEEN in prompt for prompt in prompts)
    openings = {prompt.rpartition(_BETWEEN)[2] for prompt in prompts}
    if not in_turns or len(openings) != 1:
        return None
    return _TEMPLATE.replace("OPENING", json.dumps(openings.pop(), ensure_ascii=False))
