"""What an ingest did: counts, bytes and seconds, for people, notebooks and `runs`."""

import html
from collections import Counter
from dataclasses import dataclass, field, replace

MAX_REFUSED_SHOWN = 20
"""Refused inputs that a report names; the `rejects` table has all of them."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused input, for people: where it came from and why."""

    source: str
    error_class: str
    message: str


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did; ``stored + duplicate + conflict + rejected`` is the number of inputs.

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
            refused=(self.refused + other.refused)[:MAX_REFUSED_SHOWN],
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
