"""What a check of a machine says, and its table."""

import dataclasses
import re

_MAY_BE_WRONG = ("wrong", "failed")
_PATH = re.compile(r"(?:\b[A-Za-z]:)?[\\/~][^\s'\",;:)]+")


@dataclasses.dataclass(frozen=True)
class CheckFinding:
    """One line of a check.

    Attributes:
        name: of what was looked at.
        predicted: what should be, in words; "–" if nothing is known.
        measured: what is.
        verdict: "right"; "wrong"; "slow"; "no prediction", "nothing to compare"; or "failed", by an error.
        numbers: the same, for a program.
    """

    name: str
    predicted: str
    measured: str
    verdict: str
    numbers: dict[str, float | int | str | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What `check` found.

    Attributes:
        shapes: of the trial: model, dtype, rows and tokens.
        versions: of Python and packages.
        findings: one for each line of the table.
        seconds: that all took.
    """

    shapes: dict[str, str | int]
    versions: dict[str, str | None]
    findings: tuple[CheckFinding, ...]
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong, and no check failed."""
        return not any(finding.verdict in _MAY_BE_WRONG for finding in self.findings)

    def to_dict(self) -> dict:
        """All of it, as JSON can hold it."""
        return dataclasses.asdict(self) | {"is_right": self.is_right}

    def __str__(self) -> str:
        """A table, predicted against measured."""
        shapes, versions = self.shapes, ", ".join(f"{name} {version}" for name, version in self.versions.items())
        rows = [("", "predicted", "measured", "verdict")]
        rows += [(finding.name, finding.predicted, finding.measured, finding.verdict) for finding in self.findings]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
        head = "{model} in {dtype}, {weights} weights: {rows} rows of {prompt_length} + {completion_length} tokens"
        wrong = [finding.name for finding in self.findings if finding.verdict in _MAY_BE_WRONG]
        end = f"Not as it should be: {', '.join(wrong)}." if wrong else "Nothing is wrong."
        return "\n".join([head.format(**shapes), versions, "", *lines, "", f"{end} It took {self.seconds:.0f} s."])


def first_sentence(error: BaseException) -> str:
    """What an error says first, without paths of this machine."""
    words = _PATH.sub("…", " ".join(str(error).split()))
    sentence = re.split(r"(?<=\.) | Received:|\.$", words)[0]
    return f"{type(error).__name__}: {sentence[:200].rstrip('.')}"
