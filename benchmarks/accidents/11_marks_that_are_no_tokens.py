"""A template whose marks the vocabulary does not know, and one that begins with the begin-token.

github.com/huggingface/open-r1/pull/462, github.com/axolotl-ai-cloud/axolotl/issues/3754
"""

import json

from commands import SMALL, refused, run


def check(folder):
    length = ["--set", "rollouts.max_prompt_length=512"]
    twice = "<bos><start_of_turn>user\nUse {numbers} to make {target}.<end_of_turn>\n<start_of_turn>model\n<think>\n"
    refused(
        run("fit", "--log-dir", folder / "bos", *SMALL, *length, "--set", f"task.template={json.dumps(twice)}"),
        "The begin-token stands before each prompt anyway",
    )
    chatml = [*SMALL, *length, "--set", "task.template=chatml"]
    refused(run("prime", "--out", folder / "primed", *chatml), "no tokens <|im_end|>, <|im_start|>")
    refused(run("evaluate", "countdown_tiny", "--set", "task.template=chatml"), "no tokens <|im_end|>, <|im_start|>")
    sentence = refused(run("fit", "--log-dir", folder / "run", *chatml), "no tokens <|im_end|>", "task.template=gemma")
    assert not any((folder / name).exists() for name in ("bos", "primed", "run"))
    return sentence
