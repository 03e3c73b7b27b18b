import json
import sys

from keras_aha.tasks.checkers.make_checker import make_checker

import pytest
from verdict_tables import HOSTILE, other_verdicts, read_table

ROWS = read_table(r"""
{"name": "Ann", "ages": [1, 2.5], "ok": true, "none": null}
    correct {"name": "Ann", "ages": [1, 2.5], "ok": true, "none": null}
    correct {"ages":[1.0,25e-1],"ok":true,"none":null,"name":"Ann"}
    correct {"name":"\u0041nn","ages":[1,2.50],"none":null,"ok":true}
    wrong_value {"name": "Ann", "ages": [2.5, 1], "ok": true, "none": null}
    wrong_value {"name": "ann", "ages": [1, 2.5], "ok": true, "none": null} ¦ {} ¦ []
    wrong_value {"name": "Ann", "ages": [1, 2.5], "ok": 1, "none": null} ¦ {"name": "Ann", "ages": [1, 2.5], "ok": true}
    wrong_value {"name": "Ann"} ¦ null
    not_readable {'name': 'Ann'} ¦ {name: "Ann"} ¦ {"name": "Ann",} ¦ {"name": "Ann" ¦ Ann ¦ name: Ann
    not_readable {"name": "Ann"} {"name": "Ann"} ¦ {"a":1,"a":1} ¦ It is {"name": "Ann"} ¦ // a comment ¦ {"ok": True}
    not_readable {"ok": tru} ¦ {"ages": [1, 2.5]]} ¦ [1 2] ¦ {"a" 1} ¦ {1: 2} ¦ {"x": .5} ¦ {"x": +1} ¦ {"x": 01}
1
    correct 1 ¦ 1.0 ¦ 1e0 ¦ 10e-1
    wrong_value true ¦ "1" ¦ [1] ¦ 2 ¦ -1 ¦ 1.0000000001 ¦ null ¦ {"1": 1}
    not_readable NaN ¦ Infinity ¦ -Infinity ¦ 1e999 ¦ 1,0 ¦ 0x1 ¦ 1. ¦ 1_0 ¦ one
0
    correct 0 ¦ -0.0 ¦ 0e9
    wrong_value false ¦ "" ¦ null ¦ []
"é [["
    correct "é [[" ¦ "\u00e9 [["
    wrong_value "e [[" ¦ "é [[ "
9007199254740993
    correct 9007199254740993
    wrong_value 9007199254740992 ¦ 9007199254740993.0
""")
FENCED = ["```json\n{}\n```", "```\n{}\n```", "\n {} \n", "```json\n{ }```"]
ROWS += [("{}", text, "correct") for text in FENCED] + [("{}", text, "no_answer") for text in ("", "\n")]
ROWS += [("{}", text, "too_long") for text in ("[" * 51 + "]" * 51, "{}" + " " * 10**4, "[" * 9999)]
ROWS += [("1", text, "not_readable") for text in ("9" * 5000, '"\n"', '"\x00"', "\ufeff1", '"\\ud800', "```json\n1")]


def test_verdicts():
    checker = make_checker("json", {})
    assert other_verdicts(checker, ROWS) == []
    assert checker.verdict("[" * 50 + "]" * 50, "[" * 50 + "]" * 50) == "correct"
    assert {checker.verdict(text, '"B"') for text in HOSTILE} == {"not_readable", "too_long"}


SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "pattern": "^(a+)+$"}, "age": {"type": "integer", "minimum": 0}},
}


@pytest.mark.parametrize("as_file", [False, True])
def test_a_schema(as_file, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8-sig")
    checker = make_checker("json", {"schema": str(tmp_path / "schema.json") if as_file else SCHEMA, "seconds": 0.5})
    verdicts = {
        **{
            '{"name": "aa"}': "correct",
            '```json\n{"name": "a", "age": 3}\n```': "correct",
            '{"name": "b"}': "wrong_value",
        },
        **{'{"name": "a", "age": -1}': "wrong_value", "{}": "wrong_value", "[]": "wrong_value", "{": "not_readable"},
        **{f'{{"name": "{"a" * 50}b"}}': "too_slow", '{"name": "a"}': "correct"},  # and it works again
    }
    assert {text: checker.verdict(text, "") for text in verdicts} == verdicts
    checker.check_expected("")


def test_a_schema_that_is_none(tmp_path, monkeypatch):
    wrong = [{"type": "nonsense"}, {"$ref": "https://example.org/schema"}, "none.json", 5, {"const": {1}}]
    for schema in wrong:
        with pytest.raises(ValueError, match="`schema` must be a JSON schema, or a file of one: .*Received: "):
            make_checker("json", {"schema": schema})
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ValueError, match=r'jsonschema is not installed: pip install "keras-aha\[json\]"'):
        make_checker("json", {"schema": SCHEMA})
    make_checker("json", {})
