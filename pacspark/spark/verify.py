"""Fixity of a whole archive: the driver lists, tasks read and compare, the driver reports.

What a task has found of a file is kept at once (`tables.kept`). A verify that was killed goes on
from there with ``resume``, at the versions of the tables that it began with.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from pacspark.errors import ArchiveNotFoundError, PacsparkError, StorageError, UsageError
from pacspark.progress import SILENT, Progress
from pacspark.spark.jobs import counted
from pacspark.tables.compaction import Run
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import (
    LISTED,
    FileCheck,
    FileToCheck,
    check_object_file,
    check_table_file,
)
from pacspark.tables.inventory import (
    Listing,
    RowCounts,
    Sample,
    Scope,
    broken_seals,
    count_rows,
    files_to_check,
    orphans,
    rows_of_files,
    twins,
)
from pacspark.tables.kept import KeptChecks, forget, unfinished
from pacspark.tables.logfixity import check_logs
from pacspark.tables.reindex import check_rows
from pacspark.tables.runs import recorded_run
from pacspark.tables.schema import TABLES
from pacspark.tables.snapshot import ActiveFile
from pacspark.tables.storage import Storage

T = TypeVar("T")

TASK_BYTES = 256 << 20
TASK_FILES = 64
BATCH_ROWS = 1 << 20
"""Rows that the driver holds at once."""


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What to verify.

    Attributes
    ----------
    sample
        per cent of the objects; None for all
    seed
        which ones those are; None: the run's own
    study, series
        only the objects of one
    deep
        index every object again and compare its row too
    """

    sample: float | None = None
    seed: str | None = None
    study: str | None = None
    series: str | None = None
    deep: bool = False

    def __post_init__(self) -> None:
        if self.sample is not None and not 0 < self.sample <= 100:
            message = f"sample: expected per cent above 0, up to 100, found {self.sample}"
            raise UsageError(message)
        if self.study is not None and self.series is not None:
            message = "verify: expected a study or a series, found both"
            raise UsageError(message)

    @property
    def scope(self) -> Scope:
        """The rows that it is about."""
        return Scope(self.study, self.series)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verify found.

    Attributes
    ----------
    run_id
        its row in `runs`
    objects, bytes, files
        that were compared; of ``files``, ``kept`` had been by the run that was resumed
    bytes_read
        from the storage by this run
    seconds
        of this run
    seed
        of the sample; None where everything was looked at
    findings
        in no order
    opened
        False where a table could not be: then logs alone were looked at
    request
        what was to be verified
    unrecorded
        why this has no row in `runs`; empty where it has
    """

    run_id: str
    objects: int
    bytes: int
    files: int
    kept: int
    bytes_read: int
    seconds: float
    seed: str | None
    findings: tuple[Finding, ...]
    opened: bool = True
    request: VerifyRequest = VerifyRequest()
    unrecorded: str = ""

    @property
    def wrong(self) -> int:
        """How many findings are wrong."""
        return sum(finding.wrong for finding in self.findings)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    @property
    def kinds(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    def table(self) -> pd.DataFrame:
        """Give the findings as a table."""
        columns = ["kind", "wrong", "table", "file", "name", "sha256", "message"]
        rows = [asdict(finding) | {"wrong": finding.wrong} for finding in self.findings]
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> dict[str, Any]:
        """Give the figures without the findings."""
        figures = asdict(self)
        for name in ("findings", "opened", "request", "unrecorded"):
            del figures[name]
        return figures | {"wrong": self.wrong, "findings": self.kinds}


@dataclass(frozen=True, slots=True)
class TableFile:
    """One data file of a table other than `objects`."""

    table: str
    file: str
    size_bytes: int
    num_records: int | None
    xxh3: str


@dataclass(frozen=True, slots=True)
class RowsToCheck:
    """One data file of `instances` whose objects are indexed again."""

    file: ActiveFile
    scope: Scope
    sample: Sample | None


Item = FileToCheck | TableFile | RowsToCheck


def verify(
    run: Run,
    storage: Storage,
    request: VerifyRequest,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Verify an archive.

    Parameters
    ----------
    run
        runs tasks
    storage
        the archive
    request
        what of it
    resume
        go on with the newest verify of the same request that did not end, if there is one
    progress
        told of megabytes

    Raises
    ------
    StorageError
        where the storage does not answer; what is wrong with the archive is in the report
    """
    state = unfinished(storage, asdict(request)) if resume else None
    run_id = state["run_id"] if state else uuid.uuid4().hex
    started = time.monotonic()
    logs = check_logs(storage)
    try:
        listing = Listing(storage, state["versions"] if state else {})
    except ArchiveNotFoundError:
        raise
    except PacsparkError as error:  # the storage answers: what it holds cannot be opened
        found = (*logs.findings, Finding("log", "", "", "", "", str(error)))
        seconds = time.monotonic() - started
        return VerifyReport(
            run_id, 0, 0, 0, 0, 0, seconds, None, found, opened=False, request=request
        )
    kept = KeptChecks(storage, run_id)
    if state is None:
        forget(storage, asdict(request))
        kept.begin(asdict(request), listing.versions)
    options = asdict(request) | {"resumed": state is not None}
    report: VerifyReport | None = None
    try:
        with recorded_run(storage, run_id, "verify", listing.versions, options=options) as row:
            report = _verify(run, listing, request, kept, progress, logs.findings)
            report = replace(report, seconds=time.monotonic() - started, request=request)
            row["metrics"] = report.summary()
            if report.wrong:
                row["message"] = next(one.line for one in report.findings if one.wrong)
            if "log" not in report.kinds:
                logs.note_others(storage)
    except StorageError as error:
        if report is None:
            raise
        # what it found counts, also of an archive that nobody may write to
        report = replace(report, unrecorded=str(error))
    kept.clear()
    return report


