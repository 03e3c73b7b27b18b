"""A judge behind a real server on loopback, which is slow, drops connections, answers garbage, or floods."""

import asyncio
import json
import math
import os
import signal
import threading
import time
import warnings
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.experiment import Experiment
from keras_aha.runs.run import Run
from keras_aha.tasks import Countdown
from keras_aha.training.judges.endpoint_judge import EndpointJudge

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL

KEY = "sk-secret-4711-abcdefghijklmnop"
TASK = Countdown(num_numbers=2)
ECHO = (401, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode())


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer another")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Handler(BaseHTTPRequestHandler):
    """Gives what the server's `respond(text, count)` returns, of a message and how often it has come: a reply's text,
    a body in bytes, both after a status and before headers; or it calls it with itself."""

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.headers.append(self.headers)
            server.now += 1
            server.most = max(server.most, server.now)
            count = sum(x["messages"] == body["messages"] for x in server.bodies)
        try:
            what = server.respond(body["messages"][0]["content"], count)
            what(self) if callable(what) else self.give(*(what if isinstance(what, tuple) else (200, what)))
        except OSError:  # the client has gone
            self.close_connection = True
        finally:
            with server.lock:
                server.now -= 1

    def give(self, status, content, headers=None):
        content = content if isinstance(content, bytes) else with_tops(content)
        self.send_response(status)
        for header in {"Content-Type": "application/json", "Content-Length": len(content), **(headers or {})}.items():
            self.send_header(*map(str, header))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def serving(respond):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        vars(server).update(respond=respond, lock=threading.Lock(), bodies=[], headers=[], most=0, now=0)
        server.daemon_threads, server.block_on_close = True, False
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def with_tops(text, *tops):
    """A chat completion; `tops` have for each token of it the probabilities of some tokens, the drawn one first."""
    tokens = [[{"token": token, "logprob": math.log(p)} for token, p in top.items()] for top in tops]
    logprobs = {"content": [top[0] | {"top_logprobs": top} for top in tokens]} if tops else None
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": logprobs}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()


def judge_of(server, **settings):
    return EndpointJudge(TASK, server.url, "{completion}", **dict(model="m", retries=0, seconds=20.0) | settings)


def ask(judge, *texts):
    """Numbers, or words."""
    return [str(x) if isinstance(x, Exception) else x for x in judge([TASK.problem(0)] * len(texts), texts)]


def asked(respond, *texts, **settings):
    with serving(respond) as server:
        return ask(judge_of(server, **settings), *texts)


GRADES = {"1": 1.0, "5": 5.0, "10": 10.0}
LIKELY = {"Yes": 0.6, " yes": 0.2, "No": 0.1, "Not": 0.1}
REPLIES = [("Yes", {}, 1.0), (' **"No"**, as', {}, 0.0), ("[[B]]", {"answers": {"[[A]]": 0, "[[B]]": 2}}, 2.0)]
REPLIES += [(reply, {"answers": GRADES}, number) for reply, number in {"5/10": 5.0, "10": 10.0}.items()]
REPLIES += [(with_tops("Yes", LIKELY), {}, 8 / 9), (with_tops("**Yes**", {"**": 1.0}, LIKELY), {}, 8 / 9)]
REPLIES += [(with_tops("▁5", {"▁5": 0.75, "1": 0.25}), {"answers": {"1": 1.0, "5": 5.0}}, 4.0)]
REPLIES += [(with_tops("10", {"1": 0.9, "5": 0.1}), {"answers": GRADES}, 10.0)]  # "1" may begin "10"
REPLIES += [(with_tops("Yes", {"Well": 0.999, "No": 0.001}), {}, 1.0)]  # what is hardly an answer does not count
REPLIES += [(with_tops("Yes", {"No": 1.0}).replace(b"0.0", x), {}, 1.0) for x in (b"NaN", b"null", b'"x"', b"[]")]


@pytest.mark.parametrize("reply, settings, number", REPLIES)
def test_the_number_is_that_of_the_reply(reply, settings, number):
    assert asked(lambda *_: reply, "text", **settings) == [pytest.approx(number)]


