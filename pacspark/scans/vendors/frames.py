"""The frames that a scanner's file speaks of: where they lie, and whether they are as it says."""

import glob
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pacspark.errors import ScanDescriptionError
from pacspark.scans.arrays import read_array_source
from pacspark.scans.toml import TomlTable
from pacspark.scans.vendors.draft import Draft
from pacspark.scans.vendors.headers import read_angle_table

_AXES = ("angle", "row", "column")


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames that were found.

    Attributes
    ----------
    pattern
        As the description names them.
    count, n_rows, n_columns
        How many there are, and how large.
    """

    pattern: str
    count: int
    n_rows: int
    n_columns: int


def open_frames_of(pattern: str, draft: Draft) -> Frames:
    """Return what a pattern of files, relative to the description, holds.

    Raises
    ------
    ScanDescriptionError
        When there are none, or the first or last one is not as the others.
    """
    table = TomlTable(draft.path, "projections", {"files": pattern}, None)
    stack = read_array_source(table, "files", _AXES, draft.folder).open()
    try:
        count = stack.length("angle")
        stack.read(count - 1, count)  # files after the first are looked at when they are read
        return Frames(pattern, count, stack.length("row"), stack.length("column"))
    finally:
        stack.close()


def named_frames(pattern: str, draft: Draft) -> Frames:
    """Return what a pattern of files, as typed in the present folder, holds."""
    return open_frames_of(draft.relative(Path(pattern)), draft)


def numbered_frames(folders: Sequence[Path], prefix: str, draft: Draft) -> Frames | None:
    """Return TIFF files of a name and a number in the first folder that has any; None: none has.

    Of several kinds (other endings, other numbers of digits) the most are meant.
    """
    named = re.compile(re.escape(prefix) + r"([0-9]+)(\.tiff?)", re.IGNORECASE)
    for folder in folders:
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        kinds = Counter(
            (match[0][: -len(match[1] + match[2])], len(match[1]), match[2])
            for match in map(named.fullmatch, names)
            if match
        )
        if kinds:
            (begin, n_digits, ending), _ = kinds.most_common(1)[0]
            where = draft.relative(folder)
            start = "" if where == "." else f"{where}/"
            pattern = glob.escape(start + begin) + "[0-9]" * n_digits + ending
            return open_frames_of(pattern, draft)
    return None


def plain_name(draft: Draft, key: str, name: str) -> str:
    """Return a name of a file or a folder that a scanner's file gives.

    Raises
    ------
    ScanDescriptionError
        When it leads elsewhere.
    """
    if "\0" in name or name in {".", ".."} or Path(name.replace("\\", "/")).name != name:
        raise draft.error(f"the name of something beside it in {key}", repr(name))
    return name


def add_frames(
    draft: Draft, frames: Frames | None, pattern: str, stated: tuple[int, int, int]
) -> None:
    """Add which files the frames are, and whether they are as many and as large as stated.

    Parameters
    ----------
    draft
        Gets the key.
    frames
        What was found; None: nothing, and `pattern` names what should be there.
    pattern
        Names of the files.
    stated
        How many frames the scanner's file tells of, their rows, their columns.
    """
    if frames is None:
        draft.add("projections.files", pattern, "there are no such files yet", check=True)
        return
    found = (frames.count, frames.n_rows, frames.n_columns)
    named = " x ".join(map(str, found))
    draft.add("projections.files", frames.pattern, f"found: {named} (views, rows, columns)")
    if found != stated:
        expected = " x ".join(map(str, stated))
        draft.check("projections.files", f"{draft.source.name} tells of {expected}, not {named}")


def add_angle_file(draft: Draft, path: Path, n_views: int) -> None:
    """Add angles that a file of their own lists, in degrees.

    Raises
    ------
    ScanDescriptionError
        When they cannot be read, or are not as many as there are views.
    """
    angles, plain = read_angle_table(path)
    if len(angles) != n_views:
        message = f"{path}: expected {n_views} angles, as many as views, found {len(angles)}"
        raise ScanDescriptionError(message)
    why = f"{path.name}, from --angles; taken for degrees"
    if plain:
        draft.add("angles.file", draft.relative(path), why)
    else:
        draft.add("angles.values_deg", angles, why)
