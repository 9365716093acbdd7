"""A folder of frames and a text of angles: a description to be filled in."""

import glob
from pathlib import Path

from pacspark.scans.formats import PNG_SUFFIX, TIFF_SUFFIXES
from pacspark.scans.vendors.draft import Draft
from pacspark.scans.vendors.frames import Frames, add_angle_file, open_frames_of

_IMAGES = TIFF_SUFFIXES | {PNG_SUFFIX}


def describe_folder(folder: Path, draft: Draft, frames: Frames | None, angles: Path) -> None:
    """Begin the description of frames that nothing tells of but a list of angles.

    Parameters
    ----------
    folder
        Holds the frames: images whose names differ by a number.
    draft
        Gets the keys.
    frames
        The frames, if not the images in the folder.
    angles
        The angle of each of them.
    """
    frames = frames or _images(folder, draft)
    found = f"{frames.count} x {frames.n_rows} x {frames.n_columns} (views, rows, columns)"
    draft.add("projections.files", frames.pattern, f"found: {found}")
    draft.fill_in("projections.kind", "counts, transmission or line_integrals")
    draft.fill_in("projections.flat", "of counts: files without object, or unattenuated_counts")
    draft.fill_in("geometry.beam", "cone or parallel")
    draft.fill_in("geometry.source_to_isocenter_mm", "of a cone")
    draft.fill_in("geometry.source_to_detector_mm", "of a cone")
    draft.fill_in("geometry.column_spacing_mm", "size of a pixel on the detector")
    add_angle_file(draft, angles, frames.count)


def _images(folder: Path, draft: Draft) -> Frames:
    """Return the images of the folder, of which there may be one kind only."""
    suffixes = {path.suffix for path in folder.iterdir() if path.suffix.lower() in _IMAGES}
    if len(suffixes) != 1:
        expected = "images of one kind, TIFF or PNG, or --files"
        raise draft.error(expected, ", ".join(sorted(suffixes)) or "none")
    where = draft.relative(folder)
    start = "" if where == "." else f"{where}/"
    return open_frames_of(f"{glob.escape(start)}*{suffixes.pop()}", draft)
