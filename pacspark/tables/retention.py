"""What older versions still need, and what nobody needs any more: files that may be deleted.

A data file stays while some version lists it that was the newest at a moment of the retention, and
a file of `objects` also while a row of such a version refers to it. A file that no version lists
may be one of a job that still runs: it stays while anything of the job is younger than the floor.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import pyarrow.fs as pafs

from pacspark.errors import UsageError
from pacspark.tables.datafile import job_of
from pacspark.tables.log import entries
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

_PROPERTY: Final = "delta.deletedFileRetentionDuration"
_INTERVAL: Final = re.compile(r"interval (\d+) (minute|hour|day|week)s?", re.IGNORECASE)
_UNTOLD: Final = timedelta(days=7)
"""What Delta takes where a table does not say."""
_SLOW_CLOCKS: Final = 64
"""Entries that seem older than the retention and are read on behind: clocks of writers differ."""
_FOLDERS_OF_RUNS: Final = ("_scratch", "_progress")


@dataclass(frozen=True, slots=True)
class Retention:
    """From when on versions can be read, and how young files are never touched.

    Attributes
    ----------
    since_ms
        versions that were the newest at that moment or later are kept, milliseconds since 1970
    young_since_ms
        what was written later may be somebody's who still writes
    """

    since_ms: int
    young_since_ms: int


def retention_of(
    storage: Storage, now_ms: int, retain_days: float | None, min_age_hours: float
) -> Retention:
    """Work out what is kept; without `retain_days`, what the table `instances` says of itself.

    Raises
    ------
    UsageError
        for negative times
    """
    for name, value in (("retain-days", retain_days), ("min-age-hours", min_age_hours)):
        if value is not None and not 0 <= value < 36525:
            message = f"{name}: expected a number from 0 on, found {value}"
            raise UsageError(message)
    kept = _of_table(storage) if retain_days is None else timedelta(days=retain_days)
    floor = timedelta(hours=min_age_hours)
    return Retention(now_ms - _milliseconds(kept), now_ms - _milliseconds(floor))


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def _of_table(storage: Storage) -> timedelta:
    text = Snapshot(storage, "instances").delta.metadata().configuration.get(_PROPERTY, "")
    found = _INTERVAL.fullmatch(text)
    return timedelta(**{f"{found[2].lower()}s": int(found[1])}) if found else _UNTOLD


def kept_files(snapshot: Snapshot, retention: Retention) -> dict[str, ActiveFile]:
    """Give the files that a version lists which was the newest at a moment of the retention."""
    kept = {file.path: file for file in snapshot.files()}
    older = 0
    for entry in entries(snapshot):
        if entry.committed_ms >= retention.since_ms:
            kept |= {file.path: file for file in entry.removed if file.path not in kept}
            continue
        older += 1
        if older > _SLOW_CLOCKS:
            break
    return kept


def data_files(storage: Storage, table: str) -> dict[str, pafs.FileInfo]:
    """List the data files that lie in the folder of a table, whoever lists them, by name."""
    with storage.errors(f"list the files of {table}"):
        selector = pafs.FileSelector(storage.path(table), allow_not_found=True)
        found = storage.filesystem.get_file_info(selector)
    return {
        info.base_name: info
        for info in found
        if info.type == pafs.FileType.File and info.base_name.endswith(".parquet")
    }


def age_ms(info: pafs.FileInfo) -> int:
    """Give when a file was written, milliseconds since 1970; now where the storage has no word."""
    return info.mtime_ns // 1_000_000 if info.mtime_ns else 1 << 62


def expired(
    found: dict[str, pafs.FileInfo], kept: Iterable[str], retention: Retention
) -> list[pafs.FileInfo]:
    """Choose, of the files that lie there, those that are neither kept nor of a job that is young.

    A job of days commits at its end what its first tasks wrote.
    """
    names, written_ms = set(kept), written_by_jobs(found)
    return [
        info
        for name, info in found.items()
        if name not in names and written_ms[name] <= retention.young_since_ms
    ]


def written_by_jobs(found: Mapping[str, pafs.FileInfo]) -> dict[str, int]:
    """Give, for each file, when its job wrote its last one; milliseconds since 1970."""
    jobs = {name: job_of(name) or name for name in found}
    written_ms: dict[str, int] = {}
    for name, job in jobs.items():
        written_ms[job] = max(age_ms(found[name]), written_ms.get(job, 0))
    return {name: written_ms[job] for name, job in jobs.items()}


def delete_files(storage: Storage, table: str, infos: Iterable[pafs.FileInfo]) -> tuple[int, int]:
    """Delete files that no version lists now; give how many, and their bytes."""
    count = size_bytes = 0
    listed: set[str] = set()
    for number, info in enumerate(infos):
        if number % 256 == 0:  # an undelete may have listed one again meanwhile
            listed = {file.path for file in Snapshot(storage, table).files()}
        if info.base_name in listed:
            continue
        with storage.errors(f"delete {table}/{info.base_name}"):
            storage.filesystem.delete_file(info.path)
        count += 1
        size_bytes += info.size
    return count, size_bytes


def leftovers(storage: Storage, retention: Retention) -> list[pafs.FileInfo]:
    """List folders of runs that are all older than the floor: the runs were killed.

    A run has one of each kind; while it reads what it left in one, it leaves marks in the other.
    """
    folders: list[pafs.FileInfo] = []
    written_ms: dict[str, int] = {}
    for name in _FOLDERS_OF_RUNS:
        with storage.errors(f"list {name}"):
            top = pafs.FileSelector(storage.path(name), allow_not_found=True)
            for folder in storage.filesystem.get_file_info(top):
                selector = pafs.FileSelector(folder.path, allow_not_found=True, recursive=True)
                inside = (
                    storage.filesystem.get_file_info(selector)
                    if folder.type == pafs.FileType.Directory
                    else []
                )
                folders.append(folder)
                # an object store knows no times of folders
                times = [age_ms(info) for info in [folder, *inside] if info.mtime_ns]
                run = folder.base_name
                written_ms[run] = max([*times, written_ms.get(run, 0)])
    return [one for one in folders if 0 < written_ms[one.base_name] <= retention.young_since_ms]


def delete_leftovers(storage: Storage, folders: Iterable[pafs.FileInfo]) -> int:
    """Delete what killed runs left; give how many."""
    count = 0
    for folder in folders:
        with storage.errors(f"delete {folder.path}"):
            if folder.type == pafs.FileType.Directory:
                storage.filesystem.delete_dir(folder.path)
            else:
                storage.filesystem.delete_file(folder.path)
        count += 1
    return count
