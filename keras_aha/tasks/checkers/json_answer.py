"""`JsonAnswer`: an answer is JSON that is equal to the expected JSON, or valid by a schema."""

import importlib.util
import json
import math
import re
from collections.abc import Mapping
from os import PathLike

from keras_aha.files import read_text
from keras_aha.tasks.checkers.checker import Checker
from keras_aha.tasks.checkers.child import Child, check_seconds

_CHILD = Child("schema")
_MAX_DEPTH = 50  # open brackets at one time
_STRING = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?$)', re.DOTALL)  # or one that does not end


class JsonAnswer(Checker):
    """An answer is right if it is JSON with the expected value; or with `schema`, whatever is expected, a valid one.

    The order of keys does not count, nor does a fence of Markdown around. A key that comes twice, NaN and Infinity are
    no JSON. `true` is not 1; 1.0 is 1.

    Args:
        schema: a JSON schema that refers to nothing outside of itself, as a table or as the name of a file. The extra
            `json` installs jsonschema, which compares.
        seconds: that the comparison with the schema may take, else it is `too_slow`; less than `reward_seconds`.
    """

    max_length = 10_000
    expects = f"JSON with at most {_MAX_DEPTH} open brackets"

    def __init__(self, schema: Mapping | str | PathLike | None = None, seconds: float = 1.0):
        self.seconds = check_seconds(seconds)
        self.schema = None if schema is None else _checked_schema(schema)
        if self.schema is not None:
            _CHILD.start()

    def compare(self, answer: str, expected: str) -> str:
        if _depth(answer) > _MAX_DEPTH:
            return "too_long"
        text = self.canonical(answer)
        if text is None:
            return "not_readable"
        if self.schema is not None:
            return _CHILD.ask({"answer": text, "schema": self.schema}, self.seconds)
        return "correct" if text == self.canonical(expected) else "wrong_value"

    def check_expected(self, expected: str) -> None:
        if self.schema is None:
            super().check_expected(expected)

    def canonical(self, answer: str) -> str | None:
        """Returns the JSON with sorted keys and without blanks."""
        text = answer.strip()
        if text.startswith("```") and text.endswith("```"):
            text = text.removeprefix("```json").strip("`")
        if len(text) > self.max_length or _depth(text) > _MAX_DEPTH:
            return None
        try:
            value = json.loads(text, parse_float=_number, parse_constant=_number, object_pairs_hook=_table)
        except ValueError:
            return None
        return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in _STRING.sub("", text):
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"It is no number of JSON: {text!r}")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _table(pairs: list[tuple]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("A key comes twice.")
    return dict(pairs)


def _checked_schema(schema: Mapping | str | PathLike) -> dict:
    if not importlib.util.find_spec("jsonschema"):
        raise ValueError(f'jsonschema is not installed: pip install "keras-aha[json]". Received: schema={schema!r}')
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        table = schema if isinstance(schema, Mapping) else json.loads(read_text(schema))
        validator_for(table).check_schema(table)
        if outside := re.search(r'"\$ref": "([^#][^"]*)', json.dumps(table)):
            raise ValueError(f"it refers to {outside[1]}")
        return dict(table)
    except (OSError, TypeError, ValueError, RecursionError, SchemaError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`schema` must be a JSON schema, or a file of one: {reason}. Received: {schema!r}") from error
