import base64
import dataclasses
import functools
import html.parser
import json
import re
import xml.etree.ElementTree

from keras_aha.evaluation.table_file import write_tables
from keras_aha.evaluation.tables import BEHAVIOURS, TURNS, behaviour_rates, by_label, summarize, with_behaviours
from keras_aha.evaluation.transcript import transcript
from keras_aha.files import json_lines
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_task import build_held_out
from keras_aha.runs.report import completions, pictures, run_record, write_report
from keras_aha.runs.report.run_record import RunRecord
from keras_aha.tasks.turn import Observation, Turn, said

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.figure import Figure

ENDS = "\u2028\u2029\x85\x0b\x0c\x1c\x1e\r"  # of lines, for all but JSON lines
GUESS = "</think>\n<answer>9-1</answer>"
SEARCH = "9-1=8 no\n9+1=11 no\n9*1=9 yes\n</think>\n<answer>9*1</answer>"
SHARES = {"correct": {1: 0.25, 2: 0.5, 3: 0.5}, "wrong_value": {1: 0.75, 2: 0.5, 3: 0.25}, "no_answer": {3: 0.25}}


def make_table(texts, correct):
    """Two samples of each puzzle."""
    puzzles = np.arange(len(texts)) // 2
    table = pd.DataFrame({"puzzle": puzzles, "difficulty": 2 + puzzles % 2, "text": texts, "correct": correct})
    table["problem"] = [f"9 1 {puzzle} -> 9" for puzzle in puzzles]
    table["verdict"] = np.where(correct, "correct", "wrong_value")
    table = table.assign(sample=table.index % 2, reward=table["correct"].astype(float), well_formed=True, stopped=True)
    return with_behaviours(table.assign(completion_length=table["text"].str.len()))


BEFORE = make_table([GUESS] * 6 + [SEARCH] * 2, [False, True, False, False, False, False, True, True])
AFTER = make_table([SEARCH] * 8, [True] * 7 + [False])


@pytest.fixture
def folder(tmp_path):
    """A run's folder, its numbers made up."""
    folder = tmp_path / "a <run>"
    folder.mkdir()
    Recipe.load("countdown_tiny").override("training.epochs=3").dump(folder / "recipe.toml")
    history = pd.DataFrame({"epoch": [1, 2, 3], "accuracy": [0.2, 0.4, 0.6], "reward": [0.1, 0.2, 0.5]})
    history["completion_length"] = [20.0, 30.0, 50.0]
    history = history.assign(**{name: [1.0, 2.0, 3.0] for name in BEHAVIOURS})
    history = history.assign(**{f"val_{name}": [np.nan, 2.5, 3.5] for name in BEHAVIOURS})
    history = history.assign(val_accuracy=[np.nan, 0.5, 0.875], val_completion_length=[np.nan, 40, 60])
    history.to_csv(folder / "history.csv", index=False)
    write_tables(folder / "held_out_before.jsonl", BEFORE, BEFORE[BEFORE["sample"] == 0])
    write_tables(folder / "held_out_after.jsonl", AFTER, AFTER[AFTER["sample"] == 0])
    behaviour_rates(BEFORE, AFTER).to_csv(folder / "behaviours.csv", index=False)
    summary = {"seed": 0, "epochs": 3, "wall_seconds": 90.0, "generated_tokens": 12345, "devices": "1 × cpu"}
    summary["heldout_before"] = summarize(BEFORE) | {"greedy_accuracy": 0.25}
    summary["heldout_after"] = summarize(AFTER) | {"greedy_accuracy": 0.75}
    (folder / "summary.json").write_text(json.dumps(summary))
    write_completions(folder, [(1, GUESS, True), (2, SEARCH + "\n", False), (2, SEARCH, True), (3, SEARCH, True)])
    with tf.summary.create_file_writer(str(folder / "train")).as_default():
        for name, shares in SHARES.items():
            for epoch, share in shares.items():
                tf.summary.scalar(f"verdict/{name}", share, epoch - 1)
    return folder


def write_completions(folder, rows):
    own = {"problem": "a puzzle", "verdict": "a_verdict"}
    records = [{"epoch": epoch, "text": text, "correct": correct} | own for epoch, text, correct in rows]
    (folder / "completions.jsonl").write_bytes(json_lines(records))


