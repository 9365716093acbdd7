"""Bodies of tasks for slices that no task can hold: parts of slabs in x and y, then whole objects.

::

    filter_views   chunks of `projections` ──▶ rows, filtered once ──▶ FilteredFile  [angle, u, v]
    make_tile      windows of filtered views ──▶ part of a slab ──▶ TileFile         [z, y, x]
    join_slices    tiles of some slices ──▶ CT objects ──▶ IntakeResult

A view's columns lie one after the other in a `FilteredFile`, so a window is one read per view and
file. No task holds a whole slice, or a whole view.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.fdk import SlabReconstruction
from pacspark.ct.filtering import RowFilter
from pacspark.ct.kernels.backproject import PADDING
from pacspark.ct.shadow import FilteredView, Windows
from pacspark.errors import ProjectionDataError
from pacspark.spark.blocks import Mark, SlabJob, SlabOutcome, Stopwatch, TaskCost, Views
from pacspark.spark.partition import SlabTask
from pacspark.tables.intake import Intake
from pacspark.tables.scratch import Scratch

READ_BYTES = 64 << 20
"""Line integrals that are read at once to be filtered."""
JOINED_BYTES = 16 << 20
"""Rows of a slice that are put together at once."""


@dataclass(frozen=True, slots=True)
class FilteredFile:
    """Filtered views ``angle_start..angle_stop``; rows rise with v."""

    name: str
    angle_start: int
    angle_stop: int
    row_start: int
    row_stop: int


@dataclass(frozen=True, slots=True)
class TileFile:
    """A part of a slab as the pixels of its objects, with the voxels that did not fit them."""

    name: str
    task: SlabTask
    clamped_voxels: int
    cost: TaskCost


def filter_views(job: SlabJob, task: SlabTask, views: Views, mark: Mark) -> FilteredFile:
    """Filter the rows of a band of some views, whole, and keep them."""
    detector = job.geometry.detector
    rows = task.row_start, task.row_stop
    row_filter = RowFilter(job.geometry, *rows, job.options)
    reader = job.reader(views)
    at_once = max(1, READ_BYTES // (4 * (rows[1] - rows[0]) * detector.n_columns))
    with Scratch(job.storage, job.run_id).write() as (name, stream):
        for start in range(task.angle_start, task.angle_stop, at_once):
            block = reader.read(start, min(start + at_once, task.angle_stop), *rows)
            if not np.isfinite(np.sum(block, dtype=np.float64)):
                message = f"projections: expected finite line integrals in views {start}.."
                raise ProjectionDataError(message)
            for number in range(len(block)):
                view = row_filter.filter(block[number : number + 1], start + number, 1)
                stream.write(np.ascontiguousarray(view[0, :, PADDING:-PADDING]))
    mark(f"filter-{task.angle_start}-{task.row_start}")
    if detector.row_order == "top_down":
        rows = detector.n_rows - rows[1], detector.n_rows - rows[0]
    return FilteredFile(name, task.angle_start, task.angle_stop, *rows)


def make_tile(job: SlabJob, task: SlabTask, files: Sequence[FilteredFile], mark: Mark) -> TileFile:
    """Backproject the windows that a part of a slab needs, and keep its pixels."""
    watch = Stopwatch()
    part = _backprojected(job, task, files, mark, watch)
    clamped, values = 0, job.series.values
    with Scratch(job.storage, job.run_id).write() as (name, stream):
        for slice_values in part.slices():
            clamped += values.clamped(slice_values)
            stream.write(values.stored(slice_values))
    watch.lap("write tiles")
    return TileFile(name, task, clamped, watch.cost())


def tile_range(
    job: SlabJob, task: SlabTask, files: Sequence[FilteredFile], mark: Mark
) -> tuple[float, float]:
    """Return the smallest and largest value of a part, 1/mm, for the series' linear map."""
    slices = list(_backprojected(job, task, files, mark, Stopwatch()).slices())
    return min(float(one.min()) for one in slices), max(float(one.max()) for one in slices)


def join_slices(job: SlabJob, tiles: Sequence[TileFile], z_start: int, z_stop: int) -> SlabOutcome:
    """Put the tiles of some slices together, as objects that stream into the archive."""
    watch = Stopwatch()
    with Intake(job.storage, job.run_id, job.job_name) as intake:
        headers = job.series.headers(z_start)
        for z, header in zip(range(z_start, z_stop), headers, strict=False):
            slice_stream = cast("BinaryIO", JoinedSlice(job, header, tiles, z))
            size_bytes = len(header) + job.series.pixel_bytes
            intake.add_stream(f"run:{job.run_id}", slice_stream, size_bytes)
        result = intake.finish()
    watch.lap("join")
    # of the slab's tiles, counted with its first slices
    first = z_start == tiles[0].task.z_start
    return SlabOutcome(
        result, sum(tile.clamped_voxels for tile in tiles) if first else 0, watch.cost()
    )


