"""Where source and detector were, as ``SCAN.toml`` says it: ``[geometry]`` and ``[angles]``."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.angles import TWINS_RAD
from pacspark.ct.checks import LONGEST_MM
from pacspark.ct.geometry import (
    MAX_SPAN_RAD,
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
    RowOrder,
)
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.errors import GeometryError, ScanDescriptionError
from pacspark.scans.arrays import AxedStack
from pacspark.scans.formats import NumpyFile
from pacspark.scans.toml import TomlTable, read_text

LARGEST_RADIAN_SPAN: Final = 6.3
"""Angles of a scan that lie within this many degrees are radians by mistake: a full circle."""
FEW_VIEWS: Final = 3
"""So few views may well lie close together."""
_CONE: Final = 'beam = "cone"'
_MEANT: Final = "no projection_matrices"
MOST_TURN_DEG: Final = 360.0
_TURNS: Final = ("detector_in_plane_deg", "detector_about_u_deg", "detector_about_v_deg")
_STANDING: Final = (*_TURNS, "detector_shifts_file")
# keys of each table, and what each is used with only
GEOMETRY_KEYS: Final[Mapping[str, str]] = dict.fromkeys(
    ("beam", "column_spacing_mm", "row_spacing_mm", "row_order"), ""
) | {
    "rotation": _MEANT,
    "rotation_axis_column": _MEANT,
    "detector_offset_u_mm": f"no rotation_axis_column and {_MEANT}",
    "detector_offset_v_mm": _MEANT,
    "projection_matrices": _CONE,
} | dict.fromkeys(
    ("source_to_isocenter_mm", "source_to_detector_mm", "source_shifts_file", *_STANDING),
    f"{_CONE} and {_MEANT}",
)  # fmt: skip
ANGLE_KEYS: Final[Mapping[str, str]] = dict.fromkeys(("count", "file"), "") | {
    "start_deg": "step_deg",
    "step_deg": "neither values_deg nor file",
    "values_deg": "no file",
    "first": "values_deg or file",
}


def read_angles(table: TomlTable, folder: Path, n_angles: int) -> NDArray[np.float64]:
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
        listed = table.numbers(key) if key == "values_deg" else _number_file(table, key, folder)
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


def _number_file(table: TomlTable, key: str, folder: Path) -> list[float]:
    """Read a text file of numbers parted by white space or commas, ``#`` for comments."""
    path = folder / table.text(key)
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise table.error(key, "a text file of numbers", f"{path}: {error}") from error
    numbers = []
    for line_number, line in enumerate(lines, start=1):
        for word in line.split("#")[0].replace(",", " ").split():
            found = f"{word[:20]!r} in line {line_number} of {path.name}"
            try:
                number = float(word)
            except ValueError as error:
                raise table.error(key, "numbers", found) from error
            if not math.isfinite(number):
                raise table.error(key, "numbers", found)
            numbers.append(number)
    if not numbers:
        raise table.error(key, "numbers", f"none in {path.name}")
    return numbers


def _per_view(
    table: TomlTable, key: str, folder: Path, n_angles: int, count: int
) -> NDArray[np.float64]:
    """Read a text file of `count` numbers for each view, ``(n_angles, count)``."""
    numbers = _number_file(table, key, folder)
    if len(numbers) != n_angles * count:
        raise _wrong_count(table, key, n_angles, count, f"{len(numbers)} numbers")
    return np.array(numbers).reshape(n_angles, count)


def _wrong_count(
    table: TomlTable, key: str, n_angles: int, count: int, found: str
) -> ScanDescriptionError:
    expected = f"{count} numbers for each of {n_angles} views, as many as there are frames"
    return table.error(key, expected, found)


def _shifts_mm(
    table: TomlTable, key: str, folder: Path, n_angles: int
) -> NDArray[np.float64] | None:
    if key not in table:
        return None
    shifts = _per_view(table, key, folder, n_angles, 2)
    if (largest := np.abs(shifts).max()) > LONGEST_MM:
        raise table.error(key, f"shifts within +-{LONGEST_MM:g} mm", f"{largest:g}")
    return shifts


def _matrices(table: TomlTable, folder: Path, n_angles: int) -> NDArray[np.float64]:
    """Read projection matrices ``(n_angles, 3, 4)`` from a ``.npy`` or a text file."""
    key = "projection_matrices"
    path = folder / table.text(key)
    if path.suffix.lower() != ".npy":
        return _per_view(table, key, folder, n_angles, 12).reshape(n_angles, 3, 4)
    if not path.is_file():  # a pipe would be waited for
        raise table.error(key, "a .npy or text file", f"no regular file {path}")
    array = NumpyFile(path, f"{table.name}.{key}")
    try:
        if array.shape not in {(n_angles, 3, 4), (n_angles, 12)}:
            raise _wrong_count(table, key, n_angles, 12, f"shape {array.shape}")
        matrices = array.read([slice(None)]).astype(np.float64).reshape(n_angles, 3, 4)
    finally:
        array.close()
    if not np.isfinite(matrices).all():
        raise table.error(key, "finite numbers", "NaN or infinity")
    return matrices


