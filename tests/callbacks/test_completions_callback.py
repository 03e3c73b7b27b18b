import dataclasses
import html
import math
import re
from types import SimpleNamespace

from keras_aha.callbacks.completions_callback import CompletionsCallback, _as_markup
from keras_aha.callbacks.run_folder import complete_lines
from keras_aha.evaluation.transcript import transcript
from keras_aha.tasks import CountdownProblem, Score
from keras_aha.tasks.turn import Observation, Turn, said
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.rollout import Rollout

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard import plugin_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

HOSTILE = [
    "9-1=8 no\n</think>\n<answer>9</answer>",
    "</pre><script>alert(1)</script><pre>",
    '\n\n```\n</code></pre><img src=x onerror="alert(1)">\n```\n~~~\n# no heading\n',
    "[click](javascript:alert(1)) <a href='javascript:alert(1)'>x</a> | a |\n|---|\n&lt;b&gt; \x02wzxhzdk:0\x03",
]


@pytest.fixture
def model(make_policy):
    model = GRPOModel(make_policy())
    model.stop_training = False  # as `fit` sets it
    mask = np.arange(5) < np.array([5, 1, 2, 3])[:, None]
    model.rollout = Rollout(
        token_ids=np.zeros((4, 8), "int32"),
        padding_mask=np.hstack([np.ones((4, 3)), mask]).astype("int32"),
        completion_mask=np.zeros((4, 5), "float32"),  # all masked: their length counts all the same
        rewards=np.array([0.1, 0.31, 0.1, 0.1], "float32"),
        **dict.fromkeys(("old_log_probs", "sampler_log_probs", "advantages", "temperature", "truncated")),
        problems=(CountdownProblem((9, 1), 8),) * 4,
        texts=tuple(HOSTILE),
        scores=(Score(0.1, False, "wrong_numbers"),) * 4,
    )
    return model


def write(model, callback, epochs):
    callback.set_model(model)
    callback.set_params({"epochs": epochs})
    callback.on_train_begin()
    for epoch in range(epochs):
        callback.on_epoch_end(epoch)
    callback.on_train_end()
    return [record for record, _ in complete_lines(callback.log_dir / "completions.jsonl")]


def test_the_file_holds_the_completions_as_they_are(model, tmp_path):
    callback = CompletionsCallback(tmp_path / "new" / "run", every=2, count=9)
    records = write(model, callback, epochs=5)
    assert [record["epoch"] for record in records] == [epoch for epoch in (1, 2, 4, 5) for _ in HOSTILE]
    assert [record["text"] for record in records[:4]] == HOSTILE
    told = dict(problem="9 1 -> 8", text=HOSTILE[0], reward=0.1, correct=False, verdict="wrong_numbers", length=5)
    assert records[0] == {"epoch": 1} | told
    assert [record["length"] for record in records[:4]] == [5, 1, 2, 3]
    assert records[1]["reward"] == 0.31  # what was trained on, whatever the task's own
    few = write(model, CompletionsCallback(tmp_path, count=2), epochs=1)
    assert [record["text"] for record in few] == [HOSTILE[0], HOSTILE[2]]  # spread over the rollout
    model.stop_training = True
    records = write(model, CompletionsCallback(tmp_path / "stopped", every=10, count=1), epochs=3)
    assert [record["epoch"] for record in records] == [1, 2, 3]  # each might be the last
    with pytest.raises(ValueError, match="must be 1 or more. Received: every=1, count=0"):
        CompletionsCallback(tmp_path, count=0)


def test_what_json_does_not_know(model, tmp_path):
    """A failed reward is null, a text that is no Unicode ends no run, a problem without a text shows its prompt."""
    prompt, _ = model.tokenize(["Use 6 1 2.\n"], length=12)
    ids = np.hstack([np.repeat(prompt, 4, axis=0), np.zeros((4, 5), "int32")])
    mask = np.hstack([ids[:, :12] > 0, model.rollout.padding_mask[:, -5:]]).astype("int32")
    problems = ([(6, 1, 2)], (6, 1), "a text", CountdownProblem((9, 1), 8))
    scores = (Score(math.nan, False, "error"), *model.rollout.scores[1:])
    rewards = np.array([math.nan, *model.rollout.rewards[1:]], "float32")
    parts = ({"task_reward": math.nan, "reward_x": 1.0}, *({"task_reward": i, "reward_x": math.nan} for i in range(3)))
    texts = ("\ud800", "\udfff\\", '"\udc80\u00e9"', "\x00\ud83d\u2028\u2029\x85\x0b\x0c\x1c\x1e\r\n\ufeff")
    changes = dict(token_ids=ids, padding_mask=mask, problems=problems, scores=scores, texts=texts)
    changes |= dict(rewards=rewards, parts=parts)
    model.rollout = dataclasses.replace(model.rollout, **changes)
    records = write(model, CompletionsCallback(tmp_path), epochs=1)
    assert [record["text"] for record in records] == list(texts)
    assert [record["reward"] for record in records] == [None, 0.31, 0.1, 0.1] and records[0]["verdict"] == "error"
    assert [record["task_reward"] for record in records] == [None, 0, 1, 2]
    assert [record["reward_x"] for record in records] == [1.0, None, None, None]
    assert [record["problem"] for record in records] == ["Use 6 1 2.", "Use 6 1 2.", "a text", "9 1 -> 8"]
    assert "NaN" not in (tmp_path / "completions.jsonl").read_text()


