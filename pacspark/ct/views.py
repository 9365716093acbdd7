"""A source and a flat detector that may stand anywhere in each view, and how to bring them upright.

What a scanner measures is seldom what it was built for: panels are turned in their plane and
tilted, sources wobble, calibrations end in projection matrices. All of it is said by four vectors
per view: where the source is, where the middle of the panel is, and which way its rows and columns
run.

The fast kernels want detector columns parallel to the rotation axis. Any other flat panel sees the
same rays from the same source, so its image is a homography away from that of an upright panel
(Hartley and Zisserman, Multiple View Geometry, 2004, section 8.4): `Rectification` resamples each
raw frame once, O(N^3), and gives the upright geometry, whose sources may still be at any distance
and height. No second, slower kernel is needed.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.checks import LONGEST_MM, require_numbers
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel
from pacspark.ct.values import ByValue
from pacspark.errors import GeometryError, ProjectionDataError

Vectors = NDArray[np.float64]

VECTORS = ("sources_mm", "centers_mm", "u_axes", "v_axes")
"""Of each view."""
SQUARE = 1e-3
"""By how much the axes of a panel may be off a right angle, or a pixel off its stated size."""
STRAIGHT_MM = 1e-6
"""Sources that are nearer to a perfect circle are on it."""
MOST_SKEWED = 1e12
"""Condition of a matrix; beyond, float64 does not tell its source."""
LEAST_DEPTH = 0.1
"""Of a panel's corner, held against its depth on the panel itself: upright ones would be huge."""
STEEPEST = math.cos(math.radians(60))
"""Of the angle between a panel's normal and the horizontal ray from the source through the axis."""
LARGEST_PANEL = 2
"""An upright panel has at most so many times the raw one's rows and columns together along each
edge: turned by any angle it needs less, and shifted by more it is a slip of the unit."""
MARGIN_ROWS = 3
"""Raw rows that a band has beyond those that its pixels fall on: what cubic interpolation takes,
and one for rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class ConeBeamViews(ByValue):
    """A source and a flat detector, anywhere in each view.

    Parameters
    ----------
    sources_mm
        ``(n_angles, 3)`` x, y, z of the source.
    centers_mm
        ``(n_angles, 3)``: where the panel's u = v = 0 lies; its middle, but for its offsets.
    u_axes, v_axes
        ``(n_angles, 3)`` unit vectors at right angles, along rows and columns.
    detector
        Size, spacing, offsets and order of rows of the panel.

    Raises
    ------
    GeometryError
        When the vectors cannot be a panel's.

    Examples
    --------
    A panel that is turned in its plane, and the same from its projection matrices:

    >>> import numpy as np
    >>> from pacspark.ct import ConeBeamGeometry, ConeBeamViews, FlatPanel
    >>> panel = FlatPanel(n_rows=4, n_columns=6, row_spacing_mm=1.0, column_spacing_mm=1.0)
    >>> meant = ConeBeamGeometry(500.0, 1000.0, np.arange(8) * np.pi / 4, panel)
    >>> views = ConeBeamViews.of_circle(meant, in_plane_rad=0.03)
    >>> float(views.v_axes[0, 2].round(5))
    0.99955
    >>> again = ConeBeamViews.from_matrices(views.matrices(), panel)
    >>> bool(np.allclose(again.sources_mm, views.sources_mm))
    True
    """

    sources_mm: Vectors
    centers_mm: Vectors
    u_axes: Vectors
    v_axes: Vectors
    detector: FlatPanel

    def __post_init__(self) -> None:
        count = len(self.sources_mm)
        for name in VECTORS:
            vectors = require_numbers(name, getattr(self, name))
            if vectors.shape != (count, 3) or not count:
                message = f"{name}: expected shape ({count}, 3), found {vectors.shape}"
                raise GeometryError(message)
            wrong = ~(np.abs(vectors) <= 2 * LONGEST_MM).all(axis=1)
            if wrong.any():
                view = int(wrong.argmax())
                message = (
                    f"{name}[{view}]: expected numbers within +-{2 * LONGEST_MM:g}, found "
                    f"{vectors[view].tolist()}"
                )
                raise GeometryError(message)
            vectors.flags.writeable = False
            object.__setattr__(self, name, vectors)
        skew = np.abs(np.einsum("ij,ij->i", self.u_axes, self.v_axes)).max()
        lengths = [np.abs(np.linalg.norm(axes, axis=1) - 1).max() for axes in
                   (self.u_axes, self.v_axes)]  # fmt: skip
        if max(skew, *lengths) > SQUARE:
            message = (
                "u_axes, v_axes: expected unit vectors at right angles, found a cosine of "
                f"{skew:.2g} and lengths that are {max(lengths):.2g} off"
            )
            raise GeometryError(message)

    @property
    def n_angles(self) -> int:
        """Number of views."""
        return len(self.sources_mm)

    @classmethod
    def of_circle(
        cls,
        geometry: ConeBeamGeometry,
        *,
        in_plane_rad: float = 0.0,
        about_u_rad: float = 0.0,
        about_v_rad: float = 0.0,
        shifts_mm: Vectors | None = None,
    ) -> "ConeBeamViews":
        """Return the views of a scan on a circle, with a panel that is not quite upright.

        Parameters
        ----------
        geometry
            The scan as it was meant.
        in_plane_rad
            Turn of the panel in its plane, from +u towards +v.
        about_u_rad, about_v_rad
            Tilts about the u and the v axis, right-handed, before the turn in the plane.
        shifts_mm
            ``(n_angles, 2)``: how far the panel of each view stands off along u and v.
        """
        cosines, sines = np.cos(geometry.gantry_angles_rad), np.sin(geometry.gantry_angles_rad)
        flat = np.zeros_like(cosines)
        outward = np.stack([cosines, sines, flat], axis=1)
        u_axes = np.stack([-sines, cosines, flat], axis=1)
        v_axes = np.broadcast_to([0.0, 0.0, 1.0], u_axes.shape)
        sources = outward * geometry.source_radii_mm[:, None]
        sources[:, 2] = geometry.source_z_mm
        centers = sources - geometry.source_to_detector_mm * outward
        if shifts_mm is not None:
            centers = centers + shifts_mm[:, :1] * u_axes + shifts_mm[:, 1:] * v_axes
        for axes, angle_rad in ((u_axes, about_u_rad), (v_axes, about_v_rad)):
            u_axes, v_axes = (_turned(vectors, axes, angle_rad) for vectors in (u_axes, v_axes))
        normals = np.cross(u_axes, v_axes)
        u_axes, v_axes = (_turned(vectors, normals, in_plane_rad) for vectors in (u_axes, v_axes))
        return cls(sources, centers, u_axes, v_axes, geometry.detector)

    @classmethod
    @np.errstate(all="ignore")  # what is no number in the end is told
    def from_matrices(cls, matrices: NDArray[np.float64], detector: FlatPanel) -> "ConeBeamViews":
        """Return the views that projection matrices say.

        Parameters
        ----------
        matrices
            ``(n_angles, 3, 4)``: of a point ``(x, y, z, 1)`` in mm, ``(column, row, 1)`` times any
            factor; pixels count from the centre of the first.
        detector
            Size and spacing of the panel. Its offsets are in the matrices: give none.

        Raises
        ------
        GeometryError
            When a matrix has no source, or another pixel's shape than the panel.
        """
        matrices = require_numbers("matrices", matrices)
        if matrices.ndim != 3 or matrices.shape[1:] != (3, 4) or not np.isfinite(matrices).all():
            message = (
                f"matrices: expected (n_angles, 3, 4) finite numbers, found shape {matrices.shape}"
            )
            raise GeometryError(message)
        if detector.offset_u_mm or detector.offset_v_mm:
            message = "detector: expected no offsets beside matrices, which hold them; found some"
            raise GeometryError(message)
        # of any factor: brought to a middling one, what follows neither overflows nor vanishes
        scales = np.abs(matrices[:, :, :3]).max(axis=(1, 2), keepdims=True)
        matrices = matrices / scales
        singular = ~(np.linalg.cond(np.nan_to_num(matrices[:, :, :3])) < MOST_SKEWED)
        if singular.any():
            view = int(singular.argmax())
            message = f"matrices[{view}]: expected one of a source and a panel, found none"
            raise GeometryError(message)
        # rays of pixels: column * inverse[:, 0] + row * inverse[:, 1] + inverse[:, 2]
        inverse = np.linalg.inv(matrices[:, :, :3])
        sources = -np.einsum("nij,nj->ni", inverse, matrices[:, :, 3])
        along_u, along_row, first = (inverse[:, :, place] for place in range(3))
        scale = detector.column_spacing_mm / np.linalg.norm(along_u, axis=1)
        row_mm = np.linalg.norm(along_row, axis=1) * scale
        off = np.abs(row_mm / detector.row_spacing_mm - 1)
        if off.max() > SQUARE:
            view = int(off.argmax())
            message = (
                f"matrices[{view}]: expected rows {detector.row_spacing_mm:g} mm apart where "
                f"columns are {detector.column_spacing_mm:g}, found {row_mm[view]:g}"
            )
            raise GeometryError(message)
        middle = (
            first + along_u * (detector.n_columns - 1) / 2 + along_row * (detector.n_rows - 1) / 2
        )
        # the panel is on the side of the source where the object is
        scale *= np.where(np.einsum("ni,ni->n", middle, -sources) < 0, -1.0, 1.0)
        rows_up = 1.0 if detector.row_order == "bottom_up" else -1.0
        return cls(
            sources,
            sources + middle * scale[:, None],
            along_u * (scale / detector.column_spacing_mm)[:, None],
            rows_up * along_row * (scale / row_mm)[:, None],
            detector,
        )

    def matrices(self) -> NDArray[np.float64]:
        """Return the projection matrices, ``(n_angles, 3, 4)``, as `from_matrices` takes them."""
        pixels = _pixel_homographies(self)
        shifted = np.concatenate(
            [np.broadcast_to(np.eye(3), (self.n_angles, 3, 3)), -self.sources_mm[:, :, None]],
            axis=2,
        )
        matrices: NDArray[np.float64] = pixels @ shifted
        return matrices


class Rectification:
    """Brings raw frames of any views onto upright panels.

    Parameters
    ----------
    views
        As they were measured.

    Attributes
    ----------
    geometry
        The upright one that rectified frames have: spacing and order of rows as they were, as many
        rows and columns as all views need.
    raw_panel
        The one that was measured with.

    Raises
    ------
    GeometryError
        When a panel is turned away so far that no upright one sees its rays.
    """

    def __init__(self, views: ConeBeamViews) -> None:
        sources = views.sources_mm
        radii = np.hypot(sources[:, 0], sources[:, 1])
        angles = np.arctan2(sources[:, 1], sources[:, 0])
        outward = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)
        normals = np.cross(views.u_axes, views.v_axes)
        facing = np.einsum("ni,ni->n", normals, outward)
        if np.abs(facing).min() < STEEPEST:
            view = int(np.abs(facing).argmin())
            message = (
                f"views[{view}]: expected a panel within 60 degrees of upright, found one turned "
                f"by {math.degrees(math.acos(min(1.0, abs(float(facing[view]))))):.0f}"
            )
            raise GeometryError(message)
        # how far the horizontal ray through the axis goes until it meets the panel
        distances = -np.einsum("ni,ni->n", views.centers_mm - sources, normals) / facing
        if distances.min() <= 0:
            view = int(distances.argmin())
            message = f"views[{view}]: expected the panel behind the axis, found it at the source"
            raise GeometryError(message)
        radius, distance = float(radii.mean()), float(distances.mean())
        shifts = np.stack([radii - radius, sources[:, 2]], axis=1)
        on_circle = np.abs(shifts).max() < STRAIGHT_MM
        self.raw_panel = views.detector
        self.geometry = ConeBeamGeometry(
            radius,
            distance,
            angles,
            replace(self.raw_panel, offset_u_mm=0.0, offset_v_mm=0.0),
            None if on_circle else shifts,
        )
        self.geometry = replace(self.geometry, detector=self._panel_around(views))
        upright = ConeBeamViews.of_circle(self.geometry)
        self.homographies = _pixel_homographies(views) @ np.linalg.inv(_pixel_homographies(upright))
        """Of an upright pixel ``(column, row, 1)``, where it is on the raw frame, ``(n, 3, 3)``."""

    def _panel_around(self, views: ConeBeamViews) -> FlatPanel:
        """Return the upright panel that holds the corners of every raw one."""
        detector = views.detector
        corners = np.array(
            [
                (column, row, 1.0)
                for column in (0, detector.n_columns - 1)
                for row in (0, detector.n_rows - 1)
            ]
        )
        upright = _pixel_homographies(ConeBeamViews.of_circle(self.geometry))
        places = np.einsum(
            "nij,cj->nci", upright @ np.linalg.inv(_pixel_homographies(views)), corners
        )
        # along rays of unit depth on the raw panel; a mirrored one counts depth the other way
        depths = places[..., 2] * np.sign(places[..., 2].mean(axis=1))[:, None]
        if depths.min() < LEAST_DEPTH:
            view = int(depths.min(axis=1).argmin())
            message = (
                f"views[{view}]: expected a panel that is upright but for some tilt, found one "
                "with a corner that no upright panel sees"
            )
            raise GeometryError(message)
        places = places[..., :2] / places[..., 2:]
        # pixels fall on those of the first view's corner: what is upright already stays as it is
        on_pixel = places[0, 0] % 1
        low = np.floor(places.min(axis=(0, 1)) - on_pixel + SQUARE) + on_pixel
        high = np.ceil(places.max(axis=(0, 1)) - on_pixel - SQUARE) + on_pixel
        most = LARGEST_PANEL * (detector.n_rows + detector.n_columns)
        if (high - low).max() >= most:
            message = (
                f"views: expected an upright panel of at most {most} rows and columns to hold all "
                f"of them, found that it takes {high[1] - low[1] + 1:.4g} x "
                f"{high[0] - low[0] + 1:.4g}"
            )
            raise GeometryError(message)
        n_columns, n_rows = (round(count) for count in high - low + 1)
        middle = (high + low) / 2 - np.array([detector.n_columns - 1, detector.n_rows - 1]) / 2
        rows_up = 1.0 if detector.row_order == "bottom_up" else -1.0
        return replace(
            detector,
            n_columns=n_columns,
            n_rows=n_rows,
            offset_u_mm=float(middle[0]) * detector.column_spacing_mm,
            offset_v_mm=rows_up * float(middle[1]) * detector.row_spacing_mm,
        )

    def raw_rows(self, row_start: int, row_stop: int) -> tuple[int, int]:
        """Return the rows ``(start, stop)`` of raw frames that make a band of upright rows."""
        panel = self.geometry.detector
        corners = np.array(
            [
                (column, row, 1.0)
                for column in (0, panel.n_columns - 1)
                for row in (row_start, row_stop - 1)
            ]
        )
        places = np.einsum("nij,cj->nci", self.homographies, corners)
        rows = np.clip(places[..., 1] / places[..., 2], 0, self.raw_panel.n_rows - 1)
        start = max(0, math.floor(rows.min()) - MARGIN_ROWS)
        return start, min(self.raw_panel.n_rows, math.ceil(rows.max()) + MARGIN_ROWS + 1)

    def apply(
        self,
        projections: NDArray[np.float32],
        angle_start: int = 0,
        n_threads: int = 1,
        rows: tuple[int, int] | None = None,
    ) -> NDArray[np.float32]:
        """Return frames as upright panels would have seen them.

        Cubic interpolation (Keys 1981, a = -1/2); beyond the raw frame its edge goes on.

        Parameters
        ----------
        projections
            ``(n, n_rows, n_columns)`` raw frames of the views ``angle_start..``; line integrals.
            For a band, their `raw_rows` alone.
        angle_start
            Index in the scan of the first of them.
        n_threads
            Threads to use.
        rows
            The band ``(start, stop)`` of upright rows to make; None: all.

        Raises
        ------
        ProjectionDataError
            When the frames are of another size than the raw panel, or too many.
        """
        # the vocabulary of geometry does not load a compiler
        from pacspark.ct.kernels.rectify import resample
        from pacspark.ct.kernels.threads import at_most

        panel = self.geometry.detector
        row_start, row_stop = rows or (0, panel.n_rows)
        raw_start, raw_stop = self.raw_rows(*rows) if rows else (0, self.raw_panel.n_rows)
        expected = (raw_stop - raw_start, self.raw_panel.n_columns)
        homographies = self.homographies[angle_start : angle_start + len(projections)]
        if projections.shape != (len(homographies), *expected):
            message = (
                f"projections: expected shape (n, {expected[0]}, {expected[1]}) of the views from "
                f"{angle_start} on, of {len(self.homographies)}, found {projections.shape}"
            )
            raise ProjectionDataError(message)
        if rows:
            homographies = _down(-raw_start) @ homographies @ _down(row_start)
        upright = np.empty((len(projections), row_stop - row_start, panel.n_columns), np.float32)
        with at_most(n_threads):
            resample(np.ascontiguousarray(projections, np.float32), homographies, upright)
        return upright


def _down(n_rows: int) -> NDArray[np.float64]:
    """Return what takes a pixel so many rows down."""
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, n_rows], [0.0, 0.0, 1.0]])


def _pixel_homographies(views: ConeBeamViews) -> NDArray[np.float64]:
    """Return what makes of a direction from the source the pixel it meets, ``(n, 3, 3)``."""
    detector = views.detector
    from_source = views.centers_mm - views.sources_mm
    normals = np.cross(views.u_axes, views.v_axes)
    depths = np.einsum("ni,ni->n", from_source, normals)[:, None]

    def along(axes: Vectors) -> Vectors:
        """Of a direction, its place along an axis of the panel, times its depth."""
        offsets = np.einsum("ni,ni->n", from_source, axes)[:, None]
        return np.asarray(depths * axes - offsets * normals)

    v_step_mm = detector.row_spacing_mm * (1.0 if detector.row_order == "bottom_up" else -1.0)
    first_u_mm = detector.offset_u_mm - (detector.n_columns - 1) / 2 * detector.column_spacing_mm
    first_v_mm = detector.offset_v_mm - (detector.n_rows - 1) / 2 * v_step_mm
    columns = (along(views.u_axes) - first_u_mm * normals) / detector.column_spacing_mm
    rows = (along(views.v_axes) - first_v_mm * normals) / v_step_mm
    return np.stack([columns, rows, normals], axis=1)


def _turned(vectors: Vectors, axes: Vectors, angle_rad: float) -> Vectors:
    """Return vectors turned about unit axes, right-handed (Rodrigues)."""
    dots = np.einsum("ni,ni->n", vectors, axes)[:, None]
    across = np.cross(axes, vectors) * math.sin(angle_rad)
    along = axes * dots * (1 - math.cos(angle_rad))
    return np.asarray(vectors * math.cos(angle_rad) + across + along)
