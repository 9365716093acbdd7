"""FDK on one machine, and its one-row and parallel relatives.

Feldkamp, Davis and Kress, Practical cone-beam algorithm, J. Opt. Soc. Am. A 1, 1984.

`SlabReconstruction` does the work: it takes blocks of views in any order and adds them to a slab.
`reconstruct_fdk` feeds it a whole array; Spark tasks feed it what they read. Checks are here,
arithmetic is in `filtering` and `kernels`.
"""

import math
import time
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from pacspark.ct.checks import require_count
from pacspark.ct.coverage import require_countable, warn_beyond_view
from pacspark.ct.filtering import FDKOptions, RowFilter
from pacspark.ct.geometry import ConeBeamGeometry, Geometry, VolumeGrid
from pacspark.ct.kernels.backproject import RUN, turn
from pacspark.ct.kernels.threads import at_most, most_threads
from pacspark.ct.kernels.variants import VARIANTS, choose_variant
from pacspark.ct.memory import Pages
from pacspark.ct.shadow import FilteredView, Windows
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.errors import ProjectionDataError, UsageError

WORK_BYTES = 16 << 20
"""Views are filtered in runs that need about this much beside the slab, or more of large scans:"""
WORK_PART = 8
"""the slab is read and written once a run, so fewer runs are faster; an eighth of the projections
is little beside them."""
TURN_ROWS = 32
"""Rows of a slab that are turned, and given back, at a time."""


