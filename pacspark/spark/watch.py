"""Ingest of what arrives in a folder or bucket, for as long as the command runs.

Spark Structured Streaming finds the files and remembers which it has handed on; what it cannot know
is whether somebody still writes into one. So a batch that it hands on is sorted::

    file source ──batch of names, sizes, times──┬─ at rest for `settle_s` ──▶ ingest
    (content is never read by the JVM)          └─ else ──▶ _checkpoints/NAME/waiting/, durable
                                                              │ looked at again and again
                                                              └─ at rest now ──▶ ingest

A batch counts as done for Spark when its objects are committed and the rest of it waits on the
storage, so nothing is lost when the command is killed, and begun again it goes on. The run of a
batch has an identity made of Spark's query and batch, so that a batch which comes twice has it too.
A file that was refused waits on, in case it is written to once more: it may have been half a file.
Journals of a gateway's landing wait while the gateway lives: it commits them itself.
"""

import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from threading import Event, Lock
from typing import Any, Final

import pyarrow.dataset as ds
import pyarrow.fs as pafs
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pacspark.errors import JobError, UsageError
from pacspark.progress import SILENT, Progress
from pacspark.spark.ingest import ingest_sources
from pacspark.spark.session import spark_alive
from pacspark.tables.reports import IngestReport
from pacspark.tables.runs import recorded_run, versions_now
from pacspark.tables.schema import REJECTS
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.sources import Source, sources_of_files
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.takeover import Takeover

