"""Repair from a replica: what `verify` found broken is mended file by file, and read again."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pacspark.errors import UsageError
from pacspark.progress import SILENT, Progress
from pacspark.spark.repair_rows import is_of_rows, mend_rows
from pacspark.spark.verify import Run, VerifyReport
from pacspark.tables.audit import record
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import FileToCheck, check_object_file
from pacspark.tables.inventory import ROW_TABLES, Listing, Scope, rows_of_files
from pacspark.tables.mending import Mended, mend_file
from pacspark.tables.moving import move_rows
from pacspark.tables.runs import recorded_run
from pacspark.tables.schema import check_tables
from pacspark.tables.scratch import Scratch
from pacspark.tables.snapshot import ActiveFile
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
    if (storage.kind, storage.authority, storage.folder) == (
        other.kind, other.authority, other.folder,
    ):  # fmt: skip
        message = f"repair: expected a replica, found {storage.root} itself"
        raise UsageError(message)
    check_tables(other)
    run_id, started = uuid.uuid4().hex, time.monotonic()
    wrong = [finding for finding in report.findings if finding.wrong]
    mendable = [one for one in wrong if one.table == "objects" and one.kind in _MENDABLE]
    of_rows = [one for one in wrong if is_of_rows(one)]
    left = [one.line for one in wrong if one not in mendable and one not in of_rows]
    options = {"from": other.root, "verify": report.run_id}
    versions = Listing(storage).versions
    with recorded_run(storage, run_id, _OPERATION, versions, options=options) as row:
        try:
            # rows first: they say which objects there are
            replica = Listing(other)
            unmended = {one: mend_rows(run, storage, replica, run_id, one) for one in of_rows}
            left += [line for line in unmended.values() if line]
            unread = [one for one, line in unmended.items() if line]
            listing = Listing(storage)
            asked = _asked(listing, mendable, unread)
            with progress.stage("repair", len(asked), "files") as stage:
                mended = (
                    run([[one] for one in asked], partial(_mend_files, storage, other, run_id))
                    if asked
                    else []
                )
                stage.update(len(asked))
            done = [one for files in mended for one in files]
            _relocate(storage, listing, [one for one in done if one.moves], run_id)
            left += [one.left for one in done if one.left]
            left += [line for one in asked for line in _still_wrong(storage, one, done)]
        finally:
            Scratch(storage, run_id).clear()
        for one in done:
            if one.how:
                detail = {"file": one.file, "how": one.how, "objects": one.objects}
                record(storage, _OPERATION, "", "", "done", detail | {"from": other.root}, run_id)
        fixed = [one for one in done if one.how]
        result = RepairReport(
            run_id,
            len(fixed) + len(of_rows) - len(unread),
            sum(one.objects for one in fixed),
            tuple(left),
            time.monotonic() - started,
        )
        row["metrics"] = asdict(result)
        if left:
            row["message"] = left[0]
    return result


def _asked(
    listing: Listing, mendable: Sequence[Finding], unread: Sequence[Finding]
) -> list[FileToCheck]:
    """Give the files to mend, each with all rows that refer to it."""
    files = list(dict.fromkeys(finding.file for finding in mendable))
    skipped = frozenset((one.table, one.file) for one in unread if one.table in ROW_TABLES)
    rows = rows_of_files(listing, Scope(), files, skipped)
    sizes = listing.sizes("objects")
    return [FileToCheck(file, sizes.get(file), rows[file]) for file in files if file in rows]


def _mend_files(
    storage: Storage, other: Storage, run_id: str, asked: Sequence[FileToCheck]
) -> list[Mended]:
    """Body of one task."""
    storage.require_seen()
    other.require_seen()
    return [mend_file(storage, other, run_id, one) for one in asked]


def _still_wrong(storage: Storage, asked: FileToCheck, done: Sequence[Mended]) -> list[str]:
    """Read a file that was put in place once more."""
    placed = [one for one in done if one.file == asked.file and one.how in {"copied", "patched"}]
    if not placed or placed[0].lost:
        return []  # what is lost is told by itself
    return [one.line for one in check_object_file(storage, asked).findings if one.wrong]


def _relocate(storage: Storage, listing: Listing, mended: Sequence[Mended], run_id: str) -> None:
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
    sizes = listing.sizes("objects")
    old = [ActiveFile(one.file, sizes[one.file]) for one in mended if not one.lost]
    old = [file for file in old if file.path in Listing(storage).sizes("objects")]
    if old:
        replace_files(storage, "objects", old, [], **origin)
