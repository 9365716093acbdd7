"""The description of a scan, ``SCAN.toml``: parsed, checked, and turned into geometry.

``docs/scan-description.md`` explains every key to people; this module is where each is read. What
cannot be followed is one line that names the key, what was expected and what was found.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.angles import TWINS_RAD
from pacspark.ct.geometry import (
    MAX_SPAN_RAD,
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    RowOrder,
)
from pacspark.ct.preprocess import KINDS, Kind
from pacspark.ct.redundancy import require_rays
from pacspark.errors import GeometryError, ScanDescriptionError
from pacspark.scans.arrays import AXES, ArraySource, AxedStack, read_array_source
from pacspark.scans.toml import TomlTable, read_text, read_toml

FORMAT_VERSION = 1
LARGEST_RADIAN_SPAN = 6.3
"""Angles of a scan that lie within this many degrees are radians by mistake: a full circle."""
FEW_VIEWS = 3
"""So few views may well lie close together."""
_TABLES = dict.fromkeys(
    ("format_version", "projections", "geometry", "angles", "energy_bins", "calibration",
     "subject"), ""
)  # fmt: skip
# keys of each table, and what each is used with only
_PROJECTION_KEYS = dict.fromkeys(("files", "kind", "axes"), "") | {
    "scale": 'kind = "line_integrals" or "transmission"',
    "dataset": "files in HDF5",
    "shape": "raw files",
    "dtype": "raw files",
    "byte_order": "raw files",
    "offset_bytes": "raw files",
    "flat": 'kind = "counts"',
    "flat_dataset": 'kind = "counts" and flats in HDF5',
    "flat_shape": 'kind = "counts" and raw flats',
    "dark": 'kind = "counts"',
    "dark_dataset": 'kind = "counts" and darks in HDF5',
    "dark_shape": 'kind = "counts" and raw darks',
    "unattenuated_counts": 'kind = "counts" and no flat',
}
_GEOMETRY_KEYS = dict.fromkeys(
    ("beam", "rotation", "column_spacing_mm", "row_spacing_mm", "row_order",
     "rotation_axis_column", "detector_offset_v_mm"), ""
) | {
    "source_to_isocenter_mm": 'beam = "cone"',
    "source_to_detector_mm": 'beam = "cone"',
    "detector_offset_u_mm": "no rotation_axis_column",
}  # fmt: skip
_ANGLE_KEYS = dict.fromkeys(("count", "file"), "") | {
    "start_deg": "step_deg",
    "step_deg": "neither values_deg nor file",
    "values_deg": "no file",
    "first": "values_deg or file",
}
_ENERGY_KEYS = {"edges_kev": ""}
_CALIBRATION_KEYS = {"water_mu_per_mm": ""}


@dataclass(frozen=True, slots=True)
class ScanDescription:
    """A scan: what its files hold and how it was made.

    Attributes
    ----------
    path
        The ``SCAN.toml``.
    kind
        What a pixel is.
    geometry
        Scanner and detector; angles of clockwise scans are negated.
    projections, flat, dark
        Where the frames are.
    energy_bin_edges_kev
        One more than there are bins; empty for a scan without.
    unattenuated_counts
        The flat where there are no flats.
    water_mu_per_mm
        Attenuation of water, for Hounsfield units.
    scale
        What a value in the files is multiplied by: line integrals are often stored as integers.
    subject
        DICOM keywords and their values.
    """

    path: Path
    kind: Kind
    geometry: Geometry
    projections: ArraySource
    flat: ArraySource | None
    dark: ArraySource | None
    energy_bin_edges_kev: tuple[float, ...]
    unattenuated_counts: float | None
    water_mu_per_mm: float | None
    scale: float = 1.0
    subject: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def beam(self) -> str:
        """``cone`` or ``parallel``."""
        return "cone" if isinstance(self.geometry, ConeBeamGeometry) else "parallel"

    @property
    def n_energy_bins(self) -> int:
        """Number of energy bins, one for a scan without."""
        return max(1, len(self.energy_bin_edges_kev) - 1)


def read_scan_description(path: str | Path) -> ScanDescription:
    """Read and check a ``SCAN.toml``; the projection files are opened for their shape.

    Raises
    ------
    ScanDescriptionError
        Naming the key, what was expected and what was found.
    """
    path = Path(path)
    if path.is_dir():
        path /= "SCAN.toml"
    whole = read_toml(path, _TABLES)
    if whole.count("format_version", 1) != FORMAT_VERSION:
        raise whole.error("format_version", str(FORMAT_VERSION), whole.count("format_version"))
    images = whole.table("projections", _PROJECTION_KEYS, required=True)
    kind: Kind = images.choice("kind", KINDS)  # type: ignore[assignment]
    axes = _axes(images)
    folder = path.resolve().parent
    projections = read_array_source(images, "files", axes, folder)
    flat = dark = unattenuated = None
    scale = 1.0
    if kind == "counts":
        flat = _optional_frames(images, "flat", axes, folder, projections)
        dark = _optional_frames(images, "dark", axes, folder, projections)
        if flat is None:
            unattenuated = images.optional_number("unattenuated_counts", positive=True)
    else:
        scale = images.number("scale", scale, positive=True)
    images.require_used()
    if kind == "counts" and flat is None and unattenuated is None:
        raise images.error("flat", "flats, or unattenuated_counts, for counts", "neither")

    stack = projections.open()
    try:
        _require_axes(images, stack)
        edges = _edges(whole.table("energy_bins", _ENERGY_KEYS), stack)
        angles = _angles(
            whole.table("angles", _ANGLE_KEYS, required=True), folder, stack.length("angle")
        )
        geometry = _geometry(whole.table("geometry", _GEOMETRY_KEYS, required=True), angles, stack)
    finally:
        stack.close()
    calibration = whole.table("calibration", _CALIBRATION_KEYS)
    water = calibration.optional_number("water_mu_per_mm", positive=True)
    subject = whole.table("subject").plain()
    _warn_of_gaps(path, geometry)
    return ScanDescription(
        path=path,
        kind=kind,
        geometry=geometry,
        projections=projections,
        flat=flat,
        dark=dark,
        energy_bin_edges_kev=edges,
        unattenuated_counts=unattenuated,
        water_mu_per_mm=water,
        scale=scale,
        subject=subject,
    )


def _axes(images: TomlTable) -> tuple[str, ...]:
    axes = images.texts("axes") if "axes" in images else ["angle", "row", "column"]
    wrong = [axis for axis in axes if axis not in AXES]
    if wrong or len(set(axes)) != len(axes) or not {"angle", "column"} <= set(axes):
        raise images.error(
            "axes", f"angle and column, and row and energy_bin, each once, of {AXES}", axes
        )
    return tuple(axes)


def _require_axes(images: TomlTable, stack: AxedStack) -> None:
    """Refuse one array of two axes that nobody named: a sinogram, more likely than one view."""
    if "axes" not in images and stack.is_one_frame:
        expected = 'their names for an array of two, like ["angle", "column"] of a sinogram'
        raise images.error("axes", expected, "none")


def _warn_of_gaps(path: Path, geometry: Geometry) -> None:
    """Tell of a scan that can be stored, but not reconstructed: its views leave out rays."""
    try:
        require_rays(geometry)
    except GeometryError as error:
        logging.getLogger(__name__).warning(
            "%s: can be stored, but not reconstructed: %s", path, error
        )


def _optional_frames(
    images: TomlTable, key: str, axes: tuple[str, ...], folder: Path, projections: ArraySource
) -> ArraySource | None:
    if key not in images and f"{key}_dataset" not in images:
        return None
    return read_array_source(images, key, axes, folder, like=projections)


def _edges(table: TomlTable, stack: AxedStack) -> tuple[float, ...]:
    n_bins = stack.length("energy_bin")
    if "edges_kev" not in table:
        if n_bins > 1:
            raise table.error("edges_kev", f"{n_bins + 1} edges for {n_bins} energy bins", "none")
        return ()
    edges = table.numbers("edges_kev")
    if len(edges) != n_bins + 1 or edges != sorted(set(edges)) or edges[0] < 0:
        raise table.error("edges_kev", f"{n_bins + 1} rising edges for {n_bins} energy bins", edges)
    return tuple(edges)


def _angles(table: TomlTable, folder: Path, n_angles: int) -> NDArray[np.float64]:
    """Read the angles in degrees and return radians; their number must be that of the frames."""
    key = next((name for name in ("file", "values_deg", "step_deg") if name in table), None)
    if key is None:
        raise table.error("step_deg", "one of step_deg, values_deg, file", "none")
    if key == "step_deg":
        if table.count("count", n_angles) != n_angles:
            expected = f"{n_angles} angles, as many as there are frames"
            raise table.error("count", expected, table.count("count"))
        start, step = table.number("start_deg", 0.0), table.number(key)
        with np.errstate(over="ignore"):  # refused below
            degrees = start + step * np.arange(n_angles, dtype=np.float64)
    else:
        listed = table.numbers(key) if key == "values_deg" else _angle_file(table, folder)
        first = table.count("first", 0, smallest=0)
        count = table.count("count", len(listed) - first, smallest=1)
        degrees = np.array(listed[first : first + count])
    table.require_used()
    if len(degrees) != n_angles:
        raise table.error(key, f"{n_angles} angles, as many as there are frames", len(degrees))
    _require_directions(table, key, degrees)
    radians: NDArray[np.float64] = np.radians(degrees)
    return radians


def _require_directions(table: TomlTable, key: str, degrees: NDArray[np.float64]) -> None:
    """Refuse angles that no scan has, in the unit in which they are given."""
    n_angles = len(degrees)
    with np.errstate(over="ignore", invalid="ignore"):
        span = float(np.ptp(degrees))
    if not span <= math.degrees(MAX_SPAN_RAD):
        largest = f"{math.degrees(MAX_SPAN_RAD):.0f} degrees, 16 turns"
        raise table.error(key, f"angles within {largest}", f"a span of {span:g} degrees")
    turned = np.remainder(degrees - degrees[0] + 180.0, 360.0) - 180.0
    if np.abs(turned).max() <= math.degrees(TWINS_RAD):
        found = f"all {n_angles} at {degrees[0]:g} degrees, or whole turns from it"
        if n_angles == 1:
            found = "one view"
        raise table.error(key, "views from several directions", found)
    if n_angles > FEW_VIEWS and span <= LARGEST_RADIAN_SPAN:
        found = f"{n_angles} views within {span:g}, which looks like radians"
        raise table.error(key, "degrees", found)
    values, counts = np.unique(degrees, return_counts=True)
    if counts.max() > 1:
        value = values[counts.argmax()]
        found = f"{value:g} degrees {counts.max()} times (average exposures that are repeated)"
        raise table.error(key, "every angle once", found)


def _angle_file(table: TomlTable, folder: Path) -> list[float]:
    """Read a text file of angles: numbers parted by white space or commas, ``#`` for comments."""
    path = folder / table.text("file")
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise table.error("file", "a text file of angles", f"{path}: {error}") from error
    angles = []
    for number, line in enumerate(lines, start=1):
        for word in line.split("#")[0].replace(",", " ").split():
            try:
                angle = float(word)
            except ValueError as error:
                found = f"{word[:20]!r} in line {number} of {path.name}"
                raise table.error("file", "numbers", found) from error
            if not math.isfinite(angle):
                raise table.error("file", "numbers", f"{word} in line {number} of {path.name}")
            angles.append(angle)
    if not angles:
        raise table.error("file", "angles", f"none in {path.name}")
    return angles


