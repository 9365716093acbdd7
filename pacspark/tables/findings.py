"""What `verify` finds: each finding is one line, of a kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "damaged": "an object whose bytes are not those of its digest",
        "missing": "an object whose bytes are not where its row says",
        "digest": "right bytes beside a wrong digest or piece number in `objects`",
        "file": "a data file that is gone, or is not the one that the log says",
        "footer": "a data file of `objects` whose Parquet footer cannot be read",
        "unreadable": "a data file of another table that cannot be read",
        "log": "a log that lost an entry, in which one changed, or that cannot be read",
        "twice": "a second row of one SOP Instance UID",
        "row": "a row that contradicts the bytes",
        "orphan": "a data file that no version of its table lists",
        "unlisted": "bytes in `objects` that no row refers to",
    }
)
"""What kinds there are."""
TOLD: Final = frozenset({"orphan", "unlisted"})
"""What is told and not wrong: a killed or a running job leaves it, and no reader sees it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written.

    Attributes
    ----------
    kind
        one of `KINDS`
    table, file
        where
    name
        SOP Instance UID of the instance, or source of the refused input; empty where it is neither
    sha256
        that the object should have
    message
        what was expected and what was found
    """

    kind: str
    table: str
    file: str
    name: str
    sha256: str
    message: str

    @property
    def wrong(self) -> bool:
        """Whether it makes `verify` fail."""
        return self.kind not in TOLD

    @property
    def line(self) -> str:
        """The whole finding for people."""
        place = "/".join(filter(None, [self.table, self.file]))
        named = f" {self.name}:" if self.name else ""
        return f"{self.kind}: {place}:{named} {self.message}" if place else self.message
