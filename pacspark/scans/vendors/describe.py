"""Which kind of file it is, by its content, and who describes it."""

from dataclasses import dataclass, fields
from pathlib import Path

from pacspark.ct.checks import require_length
from pacspark.errors import GeometryError, ScanDescriptionError, UsageError
from pacspark.scans.toml import one_line
from pacspark.scans.vendors.draft import DescribedScan, Draft
from pacspark.scans.vendors.folder import describe_folder
from pacspark.scans.vendors.frames import named_frames
from pacspark.scans.vendors.nikon import describe_nikon
from pacspark.scans.vendors.rtk import ROOT, describe_rtk
from pacspark.scans.vendors.skyscan import describe_skyscan
from pacspark.scans.vendors.xradia import describe_xradia

_HEAD_BYTES = 4096
_SIGNS = {
    "xradia": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "rtk": ROOT.lower().encode(),
    "nikon": b"[xtekct]",
    "skyscan": b"[acquisition]",
}
"""What stands near the beginning of each kind of file, in lower case."""
_TAKES = {
    "rtk": {"files", "column_spacing_mm", "row_spacing_mm"},
    "nikon": {"files", "angles"},
    "skyscan": {"files"},
    "xradia": {"extract"},
    "folder": {"files", "angles"},
}
_NEEDS = {"rtk": ("files", "column_spacing_mm"), "folder": ("angles",)}
_NAMES = {
    "rtk": "geometry of RTK",
    "nikon": "an .xtekct of Nikon",
    "skyscan": "a .log of SkyScan",
    "xradia": "a .txrm of Zeiss",
    "folder": "a folder",
}


@dataclass(frozen=True, slots=True)
class _Options:
    """What people say about a scan beside its file."""

    files: str | None
    angles: str | Path | None
    column_spacing_mm: float | None
    row_spacing_mm: float | None
    extract: bool

    def require_for(self, kind: str) -> None:
        """Refuse options that a kind of file has no use for, and miss those that it needs."""
        for field in fields(self):
            value = getattr(self, field.name)
            option = f"--{field.name.replace('_', '-')}"
            given = value is not None and value is not False
            if given and field.name not in _TAKES[kind]:
                users = [_NAMES[name] for name, taken in _TAKES.items() if field.name in taken]
                message = f"{option}: expected it with {', '.join(users)}, found {_NAMES[kind]}"
                raise UsageError(message)
            if not given and field.name in _NEEDS.get(kind, ()):
                message = f"{option}: expected it with {_NAMES[kind]}, found none"
                raise UsageError(message)
        for name in ("column_spacing_mm", "row_spacing_mm"):
            if getattr(self, name) is not None:
                try:
                    require_length(f"--{name.replace('_', '-')}", getattr(self, name))
                except GeometryError as error:
                    raise UsageError(*error.args) from None


def describe_scan(
    path: str | Path,
    output: str | Path | None = None,
    *,
    files: str | None = None,
    angles: str | Path | None = None,
    column_spacing_mm: float | None = None,
    row_spacing_mm: float | None = None,
    extract: bool = False,
) -> DescribedScan:
    """Write a ``SCAN.toml`` from what a scanner has written.

    Geometry of RTK (XML), ``.xtekct`` of Nikon, ``.txrm`` of Zeiss, ``.log`` of SkyScan; or a
    folder of images with a text of angles. The file's content tells which it is.

    Parameters
    ----------
    path
        The file, or a folder.
    output
        The description to write; ``SCAN.toml`` beside the file, or in the folder, unless given.
    files
        The frames, a name or a pattern from the present folder. RTK's geometry does not name them;
        others are looked for beside the file.
    angles
        A text of angles in degrees: of a folder, or of Nikon in place of equal steps.
    column_spacing_mm, row_spacing_mm
        For RTK's geometry: how far apart columns and rows are; rows as columns, unless given.
    extract
        Write the frames of a ``.txrm``, which lie inside it, as ``.npy`` beside the description.

    Returns
    -------
    DescribedScan
        What was written, what was guessed and what is missing.

    Raises
    ------
    ScanDescriptionError
        When the file cannot be followed; nothing is written then.
    UsageError
        When an option is missing or has no use, or the description is there already.
    """
    for given in (path, output, files, angles):
        if given is not None and not str(given):
            message = "path: expected one, found an empty text; give . for this folder"
            raise UsageError(message)
    path = Path(path)
    options = _Options(files, angles, column_spacing_mm, row_spacing_mm, extract)
    kind = _kind(path)
    options.require_for(kind)
    beside = path if kind == "folder" else path.parent
    draft = Draft(path, beside / "SCAN.toml" if output is None else Path(output))
    if not draft.folder.is_dir():
        message = f"--output: expected a file in a folder that is there, found {draft.path}"
        raise UsageError(message)
    frames = None if options.files is None else named_frames(options.files, draft)
    angles = None if options.angles is None else Path(options.angles)
    if kind == "rtk":
        assert frames is not None  # noqa: S101 -- it needs them
        assert options.column_spacing_mm is not None  # noqa: S101 -- and this
        describe_rtk(path, draft, frames, options.column_spacing_mm, options.row_spacing_mm)
    elif kind == "nikon":
        describe_nikon(path, draft, frames, angles)
    elif kind == "skyscan":
        describe_skyscan(path, draft, frames)
    elif kind == "xradia":
        describe_xradia(path, draft, extract=options.extract)
    else:
        assert angles is not None  # noqa: S101 -- it needs them
        describe_folder(path, draft, frames, angles)
    return draft.write()


def _kind(path: Path) -> str:
    try:
        if path.is_dir():
            return "folder"
        if not path.is_file():  # a pipe would be waited for
            found = "no regular file" if path.exists() else "no such file"
            raise ValueError(found)
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).lower()
    except (OSError, ValueError) as error:
        message = f"{path}: expected a scanner's file or a folder, found {one_line(error)}"
        raise ScanDescriptionError(message) from error
    for kind, sign in _SIGNS.items():
        if head.startswith(sign) if kind == "xradia" else sign in head:
            return kind
    known = ", ".join(_NAMES[kind] for kind in _SIGNS)
    message = f"{path}: expected one of {known}, or a folder, found {head[:16]!r}"
    raise ScanDescriptionError(message)
