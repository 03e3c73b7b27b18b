"""A chat server asks the exported folders: in turns, as in training, and the answer ends.

github.com/hiyouga/LLaMA-Factory/issues/5904, github.com/huggingface/transformers/issues/33246
"""

import json

from keras_aha.models.presets import load_tokenizer
from keras_aha.models.special_tokens import prompt_ids
from keras_aha.tasks import Countdown
from keras_aha.tasks.chat import CHAT_FORMS

from commands import SMALL, last_lines, run


def check(folder):
    try:
        import transformers
    except ImportError as error:
        raise ImportError('It needs transformers and PyTorch: pip install -e ".[interop]"') from error
    chat = ["--set", "task.template=gemma", "--set", "rollouts.max_prompt_length=512"]
    for name, arguments in (("chat", chat), ("plain", [])):
        result = run("fit", "--log-dir", folder / name, "--epochs", 1, *SMALL, *arguments)
        assert result.returncode == 0, last_lines(result)
        result = run("export", folder / name, "--format", "transformers", "--format", "peft")
        assert result.returncode == 0, last_lines(result)

    task = Countdown(template="gemma")
    prompt = task.prompt(task.problem(0))
    form = CHAT_FORMS["gemma"]
    content = prompt.removeprefix(form.before.format("user")).partition(form.end)[0]
    messages, load = [{"role": "user", "content": content}], transformers.AutoTokenizer.from_pretrained
    (ids,) = prompt_ids(load_tokenizer("countdown_tiny"), [prompt])
    for name in ("transformers", "peft", "peft/base"):
        tokenizer = load(folder / "chat" / "export" / name)
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert asked == ids, (name, tokenizer.decode(asked))
        assert load(folder / "plain" / "export" / name).chat_template is None
    for name in ("transformers", "peft/base"):
        ends = json.loads((folder / "chat" / "export" / name / "generation_config.json").read_text())["eos_token_id"]
        assert {tokenizer.decode([i]) for i in ends} == {"<eos>", "<end_of_turn>"}, ends
    card = (folder / "plain" / "export" / "transformers" / "README.md").read_text(encoding="utf-8")
    assert "There is no chat template" in card
    return f"apply_chat_template gives the {len(ids)} tokens of the training's prompt; a run without turns has none"