class Elements(html.parser.HTMLParser):
    """The tags of a run's page and its text, in their order."""

    def __init__(self, folder):
        super().__init__()
        self.tags, self.text, self.images, self.page = [], "", [], write_report(folder).read_text()
        self.feed(self.page)
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.text += " " if tag in ("td", "small") else ""
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_data(self, data):
        self.text += data


# === The page ===


def test_the_page_says_what_the_files_say(folder):
    elements = Elements(folder)
    text, page = elements.words, elements.page
    assert "50.0" not in text
    assert "37.5% → 87.5%" in text  # 3 of 8, 7 of 8
    assert "solves 25.0% before and 75.0% after" in text and "1.5 minutes and 12,345 sampled tokens" in text
    low, high = summarize(AFTER)["ci95"]
    assert f"87.5% ({low:.1%} to {high:.1%}) after it" in text
    assert "a <run>" in text and "3 of 3 epochs" in text
    attempts = behaviour_rates(BEFORE, AFTER).iloc[0]
    assert (attempts["before"], attempts["after"]) == (0.75, 3)  # a quarter of the puzzles has 3 attempts
    assert f"attempts 0.75 {attempts['before_low']:.2f} to {attempts['before_high']:.2f} 3.00 3.00 to 3.00" in text
    assert len(elements.images) == 6 and all(image["alt"] for image in elements.images)
    assert "<link" not in page and "<script" not in page  # it asks for no other file
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', page) == [] and "url(" not in page
    assert write_report(folder) == folder / "report.html" and (folder / "report.html").read_text() == page


def test_the_policys_text_stays_text(folder):
    text = "</pre><script>alert(1)</script>\n<img src=x onerror=alert(1)>{{ 7 * 7 }}{% raw %}&lt;\x1b[31m\u202e\x00\n"
    text += f"{ENDS}\n"
    hostile = make_table([text + SEARCH] * 8, [True] * 8)
    plain = Elements(folder)
    write_tables(folder / "held_out_after.jsonl", hostile, hostile)
    write_completions(folder, [(1, text + "\n1+2=3 no\n" + SEARCH, True)])
    found = Elements(folder)
    assert set(found.tags) == set(plain.tags) and found.tags.count("img") == 6
    shown = re.sub(f"[\x1b\u202e\x00{ENDS}]", "\ufffd", text)
    assert found.text.count(shown) == 4  # three puzzles, and the first completion that turns back so often


def test_a_run_that_writes_meanwhile_or_no_unicode_is_reported(folder):
    write_completions(folder, [(1, f"\ud8001+2=3 no\n{SEARCH}", True)])
    with open(folder / "completions.jsonl", "a") as file:
        file.write('{"epoch": 2, "te')
    assert len(RunRecord.load(folder).completions) == 1 and "\ufffd1+2=3" in Elements(folder).text


def test_a_run_that_has_not_finished_has_its_curves(folder):
    (folder / "summary.json").unlink()
    text = Elements(folder).words
    assert "The run has not finished. Before training, 37.5% (" in text
    assert "→" not in text and "Before and after" not in text
    pictures = {path.stem for path in (folder / "report").iterdir()}
    assert pictures == {"accuracy", "behaviours", "length", "reward", "verdicts"}


def test_a_report_of_an_earlier_epoch_ends_there(folder, monkeypatch):
    finding = {"name": "x", "seen": "a", "meaning": "b", "remedy": "c"}
    (folder / "findings.jsonl").write_text("".join(json.dumps({"epoch": i} | finding) + "\n" for i in (1, 3)))
    assert write_report(folder, 3) == write_report(folder, "last") == folder / "report.html"
    record = RunRecord.load(folder, 2)
    assert record.after is record.rates is record.summary is None
    for table in (record.history["epoch"], record.verdicts.index):
        assert list(table) == [1, 2]
    assert [row["epoch"] for row in record.completions + record.findings] == [1, 2, 2, 1]
    monkeypatch.setattr(run_record, "best_epoch", lambda log_dir: 2)
    assert write_report(folder, "best") == folder / "report-2.html" and (folder / "report-2" / "accuracy.png").exists()
    page = (folder / "report-2.html").read_text()
    assert "This is the run up to epoch 2." in page and "After epoch 2 50.0% are." in page and "2 of 3 epochs" in page
    with pytest.raises(ValueError, match='Epoch 4 was not trained: `epoch` must be one from 1 to 3, "best" or "last"'):
        write_report(folder, 4)


