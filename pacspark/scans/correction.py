"""A scan description with its geometry corrected, and everything else as people wrote it."""

import math
from pathlib import Path
from typing import Final

from pacspark.errors import MissingDependencyError, ScanDescriptionError
from pacspark.scans.description import read_scan_description

SAME_PIXELS: Final = 1e-3
"""A stated offset that is less than this beside the scan's is the scan's."""
DECIMALS: Final = 3
"""Of a pixel, that a corrected offset is written with."""


def write_corrected(
    path: str | Path, stated_offset_u_mm: float, best_offset_u_mm: float, *, reverse: bool
) -> Path:
    """Write a copy of a ``SCAN.toml`` with another axis offset or sense of rotation beside it.

    Comments, order and every other key stay as they are.

    Parameters
    ----------
    path
        The description.
    stated_offset_u_mm
        The offset of the scan that was judged: the description must be that scan's.
    best_offset_u_mm
        Of the detector's centre along +u.
    reverse
        Whether the scan was turned the other way round.

    Returns
    -------
    pathlib.Path
        ``SCAN.corrected.toml``; one that is there already is overwritten.

    Raises
    ------
    ScanDescriptionError
        When it cannot be read, states another offset, or the copy cannot be written.
    MissingDependencyError
        When tomlkit is not installed.
    """
    try:
        import tomlkit
    except ImportError as error:
        message = "tomlkit: expected it for a corrected description; pip install 'pacspark[scans]'"
        raise MissingDependencyError(message) from error

    description = read_scan_description(path)
    detector = description.geometry.detector
    pixel_mm = detector.column_spacing_mm
    if abs(detector.offset_u_mm - stated_offset_u_mm) > SAME_PIXELS * pixel_mm:
        message = (
            f"{description.path}: expected the offset of the scan that was checked, "
            f"{stated_offset_u_mm:+g} mm, found {detector.offset_u_mm:+g}: is it another scan's?"
        )
        raise ScanDescriptionError(message)
    document = tomlkit.parse(description.path.read_text("utf-8"))
    geometry = document["geometry"]
    if best_offset_u_mm != stated_offset_u_mm:
        axis = (detector.n_columns - 1) / 2 - best_offset_u_mm / pixel_mm
        if "rotation_axis_column" in geometry:
            geometry["rotation_axis_column"] = round(axis, DECIMALS)
        else:
            decimals = DECIMALS - math.floor(math.log10(pixel_mm))
            geometry["detector_offset_u_mm"] = round(best_offset_u_mm, decimals)
    if reverse:
        clockwise = geometry.get("rotation") == "clockwise"
        geometry["rotation"] = "counterclockwise" if clockwise else "clockwise"
    corrected = description.path.with_name(f"{description.path.stem}.corrected.toml")
    try:
        corrected.write_text(tomlkit.dumps(document), "utf-8")
    except OSError as error:
        message = f"{corrected}: cannot write: {error.strerror or error}"
        raise ScanDescriptionError(message) from error
    return corrected
