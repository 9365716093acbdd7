"""Files out of the archive: DICOM as it was received, or volumes in the formats of other fields.

Names are checked UIDs. What appears is whole, and nothing that is there already is overwritten: see
`pacspark.wholes`.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pacspark.dicom.uids import require_uid
from pacspark.errors import UsageError
from pacspark.export.nifti import write_nifti
from pacspark.export.objects import export_objects, file_name, series_of
from pacspark.export.ome_zarr import write_ome_zarr
from pacspark.export.resampled import Resampled
from pacspark.export.slices_table import write_slices
from pacspark.export.tiff import write_tiff
from pacspark.export.volumes import Voxels, require_even, same_grid
from pacspark.parts import Part, choose_part, read_parts
from pacspark.progress import SILENT, Progress
from pacspark.tables.catalog import Catalog
from pacspark.volume import Volume

__all__ = ["FORMATS", "LEVELS", "export", "file_name"]

SUFFIXES: Final = {
    "nifti": ".nii.gz",
    "zarr": ".ome.zarr",
    "tiff": ".ome.tif",
    "parquet": ".parquet",
}
FORMATS: Final = ("dicom", *SUFFIXES)
LEVELS: Final = ("study", "series", "instance")


def export(
    catalog: Catalog,
    directory: Path,
    level: str,
    uid: str,
    file_format: str = "dicom",
    progress: Progress = SILENT,
    *,
    dicomdir: bool = False,
    part: int | None = None,
    resample: bool = False,
) -> list[Path]:
    """Write a study, a series or an instance as files.

    Parameters
    ----------
    catalog
        The archive.
    directory
        Made where it is missing. A series or an instance lies in it as ``<SOPInstanceUID>.dcm``,
        a study as ``<SeriesInstanceUID>/<SOPInstanceUID>.dcm``; a volume as
        ``<SeriesInstanceUID>.nii.gz``, ``.ome.zarr`` (a folder), ``.ome.tif`` or ``.parquet``.
    level
        study, series or instance.
    uid
        Which one.
    file_format
        dicom, nifti, zarr, tiff or parquet.
    progress
        Told of objects, or of slices.
    dicomdir
        Of dicom: make a file-set with a ``DICOMDIR``, whose names have eight characters.
    part
        Of a series with several volumes, which one, from 0. Without it, NIfTI has those of one grid
        as its fourth axis, and parquet has all.
    resample
        Interpolate uneven or tilted slices onto an even grid, which else are refused.

    Returns
    -------
    list[Path]
        The files, those that were there already included.

    Raises
    ------
    NotInArchiveError
        When the archive does not hold it.
    UsageError
        When it is not one UID, the format does not exist or does not fit, a file there holds
        something else or stands in the place of the folder, or the folder is in the archive.
    """
    _require_choice("format", file_format, FORMATS)
    _require_choice("level", level, LEVELS)
    require_uid(level, uid)
    _require_folder(directory)
    catalog.storage.require_outside(directory, "a folder")
    if file_format == "dicom":
        if resample or part is not None:
            message = "dicom: expected no part and no resampling: objects are written as received"
            raise UsageError(message)
        return export_objects(catalog, directory, level, uid, progress, dicomdir=dicomdir)
    if dicomdir:
        message = f"dicomdir: expected the format dicom, found {file_format}"
        raise UsageError(message)
    if level == "instance":
        message = f"{file_format}: expected a series or a study, found an instance"
        raise UsageError(message)
    chosen = _parts_of(catalog, level, uid, file_format, part, progress)
    if not resample and file_format != "parquet":
        for one in itertools.chain(*chosen.values()):
            require_even(one.stack, file_format)
    paths = [directory / file_name(series, SUFFIXES[file_format]) for series in chosen]
    for path, parts in zip(paths, chosen.values(), strict=True):
        volumes = [Volume.of_stack(catalog, one.stack) for one in parts]
        _write(path, file_format, volumes, resample, progress)
    return paths


def _require_choice(name: str, chosen: str, choices: Sequence[str]) -> None:
    if chosen not in choices:
        message = f"{name}: expected one of {', '.join(choices)}, found {chosen!r}"
        raise UsageError(message)


def _require_folder(directory: Path) -> None:
    if "\0" in str(directory):
        message = f"directory: expected the name of a folder, found {str(directory)!r:.80}"
        raise UsageError(message)
    if os.path.lexists(directory) and not directory.is_dir():
        message = f"directory: expected a folder, found the file {directory}"
        raise UsageError(message)


def _write(
    path: Path, file_format: str, volumes: Sequence[Volume], resample: bool, progress: Progress
) -> None:
    if file_format == "parquet":
        if resample:
            message = "parquet: expected no resampling: each row says where its slice lies"
            raise UsageError(message)
        write_slices(path, volumes, progress)
        return
    even: list[Voxels] = [
        Resampled(volume) if resample and (volume.is_tilted or not volume.is_even) else volume
        for volume in volumes
    ]
    if file_format == "nifti":
        write_nifti(path, even, progress)
    elif file_format == "zarr":
        write_ome_zarr(path, even[0], progress)
    else:
        write_tiff(path, even[0], progress)


def _parts_of(
    catalog: Catalog,
    level: str,
    uid: str,
    file_format: str,
    number: int | None,
    progress: Progress,
) -> dict[str, list[Part]]:
    """Give the volumes of each series to write: of a study, of those that have some."""
    if level == "series":
        return {uid: _chosen(read_parts(catalog, uid), file_format, number)}
    found, refusals = {}, []
    for series_uid in series_of(catalog, level, uid):
        # a study can hold projections and reports beside its volumes
        try:
            found[series_uid] = _chosen(read_parts(catalog, series_uid), file_format, number)
        except UsageError as error:
            refusals.append(str(error))
    if not found:
        message = f"{file_format}: expected a study with a volume, found none: {refusals[0]}"
        raise UsageError(message)
    for refusal in refusals:
        progress.say(f"left out: {refusal}")
    return found


def _chosen(parts: list[Part], file_format: str, number: int | None) -> list[Part]:
    if number is None and (
        file_format == "parquet" or (file_format == "nifti" and same_grid(parts))
    ):
        return parts
    return [Part(choose_part(parts, number), "")]
