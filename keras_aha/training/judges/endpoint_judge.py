"""`EndpointJudge`: a model behind a server of OpenAI's form, asked over HTTP."""

import asyncio
import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from concurrent import futures
from urllib.parse import urlsplit

from keras_aha.names import unicode
from keras_aha.tasks.task import Task
from keras_aha.training.judges.judge import Judge, check_answers, without_marks

_MARKS = " \t\r\n*_`#\"'“”‘’«»([{}]).,:;!▁Ġ"  # of Markdown, of quotes, and of a token that begins a word
_LEAST = 0.01  # of the probability: below it a judge's reply is none of the answers
_LOGPROBS, _SHORT = {"logprobs": True, "top_logprobs": 20}, {"max_tokens": 8, "temperature": 0}


class EndpointJudge(Judge):
    """A judge behind an HTTP server of OpenAI's form: vLLM, llama.cpp, Ollama, OpenAI, Gemini's compatible address.

        judge = EndpointJudge(task, "http://localhost:8000/v1", rubric, model="google/gemma-3-27b-it", key="")

    The filled rubric is a user's message. If the server tells the probabilities of tokens, the number is the mean of
    the answers' numbers, weighed by the probabilities that the reply begins so. Otherwise it is that of the answer with
    which the reply begins, whatever its case and the marks around it. A server that refuses to tell probabilities, or
    to take a temperature and a length, is asked without from then on.

    What fails by its connection, a limit on requests or the server's own error is sent again, later and later or when
    the server says. A completion costs itself alone if its reply is late, none of the answers, or above a megabyte.

    Args:
        task, rubric, ranks, opponents: see `Judge`.
        url: what stands before `/chat/completions`. No redirect is followed.
        model: what the server calls the model.
        answers: each with its number. If one begins with another, as 10 with 1, only the reply's text is looked at.
        key: the name of the environment variable that holds the key, or `""` for a server that needs none. The key is
            sent to `url`, and neither kept nor shown.
        concurrent: how many requests are sent at a time.
        retries: how often one that failed is sent again.
        seconds: that one may take, with all retries.

    Raises:
        ValueError: for an argument outside of these, or without the extra `endpoint`.
    """

    def __init__(
        self,
        task: Task,
        url: str,
        rubric: str,
        *,
        model: str,
        answers: Mapping[str, float] = {"Yes": 1.0, "No": 0.0},  # noqa: B006  it is only read
        key: str = "OPENAI_API_KEY",
        concurrent: int = 8,
        retries: int = 3,
        seconds: float = 60.0,
        ranks: bool = False,
        opponents: int = 2,
    ):
        super().__init__(task, rubric, ranks=ranks, opponents=opponents)
        check_answers(answers, compares="other" in self.fields)
        self.url, self.model, self.key, self.answers = url, model, key, dict(answers)
        self.concurrent, self.retries, self.seconds = concurrent, retries, seconds
        if concurrent < 1 or retries < 0 or not 0 < seconds < math.inf:
            raise ValueError(
                "`concurrent` must be 1 or more, `retries` 0 or more, and `seconds` a number above 0. "
                f"Received: concurrent={concurrent}, retries={retries}, seconds={seconds}"
            )
        if not re.match("https?://[^/]", url) or "@" in urlsplit(url).netloc:
            raise ValueError(
                "`url` must begin with http:// or https://, and hold no password. "
                f"Received: url={url.rpartition('@')[2]!r}"
            )
        self._numbers = {_plain(answer): number for answer, number in answers.items()}
        longest_first = sorted(map(re.escape, self._numbers), key=len, reverse=True)
        self._answer = re.compile(rf"({'|'.join(longest_first)})(?!\w|[.,]\d)")
        begins_alike = any(x != y and x.startswith(y) for x in self._numbers for y in self._numbers)
        # What a server may take. What it has taken is left alone: whatever it refuses later is a bad text.
        self._settings = [_LOGPROBS | _SHORT, _SHORT, {}][begins_alike:]
        self._read_key()
        if not all(map(importlib.util.find_spec, ("openai", "httpx2"))):  # openai has used httpx2 from 3 on
            raise ValueError(f'openai is not installed: pip install "keras-aha[endpoint]". Received: url={url!r}')

    def judge(self, texts: list[str]) -> list[float | Exception]:
        """Asks for all of them, in a loop of its own in a thread of its own: a notebook's loop runs already."""
        with contextlib.closing(asyncio.new_event_loop()) as loop, futures.ThreadPoolExecutor(1) as thread:
            asking = loop.create_task(self._ask_all(texts))
            running = thread.submit(loop.run_until_complete, asyncio.wait([asking]))
            try:
                while not running.done():
                    futures.wait([running], 0.5)  # a wait without an end may not hear Ctrl-C
            finally:
                loop.call_soon_threadsafe(asking.cancel)  # which changes nothing if it has ended
        return asking.result()

    async def _ask_all(self, texts):
        from keras_aha.training.judges.bounded_client import bounded_client

        key, free = self._read_key(), asyncio.Semaphore(self.concurrent)
        async with bounded_client(self.url, key, self.retries, self.seconds) as client:
            return await asyncio.gather(*(self._ask(client, free, text, key) for text in texts))

    async def _ask(self, client, free, text, key) -> float | Exception:
        try:
            async with free, asyncio.timeout(self.seconds):
                message = {"role": "user", "content": unicode(without_marks(text))}  # marks would be read as turns
                completion = await self._complete(client, message)
            return self._number(completion)
        except TimeoutError:
            return ValueError(f"the server gave no answer within {self.seconds:g} s")
        except Exception as error:  # whatever a server sends, which may be the key; the error itself holds the request
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            words = " ".join(f"{kind}{error} {error.__cause__ or ''}".split())
            return ValueError(words.replace(key, "[key]")[:300])

    async def _complete(self, client, message):
        import openai

        for settings in self._settings:
            try:
                completion = await client.chat.completions.create(model=self.model, messages=[message], **settings)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refusal = error
            else:
                self._settings = [settings] if len(self._settings) > 1 else self._settings
                return completion
        raise refusal

    def _number(self, completion) -> float:
        try:
            choice = completion.choices[0]
            text = choice.message.content
        except (AttributeError, LookupError, TypeError):
            raise ValueError(f"the server's answer is no chat completion: {completion!r}") from None
        number = self._expected(choice) if "logprobs" in self._settings[0] else None
        match = self._answer.match(text.lstrip(_MARKS).casefold()) if isinstance(text, str) else None
        if number is None and match is None:
            raise ValueError(f"the judge answered {text!r}, which is none of {', '.join(self.answers)}")
        return self._numbers[match[1]] if number is None else number

    def _expected(self, choice) -> float | None:
        """The mean of the numbers of answers that may begin the reply; `None` if none may, or it is not told."""
        try:
            first = next(token for token in choice.logprobs.content if _plain(token.token))
            likely = [(_plain(token.token), math.exp(min(token.logprob, 0.0))) for token in first.top_logprobs]
        except (AttributeError, StopIteration, TypeError):
            return None
        likely = [(self._numbers[word], probability) for word, probability in likely if word in self._numbers]
        total = sum(probability for _, probability in likely)
        return sum(number * probability for number, probability in likely) / total if total >= _LEAST else None

    def _read_key(self) -> str:
        value = os.environ.get(self.key, "").strip() if self.key else "no-key"
        if re.fullmatch("[!-~]+", value):
            return value
        name = repr(self.key) if re.fullmatch("[A-Z][A-Z0-9_]*", self.key) else "what may be a key"
        raise ValueError(
            "`key` must be the name of an environment variable that holds the server's key, and not the key itself: "
            f'set the variable, or give "" if the server needs none. Received: {name}'
        )


def _plain(text: str) -> str:
    return text.strip(_MARKS).casefold()
