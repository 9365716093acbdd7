"""De-identification through Spark: from one archive into another.

The driver lists what is stored, tasks read, change and write, the driver commits in the target.
Batches are those of an ingest: each is one commit, and a run that is killed, begun again, finds the
committed ones as duplicates. The same secret and profile make the same bytes.

Nothing that the target gets to know names an original: its rows say ``anonymize 2.25...``, which is
the pseudonym of the original's UID, its run says what was asked for but not of whom, and an object
that is refused leaves a message without any value, and no bytes. Who wants to know which original
that was asks the table `audit` of the source.
"""

import hashlib
import io
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, BinaryIO, Final

from pydicom.datadict import keyword_for_tag
from pyspark.sql import SparkSession

from pacspark.dicom.deidentify import Deidentifier
from pacspark.dicom.deidentify_object import deidentify_object
from pacspark.errors import DeidentificationError, NotInArchiveError, StorageError
from pacspark.progress import SILENT, Progress
from pacspark.spark.ingest import batches
from pacspark.spark.jobs import run_tasks
from pacspark.tables.audit import record
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import files_of_job
from pacspark.tables.intake import Intake, IntakeResult, commit_intake
from pacspark.tables.reports import IngestReport
from pacspark.tables.runs import recorded_run, versions_now
from pacspark.tables.schema import LOCATION_COLUMNS
from pacspark.tables.storage import Storage

OPERATION: Final = "anonymize"
COLUMN_OF_LEVEL: Final = {
    "patient": "patient_id",
    "study": "study_instance_uid",
    "series": "series_instance_uid",
}
_COLUMNS: Final = ("sop_instance_uid", *LOCATION_COLUMNS)
BATCH_OBJECTS: Final = 4096
BATCH_BYTES: Final = 2 << 30
TASK_OBJECTS: Final = 128
TASK_BYTES: Final = 64 << 20
"""A task is about this much, some seconds of work: little enough to spread and to lose."""
_IN_MEMORY_BYTES: Final = 64 << 20
"""A larger object goes through files of the machine that works on it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object of the source.

    Attributes
    ----------
    row
        of `instances`: its UID and where its bytes are
    size_bytes
        of it
    """

    row: Mapping[str, Any]
    size_bytes: int


def require_any(source: Catalog, level: str | None, value: str | None) -> int:
    """Count the objects of a study, a series, a patient or everything.

    Raises
    ------
    NotInArchiveError
        Where there is no such thing.
    """
    where = {} if level is None else {COLUMN_OF_LEVEL[level]: str(value)}
    total = sum(int(rows.num_rows) for rows in source.each_file_of(where, ["sop_instance_uid"]))
    if not total and level is not None:
        message = f"{source.storage.root}: no {level} {value!r:.80}"
        raise NotInArchiveError(message)
    return total


def anonymize(
    session: Callable[[], SparkSession],
    source: Catalog,
    target: Storage,
    deidentifier: Deidentifier,
    level: str | None = None,
    value: str | None = None,
    *,
    progress: Progress = SILENT,
) -> IngestReport:
    """De-identify what is stored in one archive into another.

    Parameters
    ----------
    session
        Gives any session; asked only where there is something to do.
    source, target
        The archives; the tables of both exist.
    deidentifier
        Profile and secret.
    level, value
        patient and its ID, study or series and its UID; None: everything.
    progress
        Told of batches as they are committed.

    Returns
    -------
    IngestReport
        What became of the objects in the target; what was refused is named by its original UID.

    Raises
    ------
    NotInArchiveError
        Where the source holds no such thing.
    """
    where = {} if level is None else {COLUMN_OF_LEVEL[level]: str(value)}
    total = require_any(source, level, value)
    run_id = uuid.uuid4().hex
    report, started = IngestReport(run_id), time.monotonic()
    with (
        _audited(source.storage, run_id, level, value, target.root) as audit,
        recorded_run(
            target,
            run_id,
            OPERATION,
            versions_now(target),
            nameless=True,
            options=_options(deidentifier, level),
        ) as run,
        progress.stage(OPERATION, total, "objects") as stage,
    ):
        for batch in batches(_stored(source, where), BATCH_OBJECTS, BATCH_BYTES):
            tasks = list(batches(batch, TASK_OBJECTS, TASK_BYTES))
            with files_of_job(target, "objects", "instances") as job:
                work = partial(make_anonymous, source, target, run_id, job, deidentifier)
                results = run_tasks(session(), tasks, work)
            taken = commit_intake(target, results, run_id, OPERATION)
            report += _named(taken, batch, deidentifier)
            counts = asdict(report.timed(time.monotonic() - started))
            del counts["refused"]  # it names originals
            run["metrics"] = counts
            audit.update(counts, refused=[refused.source for refused in report.refused])
            stage.advance(len(batch))
    return report.timed(time.monotonic() - started)


