"""Mending logs: entries that are lost, or not as they were written, come back where that can be.

Three ways, the first that gives an entry which is the right one:

* the replica is a copy of the archive's files, and so has the same entry;
* one bit of the entry changed: its witness (`tables.witness`) tells which;
* the newest entries are lost, or others took their numbers. Their data files still lie there, and
  no version lists them: rows that nobody has come in again, and a commit says that it is settled.

The last brings back too what a lost commit had deleted: `audit` has the deletes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_hexdigest

from pacspark.errors import PacsparkError, StorageError
from pacspark.tables.datafile import open_data_file
from pacspark.tables.intake import conflict_row
from pacspark.tables.inventory import ROW_TABLES, listed_once
from pacspark.tables.log import BARRIER, compare_and_set, entries
from pacspark.tables.logfixity import LogCheck, Name, check_logs, entries_named, parse_entry
from pacspark.tables.moving import list_again
from pacspark.tables.placing import draft
from pacspark.tables.references import Pieces
from pacspark.tables.retention import age_ms, data_files
from pacspark.tables.schema import INSTANCES, OBJECTS, REJECTS, TABLES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.witness import log_entry, read_entry
from pacspark.tables.writer import append_unseen, commit_instances, commit_rejects

_NOTES: Final = ("runs", "audit", "holds")
_LONGEST_JOB: Final = timedelta(days=1)
"""A commit has data files that were written so long before the one before it, at most."""
_MOST_BYTES: Final = 32 << 10
"""Of an entry in which one bit is looked for: all of them are tried, in a second or two."""


@dataclass(slots=True)
class LogMending:
    """What became of the logs.

    Attributes
    ----------
    entries, rows
        that came back
    left
        one line for each entry that did not
    """

    entries: int = 0
    rows: int = 0
    left: list[str] = field(default_factory=list)


def mend_logs(storage: Storage, other: Storage, run_id: str, operation: str) -> LogMending:
    """Mend the logs of an archive.

    Parameters
    ----------
    storage, other
        the archive and its replica
    run_id, operation
        for the history

    Raises
    ------
    StorageError
        where a storage fails
    """
    done, check = LogMending(), check_logs(storage)
    while restored := _restore(storage, other, check, run_id):
        done.entries += restored
        check = check_logs(storage)
    wrong = entries_named(check.findings)
    for table in TABLES:
        lost = [name for name in wrong if name[0] == table and _is_superseded(check, name)]
        if not lost:
            continue
        try:
            snapshot = Snapshot(storage, table)
        except PacsparkError:
            continue  # it needs other entries first
        done.rows += _take_up(snapshot, run_id, operation)
        settled = {
            f"{table}/{version}": " ".join(
                sorted(check.witnessed[table, version] - {check.found.get((table, version), "")})
            )
            for _, version in lost
        }
        compare_and_set(snapshot, lambda _: BARRIER, run_id, operation, settled=settled)
    done.left = [
        f"{one.line}; {other.root} has no entry that is this one"
        for one in check_logs(storage).findings
    ]
    return done


# entries as they were


def _restore(storage: Storage, other: Storage, check: LogCheck, run_id: str) -> int:
    """Put entries back in their places; give how many."""
    wrong, restored = entries_named(check.findings), 0
    for name in wrong:
        entry = _right_entry(storage, other, check, name, wrong)
        if entry is not None:
            with draft(storage, run_id) as one:
                one.write(lambda stream, entry=entry: stream.write(entry))  # type: ignore[misc]
                one.place(log_entry(storage, *name))
            restored += 1
    return restored


def _right_entry(
    storage: Storage, other: Storage, check: LogCheck, name: Name, wrong: Sequence[Name]
) -> bytes | None:
    own, theirs = _entry(storage, name), _entry(other, name)
    witnessed = check.witnessed.get(name, set())
    if own is not None and xxh3_128_hexdigest(own) in witnessed:
        return None  # it took the place of another, and is what a witness saw, too
    bits = [] if own is None or not witnessed else [_with_right_bit(own, witnessed)]
    if theirs is not None and not _contradict(name, own, theirs):
        if xxh3_128_hexdigest(theirs) in witnessed:
            return theirs
        sound = not parse_entry(name[1], theirs).trouble
        if not witnessed and sound and _is_copy(storage, other, name, wrong):
            return theirs
    return next((entry for entry in bits if entry is not None), None)


def _entry(storage: Storage, name: Name) -> bytes | None:
    try:
        return read_entry(storage, log_entry(storage, *name))
    except (OSError, RuntimeError):
        return None


def _contradict(name: Name, own: bytes | None, theirs: bytes) -> bool:
    """Tell whether two entries are two commits, and not one that changed."""
    if own is None:
        return False
    commits = [parse_entry(name[1], entry).origin.get("commit") for entry in (own, theirs)]
    return None not in commits and commits[0] != commits[1]


def _is_copy(storage: Storage, other: Storage, name: Name, wrong: Sequence[Name]) -> bool:
    """Tell whether another archive is a copy of the files of one, at the place of an entry."""
    table, version = name
    names = [(table, version - 1), (table, version + 1), *((one, 0) for one in TABLES)]
    pairs = [
        (_entry(storage, one), _entry(other, one))
        for one in names
        if one[1] >= 0 and one not in wrong
    ]
    compared = [own == theirs for own, theirs in pairs if None not in (own, theirs)]
    return bool(compared) and all(compared)


def _with_right_bit(entry: bytes, witnessed: set[str]) -> bytes | None:
    """Turn the one bit of an entry that makes it what its witness saw."""
    if len(entry) > _MOST_BYTES:
        return None
    changed = bytearray(entry)
    for position in range(len(changed)):
        for bit in range(8):
            changed[position] ^= 1 << bit
            if xxh3_128_hexdigest(changed) in witnessed:
                return bytes(changed)
            changed[position] ^= 1 << bit
    return None


# what lost entries listed


def _is_superseded(check: LogCheck, name: Name) -> bool:
    """Tell whether an entry was at the end of its log, where others are now, or nothing is."""
    if name not in check.witnessed:
        return False
    if name in check.found:  # by its own witness it is another, and none that changed
        return check.found[name] in check.witnessed[name]
    return name[1] > max((version for of, version in check.found if of == name[0]), default=-1)


def _take_up(snapshot: Snapshot, run_id: str, operation: str) -> int:
    """Let the rows of data files that no version ever listed come in, once each; give how many."""
    storage, table, spec = snapshot.storage, snapshot.spec.name, snapshot.spec
    origin: dict[str, Any] = {"run_id": run_id, "operation": operation}
    if table == OBJECTS.name:
        listed = Pieces()
        for name in ROW_TABLES:
            listed.add_rows(storage, name, Snapshot(storage, name).files())
        list_again(storage, sorted(listed.marks), run_id, operation)
        return 0
    before = sum(count or 0 for count in snapshot.records().values())
    for rows in _unlisted(snapshot):
        if table in ROW_TABLES:
            there = pa.array(sorted(data_files(storage, OBJECTS.name)), pa.string())
            kept = rows.filter(pc.is_in(rows["object_file"], there))
            list_again(storage, sorted(set(kept["object_file"].to_pylist())), run_id, operation)
        if table == INSTANCES.name:
            outcome = commit_instances(storage, kept, **origin)
            rejects = [conflict_row(row) for row in outcome.conflicts]
            kept = pa.Table.from_pylist(rejects, schema=REJECTS.arrow_schema)
        if table in ROW_TABLES:
            commit_rejects(storage, kept, **origin)
        elif table in _NOTES:
            append_unseen(storage, table, rows.select(spec.arrow_schema.names), **origin)
    snapshot.refresh()
    return sum(count or 0 for count in snapshot.records().values()) - before


def _unlisted(snapshot: Snapshot) -> Iterator[pa.Table]:
    storage, table = snapshot.storage, snapshot.spec.name
    newest = next(entries(snapshot), None)
    since_ms = 0 if newest is None else newest.committed_ms
    since_ms -= int(_LONGEST_JOB.total_seconds() * 1000)
    once = listed_once(storage, table)
    for name, info in data_files(storage, table).items():
        if name in once or age_ms(info) < since_ms:
            continue
        try:
            with open_data_file(storage, table, name) as reader:
                rows = reader.read()
        except StorageError:
            continue  # of a job that was killed as it wrote
        yield rows