class JoinedSlice(io.RawIOBase):
    """One object: its header, and rows of pixels that are read from the tiles when asked for.

    Parameters
    ----------
    job
        Of the reconstruction.
    header
        What stands before the pixels.
    tiles
        That cover the slice.
    z
        Of the slice.
    """

    def __init__(self, job: SlabJob, header: bytes, tiles: Sequence[TileFile], z: int) -> None:
        super().__init__()
        self._scratch = Scratch(job.storage, job.run_id)
        self._header, self._tiles, self._z = header, tiles, z
        _, self._n_y, self._n_x = job.grid.shape
        self._size = len(header) + job.series.pixel_bytes
        self._position = 0
        self._held = (0, 0, b"")

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of the header, or of the rows that are held."""
        at = self._position - len(self._header)
        if at < 0:
            part = self._header[self._position :]
        elif self._position >= self._size:
            return 0
        else:
            start, stop, rows = self._held
            if not start <= at < stop:
                start, rows = self._rows_at(at // (2 * self._n_x))
                self._held = (start, start + len(rows), rows)
            part = rows[at - start :]
        count = min(len(part), len(buffer))
        buffer[:count] = part[:count]
        self._position += count
        return count

    def _rows_at(self, y: int) -> tuple[int, bytes]:
        """Return rows from `y` on, none beyond the tiles that have it; where in the pixels."""
        tiles = [
            tile
            for tile in self._tiles
            if tile.task.y_start <= y < tile.task.y_stop
            and tile.task.z_start <= self._z < tile.task.z_stop
        ]
        y_stop = min(y + max(1, JOINED_BYTES // (2 * self._n_x)), tiles[0].task.y_stop)
        rows = np.empty((y_stop - y, self._n_x), "<u2")
        for tile in tiles:
            task = tile.task
            n_y, n_x = task.y_stop - task.y_start, task.x_stop - task.x_start
            first = ((self._z - task.z_start) * n_y + y - task.y_start) * n_x
            with self._scratch.open(tile.name) as file:
                pixels = file.read_at(2 * (y_stop - y) * n_x, 2 * first)
            rows[:, task.x_start : task.x_stop] = np.frombuffer(pixels, "<u2").reshape(-1, n_x)
        return 2 * y * self._n_x, rows.tobytes()


def _backprojected(
    job: SlabJob, task: SlabTask, files: Sequence[FilteredFile], mark: Mark, watch: Stopwatch
) -> SlabReconstruction:
    part = SlabReconstruction(
        job.geometry,
        job.grid.part(
            (task.z_start, task.y_start, task.x_start), (task.z_stop, task.y_stop, task.x_stop)
        ),
        job.options,
    )
    n_columns = FilteredView.of(job.geometry).n_columns
    scratch = Scratch(job.storage, job.run_id)
    for start in range(0, job.geometry.n_angles, job.angle_block):
        stop = min(job.geometry.n_angles, start + job.angle_block)
        windows = part.windows(slice(start, stop))
        views = _read_windows(scratch, files, windows, start, n_columns)
        watch.lap("read")
        part.backproject(views, start, windows)
        watch.lap("backproject")
        mark(f"tile-{task.slab}-{task.y_start}-{task.x_start}-{start}")
    return part


def _read_windows(
    scratch: Scratch,
    files: Sequence[FilteredFile],
    windows: Windows,
    angle_start: int,
    n_columns: int,
) -> NDArray[np.float32]:
    n_views = len(windows.row_starts)
    shape = (n_views, windows.n_columns, windows.n_rows + 2 * PADDING)
    views = np.zeros(shape, np.float32)
    filled = 0
    for file in files:
        first = max(file.angle_start - angle_start, 0)
        last = min(file.angle_stop - angle_start, n_views)
        tops = np.maximum(windows.row_starts, file.row_start)
        bottoms = np.minimum(windows.row_starts + windows.n_rows, file.row_stop)
        seen = [view for view in range(first, last) if tops[view] < bottoms[view]]
        if not seen:
            continue
        n_rows = file.row_stop - file.row_start
        with scratch.open(file.name) as stream:
            for view in seen:
                column = (angle_start + view - file.angle_start) * n_columns
                column += int(windows.column_starts[view])
                values = stream.read_at(4 * windows.n_columns * n_rows, 4 * column * n_rows)
                rows = np.frombuffer(values, np.float32).reshape(-1, n_rows)
                at = PADDING + int(tops[view] - windows.row_starts[view])
                count = int(bottoms[view] - tops[view])
                skipped = int(tops[view]) - file.row_start
                views[view, :, at : at + count] = rows[:, skipped : skipped + count]
                filled += count
    if filled != n_views * windows.n_rows:
        message = f"filtered views: expected {n_views * windows.n_rows} rows, found {filled}"
        raise ProjectionDataError(message)
    return views
