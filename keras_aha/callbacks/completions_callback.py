"""`CompletionsCallback`: what the policy writes, as a file and in TensorBoard."""

import html
import math
import operator
import os

from keras_aha.callbacks.run_folder import COMPLETIONS
from keras_aha.evaluation.transcript import shown, transcript
from keras_aha.files import json_lines, local_path
from keras_aha.names import printable
from keras_aha.tasks.turn import Turn
from keras_aha.training.ask import problem_text

import keras
import tensorflow as tf


class CompletionsCallback(keras.callbacks.Callback):
    """Writes some completions of the epoch's rollout to `completions.jsonl` and, as text, to TensorBoard.

    A line of the file is one completion: `epoch` (counted from 1), `problem` (as text, or the prompt if a problem has
    no text of its own), `text`, `reward` (what it was trained on), `correct`, `verdict`, `length` (tokens); and if
    anything was added to the task's reward, the parts `task_reward`, `reward_<name>`, `overlong_penalty`. A reward that
    failed is null. Of a task that answers, `text` has the policy's own words, and `turns` is a list of `text`,
    `observation` (null if there was none), `tool`, `is_error`; TensorBoard shows the `transcript`. They are spread
    evenly over the rollout, so they are of different problems as far as there are that many. In TensorBoard they stand
    under the run `completions`.

    With an `EvaluateCallback` TensorBoard also gets a completion of each of some held-out problems after each
    evaluation, as the text `held_out`: always of the same problems, by the same random keys.

    Args:
        log_dir: the folder of both, made if it is missing. A `completions.jsonl` that is there is added to.
        every: epochs from one writing to the next; the first and the last epoch are always written.
        count: completions written.
        evaluation: the `EvaluateCallback`, or `None`.
    """

    def __init__(self, log_dir: str | os.PathLike, every: int = 1, count: int = 8, evaluation=None):
        super().__init__()
        if every < 1 or count < 1:
            raise ValueError(f"`every` and `count` must be 1 or more. Received: every={every}, count={count}")
        self.log_dir = local_path(log_dir, "log_dir")
        self.every = every
        self.count = count
        self.evaluation = evaluation

    def on_train_begin(self, logs=None):
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._writer = tf.summary.create_file_writer(str(self.log_dir / "completions"))

    def on_epoch_end(self, epoch, logs=None):
        latest = self.evaluation and self.evaluation.latest
        if latest and latest[0] == epoch:
            first = latest[1][latest[1]["sample"] == 0]
            self._show("held_out", [first.iloc[i].to_dict() for i in _spread(len(first), self.count)], epoch)
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if epoch and (epoch + 1) % self.every and not last:
            return
        rows = _spread(len(self.model.rollout.texts), self.count)
        records = [self._record(self.model.rollout, row, epoch + 1) for row in rows]
        with open(self.log_dir / COMPLETIONS, "ab") as file:
            file.write(json_lines(records))
        turns = self.model.rollout.turns
        transcripts = [{"transcript": transcript(turns[row])} if turns else {} for row in rows]
        self._show("completions", map(operator.or_, records, transcripts), epoch)

    def on_train_end(self, logs=None):
        self._writer.close()

    def _show(self, name, records, epoch):
        with self._writer.as_default():
            tf.summary.text(name, [_as_markup(record) for record in records], step=epoch)
        self._writer.flush()

    def _record(self, rollout, row, epoch):
        score, parts = rollout.scores[row], rollout.parts[row] if rollout.parts else {}
        numbers = {"reward": float(str(rollout.rewards[row]))} | parts  # 0.1, and not float32's 0.10000000149
        return {
            "epoch": epoch,
            "problem": problem_text(rollout.problems[row], self._prompt(rollout, row)),
            "text": rollout.texts[row],
            **({"turns": [_as_record(turn) for turn in rollout.turns[row]]} if rollout.turns else {}),
            **{name: None if math.isnan(number) else number for name, number in numbers.items()},  # JSON has no NaN
            "correct": score.correct,
            "verdict": score.verdict,
            "length": int(rollout.lengths[row]),
        }

    def _prompt(self, rollout, row):
        length = rollout.token_ids.shape[1] - rollout.completion_mask.shape[1]
        ids = rollout.token_ids[row, :length][rollout.padding_mask[row, :length] > 0]
        tokenizer = self.model.tokenizer
        return tokenizer.detokenize([i for i in ids.tolist() if i != tokenizer.start_token_id])


def _spread(rows: int, count: int) -> list[int]:
    count = min(count, rows)
    return [i * rows // count for i in range(count)]


def _as_record(turn: Turn) -> dict:
    x = turn.observation
    return dict(text=turn.text, observation=x and x.written, tool=x.tool if x else "", is_error=bool(x and x.is_error))


def _as_markup(record: dict) -> str:
    """The completion between `<pre>` tags; TensorBoard reads text as Markdown, and none of it may take effect."""
    text = printable(f"{record['problem']}  {record['verdict']}\n{shown(record)}")
    # Markdown looks for fenced code before it looks for HTML.
    return "<pre>" + html.escape(text).replace("`", "&#96;").replace("~", "&#126;") + "</pre>"
