"""Who did what: rows of the table `audit`, gathered and written together.

Rows wait in a file beside the landing, so that a gateway that is killed writes them when it starts
again; the tables get them every minute, or a thousand at a time. What went wrong is a line of the
log too, at once.
"""

import json
import logging
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Final

import pyarrow as pa

from pacspark.errors import PacsparkError
from pacspark.tables.schema import AUDIT
from pacspark.tables.storage import Storage
from pacspark.tables.writer import append_rows, append_unseen

LOGGER: Final = logging.getLogger(__name__)
_MOST_ROWS: Final = 1000
_MOST_WAITING_ROWS: Final = 200_000
_SECONDS: Final = 60.0
_MOST_TEXT: Final = 1024
_GONE_WELL: Final = frozenset(
    {"success", "stored", "duplicate", "queued", "cancelled", "cancelled: as asked", "0xFE00"}
)
"""Outcomes of which the log need not tell."""


class AuditLog:
    """The audit rows of one gateway; safe for threads.

    Parameters
    ----------
    storage
        the archive
    path
        of the file where rows wait
    run_id
        of the gateway

    Attributes
    ----------
    counts
        how many rows were taken, by action and by whether it went well
    """

    def __init__(self, storage: Storage, path: Path, run_id: str) -> None:
        self._storage, self._path, self._run_id = storage, path, run_id
        self._lock = Lock()
        self._rows: list[dict[str, Any]] = _read(path)
        # the table may have some of them: their gateway was killed, or heard nothing of its commit
        self._may_be_there = bool(self._rows)
        self._file = path.open("a", encoding="utf-8")
        self._written_s = monotonic()
        self.counts: Counter[tuple[str, bool]] = Counter()

    def record(
        self,
        actor: str,
        address: str,
        action: str,
        outcome: str,
        *,
        level: str | None = None,
        uid: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a row; it reaches the table a little later.

        Parameters
        ----------
        actor, address
            AE title or user, and from where
        action, outcome
            what was done, and how it ended
        level, uid
            what it was done to
        detail
            more
        """
        row = {
            "occurred_at": datetime.now(UTC).isoformat(),
            "actor": actor[:_MOST_TEXT],
            "address": address,
            "action": action,
            "level": level,
            "uid": None if uid is None else uid[:_MOST_TEXT],
            "outcome": outcome[:_MOST_TEXT],
            "detail": None if detail is None else json.dumps(detail)[:_MOST_TEXT],
            "run_id": self._run_id,
        }
        is_well = outcome in _GONE_WELL
        if not is_well:
            told = (f"{actor} at {address}", action, uid, outcome, detail and row["detail"])
            LOGGER.warning("%s", _one_line(": ".join(str(one) for one in told if one)))
        with self._lock:
            self.counts[action, is_well] += 1
            self._rows.append(row)
            with suppress(OSError):  # a full disk must not stop what it tells of
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()

    @property
    def is_due(self) -> bool:
        """Whether rows have waited long enough, or are enough."""
        waiting = len(self._rows)
        return waiting >= _MOST_ROWS or (waiting > 0 and monotonic() - self._written_s > _SECONDS)

    def flush(self) -> None:
        """Write what waits into the table.

        Raises
        ------
        StorageError, CommitConflictError
            where the table cannot be written; the rows go on waiting
        """
        with self._lock:
            if len(self._rows) > _MOST_WAITING_ROWS:
                LOGGER.warning("audit: %d rows wait; the oldest are let go", len(self._rows))
                del self._rows[:-_MOST_WAITING_ROWS]
            rows = self._rows[:]
            append = append_unseen if self._may_be_there else append_rows
            self._may_be_there = bool(rows)
        if rows:
            table = pa.Table.from_pylist(
                [row | {"occurred_at": datetime.fromisoformat(row["occurred_at"])} for row in rows],
                schema=AUDIT.arrow_schema,
            )
            batch = uuid.uuid4().hex
            append(self._storage, "audit", table, run_id=self._run_id, operation=f"audit {batch}")
        with self._lock:
            self._may_be_there = False
            del self._rows[: len(rows)]
            self._written_s = monotonic()
            with suppress(OSError):
                self._file.truncate(0)
                self._file.writelines(json.dumps(row) + "\n" for row in self._rows)
                self._file.flush()

    def close(self) -> None:
        """Write what waits, if the table can be written, and let go of the file."""
        with suppress(PacsparkError):
            self.flush()
        self._file.close()


def _one_line(text: str) -> str:
    """Let nothing that a stranger says break a line of the log."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _read(path: Path) -> list[dict[str, Any]]:
    rows = []
    with suppress(OSError), path.open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and set(row) == set(AUDIT.arrow_schema.names):
                    rows.append(row)
    return rows