def test_a_reply_that_is_none_of_the_answers_has_no_number():
    texts = ["Not sure", "Well, yes", "yesterday", "4.5"]
    numbers = asked(lambda text, _: text, *texts, answers={"Yes": 1.0, "No": 0.0, "4": 0.5})
    assert numbers == [f"the judge answered {text!r}, which is none of Yes, No, 4" for text in texts]


GARBAGE = [b"", b"no json", b"[]", b"17", b"null", b"{}", b'{"choices": []}', b'{"choices": {}}', b'{"choices": [1]}']
GARBAGE += [b'{"choices": [{"message": null}]}', b'{"choices": [{"message": {"content": 4}}]}', b"\xff", b"[" * 10000]
GARBAGE += [(200, b"<html>", {"Content-Type": "text/html"}), (200, b"x", {"Content-Encoding": "gzip"}), (404, b"[]")]


def test_garbage_costs_its_completions_alone():
    good, *bad = asked(lambda text, _: GARBAGE[int(text)] if text != "good" else "Yes", "good", *map(str, range(16)))
    assert good == 1.0 and all(isinstance(words, str) and 0 < len(words) <= 300 for words in bad)
    assert bad[13].endswith("is no chat completion: '<html>'") and bad[15] == "NotFoundError: Error code: 404"


def drop(handler):
    handler.close_connection = True
    handler.connection.close()