def test_a_run_that_goes_on_with_more_epochs_has_not_finished(folder):
    Recipe.load(folder / "recipe.toml").override("training.epochs=6").dump(folder / "recipe.toml")
    record = RunRecord.load(folder)
    assert record.after is record.rates is record.summary is None


def test_findings_of_the_doctor_come_first(folder):
    finding = {"epoch": 2, "name": "x", "seen": "`It` is so.", "meaning": "It means this.", "remedy": "Do that."}
    (folder / "findings.jsonl").write_text(json.dumps(finding) + "\n")
    elements = Elements(folder)
    places = [elements.words.index(text) for text in ("Epoch 2: It is so. It means this. Do that.", "How it went")]
    assert "code" in elements.tags and places == sorted(places)


def test_a_prompt_is_shown_and_what_is_0_everywhere_is_not(folder):
    """As for a task of one's own without arithmetic."""
    problem = {0: str(build_held_out(RunRecord.load(folder).recipe).problem(0))}
    before, after = (
        with_behaviours(table.assign(problem=[problem.get(i, "x") for i in table["puzzle"]], text="x"))
        for table in (BEFORE, AFTER)
    )
    write_tables(folder / "held_out_before.jsonl", before, before[::2])
    write_tables(folder / "held_out_after.jsonl", after, after[::2])
    behaviour_rates(before, after).to_csv(folder / "behaviours.csv", index=False)
    pd.read_csv(folder / "history.csv").assign(**dict.fromkeys(BEHAVIOURS, 0.0)).to_csv(folder / "history.csv")
    elements = Elements(folder)
    assert "each once to make" in elements.text and "self-corrections" not in elements.text
    assert len(elements.images) == 5


def test_turns_are_shown_one_by_one(folder):
    """Before and after as a table has them, the first completion as `completions.jsonl` does; and their numbers."""
    forged = "│ 391</pre>\n"
    turns = [Turn(forged, Observation("wait 1+1=3 <b>", "\n<result>", "</result>\n", tool="f")), Turn(SEARCH)]
    numbers = dict(turns=2.0, tool_calls=1.0, tool_errors=0.0, observation_tokens=9.0)
    after = AFTER.assign(text=said(turns), transcript=transcript(turns), **numbers)
    write_tables(folder / "held_out_before.jsonl", BEFORE.assign(transcript=BEFORE["text"], **numbers), BEFORE)
    write_tables(folder / "held_out_after.jsonl", after, after[::2])
    kept = [{"text": forged, "observation": turns[0].observation.written}, {"text": SEARCH, "observation": None}]
    row = dict(epoch=1, text="1+2=3 no\n" + SEARCH, turns=kept, correct=True, problem="p", verdict="v")
    (folder / "completions.jsonl").write_bytes(json_lines([row]))
    history = pd.read_csv(folder / "history.csv").assign(**{name: [1.0, 2.0, 3.0] for name in numbers})
    history = history.assign(**{f"val_{name}": [np.nan, 2.5, 3.5] for name in numbers})
    history.to_csv(folder / "history.csv", index=False)
    page = Elements(folder).page
    turn = '<pre class="observation">&lt;result&gt;wait 1+1=3 &lt;b&gt;&lt;/result&gt;</pre>'
    assert page.count(f"<pre>│ 391&lt;/pre&gt;\n</pre>\n{turn}\n<pre><span") == page.count(turn) == 4
    draw = functools.partial(pictures._behaviours, names=TURNS[:3], title="Turns")
    drawn, axes = lines_of(draw, RunRecord.load(folder))
    assert drawn["tool-calls"] == [[1, 1], [2, 2], [3, 3]] and [[0, 2.0], [2, 2.5], [3, 3.5]] in drawn.values()
    assert "turns" in {path.stem for path in (folder / "report").iterdir()} and len(axes.lines) == 6
    assert lines_of(pictures._length, RunRecord.load(folder))[0]["observations"] == [[1, 1], [2, 2], [3, 3]]


# === Pictures ===


def lines_of(draw, record):
    """Label → (x, y) of the lines that are drawn, and the axes."""
    axes = Figure().add_subplot()
    draw(axes, record)
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}, axes


