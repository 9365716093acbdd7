"""Mending logs: entries that are lost, or not as they were written, come back where that can be.

Three ways, the first that gives an entry which is the right one:

* the replica is a copy of the archive's files, and so has the same entry;
* one bit of the entry changed: its witness (`tables.witness`) tells which;
* the newest entries are lost, or others took their numbers. Their data files still lie there, and
  no version lists them: rows that nobody has come in again, and a commit says that it is settled.

The last brings back too what a lost commit had deleted: `audit` has the deletes.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_128_hexdigest

from pacspark.errors import PacsparkError, StorageError
from pacspark.tables.datafile import open_data_file
from pacspark.tables.intake import conflict_row
from pacspark.tables.inventory import listed_once
from pacspark.tables.log import BARRIER, compare_and_set, entries
from pacspark.tables.logentries import entry_path, read_entry
from pacspark.tables.logfixity import LogCheck, Name, check_logs, entries_named, parse_entry
from pacspark.tables.moving import list_again
from pacspark.tables.placing import draft
from pacspark.tables.references import ROW_TABLES, Pieces, uids_in
from pacspark.tables.retention import data_files, written_by_jobs
from pacspark.tables.schema import HOLDS, INSTANCES, OBJECTS, PROJECTIONS, REJECTS, TABLES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import append_unseen, commit_instances, commit_rejects

_UID: Final = "sop_instance_uid"
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
        done.rows += _take_up(snapshot, min(lost)[1], run_id, operation)
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
                # where there was none, a writer may have been faster
                one.place(entry_path(storage, *name), is_new=name not in check.found)
            restored += 1
    return restored


def _right_entry(
    storage: Storage, other: Storage, check: LogCheck, name: Name, wrong: Sequence[Name]
) -> bytes | None:
    own, theirs = None, _entry(other, name)
    with suppress(StorageError):  # one that cannot be read is to be replaced
        own = _entry(storage, name)
    witnessed = check.witnessed.get(name, set())
    if own is not None and xxh3_128_hexdigest(own) in witnessed:
        return None  # it took the place of another, and is what a witness saw, too
    if theirs is not None and not _contradict(name, own, theirs):
        if xxh3_128_hexdigest(theirs) in witnessed:
            return theirs
        sound = not parse_entry(name[1], theirs).trouble
        if not witnessed and sound and _is_copy(storage, other, name, wrong):
            return theirs
    return None if own is None else _with_right_bit(own, witnessed)


def _entry(storage: Storage, name: Name) -> bytes | None:
    with storage.errors(f"read the log of {name[0]}"):
        if not storage.filesystem.get_file_info(entry_path(storage, *name)).is_file:
            return None
        return read_entry(storage, *name)


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
    if not witnessed or len(entry) > _MOST_BYTES:
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


def _take_up(snapshot: Snapshot, lost: int, run_id: str, operation: str) -> int:
    """Let the rows of data files that no version ever listed come in, once each; give how many.

    Parameters
    ----------
    snapshot
        the newest version of the table
    lost
        the first version whose entry is lost
    run_id, operation
        for the history
    """
    storage, table, spec = snapshot.storage, snapshot.spec.name, snapshot.spec
    origin: dict[str, Any] = {"run_id": run_id, "operation": operation}
    if table == OBJECTS.name:
        listed = Pieces()
        for name in ROW_TABLES:
            listed.add_rows(storage, name, Snapshot(storage, name).files())
        list_again(storage, sorted(listed.marks), run_id, operation)
        return 0
    if table == PROJECTIONS.name:
        return 0  # whoever needs them makes them again
    before = sum(count or 0 for count in snapshot.records().values())
    for rows in _unlisted(snapshot, lost):
        if table in ROW_TABLES:
            there = pa.array(sorted(data_files(storage, OBJECTS.name)), pa.string())
            kept = rows.filter(pc.is_in(rows["object_file"], there))
            list_again(storage, sorted(set(kept["object_file"].to_pylist())), run_id, operation)
        if table == INSTANCES.name:
            kept = _never_removed(snapshot, kept)
            outcome = commit_instances(storage, kept, **origin)
            rejects = [conflict_row(row) for row in outcome.conflicts]
            kept = pa.Table.from_pylist(rejects, schema=REJECTS.arrow_schema)
        if table in ROW_TABLES:
            commit_rejects(storage, kept, **origin)
        else:
            noted = rows.select(spec.arrow_schema.names)
            if table == HOLDS.name:  # a release that nobody was told of ends no hold
                noted = noted.filter(pc.equal(noted["action"], "hold"))
            append_unseen(storage, table, noted, **origin)
    snapshot.refresh()
    return sum(count or 0 for count in snapshot.records().values()) - before


def _never_removed(snapshot: Snapshot, rows: pa.Table) -> pa.Table:
    """Leave out rows that a commit took away which is there: a killed job left them."""
    there = data_files(snapshot.storage, snapshot.spec.name)
    removed = {file.path: file for entry in entries(snapshot) for file in entry.removed}
    files = [file for path, file in removed.items() if path in there]
    uids = set(rows[_UID].to_pylist())
    gone = uids_in(snapshot.storage, snapshot.spec.name, _UID, files, uids)
    gone -= uids_in(snapshot.storage, snapshot.spec.name, _UID, snapshot.files(), uids)
    return rows.filter(pc.invert(pc.is_in(rows[_UID], pa.array(sorted(gone), pa.string()))))


def _unlisted(snapshot: Snapshot, lost: int) -> Iterator[pa.Table]:
    """Read data files that no version lists and that the job of a lost commit may have written."""
    storage, table = snapshot.storage, snapshot.spec.name
    before = next((entry for entry in entries(snapshot) if entry.version < lost), None)
    since_ms = 0 if before is None else before.committed_ms
    once, there = listed_once(storage, table), data_files(storage, table)
    written_ms = written_by_jobs(there)
    for name in there.keys() - once:
        if written_ms[name] < since_ms:
            continue
        try:
            with open_data_file(storage, table, name) as reader:
                rows = reader.read()
        except StorageError as error:
            if isinstance(error.__cause__, pa.ArrowInvalid):
                continue  # of a job that was killed as it wrote
            raise
        yield rows