def read_geometry(
    table: TomlTable, angles: NDArray[np.float64] | None, folder: Path, stack: AxedStack
) -> tuple[Geometry, ConeBeamViews | None]:
    """Read where source and detector were.

    Parameters
    ----------
    table
        ``[geometry]``.
    angles
        From `read_angles`, or None where projection matrices say the directions.
    folder
        That of the description.
    stack
        The frames.

    Returns
    -------
    tuple
        The geometry; and the views of panels that did not stand upright, else None. The geometry is
        that of the rectified frames then.
    """
    if "beam" in table and table.text("beam") == "fan":
        expected = "cone or parallel (a fan is a cone with one detector row)"
        raise table.error("beam", expected, "'fan'")
    beam = table.choice("beam", ("cone", "parallel"))
    if angles is None and beam != "cone":
        raise table.error("projection_matrices", f"it only with {_CONE}", f"beam = {beam!r}")
    # parallel scans often come without a pixel size: then a pixel is the unit of length
    default_mm = 1.0 if beam == "parallel" else None
    column_spacing_mm = table.number("column_spacing_mm", default_mm, positive=True)
    row_spacing_mm = table.number("row_spacing_mm", column_spacing_mm, positive=True)
    row_order: RowOrder = table.choice(  # type: ignore[assignment]
        "row_order", ("top_down", "bottom_up"), "top_down"
    )
    try:
        panel = FlatPanel(
            n_rows=stack.length("row"),
            n_columns=stack.length("column"),
            row_spacing_mm=row_spacing_mm,
            column_spacing_mm=column_spacing_mm,
            row_order=row_order,
        )
        if angles is None:
            matrices = _matrices(table, folder, stack.length("angle"))
            table.require_used()
            return _upright(ConeBeamViews.from_matrices(matrices, panel))
        senses = ("counterclockwise", "clockwise")
        if table.choice("rotation", senses, senses[0]) == "clockwise":
            angles = -angles
        panel = _with_offsets(table, panel)
        if beam == "cone":
            return _cone(table, folder, angles, panel)
        table.require_used()
        return ParallelBeamGeometry(angles, panel), None
    except GeometryError as error:
        raise _named(table, str(error)) from error


def _upright(views: ConeBeamViews) -> tuple[ConeBeamGeometry, ConeBeamViews]:
    return Rectification(views).geometry, views


def _with_offsets(table: TomlTable, panel: FlatPanel) -> FlatPanel:
    offset_v_mm = table.number("detector_offset_v_mm", 0.0)
    if "rotation_axis_column" in table:
        axis = table.number("rotation_axis_column")
        offset_u_mm = ((panel.n_columns - 1) / 2 - axis) * panel.column_spacing_mm
    else:
        offset_u_mm = table.number("detector_offset_u_mm", 0.0)
    return replace(panel, offset_u_mm=offset_u_mm, offset_v_mm=offset_v_mm)


def _cone(
    table: TomlTable, folder: Path, angles: NDArray[np.float64], panel: FlatPanel
) -> tuple[ConeBeamGeometry, ConeBeamViews | None]:
    source_to_isocenter_mm = table.number("source_to_isocenter_mm", positive=True)
    source_to_detector_mm = table.number("source_to_detector_mm", positive=True)
    source_shifts_mm = _shifts_mm(table, "source_shifts_file", folder, len(angles))
    shifts_mm = _shifts_mm(table, "detector_shifts_file", folder, len(angles))
    turns = {key: _turn_deg(table, key) for key in _TURNS}
    table.require_used()
    geometry = ConeBeamGeometry(
        source_to_isocenter_mm, source_to_detector_mm, angles, panel, source_shifts_mm
    )
    if shifts_mm is None and not any(turns.values()):
        return geometry, None
    return _upright(
        ConeBeamViews.of_circle(
            geometry,
            in_plane_rad=math.radians(turns["detector_in_plane_deg"]),
            about_u_rad=math.radians(turns["detector_about_u_deg"]),
            about_v_rad=math.radians(turns["detector_about_v_deg"]),
            shifts_mm=shifts_mm,
        )
    )


def _turn_deg(table: TomlTable, key: str) -> float:
    degrees = table.number(key, 0.0)
    if abs(degrees) > MOST_TURN_DEG:
        expected = f"a turn within {MOST_TURN_DEG:g} degrees either way"
        raise table.error(key, expected, f"{degrees:g}")
    return degrees


def _named(table: TomlTable, told: str) -> ScanDescriptionError:
    """Return what the geometry tells, with the keys that say it in `SCAN.toml`."""
    if "projection_matrices" in table and "_spacing_mm" not in told:
        parting = "" if told.startswith("matrices[") else ": "
        told = f"projection_matrices{parting}{told.removeprefix('matrices')}"
    elif told.startswith("views"):
        told = f"{', '.join(key for key in _STANDING if key in table)}: {told}"
    else:
        told = told.removeprefix("detector.").replace("offset_", "detector_offset_", 1)
        told = told.replace("source_shifts_mm", "source_shifts_file", 1)
    return ScanDescriptionError(f"{table.path}: {table.name}.{told}")
