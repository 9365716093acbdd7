"""Repair from a replica: what `verify` found broken is mended file by file, and read again."""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from pacspark.errors import UsageError
from pacspark.progress import SILENT, Progress
from pacspark.spark.repair_rows import is_of_rows, mend_rows
from pacspark.spark.verify import VerifyReport, verify
from pacspark.tables.audit import record
from pacspark.tables.compaction import Run
from pacspark.tables.creating import check_tables
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import LISTED, FileToCheck, check_object_file
from pacspark.tables.inventory import (
    Listing,
    Scope,
    files_to_check,
    rows_of_files,
)
from pacspark.tables.logfixity import entries_named
from pacspark.tables.logmending import LogMending, mend_logs
from pacspark.tables.mending import Mended, mend_file
from pacspark.tables.moving import move_rows
from pacspark.tables.references import ROW_TABLES
from pacspark.tables.runs import recorded_run
from pacspark.tables.scratch import Scratch
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files, replace_files

_MENDABLE = frozenset({"damaged", "missing", "digest", "file", "footer"})
_OPERATION = "repair"


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did.

    Attributes
    ----------
    run_id
        its row in `runs`
    files, objects
        mended
    left
        what is still wrong: one line each
    seconds
        of it all
    """

    run_id: str
    files: int
    objects: int
    left: tuple[str, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether all that was wrong is mended."""
        return not self.left


def repair(
    run: Run,
    storage: Storage,
    other: Storage,
    report: VerifyReport,
    *,
    progress: Progress = SILENT,
) -> RepairReport:
    """Mend from a replica what a verify found wrong.

    Parameters
    ----------
    run
        runs tasks
    storage, other
        the archive and its replica
    report
        of a verify of the archive
    progress
        told of files

    Raises
    ------
    UsageError
        where both are one
    ArchiveNotFoundError
        where there is no replica
    StorageError
        where a storage fails
    """
    if storage.is_same(other):
        message = f"repair: expected a replica, found {storage.root} itself"
        raise UsageError(message)
    check_tables(other)
    run_id, started = uuid.uuid4().hex, time.monotonic()
    logs = LogMending()
    if entries_named(report.findings):
        logs = mend_logs(storage, other, run_id, _OPERATION)
        Scratch(storage, run_id).clear()
        # what the logs list may be another now
        report = verify(run, storage, report.request, progress=progress)
    wrong = [one for one in report.findings if one.wrong and not entries_named([one])]
    left = [*logs.left]
    left += [one.line for one in wrong if not is_of_rows(one) and not _is_of_objects(one)]
    if not report.opened:
        spent_s = time.monotonic() - started
        return RepairReport(run_id, logs.entries, logs.rows, tuple(left), spent_s)
    of_rows = _by_table(wrong)
    options = {"from": other.root, "verify": report.run_id}
    versions = Listing(storage).versions
    with recorded_run(storage, run_id, _OPERATION, versions, options=options) as row:
        try:
            # rows first: they say which objects there are
            replica = Listing(other)
            unread: list[Finding] = []
            for table, findings in of_rows.items():
                names = [one.file for one in findings]
                why = mend_rows(run, storage, replica, run_id, table, names)
                if why:
                    unread += findings
                    left += [f"{one.line}; {why}" for one in findings]
            asked = _asked(Listing(storage), filter(_is_of_objects, wrong), unread)
            with progress.stage("repair", len(asked), "files") as stage:
                mended = (
                    run([[one] for one in asked], partial(_mend_files, storage, other, run_id))
                    if asked
                    else []
                )
                stage.update(len(asked))
            done = [one for files in mended for one in files]
            _relocate(storage, [one for one in done if one.moves], run_id)
            left += [one.left for one in done if one.left]
        finally:
            Scratch(storage, run_id).clear()
        details: list[dict[str, Any]] = [
            {"file": one.file, "how": one.how, "objects": one.objects} for one in done if one.how
        ]
        if logs.entries or logs.rows:
            details.append({"how": "logs", "entries": logs.entries, "rows": logs.rows})
        for detail in details:
            record(storage, _OPERATION, "", "", "done", detail | {"from": other.root}, run_id)
        fixed = [one for one in done if one.how]
        result = RepairReport(
            run_id,
            logs.entries + len(fixed) + sum(map(len, of_rows.values())) - len(unread),
            logs.rows + sum(one.objects for one in fixed),
            tuple(left),
            time.monotonic() - started,
        )
        row["metrics"] = asdict(result)
        if left:
            row["message"] = left[0]
    return result


def _by_table(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    of_rows: dict[str, list[Finding]] = {}
    for one in filter(is_of_rows, findings):
        of_rows.setdefault(one.table, []).append(one)
    return of_rows


def _is_of_objects(finding: Finding) -> bool:
    return finding.table == "objects" and finding.kind in _MENDABLE


def _asked(
    listing: Listing, mendable: Iterable[Finding], unread: Sequence[Finding]
) -> list[FileToCheck]:
    """Give the files to mend, each with all rows that refer to it."""
    files = list(dict.fromkeys(finding.file for finding in mendable))
    skipped = frozenset((one.table, one.file) for one in unread if one.table in ROW_TABLES)
    rows = rows_of_files(listing, Scope(), files, skipped)
    nothing = LISTED.empty_table()
    return files_to_check(listing, {file: rows.get(file, nothing) for file in files})


def _mend_files(
    storage: Storage, other: Storage, run_id: str, asked: Sequence[FileToCheck]
) -> list[Mended]:
    """Body of one task."""
    storage.require_seen()
    other.require_seen()
    return [_read_again(storage, one, mend_file(storage, other, run_id, one)) for one in asked]


def _read_again(storage: Storage, asked: FileToCheck, mended: Mended) -> Mended:
    """Read a file that was put in place once more; what is lost of it is told already."""
    if mended.lost or mended.how not in {"copied", "patched"}:
        return mended
    wrong = [one.line for one in check_object_file(storage, asked).findings if one.wrong]
    return replace(mended, left=wrong[0]) if wrong else mended


def _relocate(storage: Storage, mended: Sequence[Mended], run_id: str) -> None:
    """Let rows say where their objects lie now: bytes first, then rows, then the old files go."""
    if not mended:
        return
    origin: dict[str, Any] = {"run_id": run_id, "operation": _OPERATION}
    added = [one.added for one in mended if one.added is not None]
    commit_files(storage, "objects", added, **origin)
    moves = {
        (one.file, row_group): (place.object_file, place.object_row_group, [*place.object_offsets])
        for one in mended
        for (row_group, _), place in (one.moves or {}).items()
    }
    for table in ROW_TABLES:
        move_rows(storage, table, moves, run_id, _OPERATION)
    done = {one.file for one in mended if not one.lost}
    old = [file for file in Snapshot(storage, "objects").files() if file.path in done]
    if old:
        replace_files(storage, "objects", old, [], **origin)