def _verify(
    run: Run,
    listing: Listing,
    request: VerifyRequest,
    kept: KeptChecks,
    progress: Progress,
    found: Sequence[Finding],
) -> VerifyReport:
    scope = request.scope
    seed = None if request.sample is None else request.seed or kept.run_id
    sample = None if seed is None else Sample((request.sample or 0) / 100, seed)
    tally = _Tally(list(found))
    check = partial(_check, run, listing.storage, kept, kept.names(), tally)
    # before the driver reads rows: a damaged file of them could end its process
    check(_table_files(listing, scope))
    damaged = frozenset((one.table, one.file) for one in tally.findings if one.wrong)
    n_files = sum(1 for _ in listing.row_files(scope))
    with progress.stage("list", n_files, "files of rows") as stage:
        counts = count_rows(listing, scope, stage.advance, damaged)
        if scope.everything:
            tally.findings += broken_seals(listing)
            tally.findings += orphans(listing)
            tally.findings += twins(listing, counts.unread)
    total = _megabytes(listing, counts.bytes, request, sample)
    with counted(kept, progress, "verify", total, "MB"):  # type: ignore[arg-type]
        for items in _batches(listing, request, sample, counts):
            check(items)
    findings = _outlived(listing, tally.findings)
    return VerifyReport(
        kept.run_id, tally.objects, tally.bytes, tally.files, tally.kept, tally.bytes_read, 0.0,
        seed, tuple(findings),
    )  # fmt: skip


def _check(
    run: Run,
    storage: Storage,
    kept: KeptChecks,
    known: Mapping[str, str],
    tally: "_Tally",
    items: Sequence[Item],
) -> None:
    """Check what was not checked before the verify was resumed, and tally all."""
    todo = []
    for item in items:
        check = kept.find(_name_of(item), known)
        if check is None:
            todo.append(item)
        else:
            tally.add(check, kept=True)
    tasks = list(_tasks(todo))
    if tasks:
        for checks in run(tasks, partial(check_items, storage, kept)):
            for check in checks:
                tally.add(check)


def _table_files(listing: Listing, scope: Scope) -> list[Item]:
    """Give the files of the other tables that are to be checked: all, or those of the scope."""
    items: list[Item] = []
    wanted = {(snapshot.spec.name, file.path) for snapshot, file in listing.row_files(scope)}
    for table in TABLES:
        records, seals = listing.snapshots[table].records(), listing.seals(table)
        if table != "objects":
            items += [
                TableFile(table, file, size, records[file], seals[file] or "")
                for file, size in listing.sizes(table).items()
                if scope.everything or (table, file) in wanted
            ]
    return items


