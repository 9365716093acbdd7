"""Ingest through Spark: the driver lists, tasks read and write bytes, the driver commits.

Each batch is one Spark job and one commit, so what the driver holds is bounded, progress is
durable, and a killed ingest, begun again, finds the committed batches as duplicates.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from pacspark.progress import SILENT, Progress
from pacspark.spark.jobs import run_tasks
from pacspark.tables.datafile import files_of_job
from pacspark.tables.intake import IngestReport, Intake, IntakeResult, commit_intake
from pacspark.tables.runs import recorded_run, versions_now
from pacspark.tables.sources import Source, expand_sources
from pacspark.tables.storage import Storage

BATCH_OBJECTS = 4096
BATCH_BYTES = 2 << 30
TASK_BYTES = 64 << 20
TASK_OBJECTS = 256
"""A task is about this much: enough to pay for its start, little enough to spread and to lose."""


def ingest(
    session: Callable[[], SparkSession],
    storage: Storage,
    paths: Iterable[str | Path],
    *,
    progress: Progress = SILENT,
) -> IngestReport:
    """Ingest files, folders, globs, zips and DICOMDIRs.

    Parameters
    ----------
    session
        Gives any session, without Delta; asked only when all paths are found.
    storage
        The archive, whose tables exist.
    paths
        What to ingest, as `tables.sources.expand_sources` reads it; the executors must be able to
        open it too.
    progress
        Told of batches as they are committed.

    Returns
    -------
    IngestReport
        ``stored + duplicate + conflict + rejected`` equals the number of inputs.
    """
    run_id = uuid.uuid4().hex
    report = IngestReport(run_id)
    started, versions = time.monotonic(), versions_now(storage)
    named = list(paths)
    sources = list(expand_sources(named, storage))
    spark = session()
    with (
        recorded_run(
            storage, run_id, "ingest", versions, options={"paths": [str(path) for path in named]}
        ) as run,
        progress.stage("ingest", len(sources), "objects") as stage,
    ):
        for batch in batches(sources, BATCH_OBJECTS, BATCH_BYTES):
            tasks = list(batches(batch, TASK_OBJECTS, TASK_BYTES))
            with files_of_job(storage, "objects") as job:
                results = run_tasks(spark, tasks, partial(take_in, storage, run_id, job))
            report += commit_intake(storage, results, run_id)
            run["metrics"] = asdict(report.timed(time.monotonic() - started))
            stage.advance(len(batch))
    return report.timed(time.monotonic() - started)


def take_in(storage: Storage, run_id: str, job: str, sources: Sequence[Source]) -> IntakeResult:
    """Body of one task: read, index and write; nothing of it is visible yet."""
    storage.require_seen()
    with Intake(storage, run_id, job) as intake:
        for source in sources:
            intake.add_source(source)
        return intake.finish()


def batches(sources: Iterable[Source], objects: int, size_bytes: int) -> Iterator[list[Source]]:
    """Cut sources into runs of at most `objects` and about `size_bytes`, keeping their order."""
    batch: list[Source] = []
    held_bytes = 0
    for source in sources:
        if batch and (len(batch) >= objects or held_bytes + source.size_bytes > size_bytes):
            yield batch
            batch, held_bytes = [], 0
        batch.append(source)
        held_bytes += source.size_bytes
    if batch:
        yield batch
