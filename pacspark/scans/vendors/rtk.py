"""Geometry of the Reconstruction Toolkit, ``<RTKThreeDCircularGeometry>`` in XML.

RTK (its manual, "RTK 3D circular projection geometry") turns about y, starts with the source on
+z and has u along +x there: its x, y, z are our y, z, x. Each view comes with its matrix, of a
point in mm to a place on the image in mm; the matrices are what counts here. Where a plain circle
says the same, the description is that circle; any tilt, offset of the source or change of distance
becomes matrices.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, ParallelBeamGeometry
from pacspark.ct.views import ConeBeamViews
from pacspark.errors import GeometryError, MissingDependencyError
from pacspark.scans.toml import read_small_file
from pacspark.scans.vendors.draft import Draft
from pacspark.scans.vendors.frames import Frames

ROOT = "RTKThreeDCircularGeometry"
VERSION = "3"
MOST_VIEWS = 1 << 17
MOST_LETTERS = 1024
_NUMBERS = frozenset(
    {"SourceToIsocenterDistance", "SourceToDetectorDistance", "GantryAngle", "ProjectionOffsetX",
     "ProjectionOffsetY", "RadiusCylindricalDetector", "Matrix"}
)  # fmt: skip
_AXES = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.float64)
"""Of our x, y, z, those of RTK."""
_SAME_PIXEL = 1e-6

Views = list[dict[str, list[float]]]


class _Target:
    """What the XML parser tells of: numbers of the whole and of each view, and nothing else."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._path: list[str] = []
        self._words: list[str] = []
        self._whole: dict[str, list[float]] = {}
        self.views: Views = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        self._words.clear()
        if len(self._path) == 1:
            version = attributes.get("version", "none")
            if tag != ROOT or version != VERSION:
                expected = f"<{ROOT} version={VERSION!r}>"
                raise self._draft.error(expected, f"<{tag}> of version {version!r}")
        elif len(self._path) > 3 or len(self.views) >= MOST_VIEWS:
            expected = f"at most {MOST_VIEWS} views, each a <Projection> of numbers"
            raise self._draft.error(expected, f"<{tag}> in view {len(self.views)}")
        elif self._path[1:] == ["Projection"]:
            self.views.append({})

    def data(self, text: str) -> None:
        self._words.append(text)

    def end(self, tag: str) -> None:
        in_view = self._path[1] == "Projection" if len(self._path) > 1 else False
        self._path.pop()
        if tag not in _NUMBERS:
            return
        text = "".join(self._words)
        if len(text) > MOST_LETTERS:
            raise self._draft.error(f"at most {MOST_LETTERS} letters in <{tag}>", len(text))
        try:
            numbers = [float(word) for word in text.split()]
        except ValueError as error:
            raise self._draft.error(f"numbers in <{tag}>", error) from error
        if not all(map(math.isfinite, numbers)):
            raise self._draft.error(f"finite numbers in <{tag}>", "others")
        (self.views[-1] if in_view else self._whole)[tag] = numbers

    def close(self) -> Views:
        return [self._whole | view for view in self.views]


def describe_rtk(
    path: Path, draft: Draft, frames: Frames, column_spacing_mm: float, row_spacing_mm: float | None
) -> None:
    """Describe a scan whose geometry RTK has written.

    Parameters
    ----------
    path
        The XML file.
    draft
        Gets the keys.
    frames, column_spacing_mm, row_spacing_mm
        The frames, and how far apart their columns and rows are: the XML does not say.
    """
    views = _read(path, draft)
    if len(views) != frames.count:
        raise draft.error(f"{frames.count} views, as many as there are frames", len(views))
    panel = FlatPanel(
        frames.n_rows,
        frames.n_columns,
        column_spacing_mm if row_spacing_mm is None else row_spacing_mm,
        column_spacing_mm,
        row_order="bottom_up",
    )
    if any(_value(view, "RadiusCylindricalDetector") for view in views):
        raise draft.error("a flat detector", "RadiusCylindricalDetector")
    matrices = _pixel_matrices(views, panel, draft)

    draft.add("projections.files", frames.pattern, "--files")
    why = "the geometry does not say; counts need a flat, or unattenuated_counts"
    draft.add("projections.kind", "line_integrals", why, check=True)
    offset_mm = [_value(views[0], f"ProjectionOffset{axis}") for axis in "XY"]
    circle = _circle(views, panel, offset_mm, draft)
    if isinstance(circle, ParallelBeamGeometry):
        draft.add("geometry.beam", "parallel", "SourceToDetectorDistance is 0")
        same = _is_parallel(circle, matrices)
    else:
        draft.add("geometry.beam", "cone", "SourceToDetectorDistance")
        same = circle is not None and _is_cone(circle, matrices)
    if not same and not isinstance(circle, ConeBeamGeometry | None):
        raise draft.error("parallel rays without tilts", "matrices with some")
    if same and isinstance(circle, ConeBeamGeometry):
        for key, mm in (
            ("source_to_isocenter_mm", circle.source_to_isocenter_mm),
            ("source_to_detector_mm", circle.source_to_detector_mm),
        ):
            draft.add(f"geometry.{key}", mm, "of every view the same")
    draft.add("geometry.column_spacing_mm", panel.column_spacing_mm, "--column-spacing-mm")
    why = "as columns" if row_spacing_mm is None else "--row-spacing-mm"
    draft.add("geometry.row_spacing_mm", panel.row_spacing_mm, why, check=row_spacing_mm is None)
    draft.add("geometry.row_order", "bottom_up", "rows of images in RTK rise with y, our z")
    what = (
        "that the middle of the image is RTK's origin: the geometry does not say; an origin "
        "elsewhere is the image's own"
    )
    draft.check("geometry", what)
    if same:
        for key, mm in zip("uv", offset_mm, strict=True):
            draft.add(f"geometry.detector_offset_{key}_mm", mm, "ProjectionOffset of every view")
        angles = [_value(view, "GantryAngle") for view in views]
        draft.add("angles.values_deg", angles, "GantryAngle, counterclockwise as here")
        return
    why = (
        "of x, y, z in mm, column and row: the Matrix of each view, in pixels and in our axes, as "
        "distances, tilts or offsets are no plain circle's"
    )
    name = draft.beside("matrices.npy", lambda beside: np.save(beside, matrices))
    draft.add("geometry.projection_matrices", name, why)


