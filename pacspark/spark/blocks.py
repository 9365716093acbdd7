"""Bodies of the reconstruction's Spark tasks: plain functions on what pickles, without pyspark.

::

    prepare_frames   LocatedRun ──▶ line integrals ──▶ upright frames ──▶ chunks of `projections`
    slice_range      one slice of the volume ──▶ its smallest and largest value
    reconstruct_slab SlabTask ──▶ slab ──▶ CT objects ──▶ IntakeResult
    partial_slab     SlabTask (one group of angles) ──▶ slab, to be summed by sum_slab
"""

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pacspark.ct.fdk import SlabReconstruction
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import Geometry, VolumeGrid
from pacspark.ct.preprocess import Kind, line_integrals
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.dicom.encode import CTSeries
from pacspark.spark.partition import SlabTask
from pacspark.spark.preparing import frames_at_once, largest_frame_bytes, rows_at_once
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import AddedFile
from pacspark.tables.intake import Intake, IntakeResult
from pacspark.tables.projections import Chunk, ProjectionReader, ProjectionWriter
from pacspark.tables.scans import FrameReader, LocatedRun, read_all
from pacspark.tables.storage import Storage

Mark = Callable[[str], None]
Views = Sequence[Chunk] | Sequence[LocatedRun]
"""At least those that a task asks for: line integrals as they were prepared, or stored frames."""


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """What every prepare task needs."""

    storage: Storage
    series_instance_uid: str
    kind: Kind
    unattenuated_counts: float | None
    flats: tuple[LocatedRun, ...]
    darks: tuple[LocatedRun, ...]
    energy_bin: int
    geometry: Geometry
    views: ConeBeamViews | None
    run_id: str
    job_name: str

    @property
    def frames_at_once(self) -> int:
        """How many frames are decoded at once."""
        return frames_at_once(largest_frame_bytes(self.geometry, self.views))


@dataclass(frozen=True, slots=True)
class SlabJob:
    """What every slab task needs."""

    storage: Storage
    geometry: Geometry
    grid: VolumeGrid
    options: FDKOptions
    angle_block: int
    series: CTSeries
    run_id: str
    job_name: str = ""
    stored_kind: Kind | None = None
    """What views hold that are read as they are stored; None: they are prepared."""

    def reader(self, views: Views) -> FrameReader | ProjectionReader:
        """Return what reads blocks of line integrals."""
        if self.stored_kind is None:
            columns = self.geometry.detector.n_columns
            return ProjectionReader(self.storage, cast("Sequence[Chunk]", views), columns)
        frames = cast("Sequence[LocatedRun]", views)
        return FrameReader(Catalog(self.storage), frames, self.stored_kind)


SlabInput = tuple[SlabTask, Views]


def slab_inputs(tasks: Sequence[SlabTask], views: Views) -> list[SlabInput]:
    """Give each task the views that its angles and its row band touch."""
    return [
        (task, cast("Views", tuple(part for part in views if _touch(task, part)))) for task in tasks
    ]


def _touch(task: SlabTask, part: Chunk | LocatedRun) -> bool:
    return (
        part.angle_start < task.angle_stop
        and task.angle_start < part.angle_stop
        and part.row_start < task.row_stop
        and task.row_start < part.row_stop
    )


@dataclass(frozen=True, slots=True)
class TaskCost:
    """What a task took: seconds by phase, and its worker's peak resident bytes."""

    seconds: Mapping[str, float]
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class PreparedFrames:
    """A file of chunks that is written but not yet visible."""

    file: AddedFile
    cost: TaskCost


@dataclass(frozen=True, slots=True)
class SlabOutcome:
    """A slab that is written but not yet visible."""

    intake: IntakeResult
    clamped_voxels: int
    cost: TaskCost


class Stopwatch:
    """Adds up the seconds of named phases."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._since = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Charge the time since the last lap to `phase`."""
        now = time.perf_counter()
        self._seconds[phase] += now - self._since  # type: ignore[assignment]
        self._since = now

    def add(self, seconds: Mapping[str, float]) -> None:
        """Charge the time since the last lap to phases that were measured apart."""
        self._seconds.update(seconds)
        self._since = time.perf_counter()

    def cost(self) -> TaskCost:
        """Return the sums, with the peak memory of this process."""
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return TaskCost(dict(self._seconds), peak_bytes)