def test_tensorboard_shows_text_and_no_markup(model, tmp_path):
    write(model, CompletionsCallback(tmp_path, count=9), epochs=1)
    events = EventAccumulator(str(tmp_path / "completions"))
    events.Reload()
    (event,) = events.Tensors("completions")
    shown = tensor_util.make_ndarray(event.tensor_proto)
    assert len(shown) == len(HOSTILE)
    for markup, text in zip(shown, HOSTILE, strict=True):
        page = plugin_util.markdown_to_safe_html(markup)  # what TensorBoard itself makes of it
        assert re.findall("<[^>]*>", page) == ["<pre>", "</pre>"]
        seen = html.unescape(page.removeprefix("<pre>").removesuffix("</pre>"))
        visible = text.replace("\x02", "\ufffd").replace("\x03", "\ufffd")
        assert seen.split("\n", 1) == ["9 1 -> 8  wrong_numbers", visible]


def test_turns_are_kept_apart(model, tmp_path):
    """In the file as they are; in TensorBoard as transcripts, of held-out problems too."""
    observation = Observation("</pre>7\n8", "\n<result>", "</result>\n", tool="calculator", is_error=True)
    own = ("<calculator>3+", "│ <result>7</result>")
    turns = (Turn(own[0], observation), Turn(own[1]))
    texts = (said(turns), *HOSTILE[1:])
    alone = tuple((Turn(text),) for text in HOSTILE[1:])
    model.rollout = dataclasses.replace(model.rollout, texts=texts, turns=(turns, *alone))
    sampled = pd.DataFrame(dict(puzzle=[0, 1], sample=0, text="x", problem="p", verdict="v", turns=[2, 1]))
    sampled["transcript"] = [transcript(turns), "alone"]
    evaluation = SimpleNamespace(latest=(0, sampled, None))
    first, second, *_ = write(model, CompletionsCallback(tmp_path, evaluation=evaluation), epochs=1)
    assert first["text"] == "\n".join(own) and second["turns"][0]["text"] == second["text"] == HOSTILE[1]
    answered = {"observation": "\n<result></pre>7\n8</result>\n", "tool": "calculator", "is_error": True}
    silent = {"observation": None, "tool": "", "is_error": False}
    assert first["turns"] == [{"text": own[0]} | answered, {"text": own[1]} | silent]
    events = EventAccumulator(str(tmp_path / "completions"))
    events.Reload()
    for name, head in {"completions": "9 1 -> 8  wrong_numbers", "held_out": "p  v"}.items():
        markup = tensor_util.make_ndarray(events.Tensors(name)[0].tensor_proto)[0]
        seen = html.unescape(plugin_util.markdown_to_safe_html(markup))
        lines = [own[0], "│ <result></pre>7", "│ 8</result>", r"\│ <result>7</result>"]
        assert seen == "<pre>" + "\n".join([head, *lines]) + "</pre>"


def test_the_same_held_out_problems_are_followed(model, tmp_path):
    """Of four problems two, and of each the first sample, after each evaluation."""
    evaluation = SimpleNamespace(latest=None)
    callback = CompletionsCallback(tmp_path, count=2, evaluation=evaluation)
    callback.set_model(model)
    callback.set_params({"epochs": 9})
    callback.on_train_begin()
    for epoch in range(4):
        if epoch % 2:
            rows = [(p, s, f"{epoch}: {p} {s} <b>") for p in range(4) for s in range(2)]
            table = pd.DataFrame(rows, columns=["puzzle", "sample", "text"])
            evaluation.latest = (epoch, table.assign(problem=table["puzzle"], verdict="correct"), None)
        callback.on_epoch_end(epoch)
    callback.on_train_end()
    events = EventAccumulator(str(tmp_path / "completions"))
    events.Reload()
    shown = {event.step: list(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors("held_out")}
    expected = "<pre>{p}  correct\n{epoch}: {p} 0 &lt;b&gt;</pre>"
    assert shown == {epoch: [expected.format(p=p, epoch=epoch).encode() for p in (0, 2)] for epoch in (1, 3)}


MARKUP = [
    *("<", ">", "&", "&lt;", "&#60;", "</pre>", "<pre>", "<script>", "<!--", "-->", "<![CDATA[", "]]>", "<?", "`"),
    *("```\n", "~~~\n", "*", "_", "#", "[x](y)", "![", "|", "\n", "\n\n", "    ", "\t", "\\", '"', "'", "\x02", "\x03"),
    *("\ud800", "\u2028", "\x00", "\r", "a"),
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(MARKUP), max_size=12).map("".join) | st.text(st.characters(), max_size=30))
def test_no_markup_takes_effect(text):
    page = plugin_util.markdown_to_safe_html(_as_markup({"problem": "9 1 -> 8", "verdict": "no_answer", "text": text}))
    assert re.findall("<[^>]*>?", page) == ["<pre>", "</pre>"]