FILES_PER_BATCH: Final = 4096
SECONDS_BETWEEN_LISTINGS: Final = 2
REFUSED_WAIT_S: Final = 3600.0
"""A refused file that nobody writes to for so long is given up."""
_FOLDER: Final = "_checkpoints"
# Spark forgets files that are older than the newest by more than this, and takes none of that age
_ANY_AGE: Final = "36500d"


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file as it was when it was looked at."""

    path: str
    size_bytes: int
    modified_ms: int
    refused: bool = False


def watch(
    spark: SparkSession,
    storage: Storage,
    path: str,
    *,
    settle_s: float,
    once: bool = False,
    stop: Event | None = None,
    progress: Progress = SILENT,
) -> IngestReport:
    """Ingest what is in a folder, and what arrives there.

    Parameters
    ----------
    spark
        A session.
    storage
        The archive.
    path
        A folder, or a URL on HDFS or S3.
    settle_s
        A file whose size and time were the same for so long is taken.
    once
        End when all that is there has been taken; else never.
    stop
        Ends the watch when it is set.
    progress
        Told of each batch.
    """
    return Watch(spark, storage, path, settle_s, progress).run(once=once, stop=stop or Event())


class Watch:
    """One watched folder; see `watch`."""

    def __init__(
        self,
        spark: SparkSession,
        storage: Storage,
        path: str,
        settle_s: float,
        progress: Progress = SILENT,
    ) -> None:
        self._spark, self._storage, self._settle_s = spark, storage, settle_s
        self._progress = progress
        self._watched = open_storage(path)
        self._require_apart()
        name = hashlib.sha256(_address(self._watched).encode()).hexdigest()[:16]
        self._name = f"{_FOLDER}/watch-{name}"
        self._waiting = Waiting(storage, f"{self._name}/waiting")
        self._one_at_a_time = Lock()
        self._error: BaseException | None = None
        self._query_id = ""
        self._report = IngestReport(uuid.uuid4().hex)

    def _require_apart(self) -> None:
        watched, own = self._watched, self._storage
        alike = (watched.kind, watched.authority) == (own.kind, own.authority)
        if alike and f"{own.folder}/".startswith(f"{watched.folder.rstrip('/')}/"):
            message = (
                f"{watched.root}: expected a folder beside the archive, found the archive in it"
            )
            raise UsageError(message)
        with watched.errors(f"list {watched.root}"):
            found = watched.filesystem.get_file_info(watched.folder).type
        if found != pafs.FileType.Directory:
            message = f"{watched.root}: expected a folder to watch, found {found.name}"
            raise UsageError(message)

    @spark_alive()
    def run(self, *, once: bool, stop: Event) -> IngestReport:
        """Watch until all is taken, or until told to stop."""
        files = (
            self._spark.readStream.format("binaryFile")
            .schema("path string, modificationTime timestamp, length long, content binary")
            .option("recursiveFileLookup", "true")
            .option("maxFilesPerTrigger", FILES_PER_BATCH)
            .option("maxFileAge", _ANY_AGE)
            .load(_without_globs(_address(self._watched)))
            .select("path", "length", "modificationTime")
        )
        timing: dict[str, Any] = (
            {"availableNow": True}
            if once
            else {"processingTime": f"{SECONDS_BETWEEN_LISTINGS} seconds"}
        )
        query = (
            files.writeStream.foreachBatch(self._take)
            .option("checkpointLocation", f"{_address(self._storage)}/{self._name}/spark")
            .trigger(**timing)
            .start()
        )
        self._query_id = str(query.id)
        try:
            while not stop.is_set() and not query.awaitTermination(SECONDS_BETWEEN_LISTINGS):
                self._look_again()
            while once and not stop.is_set() and self._look_again():
                stop.wait(min(1.0, self._settle_s))
        except PySparkException as error:
            if self._error is not None:
                raise self._error from None
            message = f"{self._watched.root}: cannot be watched: {str(error).splitlines()[0]}"
            raise JobError(message) from error
        finally:
            with suppress(PySparkException):
                query.stop()
        return self._report

    def _take(self, batch: DataFrame, batch_id: int) -> None:
        """Take a batch in: what is at rest now, and the rest when it is."""
        try:
            rows = batch.toArrow().to_pylist()
            files = [
                SeenFile(
                    _source_path(row["path"]),
                    row["length"],
                    round(row["modificationTime"].timestamp() * 1000),
                )
                for row in rows
            ]
            run_id = run_id_of(self._query_id, batch_id)
            with Takeover() as takeover:
                settled = [file for file in files if self._at_rest(file, takeover)]
                waiting = [file for file in files if file not in settled]
                self._waiting.put(run_id, waiting)  # before the batch counts as done
                self._ingest(settled, run_id, takeover)
        except BaseException as error:
            self._error = error
            raise

    def _look_again(self) -> int:
        """Take what has come to rest meanwhile; give how many files still wait to be."""
        if self._error is not None:
            return 0
        with Takeover() as takeover:
            for name, files in self._waiting.read():
                self._look_again_at(name, files, takeover)
        return sum(not file.refused for _, files in self._waiting.read() for file in files)

    def _look_again_at(self, name: str, files: Sequence[SeenFile], takeover: Takeover) -> None:
        now = list(self._seen_now(files))
        settled = [file for file in now if self._at_rest(file, takeover) and not file.refused]
        given_up_ms = (time.time() - REFUSED_WAIT_S) * 1000
        rest = [
            file
            for file in now
            if file not in settled and not (file.refused and file.modified_ms < given_up_ms)
        ]
        if settled:
            run_id = run_id_of(name, json.dumps([asdict(file) for file in settled]))
            self._ingest(settled, run_id, takeover)
        if rest != files:
            self._waiting.put(uuid.uuid4().hex, rest)
            self._waiting.remove(name)

    def _seen_now(self, files: Iterable[SeenFile]) -> Iterator[SeenFile]:
        """Look at files again; those that are gone are forgotten."""
        for file in files:
            storage = open_storage(file.path)
            info = storage.filesystem.get_file_info(storage.folder)
            if info.type != pafs.FileType.File:
                continue
            seen = SeenFile(file.path, info.size, info.mtime_ns // 1_000_000)
            same = seen == replace(file, refused=False)
            yield file if same else seen

    def _at_rest(self, file: SeenFile, takeover: Takeover) -> bool:
        if self._watched.kind == "s3":  # an object of a bucket is there whole, or not at all
            return True
        still = time.time() - file.modified_ms / 1000 >= self._settle_s
        return still and not takeover.waits(file.path)

    def _ingest(self, files: Sequence[SeenFile], run_id: str, takeover: Takeover) -> None:
        given = [(file.path, file.size_bytes) for file in files]
        sources = list(takeover.sources(sources_of_files(given)))
        if not sources:
            return
        report, started = IngestReport(run_id), time.monotonic()
        options = {"watch": self._watched.root, "files": len(files)}
        with (
            self._one_at_a_time,
            recorded_run(
                self._storage, run_id, "ingest", versions_now(self._storage), options=options
            ) as run,
        ):
            for _, done in ingest_sources(self._spark, self._storage, sources, run_id):
                report += done
            report = report.timed(time.monotonic() - started)
            run["metrics"] = asdict(report)
        self._report += report
        self._tell(report, sources)
        changed = self._changed(files, report)
        self._waiting.put(run_id_of(run_id, "after"), changed)

    def _changed(self, files: Sequence[SeenFile], report: IngestReport) -> list[SeenFile]:
        """Give the files that were written to while they were read, and those that were refused."""
        refused = self._refused_in(report, [file.path for file in files])
        again = []
        for file, now in zip(files, self._looked_at(files), strict=True):
            if now is not None and now != file:
                again.append(now)
            elif file.path in refused:
                again.append(replace(file, refused=True))
        return again

    def _refused_in(self, report: IngestReport, files: Sequence[str]) -> set[str]:
        """Name the files of a run that are in `rejects`, or have a member there."""
        if not report.rejected:
            return set()
        rows = Snapshot(self._storage, REJECTS.name).read(
            # what was refused before, too, has no row of this run
            ["source"],
            (ds.field("run_id") == report.run_id) | ds.field("source").isin(files),
        )
        named = set(rows["source"].to_pylist()) | {one.source for one in report.refused}
        return named | {source.partition("!")[0] for source in named}

    def _looked_at(self, files: Sequence[SeenFile]) -> list[SeenFile | None]:
        found = {file.path: file for file in self._seen_now(files)}
        return [found.get(file.path) for file in files]

    def _tell(self, report: IngestReport, sources: Sequence[Source]) -> None:
        counts = ", ".join(f"{name} {count}" for name, count in report.counts.items() if count)
        size_mb = sum(source.size_bytes for source in sources) / 1e6
        rate = f"{report.inputs / report.seconds:.0f} per s, {size_mb / report.seconds:.1f} MB/s"
        self._progress.say(f"watch: {counts} in {report.seconds:.1f} s ({rate})")


def run_id_of(*parts: object) -> str:
    """Give the identity of a run that is the same whenever its parts are."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "pacspark:" + "/".join(map(str, parts))).hex