def prepare_frames(job: PrepareJob, frames: Sequence[LocatedRun], mark: Mark) -> PreparedFrames:
    """Decode runs of frames, make line integrals of upright ones, write them as chunks."""
    watch = Stopwatch()
    writer = ProjectionWriter(
        job.storage, job.series_instance_uid, job.energy_bin, job.run_id, job.job_name
    )
    catalog = Catalog(job.storage)
    rectification = None if job.views is None else Rectification(job.views)
    n_rows, n_columns = frames[0].run.n_rows, frames[0].run.n_columns
    band = rows_at_once(n_rows, n_columns, job.views)
    for row in range(0, n_rows, band):
        rows = row, min(n_rows, row + band)
        flats, darks = read_all(catalog, job.flats, rows), read_all(catalog, job.darks, rows)
        watch.lap("flats and darks")
        for those in frames:
            for start in range(0, those.run.count, job.frames_at_once):
                block = those.cut(start, min(start + job.frames_at_once, those.run.count))
                angles = slice(block.run.angle_start, block.run.angle_start + block.run.count)
                stored = block.read_stored(catalog, rows)
                watch.lap("read")
                values = stored.decode()
                watch.lap("decode")
                integrals = line_integrals(
                    values,
                    job.kind,
                    flats=flats,
                    darks=darks,
                    unattenuated_counts=job.unattenuated_counts,
                )
                watch.lap("line integrals")
                if rectification is not None:
                    integrals = rectification.apply(integrals, angles.start)
                    watch.lap("rectify")
                writer.write(integrals, angles.start, job.geometry.gantry_angles_rad[angles], row)
                watch.lap("write")
                mark(f"prepare-{job.energy_bin}-{angles.start}")
    file = writer.close()
    watch.lap("write")
    return PreparedFrames(file, watch.cost())


def reconstruct_slab(job: SlabJob, task: SlabTask, views: Views, mark: Mark) -> SlabOutcome:
    """Stream the angle blocks of a slab's row band, backproject, encode, write."""
    watch = Stopwatch()
    slab = _accumulate(job, task, views, mark, watch)
    return _write_slab(job, task.z_start, slab.slices(), watch)


def partial_slab(
    job: SlabJob, task: SlabTask, views: Views, mark: Mark
) -> Iterator[pa.RecordBatch]:
    """Backproject one group of angles; one row per slice: ``slab, z, values``."""
    slab = _accumulate(job, task, views, mark, Stopwatch())
    for offset, values in enumerate(slab.slices()):
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([task.slab], pa.int64()),
                pa.array([task.z_start + offset], pa.int64()),
                pa.array([values.tobytes()], pa.binary()),
            ],
            ["slab", "z", "values"],
        )


def sum_slab(
    job: SlabJob, z_start: int, z_stop: int, batches: Iterator[pa.RecordBatch]
) -> SlabOutcome:
    """Add up the partial slabs of one slab, encode and write it.

    Partial slices come in any order; they are added in double precision, so that the order does not
    show in float32.
    """
    watch = Stopwatch()
    _, n_y, n_x = job.grid.shape
    total = np.zeros((z_stop - z_start, n_y, n_x), np.float64)
    for batch in batches:
        for z, values in zip(batch["z"].to_pylist(), batch["values"], strict=True):
            total[z - z_start] += np.frombuffer(values.as_buffer(), np.float32).reshape(n_y, n_x)
    watch.lap("sum")
    return _write_slab(job, z_start, (values.astype(np.float32) for values in total), watch)


def slice_range(job: SlabJob, task: SlabTask, views: Views, mark: Mark) -> tuple[float, float]:
    """Return the smallest and largest value of one slice, 1/mm, for the series' linear map."""
    slab = _accumulate(job, task, views, mark, Stopwatch())
    (values,) = slab.slices()
    return float(values.min()), float(values.max())


def _accumulate(
    job: SlabJob, task: SlabTask, views: Views, mark: Mark, watch: Stopwatch
) -> SlabReconstruction:
    slab = SlabReconstruction(
        job.geometry, job.grid.slab(task.z_start, task.z_stop), job.options, n_threads=1
    )
    row_start, row_stop = slab.row_band
    reader = job.reader(views)
    watch.lap("start")
    for start in range(task.angle_start, task.angle_stop, job.angle_block):
        stop = min(task.angle_stop, start + job.angle_block)
        block = reader.read(start, stop, row_start, row_stop, watch.lap)
        # the plan has room for copies of a block: all of it is filtered at once
        watch.add(slab.add(block, start, work_bytes=2 * block.nbytes))
        del block  # before the next is read
        mark(f"slab-{task.slab}-{task.z_start}-{start}")
    return slab


def _write_slab(
    job: SlabJob, z_start: int, slices: Iterable[NDArray[np.float32]], watch: Stopwatch
) -> SlabOutcome:
    clamped = 0

    def seen() -> Iterator[NDArray[np.float32]]:
        nonlocal clamped
        for values in slices:
            clamped += job.series.values.clamped(values)
            yield values

    with Intake(job.storage, job.run_id, job.job_name) as intake:
        for encoded in job.series.encode_slab(seen(), z_start):
            watch.lap("encode")
            intake.add(f"run:{job.run_id}", encoded)
            watch.lap("write")
        result = intake.finish()
    watch.lap("write")
    return SlabOutcome(result, clamped, watch.cost())
