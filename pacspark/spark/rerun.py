"""A reconstruction made again from its row of `runs`, and compared with what is stored.

::

    runs row ─▶ request ─┐
    instances, as the run saw them ─▶ scan ─▶ the stages of `reconstruct` ─▶ SHA-256 of each object
                                                       against those of `instances` now

Slices that are what is stored are not written at all, others are removed after the comparison: it
stores nothing. Line integrals that were prepared from counts are found, as they are by a second
reconstruction; where they are gone, they are prepared again, and kept.
"""

import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import SparkSession

from pacspark import __version__
from pacspark.ct.fdk import kernel_variant
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import VolumeGrid
from pacspark.errors import PacsparkError, RunNotFoundError, StorageError, UsageError
from pacspark.progress import SILENT, Progress
from pacspark.spark import blocks
from pacspark.spark.cluster import Cluster
from pacspark.spark.jobs import Marks
from pacspark.spark.reconstruct import prepared
from pacspark.spark.request import ReconstructionRequest
from pacspark.spark.stages import make_slices
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import remove_file
from pacspark.tables.runs import describe_geometry
from pacspark.tables.scans import ScanFrames, read_stored_scan
from pacspark.tables.storage import Storage


@dataclass(frozen=True, slots=True)
class Difference:
    """An object that is not as it was made now; None where there is none."""

    sop_instance_uid: str
    stored_sha256: str | None
    made_sha256: str | None


@dataclass(frozen=True, slots=True)
class RerunReport:
    """What became of a reconstruction that was made again.

    Attributes
    ----------
    run_id, series_instance_uid
        Which one.
    n_objects
        Objects that were made again.
    n_same
        How many of them are stored, bit for bit.
    n_stored
        Objects that the series has.
    differences
        Objects that were made again and are not stored so.
    notes
        What is not as it was when the run was made, and may be why: versions, kernel, inputs.
    """

    run_id: str
    series_instance_uid: str
    n_objects: int
    n_same: int
    n_stored: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether everything is stored bit for bit, and nothing else in the series."""
        return not self.differences and self.n_same == self.n_objects == self.n_stored

    def summary(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {"identical": self.identical} | asdict(self)


def rerun(
    spark: SparkSession,
    storage: Storage,
    name: str,
    cluster: Cluster,
    *,
    progress: Progress = SILENT,
) -> RerunReport:
    """Make a reconstruction again and compare each object with what is stored.

    Parameters
    ----------
    spark, storage, cluster, progress
        As `reconstruct` takes them.
    name
        The run's `run_id`, or the UID of the series that it made.

    Raises
    ------
    RunNotFoundError
        When `runs` has no such run that ended well.
    UsageError
        When it made no reconstruction, or its row cannot be followed.
    """
    row = find_run(Catalog(storage), name)
    request, run_id = request_of(row), str(row["run_id"])
    stored, notes = _inputs(storage, row, request)
    notes += _notes(row, stored, request)
    watch = blocks.Stopwatch()
    plan, values = prepared(Catalog(storage), stored, request, cluster)
    marks = Marks(storage, f"rerun-{uuid.uuid4().hex}")
    made = make_slices(
        spark, storage, request, stored, values, plan, cluster, watch, progress, run_id, marks
    )
    try:
        return _compared(storage, row, request, made.outcomes, notes)
    finally:
        marks.clear()
        for outcome in made.outcomes:
            for file in outcome.intake.files:
                remove_file(storage, "objects", file.path)
            for rows in outcome.intake.instances:
                remove_file(storage, "instances", rows.file.path)


def find_run(catalog: Catalog, name: str) -> dict[str, Any]:
    """Return the newest row of a run that ended well.

    Raises
    ------
    RunNotFoundError
        When there is none.
    UsageError
        When it is no reconstruction.
    """
    rows = catalog.runs().to_pylist()
    found = [row for row in rows if name in {row["run_id"], row["series_instance_uid"]}]
    done = [row for row in found if row["outcome"] == "done"]
    if not done:
        how = "; it failed" if found else "; `pacspark history` lists those that there are"
        message = f"{catalog.storage.root}: no run {name[:64]!r} that made a result{how}"
        raise RunNotFoundError(message)
    row: dict[str, Any] = done[-1]
    if row["operation"] != "reconstruct":
        message = f"run {name[:64]}: expected a reconstruction, found {row['operation']}"
        raise UsageError(message)
    return row


def request_of(row: dict[str, Any]) -> ReconstructionRequest:
    """Return what a row of `runs` says was asked.

    Raises
    ------
    UsageError
        When this version of pacspark cannot follow it.
    """
    try:
        asked = json.loads(row["options"])
        grid = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in asked["grid"].items()
        }
        return ReconstructionRequest(
            **asked | {"grid": VolumeGrid(**grid), "options": FDKOptions(**asked["options"])}
        )
    except (AttributeError, KeyError, PacsparkError, TypeError, ValueError) as error:
        message = (
            f"run {row['run_id']}: expected options that pacspark {__version__} can follow, found "
            f"those of pacspark {row['code_version']}: {error}"
        )
        raise UsageError(message) from error


def _inputs(
    storage: Storage, row: dict[str, Any], request: ReconstructionRequest
) -> tuple[ScanFrames, list[str]]:
    """Read the scan as the run saw it; as it is now where that version is not kept."""
    try:
        version = json.loads(row["input_versions"] or "{}").get("instances")
        if type(version) is int:
            return read_stored_scan(Catalog(storage, version), request.series_instance_uid), []
        found = "the run does not say which version of instances it read"
    except (AttributeError, StorageError, UsageError, ValueError):
        found = f"version {version} of instances, which the run read, is not kept"
    now = Catalog(storage)
    stored = read_stored_scan(now, request.series_instance_uid)
    return stored, [f"{found}: version {now.version()} was read"]


def _notes(row: dict[str, Any], stored: ScanFrames, request: ReconstructionRequest) -> list[str]:
    notes = []
    if row["code_version"] != __version__:
        notes.append(f"made by pacspark {row['code_version']}, again by {__version__}")
    kernel = json.loads(row["metrics"] or "{}").get("kernel")
    if kernel not in {None, kernel_variant()}:
        notes.append(f"made with the kernel {kernel}, again with {kernel_variant()}")
    described = json.loads(json.dumps(describe_geometry(stored.scan.geometry, request.grid),
                                      default=lambda array: array.tolist()))  # fmt: skip
    if row["geometry"] is not None and json.loads(row["geometry"]) != described:
        notes.append("the geometry of the scan is not read as it was")
    return notes


def _compared(
    storage: Storage,
    row: dict[str, Any],
    request: ReconstructionRequest,
    outcomes: list[blocks.SlabOutcome],
    notes: list[str],
) -> RerunReport:
    """Compare: the tasks found those that are stored to be duplicates, all others are rows."""
    catalog, series_uid = Catalog(storage), str(row["series_instance_uid"])
    made: dict[str, str] = {}
    for outcome in outcomes:
        tables = [file.keys for file in outcome.intake.instances]
        for rows in (*tables, outcome.intake.repeated):
            pairs = zip(
                rows["sop_instance_uid"].to_pylist(), rows["sha256"].to_pylist(), strict=True
            )
            made.update(pairs)
    known = catalog.known(made)
    differences = [Difference(uid, known.get(uid), digest) for uid, digest in sorted(made.items())]
    n_same, n_objects = sum(o.intake.duplicate for o in outcomes), request.grid.shape[0]
    return RerunReport(
        str(row["run_id"]),
        series_uid,
        n_objects,
        n_same,
        catalog.count_of(series_uid),
        tuple(differences),
        tuple(notes),
    )
