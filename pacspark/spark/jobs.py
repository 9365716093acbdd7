"""How every Spark job of pacspark runs: one task per item, items and results pickled.

Items travel as rows, so that a task gets its own alone; what all of them need is in the function.

Spark has no engine-independent way to tell how far a job is (`sparkContext` is missing in Spark
Connect), so tasks leave empty marks under ``ROOT/_progress/<run>/`` and the driver counts them:
that works on every engine and every storage.
"""

import pickle
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import broadcast

from pacspark import errors
from pacspark.progress import SILENT, Progress, Stage
from pacspark.tables.storage import Storage

T = TypeVar("T")
R = TypeVar("R")

RESULT_SCHEMA = "result binary"
PARTIAL_SCHEMA = "slab bigint, z bigint, values binary"
SECONDS_BETWEEN_COUNTS = 0.5


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one job: tasks set them, the driver counts them."""

    storage: Storage
    run_id: str

    @property
    def _folder(self) -> str:
        return self.storage.path("_progress", self.run_id)

    def set(self, name: str) -> None:
        """Leave one mark; setting it again (a task that Spark repeats) changes nothing."""
        # a mark is for progress alone: no work is lost for one
        with (
            suppress(Exception),
            self.storage.filesystem.open_output_stream(f"{self._folder}/{name}"),
        ):
            pass

    def begin(self) -> None:
        """Forget marks of an earlier, killed job of the same run."""
        self.clear()
        self.storage.filesystem.create_dir(self._folder, recursive=True)

    def count(self) -> int:
        """Count the marks that are there."""
        selector = pafs.FileSelector(self._folder, allow_not_found=True)
        found = self.storage.filesystem.get_file_info(selector)
        return sum(1 for info in found if info.type == pafs.FileType.File)

    def clear(self) -> None:
        """Remove all marks."""
        # as in `set`: another job of this run may remove them at the same time
        with suppress(OSError):
            if self.storage.filesystem.get_file_info(self._folder).type != pafs.FileType.NotFound:
                self.storage.filesystem.delete_dir(self._folder)


def run_tasks(spark: SparkSession, tasks: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """Run ``work(task)`` for each task in a Spark task of its own; return the results in order.

    The UDF body::

        in:  item: binary       a pickled task
        out: result: binary     its pickled result, or the PacsparkError that it ended with

    Raises
    ------
    PacsparkError
        The first that a task ended with; what else goes wrong in a task is retried by Spark first.
    """

    def body(arriving: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for item in _items(arriving):
            outcome = pa.array([_outcome(work, item)], pa.binary())
            yield pa.RecordBatch.from_arrays([outcome], ["result"])

    return _collect(_spread(spark, tasks).mapInArrow(body, RESULT_SCHEMA))


def run_summed(
    spark: SparkSession,
    tasks: Sequence[T],
    make: Callable[[T], Iterator[pa.RecordBatch]],
    add_up: Callable[[int, Iterator[pa.RecordBatch]], R],
) -> list[R]:
    """Let tasks make parts of slabs, bring the parts of each slab together, and add them up.

    The UDF bodies::

        make:   in:  item: binary
                out: slab: long, z: long, values: binary      one slice of a partial slab
        add_up: in:  the rows of one slab, in any order, batch by batch
                out: result: binary                           as in `run_tasks`
    """

    def parts(arriving: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for item in _items(arriving):
            yield from make(item)

    # the iterator form of a grouped Arrow UDF, which PySpark chooses by these hints
    def whole(
        key: tuple[pa.Scalar, ...], batches: Iterator[pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]:
        outcome = _outcome(lambda slab: add_up(slab, batches), key[0].as_py())
        yield pa.RecordBatch.from_arrays([pa.array([outcome], pa.binary())], ["result"])

    partial_slabs = _spread(spark, tasks).mapInArrow(parts, PARTIAL_SCHEMA)
    return _collect(partial_slabs.groupBy("slab").applyInArrow(whole, RESULT_SCHEMA))


def _spread(spark: SparkSession, items: Sequence[object]) -> DataFrame:
    """Make a partition for each item, which holds nothing else."""
    rows = {
        "id": pa.array(range(len(items)), pa.int64()),
        "item": pa.array([pickle.dumps(item) for item in items], pa.binary()),
    }
    given = spark.createDataFrame(pa.table(rows))
    places = spark.range(0, len(items), 1, max(1, len(items)))
    # a broadcast join keeps the partitions of what it is joined to
    return places.join(broadcast(given), "id").select("item")


def _items(arriving: Iterator[pa.RecordBatch]) -> Iterator[Any]:
    for batch in arriving:
        for item in batch["item"].to_pylist():
            yield pickle.loads(item)  # noqa: S301 -- our own, from our own session


def _collect(frame: DataFrame) -> list[Any]:
    try:
        pickles = frame.toArrow()["result"].to_pylist()
    except PySparkException as error:
        raise _one_line(error) from error
    # our own tasks' pickles from our own session: nothing that a peer sent is unpickled
    outcomes = [pickle.loads(row) for row in pickles]  # noqa: S301
    for outcome in outcomes:
        if isinstance(outcome, errors.PacsparkError):
            raise outcome
    return outcomes


def _outcome(work: Callable[[T], Any], item: T) -> bytes:
    try:
        return pickle.dumps(work(item))
    except errors.StorageError:
        raise  # a disk or a server may recover: Spark's retry is right for it
    except errors.PacsparkError as error:
        return pickle.dumps(error)


def _one_line(error: PySparkException) -> errors.PacsparkError:
    """Give the error that ended a task, of its own class where it is one of ours."""
    text = str(error)
    ours = re.findall(r"^pacspark\.errors\.(\w+): (.*)$", text, flags=re.MULTILINE)
    if ours:
        name, message = ours[-1]
        cls = getattr(errors, name, errors.JobError)
        return cls(message)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    python = [line for line in lines if re.match(r"^[\w.]+(Error|Exception|Exit): ", line)]
    return errors.JobError(f"a Spark task failed: {python[-1] if python else lines[0]}")


@contextmanager
def counted(marks: Marks, progress: Progress, label: str, total: int, unit: str) -> Iterator[Stage]:
    """Show a job's marks as a stage of progress while the block runs."""
    if progress is SILENT:
        with progress.stage(label, total, unit) as stage:
            yield stage
        return
    finished = threading.Event()
    with progress.stage(label, total, unit) as stage:

        def watch() -> None:
            while not finished.wait(SECONDS_BETWEEN_COUNTS):
                try:
                    stage.update(min(total, marks.count()))
                except OSError:
                    continue  # a listing that fails is shown as no progress, and the job goes on

        watcher = threading.Thread(target=watch, name="pacspark-progress", daemon=True)
        watcher.start()
        try:
            yield stage
            stage.update(total)
        finally:
            finished.set()
            watcher.join()