def test_curves_are_those_of_the_files(folder):
    record = RunRecord.load(folder)
    drawn, axes = lines_of(pictures._accuracy, record)
    assert drawn["training"] == [[1, 0.2], [2, 0.4], [3, 0.6]]
    assert drawn["held-out"] == [[0, 0.375], [2, 0.5], [3, 0.875]]
    drawn, axes = lines_of(pictures._length, record)
    before = BEFORE.groupby("puzzle")["completion_length"].mean().mean()
    assert drawn == {"training": [[1, 20], [2, 30], [3, 50]], "held-out": [[0, before], [2, 40], [3, 60]]}
    assert axes.get_ylim()[0] == 0
    drawn, axes = lines_of(pictures._reward, record)
    assert [[1, 0.1], [2, 0.2], [3, 0.5]] in drawn.values() and axes.get_ylim()[0] == 0
    below = dataclasses.replace(record, history=record.history.assign(reward=[-1.0, -0.5, -0.2]))
    assert lines_of(pictures._reward, below)[1].get_ylim()[0] <= -1
    drawn, axes = lines_of(pictures._behaviours, record)
    assert drawn["self-corrections"] == [[1, 1], [2, 2], [3, 3]] and axes.get_ylim()[0] == 0
    assert sum(line == [[0, 0.75], [2, 2.5], [3, 3.5]] for line in drawn.values()) == 2  # attempts, verifications


def test_a_judge_is_drawn_beside_accuracy(folder):
    """With dots if held-out problems were judged, as they are not in older runs; not if it failed always."""
    rewards = [{"name": name, "function": "mine:f", "weight": 0} for name in ("polite", "failed")]
    recipe = Recipe.load(folder / "recipe.toml").to_dict() | {"rewards": rewards}
    Recipe.from_dict(recipe).dump(folder / "recipe.toml")
    history = pd.read_csv(folder / "history.csv").assign(reward_polite=[0.2, 0.3, 0.9], reward_failed=np.nan)
    history.to_csv(folder / "history.csv", index=False)
    record = RunRecord.load(folder)
    draw = functools.partial(pictures._beside_accuracy, name="reward_polite")
    drawn, axes = lines_of(draw, record)
    accuracy, reward = [[0, 0.375], [2, 0.5], [3, 0.875]], [[0, 0.5], [2, 0.6], [3, 0.8]]
    assert drawn["accuracy"] == [[1, 0.2], [2, 0.4], [3, 0.6]] and accuracy in drawn.values()
    (other,) = set(axes.figure.axes) - {axes}
    assert [line.get_xydata().tolist() for line in other.lines] == [[[1, 0.2], [2, 0.3], [3, 0.9]]]

    held_out = history.assign(val_reward_polite=[np.nan, 0.6, 0.8])
    record = dataclasses.replace(
        record, history=held_out, before=BEFORE.assign(reward_polite=[0.2, 0.8, *[np.nan] * 6])
    )
    (other,) = set(lines_of(draw, record)[1].figure.axes[1:])
    assert other.lines[1].get_xydata().tolist() == reward
    drawn = {picture.name: picture.caption for picture in pictures.draw_pictures(record)}
    without = dataclasses.replace(
        record, history=held_out.assign(accuracy=np.nan), before=BEFORE.assign(verdict="unchecked")
    )
    kinds = {picture.name for picture in pictures.draw_pictures(without)}
    assert "reward_polite" in kinds and not kinds & {"accuracy", "difficulty"}  # without a checker
    assert "reward_failed" not in drawn and "learns to please the reward" in drawn["reward_polite"]


def test_difficulty_has_an_interval_for_each_kind_before_and_after(folder):
    drawn, axes = lines_of(pictures._by_label, RunRecord.load(folder))
    expected = [by_label(table, "difficulty") for table in (BEFORE, AFTER)]
    for name, table in zip(("before", "after"), expected, strict=True):
        assert [y for _, y in drawn[name]] == table["accuracy"].tolist()
    drawn = [bar.lines[2][0].get_segments()[0][:, 1].tolist() for bar in axes.containers]
    ends = [[row.ci95_low, row.ci95_high] for table in expected for row in table.itertuples()]
    np.testing.assert_allclose(drawn, ends, atol=1e-12)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2\nn=2", "3\nn=2"]


