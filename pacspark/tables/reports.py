"""What an ingest did: counts, bytes and seconds, for people, notebooks and `runs`."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from pacspark.errors import NotDicomError

CONFLICT: Final = "conflict"
"""The error class of an object whose UID is stored with other bytes."""
NOT_DICOM: Final = NotDicomError.__name__
DAMAGED: Final = ""
NAMED: Final[Mapping[str, int]] = MappingProxyType({CONFLICT: 10, DAMAGED: 10, NOT_DICOM: 1})
"""Of each group, how many a report names at most; the table `rejects` has all."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused input, for people: where it came from and why."""

    source: str
    error_class: str
    message: str

    @property
    def group(self) -> str:
        """What it is: a conflict, something else than DICOM, or a damaged object."""
        return self.error_class if self.error_class in {CONFLICT, NOT_DICOM} else DAMAGED


def named(refused: Iterable[Refused]) -> tuple[Refused, ...]:
    """Give those that a report names, in the order of `NAMED`."""
    found: dict[str, list[Refused]] = {group: [] for group in NAMED}
    for one in refused:
        if len(found[one.group]) < NAMED[one.group]:
            found[one.group].append(one)
    return tuple(one for group in found.values() for one in group)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did; ``stored + duplicate + conflict + rejected`` is the number of inputs.

    ``not_dicom`` of the rejected are something else than DICOM; ``refused`` names some of all,
    as `NAMED` says.

    ``steps`` are seconds by step. Tasks run beside each other, so what they took can add up to more
    than ``seconds``, which a clock showed.
    """

    run_id: str
    stored: int = 0
    duplicate: int = 0
    conflict: int = 0
    rejected: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    refused: tuple[Refused, ...] = ()
    not_dicom: int = 0
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """How many inputs were looked at."""
        return self.stored + self.duplicate + self.conflict + self.rejected

    @property
    def clean(self) -> bool:
        """Whether nothing was refused."""
        return not self.conflict and not self.rejected

    @property
    def counts(self) -> dict[str, int]:
        """What became of the inputs."""
        return {
            "stored": self.stored,
            "duplicate": self.duplicate,
            "conflict": self.conflict,
            "rejected": self.rejected,
        }

    @property
    def told(self) -> list[str]:
        """What was refused, a line each: conflicts first, of what is no DICOM one line for all."""
        lines = [
            f"{one.error_class}: {one.source}: {one.message}"
            for one in self.refused
            if one.group != NOT_DICOM
        ]
        hidden = self.conflict + self.rejected - self.not_dicom - len(lines)
        if hidden > 0:
            lines.append(f"... and {hidden} more like these")
        for one in self.refused:
            if one.group == NOT_DICOM:
                count = f"{self.not_dicom} times, as " if self.not_dicom > 1 else ""
                lines.append(f"{one.error_class}: {count}{one.source}: {one.message}")
        return lines

    def refusal(self, what: str) -> str:
        """Say, of something that has to be stored whole, what was refused of it."""
        return (
            f"{what}: expected every object stored, found {self.conflict} in conflict with what "
            f"the archive holds and {self.rejected} rejected; the first: {self.refused[0].message}"
        )

    def timed(self, seconds: float, **steps: float) -> "IngestReport":
        """Return the same report with the time it took, and that of more steps."""
        return replace(self, seconds=seconds, steps=self.steps | steps)

    def __add__(self, other: "IngestReport") -> "IngestReport":
        """Join the reports of two batches of one run."""
        steps: Counter[str] = Counter(self.steps)
        steps.update(other.steps)
        return IngestReport(
            run_id=self.run_id,
            stored=self.stored + other.stored,
            duplicate=self.duplicate + other.duplicate,
            conflict=self.conflict + other.conflict,
            rejected=self.rejected + other.rejected,
            bytes_stored=self.bytes_stored + other.bytes_stored,
            seconds=self.seconds + other.seconds,
            refused=named(self.refused + other.refused),
            not_dicom=self.not_dicom + other.not_dicom,
            steps=dict(steps),
        )

    def _repr_html_(self) -> str:
        """Show the counts, and what was refused and why, as tables in a notebook."""
        rate = f"{self.inputs / self.seconds:.0f} per s" if self.seconds else ""
        figures = {
            **self.counts,
            "bytes stored": f"{self.bytes_stored:,}",
            "seconds": f"{self.seconds:.1f}",
            "rate": rate,
        }
        shown = _table(list(figures), [list(map(str, figures.values()))])
        if self.refused:
            names = ["source", "error", "message"]
            rows = [[one.source, one.error_class, one.message] for one in self.refused]
            hidden = self.conflict + self.rejected - len(self.refused)
            shown += _table(names, rows)
            shown += f"<p>and {hidden} more in the table rejects</p>" if hidden > 0 else ""
        return shown


def _table(names: list[str], rows: list[list[str]]) -> str:
    """Write a table; what others named must not become part of the page."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
