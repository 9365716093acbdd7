"""The ``.log`` of SkyScan (Bruker) scanners, an INI-like file beside TIFF files.

Sizes are in micrometres in the object, distances in mm. Nothing that is public says from which
side the frames are seen, nor that it is the object whose sense of rotation is given: both are
marked. The line of the optical axis counts from below, as slices do in NRecon.
"""

from pathlib import Path

from pacspark.scans.toml import TomlTable
from pacspark.scans.vendors.draft import Draft
from pacspark.scans.vendors.frames import Frames, add_frames, numbered_frames, plain_name
from pacspark.scans.vendors.headers import read_ini, section, text_of

SECTION = "acquisition"
FAR_MM = 10_000
"""Sources that are said to be further away stand for parallel rays."""
_SENSES = {"CC": "clockwise", "CW": "counterclockwise"}
_UNUSED = (
    "Image Rotation", "Postalignment", "Random Movement", "Number Of Horizontal Offset Positions",
    "Table Feed (micron)",
)  # fmt: skip
_HARMLESS = ("", "OFF", "0", "1")


def describe_skyscan(path: Path, draft: Draft, frames: Frames | None) -> None:
    """Describe a scan of a SkyScan scanner.

    Parameters
    ----------
    path
        The ``.log`` file.
    draft
        Gets the keys.
    frames
        The frames, if not those that the file names.
    """
    ini = read_ini(path)
    scan = section(path, ini, SECTION)
    n_views, n_rows, n_columns = (
        scan.count(f"number of {what}") for what in ("files", "rows", "columns")
    )
    prefix = plain_name(draft, "Filename Prefix", text_of(ini, SECTION, "filename prefix"))
    frames = frames or numbered_frames([path.parent], prefix, draft)
    add_frames(draft, frames, f"{prefix}*.tif", (n_views, n_rows, n_columns))
    draft.add("projections.kind", "counts", "frames are as measured, corrected for the flat")
    if "reference intensity" in scan:
        white = scan.number("reference intensity", positive=True)
        draft.add("projections.unattenuated_counts", white, "Reference Intensity", check=True)
    else:
        why = "Depth (bits): the largest number, as there is no Reference Intensity"
        white = float(2 ** min(scan.count("depth (bits)", 16), 32) - 1)
        draft.add("projections.unattenuated_counts", white, why, check=True)
    pixel_mm = scan.number("image pixel size (um)", positive=True) / 1000
    pixel_mm = _add_beam(scan, draft, pixel_mm)
    line = scan.optional_number("optical axis (line)")
    if line is not None:
        offset_mm = float(f"{((n_rows - 1) / 2 - line) * pixel_mm:.10g}")
        why = f"Optical Axis (line)={line:g}, counted from below"
        draft.add("geometry.detector_offset_v_mm", offset_mm, why, check=True)
    sense = text_of(ini, SECTION, "rotation direction").upper()
    why = f"Rotation Direction={sense or '?'}, of the object; the source goes the other way"
    draft.add("geometry.rotation", _SENSES.get(sense, "clockwise"), why, check=True)
    for name in _UNUSED:
        value = text_of(ini, SECTION, name.lower()) or text_of(ini, "reconstruction", name.lower())
        if value.split("(")[0].strip() not in _HARMLESS:
            draft.check("geometry", f"{name}={value} is not used here")
    whole = text_of(ini, SECTION, "use 360 rotation")
    step_deg = scan.number("rotation step (deg)")
    start_deg = scan.number("scanning start angle", 0.0)
    draft.add("angles.start_deg", start_deg, "Scanning Start Angle, 0 if there is none")
    draft.add("angles.step_deg", step_deg, f"Rotation Step (deg); Use 360 Rotation={whole or '?'}")
    draft.add("angles.count", n_views, "Number Of Files")


def _add_beam(scan: TomlTable, draft: Draft, pixel_mm: float) -> float:
    """Add the beam; return the size of a pixel on the detector of the description."""
    to_object = scan.number("object to source (mm)", positive=True)
    if to_object > FAR_MM:
        draft.add("geometry.beam", "parallel", f"Object to Source is {to_object:g} mm")
        draft.add("geometry.column_spacing_mm", pixel_mm, "Image Pixel Size (um)")
        return pixel_mm
    draft.add("geometry.beam", "cone", "Object to Source (mm)")
    draft.add("geometry.source_to_isocenter_mm", to_object, "Object to Source (mm)")
    key = next((key for key in ("camera to source (mm)", "camera to source") if key in scan), None)
    to_camera = scan.number(key, positive=True) if key else to_object
    why = "Camera to Source (mm)" if key else "as if the camera were at the object: the same rays"
    draft.add("geometry.source_to_detector_mm", to_camera, why)
    pixel_mm = float(f"{pixel_mm * to_camera / to_object:.10g}")
    draft.add("geometry.column_spacing_mm", pixel_mm, "Image Pixel Size (um), magnified")
    return pixel_mm