def pour(handler, size=1, pause=0.05, parts=10**9):
    """Bytes without an end; or some of those that it says."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(parts * size + 1))
    handler.end_headers()
    for _ in range(parts):
        handler.wfile.write(b" " * size)
        time.sleep(pause)
    drop(handler)


def test_what_fails_is_sent_again_and_then_costs_the_completion():
    soon = {"Retry-After-Ms": "10"}
    failures = {
        "drop": drop,
        "cut": lambda handler: pour(handler, parts=1),
        "busy": (429, b"{}", {"Retry-After": "0.1"}),
        "broken": (500, b"oh", soon),
    }

    def respond(text, count):
        return failures[text] if text in failures and count == 1 else (503, b"", soon) if text == "down" else "Yes"

    assert asked(respond, *failures, "down", retries=1) == [1.0] * 4 + ["InternalServerError: Error code: 503"]
    assert "Connection error" in asked(lambda *_: drop, "text")[0]


def test_late_and_endless_answers_cost_their_completions_alone():
    slow = {"never": lambda _: time.sleep(3), "bytes": pour, "patience": (429, b"", {"Retry-After": "60"})}
    flood = {"flood": lambda handler: pour(handler, 2**16, 0)}
    start = time.monotonic()
    numbers = asked(
        lambda text, _: (slow | flood).get(text, "Yes"), *slow, *flood, *"abcdef", seconds=1, concurrent=5, retries=1
    )
    late, above = "the server gave no answer within 1 s", "the server's answer has more than 1,048,576 bytes"
    assert numbers == [late] * 3 + [above] + [1.0] * 6 and time.monotonic() - start < 20


def test_never_more_at_a_time_and_each_text_once():
    with serving(lambda *_: time.sleep(0.02) or "Yes") as server:
        judge = judge_of(server, concurrent=3, key="")
        assert [ask(judge, *(str(i % 20) for i in range(40))) for _ in range(2)] == [[1.0] * 40] * 2
    assert sorted(body.pop("messages")[0]["content"] for body in server.bodies) == sorted(map(str, range(20)))
    assert 1 < server.most <= 3 and server.headers[0]["Authorization"] == "Bearer no-key"
    assert server.bodies[0] == dict(model="m", logprobs=True, top_logprobs=20, max_tokens=8, temperature=0)


@pytest.mark.parametrize("refused, requests", [("logprobs", 3), ("max_tokens", 4)])
def test_a_server_that_refuses_is_asked_without(refused, requests):
    """Once. What is refused later is refused for its text."""
    no = (400, b'{"error": {"message": "too long"}}')
    with serving(lambda text, _: no if text == "long" or refused in server.bodies[-1] else "Yes") as server:
        judge = judge_of(server, concurrent=1)
        assert ask(judge, "a", "b") == [1.0, 1.0] and len(server.bodies) == requests
        assert ask(judge, "long", "c") == ["BadRequestError: Error code: 400 - too long", 1.0]
    assert len(server.bodies) == requests + 2 and ("max_tokens" in server.bodies[-1]) == (refused == "logprobs")


def test_it_runs_beside_another_loop_and_ctrl_c_ends_it():
    async def notebook():
        return asked(lambda *_: "Yes", "text")

    assert asyncio.run(notebook()) == [1.0]
    start = time.monotonic()
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        asked(lambda *_: time.sleep(60), "text")
    assert time.monotonic() - start < 15


def test_the_key_goes_to_its_server_alone():
    with serving(lambda *_: "Yes") as other:
        redirect = (307, b"", {"Location": f"{other.url}/chat/completions"})
        with serving(lambda text, _: {"redirect": redirect, "echo": ECHO}.get(text, "x" * 170 + KEY)) as server:
            redirected, echoed, cut_off = ask(judge_of(server), "redirect", "echo", "long")
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"} and not other.headers
    assert "307" in redirected and echoed.endswith("bad key [key]") and KEY[:6] not in cut_off


WRONG = [({"url": url}, "`url` must begin with http") for url in ("localhost:8000", "http://me:secret@host", "http://")]
WRONG += [({"key": key}, "`key` must be .* Received: what may be a key") for key in (KEY, "AIza_4711")]
WRONG += [({"key": "NOT_SET"}, "`key` must .* Received: 'NOT_SET'"), ({"answers": {"Yes": 1}}, "`answers` must be")]
WRONG += [({"concurrent": 0}, "`concurrent` must be 1 or more"), ({"seconds": math.nan}, "`seconds` a number above 0")]
WRONG += [({}, r'openai is not installed: pip install "keras-aha\[endpoint\]"')]


@pytest.mark.parametrize("changes, message", WRONG)
def test_bad_arguments_and_a_missing_library_are_one_sentence(changes, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message) as caught:
        EndpointJudge(**{"task": TASK, "url": "http://localhost", "rubric": "{completion}", "model": "m"} | changes)
    assert not {KEY, "AIza_4711", "secret"} & {*str(caught.value).replace("@", "'").split("'")}


class Remembers(EndpointJudge):
    """Keeps what it gives."""

    def __call__(self, problems, completions):
        vars(self).setdefault("given", []).append(super().__call__(problems, completions))
        return self.given[-1]


@pytest.mark.slow
def test_a_run_survives_a_server_that_fails_and_the_key_stands_nowhere(tmp_path, capfd, caplog):
    """Each third request is refused, in words that hold the key."""
    caplog.set_level("DEBUG")
    run = Run(Experiment(Recipe.load("countdown_tiny").override([*SMALL, "training.epochs=2"])), tmp_path / "run")
    with serving(lambda *_: "Yes" if len(server.bodies) % 3 else ECHO) as server:
        judge = Remembers(run.experiment.task, server.url, "{prompt}{completion}", model="m", concurrent=1)
        run.experiment.rollouts.grader.rewards["liked"] = (judge, 0.5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run.fit()
    failed = [np.mean([isinstance(x, Exception) for x in given]) for given in judge.given if len(given) == 4]
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert 0 < sum(failed) < 2 and history["failed_rewards"].tolist() == pytest.approx(failed)
    assert (history["reward_liked"] == 1).all()
    told = [str(warning.message) for warning in caught if "'liked'" in str(warning.message)]
    assert len(told) == sum(share > 0 for share in failed) and all("bad key [key]" in words for words in told)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    said = "".join([*capfd.readouterr(), caplog.text, *map(str, caught)]).encode()
    assert len(written) > 10 and not any(KEY.encode() in content for content in [*written, said])