class SlabReconstruction:
    """Adds filtered views to a slab of a volume; blocks of views may come in any order.

    Parameters
    ----------
    geometry
        The whole scan.
    grid
        The slab, or a whole volume. A voxel that a view does not see gets nothing from that view.
    options
        Filter and cut-off.
    n_threads
        Threads of the transforms and the kernel, >= 1; no more than Numba has.
    variant
        ``avx512``, ``avx2`` or ``portable``; None: what the environment variable
        ``PACSPARK_KERNEL`` names, else the fastest here.
    backend
        ``cpu``, or ``cuda``: an NVIDIA GPU keeps the slab and does the backprojection.

    Raises
    ------
    GeometryError
        When the views leave out rays, the grid reaches the source or is millions of rows high.
    UsageError
        When the variant or the backend does not run here, or there is not even one thread.
    """

    def __init__(
        self,
        geometry: Geometry,
        grid: VolumeGrid,
        options: FDKOptions | None = None,
        n_threads: int = 1,
        variant: str | None = None,
        backend: str = "cpu",
    ) -> None:
        self._geometry = geometry
        self._grid = grid
        n_threads = require_count("n_threads", n_threads, error=UsageError)
        self._n_threads = min(n_threads, most_threads())
        self._gpu: Any = _gpu_of(backend)
        self._kernel = self._gpu.backproject if self._gpu else VARIANTS[kernel_variant(variant)][0]
        require_countable(geometry, grid)
        self.row_band = geometry.row_band(grid)
        """Detector rows ``(start, stop)`` that the slab needs."""
        self._options = options or FDKOptions()
        self._view = FilteredView.of(geometry)
        n_z, n_y, n_x = grid.shape
        # runs of slices begin at absolute multiples of RUN: see kernels.backproject
        self._lead = grid.start[0] % RUN
        n_padded = math.ceil((self._lead + n_z) / RUN) * RUN
        shape = (n_y, n_x, n_padded)
        self._pages = Pages(shape) if self._gpu is None else None
        self._slab: Any = self._pages.array if self._pages else self._gpu.zeros(shape)

    @cached_property
    def row_filter(self) -> RowFilter:
        """Weights and filters views for `backproject`."""
        return RowFilter(self._geometry, *self.row_band, self._options)

    def windows(self, views: slice) -> Windows:
        """Return which parts of filtered views the voxels need."""
        return self._view.windows(self._geometry, self._grid, views)

    def add(
        self, projections: NDArray[Any], angle_start: int = 0, work_bytes: int | None = None
    ) -> dict[str, float]:
        """Filter views and add them to the slab.

        Parameters
        ----------
        projections
            ``(n, row_stop - row_start, n_columns)`` line integrals of the views ``angle_start..``.
        angle_start
            Index in the scan of the first of them.
        work_bytes
            What filtered views may take at once; None: an eighth of the projections, at least some
            megabytes.

        Returns
        -------
        dict
            The seconds, on the clock, that ``filter`` and ``backproject`` took.

        Raises
        ------
        ProjectionDataError
            When the shape is not that, or a value is not a finite number.
        """
        projections = np.asarray(projections)
        if projections.dtype.kind not in "fiub":
            message = f"projections: expected real numbers, found {projections.dtype}"
            raise ProjectionDataError(message)
        row_start, row_stop = self.row_band
        expected = (row_stop - row_start, self._geometry.detector.n_columns)
        if projections.ndim != 3 or projections.shape[1:] != expected:
            message = (
                f"projections: expected shape (n, {expected[0]}, {expected[1]}), found "
                f"{projections.shape}"
            )
            raise ProjectionDataError(message)
        if not 0 <= angle_start <= self._geometry.n_angles - len(projections):
            message = (
                f"angle_start: expected 0 to {self._geometry.n_angles - len(projections)}, found "
                f"{angle_start}"
            )
            raise ProjectionDataError(message)
        if work_bytes is None:
            work_bytes = max(WORK_BYTES, projections.nbytes // WORK_PART)
        at_once = self.row_filter.angles_within(work_bytes)
        seconds = {"filter": 0.0, "backproject": 0.0}
        for start in range(0, len(projections), at_once):
            with np.errstate(over="ignore"):  # what float32 cannot hold is found infinite
                block = np.asarray(projections[start : start + at_once], np.float32)
            began = time.perf_counter()
            _require_finite(block, angle_start + start, row_start)
            filtered = self.row_filter.filter(block, angle_start + start, self._n_threads)
            between = time.perf_counter()
            self.backproject(filtered, angle_start + start)
            seconds["filter"] += between - began
            seconds["backproject"] += time.perf_counter() - between
        return seconds

    def backproject(
        self, filtered: NDArray[np.float32], angle_start: int, windows: Windows | None = None
    ) -> None:
        """Add views that are filtered already; `add` does both.

        Parameters
        ----------
        filtered
            ``(n, n_u + 2, n_rows_of_the_band + 2 * PADDING)`` as `row_filter` gives it, or
            ``(n, n_columns, n_rows + 2 * PADDING)`` of the windows.
        angle_start
            Index in the scan of the first of them.
        windows
            Which parts of views they are: those that `windows` gives, or larger; None: all of the
            row band.
        """
        if self._slab is None:
            message = "slab: expected one that is still held, found one whose last result was taken"
            raise UsageError(message)
        geometry, grid = self._geometry, self._grid
        view = self._view
        views = slice(angle_start, angle_start + len(filtered))
        angles = geometry.gantry_angles_rad[views]
        radii_mm = source_z_mm = np.zeros(len(angles))
        source_to_detector_mm = 1.0
        if isinstance(geometry, ConeBeamGeometry):
            radii_mm, source_z_mm = geometry.source_radii_mm[views], geometry.source_z_mm[views]
            source_to_detector_mm = geometry.source_to_detector_mm
        if windows is None:
            # rows of the kernel rise with v, whatever their order in the data
            row_start, row_stop = self.row_band
            falls = geometry.detector.row_order == "top_down"
            first_row = geometry.detector.n_rows - row_stop if falls else row_start
            none = np.zeros(len(angles), np.int64)
            windows = Windows(none, none + first_row, *filtered.shape[1:])
        n_z = grid.whole_shape[0]
        with at_most(self._n_threads):
            self._kernel(
                filtered,
                self._slab,
                np.cos(angles),
                np.sin(angles),
                grid.x_mm,
                grid.y_mm,
                radii_mm,
                source_z_mm,
                source_to_detector_mm,
                view.u_per_mm,
                view.u_origin,
                view.v_per_mm,
                view.v_origin,
                grid.center_mm[0] - (n_z - 1) / 2 * grid.voxel_mm[0],
                grid.voxel_mm[0],
                grid.start[0] - self._lead,
                windows.column_starts,
                windows.row_starts,
                not isinstance(geometry, ConeBeamGeometry),
            )

    def slices(self) -> Iterator[NDArray[np.float32]]:
        """Yield the slices so far, float32 ``(n_y, n_x)``, 1/mm, in order; a run is held turned."""
        _, n_y, n_x = self._grid.shape
        slab = self._gpu.to_host(self._slab) if self._gpu else self._slab
        stop = self._lead + self._grid.shape[0]
        for start in range(self._lead, stop, RUN):
            turned = np.empty((min(RUN, stop - start), n_y, n_x), np.float32)
            with at_most(self._n_threads):
                turn(slab, start, turned, 0, n_y)
            yield from turned

    def result(self, *, last: bool = False) -> NDArray[np.float32]:
        """Return the slab so far, float32 ``(n_z, n_y, n_x)``, 1/mm.

        Parameters
        ----------
        last
            Whether the slab may be forgotten: what is turned goes back to the system row by row,
            so that no two slabs are held.
        """
        slab = self._gpu.to_host(self._slab) if self._gpu else self._slab
        volume = Pages(self._grid.shape, small=True).array
        n_y = self._grid.shape[1]
        with at_most(self._n_threads):
            for start in range(0, n_y, TURN_ROWS):
                stop = min(start + TURN_ROWS, n_y)
                turn(slab, self._lead, volume, start, stop)
                if last and self._pages is not None:
                    self._pages.give_back(start, stop)
        if last:
            self._pages = self._slab = None
        return volume


def reconstruct_fdk(
    projections: NDArray[Any],
    geometry: Geometry | ConeBeamViews,
    grid: VolumeGrid | None = None,
    options: FDKOptions | None = None,
    n_threads: int | None = None,
    backend: str = "cpu",
) -> NDArray[np.float32]:
    """Reconstruct a volume from line integrals of a circle, a short scan or a half-fan.

    Parameters
    ----------
    projections
        ``(n_angles, n_rows, n_columns)`` line integrals, dimensionless.
    geometry
        Where source and detector were. Frames of `ConeBeamViews` are resampled onto upright panels,
        some at a time.
    grid
        Where the voxels are; None: ``fit_grid()`` of the geometry.
    options
        Filter and cut-off; None: Ram-Lak up to the Nyquist frequency.
    n_threads
        Threads; None: as many as Numba is set to use.
    backend
        ``cpu``, or ``cuda`` where there is an NVIDIA GPU.

    Returns
    -------
    numpy.ndarray
        float32 ``(n_z, n_y, n_x)``, attenuation in 1/mm.

    Raises
    ------
    ProjectionDataError
        When shape or values of the projections cannot be.
    GeometryError
        When the views leave out rays or the grid reaches the source.

    Examples
    --------
    >>> import numpy as np
    >>> from pacspark.ct import FlatPanel, ParallelBeamGeometry, reconstruct_fdk
    >>> angles = np.arange(90) * np.pi / 90
    >>> panel = FlatPanel(n_rows=1, n_columns=65, row_spacing_mm=1.0, column_spacing_mm=1.0)
    >>> geometry = ParallelBeamGeometry(angles, panel)
    >>> disk = 2 * np.sqrt(np.maximum(0, 20.0**2 - panel.u_mm**2)) * 0.02
    >>> projections = np.broadcast_to(disk, (90, 1, 65)).astype(np.float32)
    >>> volume = reconstruct_fdk(projections, geometry)
    >>> f"{volume[0, 32, 32]:.4f} {volume[0, 32, 60]:.3f}".replace("-0.000", "0.000")
    '0.0200 0.000'
    """
    projections = np.asarray(projections)
    detector = geometry.detector
    expected = (geometry.n_angles, detector.n_rows, detector.n_columns)
    if projections.shape != expected:
        message = (
            f"projections: expected shape (n_angles, n_rows, n_columns) = {expected}, found "
            f"{projections.shape}"
        )
        raise ProjectionDataError(message)
    if n_threads is None:
        n_threads = numba.get_num_threads()
    rectification = None
    if isinstance(geometry, ConeBeamViews):
        rectification = Rectification(geometry)
        geometry = rectification.geometry
    if grid is None:
        grid = geometry.fit_grid()
    else:
        warn_beyond_view(geometry, grid)
    slab = SlabReconstruction(geometry, grid, options, n_threads, backend=backend)
    row_start, row_stop = slab.row_band
    if rectification is None:
        slab.add(projections[:, row_start:row_stop])
        return slab.result(last=True)
    raw_start, raw_stop = rectification.raw_rows(row_start, row_stop)
    at_once = max(1, WORK_BYTES // (4 * (raw_stop - raw_start) * detector.n_columns))
    for start in range(0, len(projections), at_once):
        with np.errstate(over="ignore"):  # what float32 cannot hold is found infinite
            block = np.asarray(projections[start : start + at_once, raw_start:raw_stop], np.float32)
        _require_finite(block, start, raw_start)
        slab.add(rectification.apply(block, start, n_threads, (row_start, row_stop)), start)
    return slab.result(last=True)


def kernel_variant(wanted: str | None = None) -> str:
    """Return which variant of the backprojection would run; see `SlabReconstruction`.

    Raises
    ------
    UsageError
        When the wanted one does not run here.
    """
    try:
        return choose_variant(wanted)
    except ValueError as error:
        raise UsageError(*error.args) from None


def _gpu_of(backend: str) -> Any:
    """Return the kernels of a GPU, which load a driver and so are not imported before, or None."""
    if backend == "cpu":
        return None
    if backend != "cuda":
        message = f"backend: expected cpu or cuda, found {backend!r}"
        raise UsageError(message)
    gpu = import_module("pacspark.ct.kernels.gpu")
    if not gpu.is_available():
        message = "backend: expected an NVIDIA GPU and its driver for cuda, found none; use cpu"
        raise UsageError(message)
    return gpu


def _require_finite(block: NDArray[np.float32], angle_start: int, row_start: int) -> None:
    # one sum is cheaper than a test of every value; only a sum that is not finite needs the search
    if math.isfinite(float(np.sum(block, dtype=np.float64))):
        return
    angle, row, column = (int(places[0]) for places in np.nonzero(~np.isfinite(block)))
    message = (
        f"projections[{angle_start + angle}, {row_start + row}, {column}]: expected a finite line "
        f"integral, found {block[angle, row, column]}"
    )
    raise ProjectionDataError(message)
