"""`chat_template`: the prompts of a training as the chat template that tokenizers of Hugging Face keep."""

import json
import re

from keras_aha.tasks.chat import CHAT_FORMS

# What `write_chat` does for a system, a user and an assistant; words in capitals are replaced by the form's.
_TEMPLATE = (
    "{{ bos_token }}{% set words = '' %}{% set turns = messages %}"
    "{% if messages[0]['role'] in ['system', 'developer'] %}{% set turns = messages[1:] %}SYSTEM{% endif %}"
    "{% for turn in turns %}{% set by_user = turn['role'] == 'user' %}"
    "{% if not (by_user or turn['role'] == 'assistant') or ALTERNATES and by_user != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('A user and an assistant must speak in turn, the user first.') }}{% endif %}"
    "{{ USER + (words if loop.first else '') if by_user else ASSISTANT }}{{ turn['content'] CLEAN + END }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ASSISTANT + OPENING }}{% endif %}"
)
_SYSTEM_TURN = "{{ DEVELOPER + messages[0]['content'] CLEAN + END }}"
_SYSTEM_WORDS = r"{% set words = messages[0]['content'] + '\n\n' %}"


def chat_template(prompts: list[str], form: str | None) -> str | None:
    """The template that writes `prompts`, of several problems of a task, for the messages in them.

    It begins the answer as they do, such as with `<think>`. If they are not in the turns of the form, or answers begin
    differently, there is none. Blanks around a message are left out as the family does, unless the prompts have them.

    Args:
        prompts: of the training.
        form: the form in `CHAT_FORMS` of the model's family, a Gemma's: no others are written for Hugging Face.
    """
    if form is None:
        return None
    chat = CHAT_FORMS[form]
    user, assistant = chat.before.format("user"), chat.before.format(chat.assistant)
    system = chat.before.format(chat.system) if chat.system else user
    end = chat.end + chat.after
    in_turns = all(prompt.startswith((user, system)) and end + assistant in prompt for prompt in prompts)
    openings = {prompt.rpartition(end + assistant)[2] for prompt in prompts}
    if not in_turns or len(openings) != 1:
        return None
    blanks = re.compile(rf"(?:{re.escape(user)}|{re.escape(assistant)})\s|\s{re.escape(chat.end)}")
    strips = chat.strips and not any(blanks.search(prompt.rpartition(assistant)[0]) for prompt in prompts)
    words = dict(USER=user, ASSISTANT=assistant, DEVELOPER=system, END=end, OPENING=openings.pop())
    words["ALTERNATES"] = chat.alternates
    words = {name: json.dumps(word, ensure_ascii=False) for name, word in words.items()}
    words["CLEAN"] = "| trim" if strips else ""
    template = _TEMPLATE.replace("SYSTEM", _SYSTEM_TURN if chat.system else _SYSTEM_WORDS)
    return re.sub("[A-Z]{3,}", lambda name: words[name[0]], template)
