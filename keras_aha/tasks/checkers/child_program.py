"""The program that a `Child` runs: it reads questions as lines of JSON, and writes a verdict for each."""

import contextlib
import json
import multiprocessing
import os
import re
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

_MEMORY = 2 << 30  # bytes of addresses; SymPy needs a quarter of it


def main(kind: str) -> None:
    """Answers the questions of one kind, `"math"`, `"regex"` or `"schema"`, until there are no more.

    A worker looks at the texts, a fork of this process, which has no threads. If it is late it is killed, and the next
    one is there at once, because what takes time to import is imported here.
    """
    answer = {"math": _math, "regex": _regex, "schema": _schema}[kind]()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    worker = None
    for line in sys.stdin:
        if worker is None:
            connection, end = multiprocessing.Pipe()
            worker = multiprocessing.get_context("fork").Process(target=_work, args=(answer, end), daemon=True)
            worker.start()
            end.close()
        question = json.loads(line)
        number, verdict, is_lost = question.pop("number"), "too_slow", True
        try:
            connection.send_bytes(json.dumps(question).encode())
            if connection.poll(question["seconds"]):
                verdict, is_lost = connection.recv_bytes().decode(), False
        except (EOFError, OSError):  # it has died
            verdict = "too_long"
        if is_lost:
            worker.kill()
            worker.join()
            worker = None
        print(number, verdict, file=replies, flush=True)


def _work(answer: Callable[..., str], questions: Connection) -> None:
    for limit, value in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of addresses
            resource.setrlimit(limit, (value, value))
    while True:
        question = json.loads(questions.recv_bytes())
        used = resource.getrusage(resource.RUSAGE_SELF)
        last = int(used.ru_utime + used.ru_stime + question.pop("seconds")) + 2  # if nobody is left to kill it
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (last, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        try:
            verdict = answer(**question)
        except (MemoryError, OverflowError, RecursionError):
            verdict = "too_long"
        except Exception:
            verdict = "not_readable"
        questions.send_bytes(verdict.encode())


def _math():
    from latex2sympy2_extended import NormalizationConfig, normalize_latex
    from math_verify import verify
    from math_verify.parser import parse_latex_cached
    from sympy.parsing import sympy_parser
    from sympy.physics import units  # noqa: F401  which SymPy would load late, and which makes symbols of its own texts

    # SymPy makes numbers of texts by `eval`. The grammar hands it nothing but numbers; from here on no one can do more.
    sympy_parser.parse_expr = _number
    settings = NormalizationConfig(units=True, malformed_operators=True, nits=True)  # as `math_verify.parse` has them

    def read(text):
        text = normalize_latex(text, settings)
        try:
            return [parse_latex_cached(text), text]
        except (MemoryError, RecursionError):
            raise
        except Exception:
            return [text]

    def answer(answer, expected):
        stated, wanted = read(answer), read(expected)
        if verify(wanted, stated, allow_set_relation_comp=True, timeout_seconds=None):
            return "correct"
        return "wrong_value" if len(stated) > 1 else "not_readable"

    answer(r"\{(x+1)^2, 0.5\}", r"\{x^2+2x+1, \frac{1}{2}\}")  # the first one takes a second
    return answer


def _number(text: str, *args, **kwargs):
    """What SymPy's `parse_expr` makes of a number, by no `eval`."""
    from sympy import Float, Integer

    if not re.fullmatch(r" *[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]{1,4})? *", text):
        raise ValueError(f"It is no number: {text!r}")
    return Integer(int(text)) if text.strip().isdecimal() else Float(text)


def _regex():
    return lambda answer, pattern: "correct" if re.fullmatch(pattern, answer) else "wrong_value"


def _schema():
    from jsonschema.validators import validator_for
    from referencing import Registry

    def answer(answer, schema):
        validator = validator_for(schema)(schema, registry=Registry())  # which fetches nothing
        return "correct" if validator.is_valid(json.loads(answer)) else "wrong_value"

    return answer


if __name__ == "__main__":
    main(sys.argv[1])