def test_verdicts_add_up_with_the_right_ones_below(folder):
    record = RunRecord.load(folder)
    expected = pd.DataFrame({"correct": [0.25, 0.5, 0.5], "wrong_value": [0.75, 0.5, 0.25], "no_answer": [0, 0, 0.25]})
    pd.testing.assert_frame_equal(
        record.verdicts[list(expected)].reset_index(drop=True), expected, check_names=False, atol=1e-7
    )
    _, axes = lines_of(pictures._verdicts, record)
    assert [area.get_label() for area in axes.collections] == ["correct", "wrong value", "no answer"]
    top = axes.collections[-1].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(1) and axes.get_ylim() == (0, 1)
    _, axes = lines_of(pictures._verdicts, dataclasses.replace(record, verdicts=record.verdicts.iloc[:1]))
    assert axes.get_xlim() == (0.5, 1.5)  # one epoch is an area too


def test_pictures_follow_the_page_and_show_something(folder):
    for picture in pictures.draw_pictures(RunRecord.load(folder)):
        svg = base64.b64decode(picture.svg.partition("base64,")[2]).decode()
        xml.etree.ElementTree.fromstring(svg)
        assert "prefers-color-scheme:dark" in svg and svg.count("currentColor") > 10
        image = tf.io.decode_png(picture.png).numpy()
        assert image.shape[1] > 700 and (image[..., :3].std(axis=-1) > 20).mean() > 0.001  # what is drawn has colours
        assert picture.caption and picture.sources


# === Completions ===


@pytest.mark.parametrize(
    "text, marked",
    [
        ("9-1=8,8/4=3 no\nso", [("9-1=8", "right"), ("8/4=3", "wrong")]),
        ("First, 9 \u00d7 2 = 18.\n5+5=11", [("9 \u00d7 2 = 18", "right"), ("5+5=11", "wrong")]),
        ("\\frac{8}{4} = 3 and 1+1=2\n1+1=2", [("\\frac{8}{4} = 3 and 1+1=2\n", "wrong"), ("1+1=2", "right")]),
        ("8-4=4=4", [("8-4=4", "right"), ("=4", "right")]),
        ("9 > 8, 3 is not 4, no equation", []),
    ],
)
def test_steps_are_right_or_wrong(text, marked):
    assert [(piece, kind) for piece, kind in completions.steps(text) if kind] == marked


@given(st.text(st.sampled_from("12 +-*/=()x\n\t\\{}frac\u00d7\u202e\ud800no,")))
@example("1+1=2 " * 100_000)
def test_steps_put_together_are_the_text(text):
    shown = "".join(piece for piece, _ in completions.steps(text))
    cut = text if len(text) <= 20_000 else text[:20_000] + " …"
    assert shown == "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in cut)


def test_the_first_completion_does_more_than_any_before(folder):
    # Before, a completion had up to 3 attempts, 3 verifications and 2 backtracks.
    write_completions(folder, [(1, SEARCH, True), (2, "1+1=2 no\n" + SEARCH, False), (3, "1+2=3 no\n" + SEARCH, True)])
    first = completions.find_first(RunRecord.load(folder))
    assert (first.behaviour, first.most_before) == ("backtracks", 2)  # all have grown fourfold: the last of them
    assert (first.completion["epoch"], first.count) == (3, 3)


def test_nothing_may_be_the_first(folder):
    record = RunRecord.load(folder)
    assert completions.find_first(record).completion is None  # as none does more than before
    assert "no right one that was kept of the rollouts has more" in Elements(folder).words
    for after in (AFTER, BEFORE):  # as nothing has grown
        rates = behaviour_rates(AFTER, after)
        assert completions.find_first(dataclasses.replace(record, rates=rates)) is None


# === What is no run ===


@pytest.mark.parametrize(
    "name, content",
    [
        *((name, None) for name in ("recipe.toml", "held_out_before.jsonl", "history.csv", "completions.jsonl")),
        *(("recipe.toml", b"]"), ("held_out_before.jsonl", b"{}"), ("history.csv", b""), ("summary.json", b"x")),
        *(("history.csv", b"epoch,reward\n1,2\n"), ("completions.jsonl", b"{\n"), ("findings.jsonl", b"\xff\n")),
    ],
)
def test_a_missing_or_damaged_file_is_named(folder, name, content):
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        write_report(folder)
    assert "\n" not in str(error.value).strip() and str(folder) in str(error.value)
    assert content is not None or f"the folder has no {name}. Received: " in str(error.value)
    assert not (folder / "report.html").exists()