def _geometry(table: TomlTable, angles: NDArray[np.float64], stack: AxedStack) -> Geometry:
    if "beam" in table and table.text("beam") == "fan":
        expected = "cone or parallel (a fan is a cone with one detector row)"
        raise table.error("beam", expected, "'fan'")
    beam = table.choice("beam", ("cone", "parallel"))
    senses = ("counterclockwise", "clockwise")
    if table.choice("rotation", senses, senses[0]) == "clockwise":
        angles = -angles
    # parallel scans often come without a pixel size: then a pixel is the unit of length
    default_mm = 1.0 if beam == "parallel" else None
    n_rows, n_columns = stack.length("row"), stack.length("column")
    column_spacing_mm = table.number("column_spacing_mm", default_mm, positive=True)
    row_spacing_mm = table.number("row_spacing_mm", column_spacing_mm, positive=True)
    row_order: RowOrder = table.choice(  # type: ignore[assignment]
        "row_order", ("top_down", "bottom_up"), "top_down"
    )
    if "rotation_axis_column" in table:
        axis = table.number("rotation_axis_column")
        offset_u_mm = ((n_columns - 1) / 2 - axis) * column_spacing_mm
    else:
        offset_u_mm = table.number("detector_offset_u_mm", 0.0)
    offset_v_mm = table.number("detector_offset_v_mm", 0.0)
    distances: list[float] = []
    if beam == "cone":
        names = ("source_to_isocenter_mm", "source_to_detector_mm")
        distances = [table.number(name, positive=True) for name in names]
    table.require_used()
    try:
        panel = FlatPanel(
            n_rows=n_rows,
            n_columns=n_columns,
            row_spacing_mm=row_spacing_mm,
            column_spacing_mm=column_spacing_mm,
            offset_u_mm=offset_u_mm,
            offset_v_mm=offset_v_mm,
            row_order=row_order,
        )
        if beam == "cone":
            return ConeBeamGeometry(distances[0], distances[1], angles, panel)
        return ParallelBeamGeometry(angles, panel)
    except GeometryError as error:
        told = str(error).removeprefix("detector.").replace("offset_", "detector_offset_", 1)
        message = f"{table.path}: geometry.{told}"
        raise ScanDescriptionError(message) from error
