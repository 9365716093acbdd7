"""Objects as files, byte for byte: flat, by series, or as a file-set with a DICOMDIR."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pacspark.dicom.matching import parse_query
from pacspark.dicom.uids import require_uid
from pacspark.dicom.unchecked import unchecked
from pacspark.errors import NotInArchiveError
from pacspark.export.dicomdir import RECORD_COLUMNS, DirectoryBuilder, is_image
from pacspark.progress import Progress
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import LOCATION_COLUMNS
from pacspark.wholes import holds_something_else, whole_file

_COLUMNS: Final = ("sop_instance_uid", "series_instance_uid", *LOCATION_COLUMNS)
THREADS: Final = 4
"""Files written at a time: most of the time of a small one is waiting until it is on the disk."""


@dataclass(frozen=True, slots=True)
class _Target:
    """One object and the file it is to become."""

    path: Path
    row: Mapping[str, Any]


def export_objects(
    catalog: Catalog,
    directory: Path,
    level: str,
    uid: str,
    progress: Progress,
    *,
    dicomdir: bool,
) -> list[Path]:
    """Write the objects of a study or a series, or one of them; see `pacspark.export.export`."""
    columns = tuple(dict.fromkeys((*_COLUMNS, *RECORD_COLUMNS))) if dicomdir else _COLUMNS
    all_rows = (
        [[catalog.instance(uid, columns)]]
        if level == "instance"
        else [
            catalog.instances_of(series_uid, columns).to_pylist()
            for series_uid in series_of(catalog, level, uid)
        ]
    )
    targets = []
    for series, rows in enumerate(all_rows, 1):
        for number, row in enumerate(rows, 1):
            path = (
                directory.joinpath(*_file_id(series, number))
                if dicomdir
                else _dicom_path(directory, level, row)
            )
            targets.append(_Target(path, row))
    missing = [target for target in targets if not _is_there(target)]
    with (
        progress.stage("export", len(missing), "objects") as stage,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        written = [pool.submit(_write, catalog, target) for target in missing]
        try:
            for done in as_completed(written):
                done.result()
                stage.advance()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    paths = [target.path for target in targets]
    if dicomdir:
        paths.append(_write_dicomdir(catalog, directory, targets))
    return paths


def _write(catalog: Catalog, target: _Target) -> None:
    with whole_file(target.path) as temporary, temporary.open("xb") as file:
        file.writelines(catalog.stream_object(target.row))


def _file_id(series: int, number: int) -> tuple[str, ...]:
    """Name a file of a file-set: at most eight capitals and digits (PS3.10 8.5)."""
    return ("DICOM", f"S{series:07}", f"I{number:07}")


def _write_dicomdir(catalog: Catalog, directory: Path, targets: Sequence[_Target]) -> Path:
    """Write the table of contents last: without it, a file-set is not finished."""
    builder = DirectoryBuilder()
    path = directory / "DICOMDIR"
    with unchecked():  # records say what the objects say
        for target in targets:
            row = target.row
            dicom_json = (
                ""
                if is_image(row)
                else catalog.instance(row["sop_instance_uid"], ["dicom_json"])["dicom_json"]
            )
            builder.add(row, target.path.relative_to(directory).parts, dicom_json)
        content = builder.content()
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def series_of(catalog: Catalog, level: str, uid: str) -> list[str]:
    """Give the UIDs of the series of a study, or of the series itself."""
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
    raise holds_something_else(target.path)