def make_anonymous(
    source: Catalog,
    target: Storage,
    run_id: str,
    job: str,
    deidentifier: Deidentifier,
    stored: Sequence[Stored],
) -> IntakeResult:
    """Body of one task: read, de-identify, index and write; nothing of it is visible yet."""
    target.require_seen()
    with Intake(target, run_id, job) as intake:
        for item in stored:
            name = _name(deidentifier, item)
            with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as made:
                try:
                    with _content(source, item) as content:
                        deidentify_object(content, made, deidentifier)  # type: ignore[arg-type]
                except DeidentificationError as error:
                    intake.refuse(name, error)
                    continue
                size_bytes = made.seek(0, io.SEEK_END)
                made.seek(0)
                intake.add_stream(name, made, size_bytes)  # type: ignore[arg-type]
        return intake.finish()


@contextmanager
def _content(source: Catalog, item: Stored) -> Iterator[BinaryIO]:
    """Give the bytes of a stored object, checked against their digest."""
    with io.BytesIO() if item.size_bytes <= _IN_MEMORY_BYTES else tempfile.TemporaryFile() as file:
        try:
            for piece in source.stream_object(item.row):
                file.write(piece)
        except StorageError:
            # its message names the original's file; whether it comes back, a repeat will show
            message = "expected the bytes that the source stored, found none or others"
            raise DeidentificationError(message) from None
        file.seek(0)
        yield file


def _stored(source: Catalog, where: Mapping[str, str]) -> Iterator[Stored]:
    for rows in source.each_file_of(where, _COLUMNS):
        for row in rows.to_pylist():
            yield Stored(row, row["size_bytes"])


def _name(deidentifier: Deidentifier, item: Stored) -> str:
    """Give what the target calls an object by: nobody without the secret finds the original."""
    digest = hashlib.sha256(item.row["sop_instance_uid"].encode()).hexdigest()
    return f"{OPERATION} {deidentifier.pseudonyms.uid(f'source {digest}')}"


def _named(report: IngestReport, batch: Sequence[Stored], by: Deidentifier) -> IngestReport:
    """Name what was refused by its UID in the source, for who works there."""
    if not report.refused:
        return report
    originals = {_name(by, item): item.row["sop_instance_uid"] for item in batch}
    refused = tuple(
        replace(one, source=originals.get(one.source, one.source)) for one in report.refused
    )
    return replace(report, refused=refused)


def _options(deidentifier: Deidentifier, level: str | None) -> dict[str, Any]:
    """Tell what was asked for, and nothing of whom."""
    profile = deidentifier.profile
    return {
        "level": level or "all",
        "retain": sorted(profile.retain),
        "clean": sorted(profile.clean),
        "actions": {
            keyword_for_tag(tag): str(action) for tag, action in sorted(profile.actions.items())
        },
        "burned_in": profile.burned_in,
        "pixel_rules": len(profile.pixel_rules),
    }


@contextmanager
def _audited(
    storage: Storage, run_id: str, level: str | None, value: str | None, target: str
) -> Iterator[dict[str, Any]]:
    detail: dict[str, Any] = {"target": target}
    outcome = "failed"
    try:
        yield detail
        outcome = "done"
    finally:
        record(storage, OPERATION, level or "all", value or "", outcome, detail, run_id)
