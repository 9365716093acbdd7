"""Files out of the archive: DICOM as it was received, or a CT series as NIfTI.

A file appears whole or not at all, under a name that is a checked UID. A file that is there already
is left alone when it holds the same bytes; when it holds others, nothing is written at all.
"""

import gzip
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.dicom.matching import parse_query
from pacspark.dicom.uids import require_uid
from pacspark.errors import MissingDependencyError, NotInArchiveError, StorageError, UsageError
from pacspark.progress import SILENT, Progress
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import LOCATION_COLUMNS
from pacspark.volume import Volume

FORMATS: Final = ("dicom", "nifti")
LEVELS: Final = ("study", "series", "instance")
LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's x and y point left and back, NIfTI's right and front."""
_COLUMNS: Final = ("sop_instance_uid", "series_instance_uid", "modality", *LOCATION_COLUMNS)
_COPY_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class _Target:
    """One object and the file it is to become."""

    path: Path
    row: Mapping[str, Any]


def export(
    catalog: Catalog,
    directory: Path,
    level: str,
    uid: str,
    file_format: str = "dicom",
    progress: Progress = SILENT,
) -> list[Path]:
    """Write a study, a series or an instance as files.

    Parameters
    ----------
    catalog
        The archive.
    directory
        Made where it is missing. A series or an instance lies in it as ``<SOPInstanceUID>.dcm``,
        a study as ``<SeriesInstanceUID>/<SOPInstanceUID>.dcm``, NIfTI as
        ``<SeriesInstanceUID>.nii.gz``.
    level
        study, series or instance.
    uid
        Which one.
    file_format
        dicom or nifti.
    progress
        Told of objects, or of slices.

    Returns
    -------
    list[Path]
        The files, those that were there already included.

    Raises
    ------
    NotInArchiveError
        When the archive does not hold it.
    UsageError
        When it is not one UID, the format does not exist or does not fit, or a file there holds
        something else or stands in the place of the folder.
    """
    if file_format not in FORMATS:
        message = f"format: expected one of {', '.join(FORMATS)}, found {file_format!r}"
        raise UsageError(message)
    if level not in LEVELS:
        message = f"level: expected one of {', '.join(LEVELS)}, found {level!r}"
        raise UsageError(message)
    require_uid(level, uid)
    if "\0" in str(directory):
        message = f"directory: expected the name of a folder, found {str(directory)!r:.80}"
        raise UsageError(message)
    if os.path.lexists(directory) and not directory.is_dir():
        message = f"directory: expected a folder, found the file {directory}"
        raise UsageError(message)
    if file_format == "nifti":
        return _export_nifti(catalog, directory, level, uid, progress)
    return _export_dicom(catalog, directory, level, uid, progress)


def _export_dicom(
    catalog: Catalog, directory: Path, level: str, uid: str, progress: Progress
) -> list[Path]:
    rows = (
        [catalog.instance(uid, _COLUMNS)]
        if level == "instance"
        else [
            row
            for series_uid in _series_of(catalog, level, uid)
            for row in catalog.instances_of(series_uid, _COLUMNS).to_pylist()
        ]
    )
    targets = [_Target(_dicom_path(directory, level, row), row) for row in rows]
    missing = [target for target in targets if not _is_there(target)]
    with progress.stage("export", len(missing), "objects") as stage:
        for target in missing:
            _write_whole(target.path, _copier(catalog.stream_object(target.row)))
            stage.advance()
    return [target.path for target in targets]


def _series_of(catalog: Catalog, level: str, uid: str) -> list[str]:
    if level == "series":
        return [uid]
    query = parse_query({"StudyInstanceUID": uid}, "series")
    found = catalog.find(query)["SeriesInstanceUID"].to_pylist()
    if not found:
        message = f"{catalog.storage.root}: no study {uid!r}"
        raise NotInArchiveError(message)
    return sorted(found)


def file_name(uid: str, suffix: str) -> str:
    """Make a file name of a UID (PS3.5 9.1), which can then be no path.

    Raises
    ------
    UsageError
        For anything but digits and single dots, at most 64 characters.
    """
    return require_uid("file name", uid) + suffix


def _dicom_path(directory: Path, level: str, row: Mapping[str, Any]) -> Path:
    folder = (
        directory / file_name(row["series_instance_uid"], "") if level == "study" else directory
    )
    return folder / file_name(row["sop_instance_uid"], ".dcm")


def _is_there(target: _Target) -> bool:
    """Tell whether a file holds an object already.

    Raises
    ------
    UsageError
        When it holds something else.
    """
    if not os.path.lexists(target.path):
        return False
    if target.path.is_file() and target.path.stat().st_size == target.row["size_bytes"]:
        with target.path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == target.row["sha256"]:
                return True
    raise _holds_something_else(target.path)


def _holds_something_else(path: Path) -> UsageError:
    message = (
        f"{path}: expected no file or the same bytes, found something else; nothing was written"
    )
    return UsageError(message)


def _copier(pieces: Iterable[bytes]) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.writelines(pieces)

    return write


def _write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file beside its name, then give it its name: it is never seen half."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        message = f"{path}: cannot write: {error.strerror or error}"
        raise StorageError(message) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _export_nifti(
    catalog: Catalog, directory: Path, level: str, uid: str, progress: Progress
) -> list[Path]:
    if level == "instance":
        message = "nifti: expected a series or a study, found an instance"
        raise UsageError(message)
    volumes = _volumes_of(catalog, level, uid)
    for volume in volumes:
        if not volume.is_even:
            message = f"nifti: expected evenly spaced slices, found {'; '.join(volume.notes)}"
            raise UsageError(message)
    return [_export_volume(volume, directory, progress) for volume in volumes]


def _volumes_of(catalog: Catalog, level: str, uid: str) -> Sequence[Volume]:
    if level == "series":
        return [Volume(catalog, uid)]
    volumes, refusals = [], []
    for series_uid in _series_of(catalog, level, uid):
        # a study can hold projections and reports beside its volumes
        try:
            volumes.append(Volume(catalog, series_uid))
        except UsageError as error:
            refusals.append(str(error))
    if not volumes:
        message = f"nifti: expected a study with a volume, found none: {refusals[0]}"
        raise UsageError(message)
    return volumes


def _export_volume(volume: Volume, directory: Path, progress: Progress) -> Path:
    path = directory / file_name(volume.series_uid, ".nii.gz")
    with progress.stage("export", volume.shape[0], "slices") as stage:
        values = np.empty(volume.shape, np.float32)
        for z in range(volume.shape[0]):
            values[z] = volume.to_numpy(z, z + 1)[0]
            stage.advance()
    content = nifti_bytes(values, volume.affine_lps_mm, volume.description)
    if os.path.lexists(path):
        if not path.is_file() or not _same_nifti(path, content):
            raise _holds_something_else(path)
        return path

    def write(file: BinaryIO) -> None:
        # no time and no name inside, so that the same volume makes the same file
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            packed.write(content)

    _write_whole(path, write)
    return path


def _same_nifti(path: Path, content: bytes) -> bool:
    seen = 0
    try:
        with gzip.open(path) as packed:
            while block := packed.read(_COPY_BYTES):
                if block != content[seen : seen + len(block)]:
                    return False
                seen += len(block)
    except (OSError, EOFError):
        return False
    return seen == len(content)


def nifti_bytes(
    values: NDArray[np.float32], affine_lps_mm: NDArray[np.float64], description: str = ""
) -> bytes:
    """Encode a volume as NIfTI-1, float32, millimetres.

    Parameters
    ----------
    values
        (n_z, n_y, n_x)
    affine_lps_mm
        (4, 4), from voxel indices (x, y, z, 1) to the patient's L, P, S; NIfTI's own is to R, A, S
    description
        at most 79 bytes of it are kept

    Raises
    ------
    MissingDependencyError
        Without nibabel.
    """
    try:
        nibabel: Any = import_module("nibabel")
    except ImportError as error:
        message = "NIfTI needs nibabel: pip install 'pacspark[export]'"
        raise MissingDependencyError(message) from error
    affine = LPS_TO_RAS @ affine_lps_mm
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine)
    # code 1: scanner coordinates; a quaternion cannot say the shear of a tilted gantry
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1 if _is_rotation(affine) else 0)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()[:79]
    encoded: bytes = image.to_bytes()
    return encoded


def _is_rotation(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-4))
