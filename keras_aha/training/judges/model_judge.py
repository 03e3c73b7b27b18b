"""`ModelJudge`: asks a language model about completions, and makes a number of the answers that it might give."""

from collections.abc import Mapping

from keras_aha.models.head import float32_logits
from keras_aha.tasks.chat import CHAT_FORMS, write_chat
from keras_aha.tasks.task import Task
from keras_aha.training.judges.judge import check_answers, without_marks
from keras_aha.training.judges.local_judge import LocalJudge

import jax
import jax.numpy as jnp


class ModelJudge(LocalJudge):
    """A judge that is a keras-hub `CausalLM`, such as an instruction-tuned Gemma, or ShieldGemma.

    Nothing is sampled. The filled rubric ends where the answer stands, such as in "Is this polite? Yes or No:". The
    judge's number is Σ number · p(answer), with the probabilities of the next token, given that it is one of `answers`.
    With 1 for "Yes" and 0 for "No" it is the probability of yes against no; with digits it is their expected value.

    Args:
        answers: answer → its number. An answer is one token of the vocabulary, such as "Yes" after a line break, or
            " Yes" after a word. If the rubric has `{other}`, numbers are in [0, 1].
        chat_form: a form of `tasks.chat`, such as "gemma", in which the filled rubric is the user's turn, without
            marks, and the answer begins the assistant's. `None` takes the rubric as it is.
        task, preset, rubric, **settings: as of `LocalJudge`.

    Raises:
        ValueError: for what `LocalJudge` does, answers that are not two tokens or more, and an unknown chat form.
    """

    def __init__(
        self,
        task: Task,
        preset: str,
        rubric: str,
        *,
        answers: Mapping[str, float] | None = None,
        chat_form: str | None = None,
        **settings,
    ):
        super().__init__(task, preset, rubric, **settings)
        if chat_form not in (None, *CHAT_FORMS):
            raise ValueError(
                f"`chat_form` must be one of {', '.join(CHAT_FORMS)}, or None. Received: chat_form={chat_form!r}"
            )
        self.chat_form = chat_form
        self.answers = {"Yes": 1.0, "No": 0.0} if answers is None else answers
        check_answers(self.answers, compares="other" in self.fields)
        self.answer_ids = _token_ids(self.answers, self.tokenizer)

    def write(self, text: str) -> str:
        if self.chat_form is None:
            return text
        message = {"role": "user", "content": without_marks(text)}  # which would be read as turns
        return "".join(piece.text for piece in write_chat([message], self.chat_form))

    def numbers(self, hidden):
        logits = float32_logits(self.policy.backbone.token_embedding, hidden)
        weights = jax.nn.softmax(logits[:, jnp.array(self.answer_ids)])
        return jnp.sum(weights * jnp.array(list(self.answers.values()), "float32"), axis=1)


def _token_ids(answers, tokenizer) -> list[int]:
    rows = {answer: [int(i) for i in tokenizer(answer)] for answer in answers}
    for answer, row in rows.items():
        if len(row) != 1:
            pieces = [tokenizer.id_to_token(i) for i in row]
            raise ValueError(
                "Each of `answers` must be one token of the judge's vocabulary, a blank before it counts. "
                f"Received: {answer!r}, which is {len(row)}: {pieces}"
            )
    ids = [token_id for (token_id,) in rows.values()]
    if len({*ids}) < len(ids):
        raise ValueError(f"`answers` must be different tokens. Received: {dict(zip(answers, ids, strict=True))}")
    return ids