def _address(storage: Storage) -> str:
    """Give the address of a root for Spark: not encoded, as Hadoop's paths are."""
    return storage.spark_uri("_").removesuffix("/_")


def _without_globs(address: str) -> str:
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", address)


def _source_path(path: str) -> str:
    """Give a file's name as sources have it: Spark says ``file:/folder/name``."""
    return re.sub("^file:(//)?(?=/)", "", path)


class Waiting:
    """Files that are not taken yet, durable under the root: one JSON file for some of them.

    Parameters
    ----------
    storage
        The archive.
    folder
        Below the root.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def put(self, name: str, files: Sequence[SeenFile]) -> None:
        """Keep files under a name; durably, and whole or not at all."""
        if not files:
            return
        storage, path = self._storage, self._storage.path(self._folder, f"{name}.json")
        data = json.dumps([asdict(file) for file in files]).encode()
        with storage.errors(f"write {self._folder}"):
            storage.create_folder(self._folder)
            # a name that is not read: only a bucket has no half-written files
            half = path if storage.kind == "s3" else f"{path}.half"
            with storage.filesystem.open_output_stream(half) as stream:
                stream.write(data)
            if half != path:
                storage.make_durable(half)
                storage.filesystem.move(half, path)
            storage.make_durable(path)

    def read(self) -> list[tuple[str, list[SeenFile]]]:
        """Give all that wait, by name."""
        storage = self._storage
        selector = pafs.FileSelector(storage.path(self._folder), allow_not_found=True)
        found = []
        with storage.errors(f"read {self._folder}"):
            for info in storage.filesystem.get_file_info(selector):
                if info.base_name.endswith(".json"):
                    with storage.filesystem.open_input_stream(info.path) as stream:
                        files = [SeenFile(**file) for file in json.loads(stream.read())]
                    found.append((info.base_name.removesuffix(".json"), files))
        return found

    def remove(self, name: str) -> None:
        """Forget what a name holds."""
        with self._storage.errors(f"write {self._folder}"):
            self._storage.filesystem.delete_file(self._storage.path(self._folder, f"{name}.json"))
