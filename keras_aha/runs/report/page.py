"""`write_report`: one page about a run, and its pictures as files."""

import os
import re
from pathlib import Path

from keras_aha.distribution.folder_lock import FolderLock
from keras_aha.evaluation.tables import checked, summarize
from keras_aha.files import read_text, write_whole
from keras_aha.names import preset_name
from keras_aha.recipes.recipe import RECIPE
from keras_aha.runs.build_task import build_held_out
from keras_aha.runs.check_folder import check_writable
from keras_aha.runs.report.completions import behaviour_table, find_first, pairs, pieces, steps
from keras_aha.runs.report.pictures import draw_pictures
from keras_aha.runs.report.run_record import RunRecord
from keras_aha.training.ask import problem_text

import jinja2
import markupsafe


def write_report(log_dir: str | os.PathLike, epoch: int | str = "last") -> Path:
    """Writes `report.html` into a run's folder, a page that needs no other file, and its pictures as PNG into `report`.

    The page follows the browser's light or dark mode, and says of each number in which file of the run it stands. Of a
    run that has not finished there are only curves, so far. Text of the policy is escaped. What is 0 everywhere, as
    attempts in a task without arithmetic, is left out. An older report is replaced.

    Args:
        log_dir: a run's folder, see `RunRecord`.
        epoch: up to which epoch, a number, `"best"` by held-out accuracy, or `"last"`. The page of an earlier one than
            the last, such as 7, is `report-7.html`, and its pictures are in `report-7`.

    Returns:
        The page's path.

    Raises:
        ValueError: if the folder holds no run that has trained an epoch, or a file that is damaged, or is read-only.
        OSError: if a file cannot be read or written.
    """
    record = RunRecord.load(log_dir, epoch)
    check_writable(record.log_dir, "log_dir")
    with FolderLock(log_dir, file=".report.lock", patience=60):  # not the run's: it may go on meanwhile
        return _write(record)


def _write(record: RunRecord) -> Path:
    name = "report" if record.epoch is None else f"report-{record.epoch}"
    evaluated = record.history.dropna(subset="val_accuracy").to_dict("records")
    pictures = list(draw_pictures(record))
    (record.log_dir / name).mkdir(exist_ok=True)
    for picture in pictures:
        write_whole(record.log_dir / name / f"{picture.name}.png", picture.png)
    # Autoescaping is what keeps a completion from becoming a part of the page.
    loader, blocks = jinja2.PackageLoader("keras_aha.runs.report", "."), dict(trim_blocks=True, lstrip_blocks=True)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, **blocks)
    environment.filters |= dict(pieces=pieces, steps=steps, percent="{:.1%}".format, code=_code, name=preset_name)
    page = environment.get_template("page.html").render(
        record=record,
        pictures=pictures,
        before=summarize(record.before),
        is_checked=not checked(record.before).empty,
        after=None if record.after is None else summarize(record.after),
        rates=[] if record.rates is None else behaviour_table(record.rates),
        first=find_first(record),
        pairs=[] if record.after is None else pairs(record, _prompts(record)),
        latest=evaluated[-1] if evaluated else None,
        recipe_text=read_text(record.log_dir / RECIPE),
    )
    path = record.log_dir / f"{name}.html"
    write_whole(path, page)
    return path


def _prompts(record: RunRecord) -> dict[str, str]:
    """Problem → prompt; none if the task, or its file, is not on this machine."""
    try:
        task = build_held_out(record.recipe)
    except ValueError:
        return {}
    problems = [task.problem(i) for i in range(len(task))]
    prompts = [task.prompt(problem) for problem in problems]
    return {problem_text(*pair): pair[1] for pair in zip(problems, prompts, strict=True)}


def _code(text: str) -> markupsafe.Markup:
    """What stands between backticks, as code."""
    escaped = re.sub("`([^`]*)`", r"<code>\1</code>", str(markupsafe.escape(text)))
    return markupsafe.Markup(escaped)  # noqa: S704  it is escaped, but for our own tags
