"""Planning of tiles: parts of slabs in x and y, where a whole slice is too much for a task.

Each tile reads, of views that were filtered once, the windows in which it is seen. Flat tiles waste
reads on the margins of windows, thick ones on memory: the cheapest that fit are chosen.
"""

import itertools
import math
from dataclasses import dataclass

from pacspark.ct.geometry import Geometry, VolumeGrid
from pacspark.ct.kernels.backproject import PADDING, RUN
from pacspark.ct.shadow import FilteredView, Windows
from pacspark.spark.costs import READ_BYTES_PER_SECOND, backproject_seconds
from pacspark.tables.scans import DECODED_BYTES

FILTERED_ANGLES = 16
FILTERED_BYTES = 64 << 20
"""One view cut to the rows that a task filters, at most, but for sixteen rows."""
LARGEST_BLOCK = 32
"""Views that a tile takes at once."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a volume is cut into tiles.

    Attributes
    ----------
    n_parts
        Cuts along each of x and y.
    n_slabs
        Cuts along z.
    angle_block
        Views that a tile takes at once.
    filtered_rows
        Rows of a task that filters.
    task_bytes
        Of the largest task, without what every worker needs.
    read_samples
        What all tiles read of filtered views.
    """

    n_parts: int
    n_slabs: int
    angle_block: int
    filtered_rows: int
    task_bytes: int
    read_samples: int


def cut(length: int, parts: int) -> list[tuple[int, int]]:
    """Contiguous ranges that cover 0..length once, sizes differing by at most one."""
    edges = [length * part // parts for part in range(parts + 1)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]


def slab_bounds(n_z: int, slabs: int) -> list[tuple[int, int]]:
    """Contiguous slices that begin where runs of the kernel do, if there are as many runs.

    Less than a run costs and holds as much as a whole one.
    """
    n_runs = math.ceil(n_z / RUN)
    if slabs > n_runs:
        return cut(n_z, slabs)
    return [(RUN * start, min(n_z, RUN * stop)) for start, stop in cut(n_runs, slabs)]


def find_tiling(
    geometry: Geometry, grid: VolumeGrid, budget_bytes: int, n_parts: int | None = None,
    n_slabs: int | None = None, angle_block: int | None = None,
) -> Tiling:  # fmt: skip
    """Return the fastest tiles within a budget; if none fits, those that need least.

    Parameters
    ----------
    geometry, grid
        What is reconstructed, and where.
    budget_bytes
        Of a task, without what every worker needs.
    n_parts, n_slabs, angle_block
        Forced values.
    """
    view = FilteredView.of(geometry)
    rows = min(view.n_rows, max(16, min(512, FILTERED_BYTES // (4 * view.n_columns)) // 16 * 16))
    filtering = 4 * view.n_columns * (12 * rows + 4 * PADDING) + 2 * FILTERED_BYTES
    filtering += 3 * max(DECODED_BYTES, 4 * rows * view.n_columns)
    n_z, n_y, n_x = grid.shape
    largest = min(n_y, n_x)
    budget_bytes = max(0, budget_bytes)
    parts = (n_parts,) if n_parts else _rising(largest)
    best: Tiling | None = None
    best_rank = (True, math.inf)
    for cuts in parts:
        area = math.ceil(n_y / cuts) * math.ceil(n_x / cuts)
        if not n_parts and 4 * area * 4 * RUN > max(budget_bytes, 1) and cuts < largest:
            continue
        for slabs in (n_slabs,) if n_slabs else _rising(max(1, -(-n_z // RUN))):
            tiling = _tiling(
                geometry, grid, view, cuts, slabs, rows, filtering, angle_block, budget_bytes
            )
            rank = _rank(tiling, geometry, grid, budget_bytes)
            if best is None or rank < best_rank:
                best, best_rank = tiling, rank
    assert best is not None  # noqa: S101 -- the finest cut is always tried
    return best


def _rank(
    tiling: Tiling, geometry: Geometry, grid: VolumeGrid, budget_bytes: int
) -> tuple[bool, float]:
    """Order tilings: what fits first, and of that what takes least time."""
    if tiling.task_bytes > budget_bytes:
        return True, tiling.task_bytes
    read_seconds = 4 * tiling.read_samples / READ_BYTES_PER_SECOND
    return False, read_seconds + backproject_seconds(geometry, grid, tiling.n_slabs)


def _tiling(
    geometry: Geometry, grid: VolumeGrid, view: FilteredView, parts: int, slabs: int, rows: int,
    filtering: int, angle_block: int | None, budget_bytes: int,
) -> Tiling:  # fmt: skip
    n_z, n_y, n_x = grid.shape
    thick = max(stop - start for start, stop in slab_bounds(n_z, slabs))
    n_rows, n_columns = math.ceil(n_y / parts), math.ceil(n_x / parts)
    corners = [
        grid.part((z, y, x), (min(n_z, z + thick), min(n_y, y + n_rows), min(n_x, x + n_columns)))
        for z, y, x in itertools.product({0, n_z - thick}, {0, n_y - n_rows}, {0, n_x - n_columns})
    ]
    every = slice(0, geometry.n_angles)
    seen = [view.windows(geometry, corner, every) for corner in corners]
    area = n_rows * n_columns
    fixed = 4 * area * (thick + 4 * RUN)
    room = budget_bytes - fixed
    # windows of a block are alike in size: those of all views bound them
    window_bytes = _window_bytes(seen)
    block = angle_block or max(1, min(LARGEST_BLOCK, geometry.n_angles, room // window_bytes))
    task_bytes = max(filtering, fixed + block * window_bytes)
    windows = max(seen, key=lambda found: found.n_columns * found.n_rows)
    read = parts**2 * slabs * geometry.n_angles * windows.n_columns * (windows.n_rows + rows)
    return Tiling(parts, slabs, block, rows, task_bytes, read)


def _window_bytes(seen: list[Windows]) -> int:
    """Return what a view's window takes, and the file's rows that it is cut from."""
    return max(8 * found.n_columns * (found.n_rows + 2 * PADDING) for found in seen)


def _rising(largest: int) -> list[int]:
    """Return numbers of cuts, each about a quarter more than the one before."""
    numbers, at = [], 1.0
    while at < largest:
        numbers.append(round(at))
        at = max(at * 1.25, at + 1)
    return sorted({*numbers, largest})