def _read(path: Path, draft: Draft) -> Views:
    try:
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import DefusedXMLParser, ParseError
    except ImportError as error:
        message = f'{path.name} needs {error.name}: pip install "pacspark[scans]"'
        raise MissingDependencyError(message) from error
    parser = DefusedXMLParser(target=_Target(draft))  # entities are refused; a DOCTYPE is not
    try:
        parser.feed(read_small_file(path))
        views: Views = parser.close()
    except (ParseError, DefusedXmlException, OSError, ValueError) as error:
        if isinstance(error, type(draft.error("", ""))):
            raise
        raise draft.error("XML without entities", error) from error
    if not views:
        raise draft.error("a <Projection> for each view", "none")
    return views


def _value(view: dict[str, list[float]], name: str) -> float:
    numbers = view.get(name, [])
    return numbers[0] if len(numbers) == 1 else 0.0


def _pixel_matrices(views: Views, panel: FlatPanel, draft: Draft) -> NDArray[np.float64]:
    """Return ``(n_angles, 3, 4)``: of our x, y, z, 1 in mm, the column and the row."""
    for number, view in enumerate(views, start=1):
        if len(view.get("Matrix", [])) != 12:
            found = f"{len(view.get('Matrix', []))} in view {number}"
            raise draft.error("12 numbers in each <Matrix>", found)
    in_mm = np.array([view["Matrix"] for view in views]).reshape(-1, 3, 4)
    first_u_mm, first_v_mm = float(panel.u_mm[0]), float(panel.v_mm[0])
    pixels = np.array(
        [
            [1 / panel.column_spacing_mm, 0, -first_u_mm / panel.column_spacing_mm],
            [0, 1 / panel.row_spacing_mm, -first_v_mm / panel.row_spacing_mm],
            [0, 0, 1],
        ]
    )
    matrices: NDArray[np.float64] = pixels @ in_mm @ _AXES
    return matrices


def _circle(
    views: Views, panel: FlatPanel, offset_mm: list[float], draft: Draft
) -> ConeBeamGeometry | ParallelBeamGeometry | None:
    """Return the circle that the views are perhaps on; None where distances vary."""
    angles = np.radians([_value(view, "GantryAngle") for view in views])
    to_axis_mm = {_value(view, "SourceToIsocenterDistance") for view in views}
    to_detector_mm = {_value(view, "SourceToDetectorDistance") for view in views}
    try:
        panel = replace(panel, offset_u_mm=offset_mm[0], offset_v_mm=offset_mm[1])
        if to_detector_mm == {0.0}:
            return ParallelBeamGeometry(angles, panel)
        if len(to_axis_mm) > 1 or len(to_detector_mm) > 1:
            return None
        return ConeBeamGeometry(to_axis_mm.pop(), to_detector_mm.pop(), angles, panel)
    except GeometryError as error:
        raise draft.error("a scanner that can be", error) from error


def _is_cone(circle: ConeBeamGeometry, matrices: NDArray[np.float64]) -> bool:
    """Tell whether a circle projects what it sees onto the same pixels as the matrices."""
    upright = ConeBeamViews.of_circle(circle).matrices()
    edge_mm = circle.source_to_isocenter_mm / 2
    corners = np.array([(x, y, z, 1.0) for x in (-edge_mm, edge_mm) for y in (-edge_mm, edge_mm)
                        for z in (-edge_mm, edge_mm)])  # fmt: skip
    return bool(np.abs(_places(upright, corners) - _places(matrices, corners)).max() < _SAME_PIXEL)


def _places(matrices: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    places = np.einsum("nij,pj->npi", matrices, points)
    with np.errstate(all="ignore"):
        flat: NDArray[np.float64] = places[..., :2] / places[..., 2:]
    return np.where(np.isfinite(flat), flat, np.inf)


def _is_parallel(circle: ParallelBeamGeometry, matrices: NDArray[np.float64]) -> bool:
    """Tell whether parallel rays fall onto the same pixels as the matrices say."""
    panel, angles = circle.detector, circle.gantry_angles_rad
    upright: Any = np.zeros_like(matrices)
    upright[:, 0, 0], upright[:, 0, 1] = -np.sin(angles), np.cos(angles)
    upright[:, 0, 3] = -panel.u_mm[0]
    upright[:, 0] /= panel.column_spacing_mm
    upright[:, 1, 2], upright[:, 1, 3] = 1, -panel.v_mm[0]
    upright[:, 1] /= panel.row_spacing_mm
    upright[:, 2, 3] = 1
    scale = matrices[:, 2:, 3:]
    with np.errstate(all="ignore"):
        return bool(np.abs(matrices / scale - upright).max() < _SAME_PIXEL)
