"""One volume from several circles along the axis: step-and-shoot scans.

A circle sees the slices near its plane whole, and less of those beyond, where its cone is steep. So
each slice is made from the circle whose slices it is among; where those of neighbours overlap, from
both, and the one fades linearly into the other.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.coverage import view_radius_mm
from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import ConeBeamGeometry, VolumeGrid
from pacspark.errors import GeometryError


def reconstruct_circles(
    projections: Sequence[NDArray[Any]],
    circles: Sequence[ConeBeamGeometry],
    grid: VolumeGrid,
    options: FDKOptions | None = None,
    n_threads: int | None = None,
) -> NDArray[np.float32]:
    """Reconstruct one volume from circles at several heights of the same rotation axis.

    Parameters
    ----------
    projections
        Of each circle, ``(n_angles, n_rows, n_columns)`` line integrals.
    circles
        Where source and detector were, heights in any order; all views of one at the same height.
    grid
        Where the voxels are.
    options, n_threads
        As `reconstruct_fdk` takes them.

    Returns
    -------
    numpy.ndarray
        float32 ``(n_z, n_y, n_x)``, attenuation in 1/mm.

    Raises
    ------
    GeometryError
        When a circle is none, or slices between two are seen whole by neither.
    ProjectionDataError
        When projections do not fit their circle.

    Examples
    --------
    A rod that is longer than either circle sees:

    >>> import numpy as np
    >>> from pacspark.ct import ConeBeamGeometry, FlatPanel, VolumeGrid, reconstruct_circles
    >>> from pacspark.ct.phantom import Ellipsoid, project
    >>> angles, panel = np.arange(60) * np.pi / 30, FlatPanel(8, 16, 2.0, 2.0)
    >>> circles = [
    ...     ConeBeamGeometry(400.0, 600.0, angles, panel, np.tile([0.0, height_mm], (60, 1)))
    ...     for height_mm in (-4.0, 4.0)
    ... ]
    >>> frames = [project([Ellipsoid(0.02, (6.0, 6.0, 99.0))], circle) for circle in circles]
    >>> volume = reconstruct_circles(frames, circles, VolumeGrid((9, 3, 3), (2.0, 1.0, 1.0)))
    >>> print(volume[:, 1, 1].round(3))
    [0.02 0.02 0.02 0.02 0.02 0.02 0.02 0.02 0.02]
    """
    shares = circle_shares(circles, grid)
    if len(projections) != len(circles):
        message = f"projections: expected those of {len(circles)} circles, found {len(projections)}"
        raise GeometryError(message)
    volume = np.zeros(grid.shape, np.float32)
    for integrals, circle, share in zip(projections, circles, shares, strict=True):
        used = np.flatnonzero(share)
        if not len(used):
            continue
        start, stop = int(used[0]), int(used[-1]) + 1
        slab = reconstruct_fdk(integrals, circle, grid.slab(start, stop), options, n_threads)
        slab *= share[start:stop, None, None].astype(np.float32)
        volume[start:stop] += slab
    return volume


def circle_shares(circles: Sequence[ConeBeamGeometry], grid: VolumeGrid) -> NDArray[np.float64]:
    """Return the share of each circle in each slice, ``(n_circles, n_z)``; they sum to one.

    Raises
    ------
    GeometryError
        When a circle is none, or slices between two are seen whole by neither.

    Examples
    --------
    >>> import numpy as np
    >>> from pacspark.ct import ConeBeamGeometry, FlatPanel, VolumeGrid, circle_shares
    >>> angles, panel = np.arange(60) * np.pi / 30, FlatPanel(8, 16, 2.0, 2.0)
    >>> circles = [
    ...     ConeBeamGeometry(400.0, 600.0, angles, panel, np.tile([0.0, height_mm], (60, 1)))
    ...     for height_mm in (-4.0, 4.0)
    ... ]
    >>> circle_shares(circles, VolumeGrid((5, 3, 3), (0.4, 1.0, 1.0))).round(2).tolist()
    [[1.0, 0.81, 0.5, 0.19, 0.0], [0.0, 0.19, 0.5, 0.81, 1.0]]
    """
    if not circles:
        message = "circles: expected at least one, found none"
        raise GeometryError(message)
    seen = [_seen_mm(circle, grid, number) for number, circle in enumerate(circles)]
    order = sorted(range(len(circles)), key=lambda number: sum(seen[number]))
    middles = {number: sum(seen[number]) / 2 for number in order}
    z_mm = grid.z_mm
    shares = np.zeros((len(circles), len(z_mm)))
    shares[order[0]] = 1.0
    for lower, upper in itertools.pairwise(order):
        bottom_mm = max(seen[upper][0], middles[lower])
        top_mm = min(seen[lower][1], middles[upper])
        missed = (z_mm > top_mm) & (z_mm < bottom_mm)
        if missed.any():
            message = (
                "circles: expected every slice between two to be seen whole by one, found "
                f"{int(missed.sum())} from z = {z_mm[missed][0]:g} mm on that neither circle "
                f"{lower} nor {upper} sees so; make the grid narrower or the steps shorter"
            )
            raise GeometryError(message)
        # from 0 at the bottom of the overlap to 1 at its top; without one, a step
        width_mm = max(top_mm - bottom_mm, np.finfo(float).tiny)
        with np.errstate(over="ignore"):
            rising = np.clip((z_mm - bottom_mm) / width_mm, 0.0, 1.0)
        shares[upper] = shares[lower] * rising
        shares[lower] *= 1.0 - rising
    return shares


def _seen_mm(circle: ConeBeamGeometry, grid: VolumeGrid, number: int) -> tuple[float, float]:
    """Return between which heights a circle sees the grid, or its field of view of it, whole."""
    if not isinstance(circle, ConeBeamGeometry):
        message = (
            f"circles[{number}]: expected a ConeBeamGeometry, found {type(circle).__name__}; "
            "rectify other views first (pacspark.ct.views.Rectification)"
        )
        raise GeometryError(message)
    heights_mm = circle.source_z_mm
    if np.ptp(heights_mm) > 0:
        message = (
            f"circles[{number}]: expected all views at one height, found heights from "
            f"{heights_mm.min():g} to {heights_mm.max():g} mm"
        )
        raise GeometryError(message)
    corners_mm = np.hypot(np.abs(grid.y_mm).max(), np.abs(grid.x_mm).max())
    reach_mm = min(float(corners_mm), view_radius_mm(circle))
    radii_mm = circle.source_radii_mm
    # what is nearest to the source is magnified most
    scale = (radii_mm.min() - reach_mm) / circle.source_to_detector_mm
    v_mm = circle.detector.v_mm
    low_mm, high_mm = float(v_mm.min()) * scale, float(v_mm.max()) * scale
    return float(heights_mm[0]) + low_mm, float(heights_mm[0]) + high_mm
