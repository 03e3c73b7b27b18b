"""A policy writes characters that Python's `splitlines` takes for line ends: the report is written all the same.

github.com/sierra-research/tau-bench/pull/354, github.com/wbolster/jsonlines/issues/53
"""

import json

from keras_aha.files import json_lines, read_lines

from commands import SMALL, last_lines, run

ENDS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r \x00 \ufeff"


def check(folder):
    fit = run("fit", "--log-dir", folder / "run", "--epochs", 1, *SMALL)
    assert fit.returncode == 0, last_lines(fit)
    path = folder / "run" / "completions.jsonl"
    records = list(map(json.loads, read_lines(path)))
    records.append(records[0] | {"text": f"9-1=8{ENDS}8-4=4 no\n", "problem": ENDS})
    path.write_bytes(json_lines(records))  # as `CompletionsCallback` writes them
    report = run("report", folder / "run")
    assert report.returncode == 0, last_lines(report)
    assert list(map(json.loads, read_lines(path))) == records
    again = run("fit", "--log-dir", folder / "run", "--resume")
    assert again.returncode == 0, last_lines(again)
    return f"{len(records)} completions read, one of them with {len(ENDS.split(' '))} such characters"
