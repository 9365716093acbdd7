"""Nikon's ``.xtekct``, an INI-like header beside TIFF files.

Signs are those of the reader of CIL (Core Imaging Library, `NikonDataReader`, read 2026-11): seen
from the source, column 0 is on the right and row 0 on top; the source goes counterclockwise, seen
from above. Turned over, so that columns count along +u, that is: rows from below, clockwise. The
volume then has its z axis pointing down in the scanner; no mirror image is made.
"""

import math
from pathlib import Path

from pacspark.scans.toml import TomlTable
from pacspark.scans.vendors.draft import Draft
from pacspark.scans.vendors.frames import (
    Frames,
    add_angle_file,
    add_frames,
    numbered_frames,
    plain_name,
)
from pacspark.scans.vendors.headers import read_ini, section, text_of

SECTION = "xtekct"
_TURNED_OVER = (
    "as CIL's reader has it, turned over: column 0 is on the right as the source sees it, so z "
    "points down in the scanner"
)


def describe_nikon(path: Path, draft: Draft, frames: Frames | None, angles: Path | None) -> None:
    """Describe a scan of a Nikon (X-Tek) scanner.

    Parameters
    ----------
    path
        The ``.xtekct`` file.
    draft
        Gets the keys.
    frames
        The frames, if not those that the file names.
    angles
        A file of angles, if not the equal steps of the ``.xtekct``.
    """
    ini = read_ini(path)
    scan = section(path, ini, SECTION)
    unit = text_of(ini, SECTION, "units") or "mm"
    if unit != "mm":
        raise draft.error("Units=mm", unit)
    n_views = scan.count("projections")
    n_rows, n_columns = scan.count("detectorpixelsy"), scan.count("detectorpixelsx")
    prefix = plain_name(draft, "Name", text_of(ini, SECTION, "name"))
    prefix += text_of(ini, SECTION, "inputseparator").strip("/\\")
    inside = plain_name(draft, "InputFolderName", text_of(ini, SECTION, "inputfoldername"))
    folders = [path.parent / inside, path.parent]
    frames = frames or numbered_frames(folders, prefix, draft)
    add_frames(draft, frames, f"{prefix}*.tif", (n_views, n_rows, n_columns))
    draft.add("projections.kind", "counts", "Nikon's frames are corrected for the flat")
    white = scan.number("whitelevel", positive=True)
    draft.add("projections.unattenuated_counts", white, "WhiteLevel")
    draft.add("geometry.beam", "cone", "the scanner's is one")
    to_object = scan.number("srctoobject", positive=True)
    to_detector = scan.number("srctodetector", positive=True)
    draft.add("geometry.source_to_isocenter_mm", to_object, "SrcToObject")
    draft.add("geometry.source_to_detector_mm", to_detector, "SrcToDetector")
    column_mm = scan.number("detectorpixelsizex", positive=True)
    row_mm = scan.number("detectorpixelsizey", positive=True)
    draft.add("geometry.column_spacing_mm", column_mm, "DetectorPixelSizeX")
    draft.add("geometry.row_spacing_mm", row_mm, "DetectorPixelSizeY")
    _add_axis(scan, draft, to_detector / to_object, n_rows * row_mm)
    draft.add("geometry.row_order", "bottom_up", _TURNED_OVER, check=True)
    draft.add("geometry.rotation", "clockwise", "it goes with row_order", check=True)
    _add_angles(path, draft, scan, n_views, angles)


def _add_axis(scan: TomlTable, draft: Draft, magnification: float, height_mm: float) -> None:
    """Add where the rotation axis falls on the detector, and how it leans there."""
    top_mm = scan.number("centreofrotationtop", 0.0)
    bottom_mm = scan.number("centreofrotationbottom", 0.0)
    at_mm, why = (top_mm + bottom_mm) / 2, "CentreOfRotationTop and Bottom, negated"
    lean_deg = math.degrees(math.atan2(bottom_mm - top_mm, height_mm))
    if "objectoffsetx" in scan:
        at_mm, why = scan.number("objectoffsetx") * magnification, "ObjectOffsetX, magnified"
    if "objectroll" in scan:
        lean_deg = scan.number("objectroll")
    draft.add("geometry.detector_offset_u_mm", -at_mm + 0.0, why, check=at_mm != 0)
    if lean_deg:
        why = "ObjectRoll, or CentreOfRotationTop and Bottom"
        draft.add("geometry.detector_in_plane_deg", lean_deg, why, check=True)
    for key in ("DetectorOffsetX", "DetectorOffsetY", "ObjectTilt"):
        if scan.number(key.lower(), 0.0):
            draft.check("geometry", f"{key} is {scan.number(key.lower()):g}, and not used here")


def _add_angles(
    path: Path, draft: Draft, scan: TomlTable, n_views: int, angles: Path | None
) -> None:
    if angles is not None:
        add_angle_file(draft, angles, n_views)
        return
    listed = [name for name in ("_ctdata.txt", f"{path.stem}.ang") if (path.parent / name).exists()]
    if listed:
        draft.check(
            "angles",
            f"{listed[0]} lists angles too: not used, as CIL found such lists wrong; name it by "
            "--angles if you trust it",
        )
    draft.add("angles.start_deg", scan.number("initialangle", 0.0), "InitialAngle")
    draft.add("angles.step_deg", scan.number("angularstep"), "AngularStep")
    draft.add("angles.count", n_views, "Projections")
