"""Ingest through Spark: the driver lists, tasks read and write bytes and rows, the driver commits.

Each batch is one Spark job and one commit, so what the driver holds is bounded, progress is
durable, and a killed ingest, begun again, finds the committed batches as duplicates. The commit of
a batch runs beside the tasks of the next, which may therefore write what it has just stored: the
next commit, which is a compare-and-set, finds that as duplicates.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from pyspark.sql import SparkSession

from pacspark.progress import SILENT, Progress
from pacspark.spark.jobs import run_tasks
from pacspark.spark.session import session_cluster
from pacspark.tables.datafile import files_of_job
from pacspark.tables.intake import Intake, IntakeResult, commit_intake
from pacspark.tables.reports import IngestReport
from pacspark.tables.runs import recorded_run, versions_now
from pacspark.tables.sources import Source, expand_sources
from pacspark.tables.storage import Storage
from pacspark.tables.takeover import Takeover

TASK_BYTES = 256 << 20
TASK_OBJECTS = 2048
"""A task is at most this much: a data file that is worth opening, little enough to lose."""
MIN_TASK_BYTES = 16 << 20
MIN_TASK_OBJECTS = 128
"""No task is cut smaller for another core to have one too: it has to pay for its start."""
TASKS_PER_CORE = 4
MAX_BATCH_TASKS = 128
"""Of one batch, and so of one commit."""


def ingest(
    session: Callable[[], SparkSession],
    storage: Storage,
    paths: Iterable[str | Path],
    *,
    progress: Progress = SILENT,
) -> IngestReport:
    """Ingest files, folders, globs, zips, DICOMDIRs, and the landing that a gateway left.

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
    started, versions = time.monotonic(), versions_now(storage)
    named = list(paths)
    report = IngestReport(run_id)
    with Takeover() as takeover:
        sources = list(takeover.sources(expand_sources(named, storage)))
        listed_s = time.monotonic() - started
        spark = session()
        with (
            recorded_run(
                storage, run_id, "ingest", versions, options={"paths": list(map(str, named))}
            ) as run,
            progress.stage("ingest", len(sources), "objects") as stage,
        ):
            for size_bytes, done in ingest_sources(spark, storage, sources, run_id):
                report += done
                report = report.timed(time.monotonic() - started, list=listed_s)
                run["metrics"] = asdict(report)
                stage.advance(done.inputs, size_bytes)
    return report.timed(time.monotonic() - started)


def ingest_sources(
    spark: SparkSession, storage: Storage, sources: Sequence[Source], run_id: str
) -> Iterator[tuple[int, IngestReport]]:
    """Ingest what is listed, batch by batch.

    Yields
    ------
    tuple
        The bytes that were read and the report, of each batch when it is committed.
    """
    cores = session_cluster(spark).cores
    n_tasks = min(TASKS_PER_CORE * cores, MAX_BATCH_TASKS)
    with ThreadPoolExecutor(1, "pacspark-commit") as beside:
        last: Future[tuple[int, IngestReport]] | None = None
        try:
            for batch in batches(sources, n_tasks * TASK_OBJECTS, n_tasks * TASK_BYTES):
                # the job's files go, too, where the commit before them fails
                with files_of_job(storage, "objects", "instances") as job:
                    started = time.perf_counter()
                    work = partial(take_in, storage, run_id, job)
                    results = run_tasks(spark, _tasks(batch, cores), work)
                    core_seconds = cores * (time.perf_counter() - started)
                    done, last = last, None
                    if done is not None:
                        yield done.result()
                last = beside.submit(_commit, storage, batch, results, run_id, core_seconds)
        except GeneratorExit:
            raise
        except BaseException:
            if last is not None:
                with suppress(Exception):  # the error of the tasks is what there is to tell
                    yield last.result()
            raise
        if last is not None:
            yield last.result()


def _commit(
    storage: Storage,
    batch: Sequence[Source],
    results: Sequence[IntakeResult],
    run_id: str,
    core_seconds: float,
) -> tuple[int, IngestReport]:
    report = commit_intake(storage, results, run_id)
    busy_s = sum(seconds for result in results for seconds in result.steps.values())
    report = report.timed(0.0, Spark=max(0.0, core_seconds - busy_s))
    return sum(source.size_bytes for source in batch), report


def _tasks(batch: Sequence[Source], cores: int) -> list[list[Source]]:
    """Cut a batch into tasks: small batches so that every core has one."""
    total_bytes = sum(source.size_bytes for source in batch)
    objects = min(TASK_OBJECTS, max(MIN_TASK_OBJECTS, -(-len(batch) // cores)))
    size_bytes = min(TASK_BYTES, max(MIN_TASK_BYTES, -(-total_bytes // cores)))
    return list(batches(batch, objects, size_bytes))


def take_in(storage: Storage, run_id: str, job: str, sources: Sequence[Source]) -> IntakeResult:
    """Body of one task: read, index and write; nothing of it is visible yet."""
    storage.require_seen()
    with Intake(storage, run_id, job) as intake:
        for source in sources:
            intake.add_source(source)
        return intake.finish()


class Sized(Protocol):
    """Something that tells how large it is."""

    @property
    def size_bytes(self) -> int:
        """Its size."""


S = TypeVar("S", bound=Sized)


def batches(sources: Iterable[S], objects: int, size_bytes: int) -> Iterator[list[S]]:
    """Cut sources into runs of at most `objects` and about `size_bytes`, keeping their order."""
    batch: list[S] = []
    held_bytes = 0
    for source in sources:
        if batch and (len(batch) >= objects or held_bytes + source.size_bytes > size_bytes):
            yield batch
            batch, held_bytes = [], 0
        batch.append(source)
        held_bytes += source.size_bytes
    if batch:
        yield batch
