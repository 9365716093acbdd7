"""One wide detector from a camera that stood side by side at several places.

The source stays where it is and the camera is moved along u, so all its images are parts of one
flat panel. Columns of the wide one are those of the leftmost image; the others are interpolated
onto them, and where two images overlap, the one fades linearly into the other.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import FlatPanel
from pacspark.ct.kernels.rectify import resample
from pacspark.errors import GeometryError, ProjectionDataError

SAME_PIXELS = 1e-6
"""Places that differ by less, in pixels, are the same."""


def stitch(
    images: Sequence[NDArray[Any]], panels: Sequence[FlatPanel]
) -> tuple[NDArray[np.float32], FlatPanel]:
    """Join images of a camera at several places to those of one wide panel.

    Parameters
    ----------
    images
        Of each place, ``(n_angles, n_rows, n_columns)`` line integrals of the same views.
    panels
        The camera at each place: panels that differ in ``offset_u_mm`` only, in any order.

    Returns
    -------
    tuple
        float32 ``(n_angles, n_rows, n_columns of all)``, and the panel that would have measured it.

    Raises
    ------
    GeometryError
        When the panels differ in more than their place along u, or leave out columns.
    ProjectionDataError
        When images do not fit their panels, or have different views.

    Examples
    --------
    >>> import numpy as np
    >>> from pacspark.ct import FlatPanel, stitch
    >>> left = FlatPanel(1, 4, 1.0, 1.0, offset_u_mm=-1.0)
    >>> right = FlatPanel(1, 4, 1.0, 1.0, offset_u_mm=1.0)
    >>> row = np.arange(6.0)[None, None]
    >>> wide, panel = stitch([row[..., :4], row[..., 2:]], [left, right])
    >>> wide[0, 0].tolist(), panel.n_columns, panel.offset_u_mm
    ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 6, 0.0)
    """
    _require_images(images, panels)
    order = sorted(range(len(panels)), key=lambda place: panels[place].offset_u_mm)
    first = panels[order[0]]
    pixel_mm = first.column_spacing_mm
    # where the first column of each lies, in columns of the wide panel
    starts = [(panels[place].offset_u_mm - first.offset_u_mm) / pixel_mm for place in order]
    for place, (start, following) in enumerate(itertools.pairwise(starts)):
        if following - start > first.n_columns + SAME_PIXELS:
            message = (
                f"panels[{order[place + 1]}].offset_u_mm: expected panels beside each other, found "
                f"{following - start - first.n_columns:.4g} columns between two"
            )
            raise GeometryError(message)
    n_angles = len(images[0])
    n_columns = math.floor(starts[-1] + 0.5 + SAME_PIXELS) + first.n_columns
    columns = np.arange(n_columns)
    wide = np.zeros((n_angles, first.n_rows, n_columns), np.float32)
    shares = np.zeros((len(order), n_columns))
    for share, start in zip(shares, starts, strict=True):
        # distance to the nearer edge, which is half a column beyond the last centre
        inside = np.minimum(columns - start, start + first.n_columns - 1 - columns) + 0.5
        share[:] = np.clip(inside + SAME_PIXELS, 0, None)
    shares /= shares.sum(axis=0)
    for place, start, share in zip(order, starts, shares, strict=True):
        seen = np.flatnonzero(share)
        part = np.empty((n_angles, first.n_rows, len(seen)), np.float32)
        shift = np.eye(3)
        shift[0, 2] = seen[0] - start
        image = np.ascontiguousarray(images[place], np.float32)
        resample(image, np.broadcast_to(shift, (n_angles, 3, 3)).copy(), part)
        wide[:, :, seen[0] : seen[-1] + 1] += part * share[seen].astype(np.float32)
    middle_mm = first.offset_u_mm + (n_columns - first.n_columns) / 2 * pixel_mm
    return wide, replace(first, n_columns=n_columns, offset_u_mm=middle_mm)


def _require_images(images: Sequence[NDArray[Any]], panels: Sequence[FlatPanel]) -> None:
    if not panels or len(images) != len(panels):
        message = f"images: expected those of {len(panels)} panels, found {len(images)}"
        raise GeometryError(message)
    for place, (image, panel) in enumerate(zip(images, panels, strict=True)):
        if replace(panel, offset_u_mm=0.0) != replace(panels[0], offset_u_mm=0.0):
            message = f"panels[{place}]: expected panels[0] elsewhere along u, found {panel}"
            raise GeometryError(message)
        expected = (len(images[0]), panel.n_rows, panel.n_columns)
        if image.shape != expected:
            message = f"images[{place}]: expected shape {expected}, found {image.shape}"
            raise ProjectionDataError(message)