def _outlived(listing: Listing, findings: Sequence[Finding]) -> list[Finding]:
    """Leave out files that are gone because a compaction ended their retention meanwhile.

    The version that is verified still needed them; the newest neither lists them, nor has rows that
    refer to them.
    """
    gone = {(one.table, one.file) for one in findings if one.kind == "file"}
    if not gone:
        return list(findings)
    now = Listing(listing.storage)
    gone -= {(table, file) for table in TABLES for file in now.sizes(table)}
    if gone:
        gone -= {("objects", file) for file in count_rows(now, Scope()).rows}
    return [one for one in findings if (one.table, one.file) not in gone]


class _Tally:
    """Counts of what was checked."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        self.objects = self.bytes = self.files = self.kept = self.bytes_read = 0

    def add(self, check: FileCheck, *, kept: bool = False) -> None:
        self.findings += check.findings
        if check.table != "deep":
            self.objects += check.objects
            self.bytes += check.bytes
            self.files += 1
        self.kept += kept
        self.bytes_read += 0 if kept else check.bytes_read


def _megabytes(
    listing: Listing, size_bytes: int, request: VerifyRequest, sample: Sample | None
) -> int:
    """Predict what will be read."""
    if sample is not None:
        size_bytes = int(size_bytes * sample.share)
    elif request.scope.everything:
        size_bytes = sum(listing.sizes("objects").values())
    if request.deep:
        size_bytes *= 2
    if request.scope.everything:
        size_bytes += sum(sum(listing.sizes(name).values()) for name in TABLES if name != "objects")
    return size_bytes // 10**6


def _batches(
    listing: Listing, request: VerifyRequest, sample: Sample | None, counts: RowCounts
) -> Iterator[list[Item]]:
    """Give what is to be checked, as many files at a time as the driver can hold the rows of."""
    scope = request.scope
    whole = scope.everything and sample is None
    sizes = listing.sizes("objects")
    names = [*sizes, *(name for name in counts.rows if name not in sizes)]
    if not whole:
        names = [name for name in names if counts.rows.get(name)]
    for group in runs_of(names, lambda name: counts.rows.get(name, 0), BATCH_ROWS):
        rows = rows_of_files(listing, scope, group, counts.unread)
        empty = LISTED.empty_table()
        asked = {}
        for name in group:
            of_file = rows.get(name, empty)
            if sample is not None:
                of_file = sample.of(of_file)
            if whole or of_file.num_rows:
                asked[name] = of_file
        yield [*files_to_check(listing, asked, all_rows=whole)]
    if request.deep:
        instances = listing.snapshots["instances"]
        files = instances.files() if scope.everything else scope.files(instances)
        yield [
            RowsToCheck(file, scope, sample)
            for file in files
            if ("instances", file.path) not in counts.unread
        ]


def _tasks(items: Iterable[Item]) -> Iterator[list[Item]]:
    yield from runs_of(list(items), _cost_bytes, TASK_BYTES, TASK_FILES)


def _cost_bytes(item: Item) -> int:
    if isinstance(item, FileToCheck) and not item.all_rows:
        return sum(item.rows["size_bytes"].to_pylist())
    if isinstance(item, RowsToCheck):
        return TASK_BYTES // 4
    return item.size_bytes or 0


def runs_of(
    items: Sequence[T], cost: Callable[[T], int], limit: int, most: int = 1 << 30
) -> Iterator[list[T]]:
    """Cut items into runs of at most `most` and about `limit`, keeping their order."""
    held: list[T] = []
    sum_ = 0
    for item in items:
        one = cost(item)
        if held and (sum_ + one > limit or len(held) >= most):
            yield held
            held, sum_ = [], 0
        held.append(item)
        sum_ += one
    if held:
        yield held


def _name_of(item: Item) -> str:
    if isinstance(item, FileToCheck):
        return f"objects/{item.file}"
    if isinstance(item, TableFile):
        return f"{item.table}/{item.file}"
    return f"deep/{item.file.path}"


def check_items(storage: Storage, kept: KeptChecks, items: Sequence[Item]) -> list[FileCheck]:
    """Body of one task: check each item and keep what came of it."""
    storage.require_seen()
    checks = []
    for item in items:
        if isinstance(item, FileToCheck):
            check = check_object_file(storage, item)
        elif isinstance(item, TableFile):
            check = check_table_file(
                storage, item.table, item.file, item.size_bytes, item.num_records, item.xxh3
            )
        else:
            has = item.sample.has if item.sample else lambda _: True
            check = check_rows(storage, item.file, item.scope.where(), has)
        kept.keep(_name_of(item), check)
        checks.append(check)
    return checks
