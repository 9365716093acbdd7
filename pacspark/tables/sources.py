"""Where objects come from: files, folders, globs, zip members, DICOMDIRs, on a disk, HDFS or S3.

A `Source` is a name that pickles; `open_source` turns it into a seekable stream in the task that
reads it. Nothing here looks inside a file but for the list of a zip or of a DICOMDIR that the user
named.
"""

import glob
import io
import lzma
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.fs as pafs
import pydicom
from pydicom.errors import InvalidDicomError

from pacspark.errors import DicomDecodeError, UsageError
from pacspark.tables.storage import open_storage

IN_MEMORY_BYTES = 64 << 20
"""A zip member up to this size is inflated in memory; a larger one goes to a temporary file."""
MAX_MEMBER_BYTES = 64 << 30
MAX_INFLATION = 1000
"""Deflate cannot pass 1032:1; pixels of a scan stay far below, a bomb sits at the top."""


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to ingest.

    Attributes
    ----------
    path
        A file of this machine, or a URL that pyarrow or hdfs-native can open.
    member
        The name inside, where `path` is a zip.
    member_offset
        Where the member's header lies in the zip; names may be there twice.
    size_bytes
        Its size; of a zip member, inflated, as the zip claims.
    """

    path: str
    size_bytes: int
    member: str | None = None
    member_offset: int = 0

    def __str__(self) -> str:
        name = self.path if self.member is None else f"{self.path}!{self.member}"
        return name.encode("utf-8", "backslashreplace").decode()  # names of files are any bytes


def expand_sources(paths: Iterable[str | Path]) -> Iterator[Source]:
    """List what `paths` name, in a stable order.

    Parameters
    ----------
    paths
        Files, folders (walked whole), globs, zips (their members), DICOMDIRs (the files they
        reference), or URLs of folders and files on HDFS or S3.

    Raises
    ------
    UsageError
        When a path names nothing.
    """
    for path in paths:
        text = str(path)
        if "://" in text:
            yield from _expand_url(text)
        elif glob.has_magic(text) and not Path(text).exists():
            matches = sorted(glob.glob(text, recursive=True))
            if not matches:
                message = f"{text}: expected files that match, found none"
                raise UsageError(message)
            for match in matches:
                yield from _expand_local(Path(match))
        else:
            yield from _expand_local(Path(text))


def _expand_local(path: Path) -> Iterator[Source]:
    if path.is_dir():
        # DICOMDIRs inside a walked folder are files like the others: what they list lies in the
        # folder as well.
        unreadable: list[OSError] = []
        for folder, names, files in os.walk(path, onerror=unreadable.append):
            names.sort()  # os.walk follows this order
            for name in sorted(files):
                yield from _expand_file(Path(folder) / name)
        # each becomes a reject with its name, so that the count tells of it
        yield from (Source(str(error.filename), 0) for error in unreadable)
    elif path.is_file():
        if path.name.upper() == "DICOMDIR":
            yield from _expand_dicomdir(path)
        else:
            yield from _expand_file(path)
    else:
        message = f"{path}: expected a file, a folder or a glob, found nothing there"
        raise UsageError(message)


def _expand_file(path: Path) -> Iterator[Source]:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, a file out of reach: a reject with its name
        yield Source(str(path), 0)
        return
    if not stat.S_ISREG(status.st_mode):  # a socket, a pipe
        return
    size_bytes = status.st_size
    members = _zip_members(path)
    if members is None:
        yield Source(str(path), size_bytes)
    else:
        yield from (
            Source(str(path), info.file_size, info.filename, info.header_offset) for info in members
        )


def _zip_members(path: Path) -> list[zipfile.ZipInfo] | None:
    """List the files in a zip; None where `path` is none or a broken one: a file like others."""
    try:
        with path.open("rb") as stream:
            if stream.read(4) not in {b"PK\x03\x04", b"PK\x05\x06"}:
                return None
        with zipfile.ZipFile(path) as archive:
            return [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return None


def _expand_dicomdir(path: Path) -> Iterator[Source]:
    try:
        records = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
    except (InvalidDicomError, ValueError, OSError) as error:
        message = f"{path}: expected a DICOMDIR, found {error}"
        raise UsageError(message) from error
    for record in records.get("DirectoryRecordSequence", []):
        reference = record.get("ReferencedFileID")
        if not reference:
            continue
        parts = [reference] if isinstance(reference, str) else list(reference)
        if any(part in {"", ".", ".."} or "/" in part or "\\" in part for part in parts):
            message = f"{path}: expected file names below its folder, found {'/'.join(parts)!r}"
            raise UsageError(message)
        target = path.parent.joinpath(*parts)
        # a listed file that is missing becomes a reject with this name, so that the count tells of
        # it
        yield Source(str(target), target.stat().st_size if target.is_file() else 0)


def _expand_url(url: str) -> Iterator[Source]:
    storage = open_storage(url)
    root = storage.path()
    info = storage.filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        message = f"{url}: expected a file or a folder, found nothing there"
        raise UsageError(message)
    if info.type == pafs.FileType.File:
        yield Source(url, info.size)
        return
    selector = pafs.FileSelector(root, recursive=True)
    prefix = root.rstrip("/")
    for found in sorted(storage.filesystem.get_file_info(selector), key=lambda entry: entry.path):
        if found.type == pafs.FileType.File:
            yield Source(f"{url.rstrip('/')}/{found.path[len(prefix) :].lstrip('/')}", found.size)


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """Open a source as a seekable binary stream.

    Raises
    ------
    DicomDecodeError
        When a zip member is encrypted, damaged or a bomb.
    OSError
        When the file cannot be read.
    """
    if source.member is not None:
        stream = _inflate_member(source)
    elif "://" in source.path:
        storage = open_storage(source.path)
        stream = storage.filesystem.open_input_file(storage.path())
    else:
        stream = Path(source.path).open("rb")  # noqa: SIM115 -- closed below, as the others
    with stream:
        yield stream


def _inflate_member(source: Source) -> BinaryIO:
    try:
        with zipfile.ZipFile(source.path) as archive:
            info = next(
                info for info in archive.infolist() if info.header_offset == source.member_offset
            )
            _refuse_bomb(info)
            with archive.open(info) as packed:
                if info.file_size <= IN_MEMORY_BYTES:
                    return io.BytesIO(packed.read(IN_MEMORY_BYTES + 1))
                spool = tempfile.TemporaryFile()  # noqa: SIM115 -- the caller closes it
                shutil.copyfileobj(packed, spool, 1 << 20)
                spool.seek(0)
                return cast(BinaryIO, spool)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        StopIteration,  # no longer what was listed
        EOFError,
        lzma.LZMAError,
        RuntimeError,
    ) as error:
        message = f"expected a readable zip member, found {error}"
        raise DicomDecodeError(message) from error


def _refuse_bomb(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        message = "expected a readable zip member, found an encrypted one"
        raise DicomDecodeError(message)
    inflation = info.file_size / max(1, info.compress_size)
    if info.file_size > MAX_MEMBER_BYTES or (
        info.file_size > IN_MEMORY_BYTES and inflation > MAX_INFLATION
    ):
        message = (
            f"expected a zip member of at most {MAX_MEMBER_BYTES >> 30} GiB that inflates less "
            f"than {MAX_INFLATION}-fold, found {info.file_size} bytes from {info.compress_size}"
        )
        raise DicomDecodeError(message)
