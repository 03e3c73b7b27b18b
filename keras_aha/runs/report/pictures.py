"""The pictures of a run, drawn by matplotlib: each as SVG for a page, light or dark, and as PNG."""

import base64
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterator

from keras_aha.evaluation.intervals import share_interval
from keras_aha.evaluation.tables import BEHAVIOURS, TURNS, by_label, by_puzzle, checked
from keras_aha.runs.report.run_record import RunRecord

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_INK = "#1f2328"  # in SVG whatever the surroundings say
_STYLE = f"<style>svg{{color:{_INK}}}@media(prefers-color-scheme:dark){{svg{{color:#e6e6e6}}}}</style>"
# Okabe and Ito's colours, which can be told apart by most people with a colour vision deficiency.
_ORANGE, _SKY, _GREEN, _BLUE = "#e69f00", "#56b4e9", "#009e73", "#2f7fc1"
_RED, _PURPLE, _YELLOW, _GREY = "#d55e00", "#cc79a7", "#f0e442", "#8c8c8c"
_BEFORE, _AFTER, _TRAINING = _GREY, _ORANGE, _SKY
_VERDICTS = [_ORANGE, _SKY, _RED, _PURPLE, _YELLOW, _BLUE, _GREY]  # of all but "correct"
_SIZE = (4.8, 3.3)  # inches: as wide as a phone where a point is a pixel


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a run."""

    name: str  # of its file
    caption: str  # what it shows, in a sentence or two
    sources: str  # the files of the run that its numbers stand in
    png: bytes  # the file's, on white
    svg: str  # a data URI, with a transparent ground and ink that is dark on a light page and light on a dark one


def draw_pictures(record: RunRecord) -> Iterator[Picture]:
    """Draws those that there are numbers for."""
    tables = "held_out_before.jsonl, held_out_after.jsonl"
    is_checked, label = record.history["accuracy"].notna().any(), _label(record)
    if is_checked:
        yield _picture("accuracy", _accuracy, record, _ACCURACY, f"history.csv, {tables}")
    if is_checked and record.after is not None and label in record.before and record.before[label].nunique() > 1:
        yield _picture(label, _by_label, record, _BY_LABEL.format(label), tables)
    yield _picture("reward", _reward, record, _REWARD, "history.csv")
    for name in (f"reward_{reward.name}" for reward in record.recipe.rewards):
        if name in record.history and record.history[name].notna().any():
            draw = functools.partial(_beside_accuracy, name=name)
            yield _picture(name, draw, record, _BESIDE_ACCURACY.format(name), "history.csv, held_out_before.jsonl")
    yield _picture("length", _length, record, _LENGTH, "history.csv, held_out_before.jsonl")
    if record.history[list(BEHAVIOURS)].any(axis=None) or record.before[list(BEHAVIOURS)].any(axis=None):
        yield _picture("behaviours", _behaviours, record, _BEHAVIOURS, "history.csv, held_out_before.jsonl")
    if "turns" in record.history and record.history["turns"].notna().any():
        draw = functools.partial(_behaviours, names=TURNS[:3], title="Turns")
        yield _picture("turns", draw, record, _TURNS, "history.csv, held_out_before.jsonl")
    if len(record.verdicts):
        yield _picture("verdicts", _verdicts, record, _VERDICT, "TensorBoard's events in train")


# === What is drawn ===

_ACCURACY = (
    "Share of completions that are right. The line is the training rollouts, fresh puzzles each epoch; the dots are "
    "the same held-out puzzles each time, with a 95 % interval over puzzles before and after."
)
_BY_LABEL = "Held-out accuracy by {}, sampled, with 95 % intervals over puzzles; n is the number of puzzles."
_REWARD = (
    "What the policy is trained on, the mean over each rollout, and its parts if something is added to the task's own. "
    "It and accuracy are what to watch, not the loss."
)
_BESIDE_ACCURACY = (
    "{} beside accuracy: lines are the training rollouts, dots the same held-out puzzles each time. If the line of the "
    "reward rises and that of accuracy does not, the policy learns to please the reward, or the judge who gives it."
)
_LENGTH = "Tokens of a completion, on average."
_BEHAVIOURS = (
    "How often a completion does so, on average. Lines are the training rollouts, dots the held-out puzzles, and those "
    "at epoch 0 the policy before any training: what stands there already was not learned here."
)
_TURNS = "Turns, tool calls and failed calls, on average: lines of the training rollouts, dots of the held-out puzzles."
_VERDICT = "What the scorer says of the completions of each training rollout: shares that add up to 1."


def _accuracy(axes: Axes, record: RunRecord) -> None:
    _curves(axes, record, "accuracy")
    for name in (f"accuracy_{task.log_name}" for task in record.recipe.tasks):  # in matplotlib's own colours
        if name in record.history:
            axes.plot(record.history["epoch"], record.history[name], linewidth=1, label=name)
    ends = {0: record.before} | ({} if record.after is None else {int(record.history["epoch"].iloc[-1]): record.after})
    for epoch, table in ends.items():
        per_puzzle = by_puzzle(table)["accuracy"]
        _interval(axes, epoch, per_puzzle.mean(), share_interval(per_puzzle), _AFTER)
    _over_epochs(axes, ylabel="right", title="Accuracy")
    _shares(axes)
    axes.legend(loc="best")


def _label(record: RunRecord) -> str:
    return "task" if record.recipe.tasks else "difficulty"  # which cannot be compared between tasks


def _by_label(axes: Axes, record: RunRecord) -> None:
    label = _label(record)
    tables = [by_label(table, label) for table in (record.before, record.after)]
    for name, table, color, shift in zip(("before", "after"), tables, (_BEFORE, _AFTER), (-0.09, 0.09), strict=True):
        places = np.arange(len(table)) + shift
        axes.plot(places, table["accuracy"], "o", color=color, markersize=5, label=name)
        for place, row in zip(places, table.itertuples(), strict=True):
            _interval(axes, place, row.accuracy, (row.ci95_low, row.ci95_high), color)
    values = [value if isinstance(value, str) else f"{value:g}" for value in tables[0][label]]
    names = [f"{value}\nn={n}" for value, n in zip(values, tables[0]["n"], strict=True)]
    axes.set_xticks(np.arange(len(names)), names)
    axes.set(xlabel=label, ylabel="right", title=f"Accuracy by {label}")
    _shares(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)  # few puzzles' intervals leave no room inside


def _reward(axes: Axes, record: RunRecord) -> None:
    history = record.history.set_index("epoch").dropna(axis="columns", how="all")
    parts = [name for name in history if name.startswith("reward_") or name in ("task_reward", "overlong_penalty")]
    axes.plot(history["reward"], color=_BLUE, label="reward")
    for name in parts:  # in matplotlib's own colours, as there may be any number
        axes.plot(history[name], linewidth=1, label=name)
    if parts:
        axes.legend(loc="best")
    _over_epochs(axes, ylabel="reward", title="Reward")
    _from_zero(axes)


def _beside_accuracy(axes: Axes, record: RunRecord, name: str) -> None:
    other = axes.twinx()
    other.grid(visible=False)
    other.spines["right"].set_visible(True)
    for side, column, color in ((axes, "accuracy", _AFTER), (other, name, _PURPLE)):
        side.plot(record.history["epoch"], record.history[column], color=color, linewidth=1.2, label=column)
        if f"val_{column}" in record.history:  # not there in older runs
            side.plot(*_held_out(record, column), "o", color=color, markersize=4.5)
    _over_epochs(axes, ylabel="accuracy", title=f"Accuracy and {name}")
    other.set_ylabel(name)
    _shares(axes)
    _from_zero(other)
    axes.legend(handles=[axes.lines[0], other.lines[0]], loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


def _length(axes: Axes, record: RunRecord) -> None:
    _curves(axes, record, "completion_length")
    if "observation_tokens" in record.history and record.history["observation_tokens"].notna().any():
        axes.plot(record.history["epoch"], record.history["observation_tokens"], color=_GREY, label="observations")
    limit = record.recipe.rollouts.max_completion_length
    _over_epochs(axes, ylabel=f"tokens (limit {limit:,})", title="Completion length")
    _from_zero(axes)
    axes.legend(loc="best")


def _behaviours(axes: Axes, record: RunRecord, names=BEHAVIOURS, title="Behaviours") -> None:
    # Dashes over lines: attempts and verifications are often as many.
    looks = zip((_BLUE, _ORANGE, _GREEN, _PURPLE, _RED), ("-", (0, (4, 3)), "-", "-", "-"), strict=True)
    for name, (color, dashes) in zip(names, looks, strict=False):
        label = name.replace("_", "-")
        axes.plot(record.history["epoch"], record.history[name], color=color, linestyle=dashes, label=label)
        axes.plot(*_held_out(record, name), "o", color=color, markersize=4)
    _over_epochs(axes, ylabel="a completion", title=title)
    _from_zero(axes)
    axes.legend(loc="best")


def _verdicts(axes: Axes, record: RunRecord) -> None:
    shares = record.verdicts
    others = shares.drop(columns="correct", errors="ignore").mean().sort_values(ascending=False).index
    names = [name for name in ("correct", *others) if name in shares]
    colors = [_GREEN if name == "correct" else _VERDICTS[i % len(_VERDICTS)] for i, name in enumerate(names)]
    if len(shares) == 1:  # an area needs two epochs
        shares = shares.loc[[shares.index[0]] * 2].set_axis([0.5, 1.5])
    axes.stackplot(shares.index, shares[names].T, colors=colors, labels=[name.replace("_", " ") for name in names])
    _over_epochs(axes, ylabel="completions", title="Verdicts", xlim=(shares.index[0], shares.index[-1]))
    _shares(axes)
    axes.set_ylim(0, 1)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, columnspacing=1)


def _curves(axes: Axes, record: RunRecord, name: str) -> None:
    """A line of the rollouts, and dots of the held-out puzzles."""
    axes.plot(record.history["epoch"], record.history[name], color=_TRAINING, linewidth=1.2, label="training")
    axes.plot(*_held_out(record, name), "o:", color=_AFTER, markersize=4.5, label="held-out")


def _held_out(record: RunRecord, name: str) -> tuple[list[int], list[float]]:
    """Epochs and values of a mean over the held-out puzzles, from the policy before training on."""
    evaluated = record.history.dropna(subset=f"val_{name}")
    column = name if name == "accuracy" else f"mean_{name}"
    puzzles = by_puzzle(checked(record.before) if name == "accuracy" else record.before)
    before = puzzles[column].mean() if column in puzzles else np.nan  # no dot, as of a reward in an older run
    return [0, *evaluated["epoch"]], [before, *evaluated[f"val_{name}"]]


def _interval(axes, place, value, ends, color):
    axes.errorbar(place, value, [[value - ends[0]], [ends[1] - value]], color=color, capsize=3, linewidth=1.5)


def _over_epochs(axes, **settings):
    axes.set(xlabel="epoch", **settings)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _shares(axes):
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _from_zero(axes):
    if axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)


def _picture(name: str, draw: Callable, record: RunRecord, caption: str, sources: str) -> Picture:
    settings = {
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
        **{"font.size": 10, "axes.titlesize": 11, "legend.fontsize": 8.5, "legend.frameon": False},
        **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": _GREY},
        **{"grid.alpha": 0.25, "svg.fonttype": "none", "svg.hashsalt": name},
    }
    with matplotlib.rc_context(settings):
        figure = Figure(_SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes, record)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = svg.getvalue().replace(_INK, "currentColor")
    text = re.sub(r"(<svg [^>]*>)", rf"\1{_STYLE}", text, count=1)
    uri = f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"
    return Picture(name, caption, sources, png.getvalue(), uri)
