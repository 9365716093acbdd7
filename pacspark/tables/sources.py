"""Where objects come from: files, folders, globs, zip members, DICOMDIRs, on a disk, HDFS or S3.

A `Source` is a name that pickles; `open_source` turns it into a seekable stream in the task that
reads it. Nothing here looks inside a file but for the list of a zip or of a DICOMDIR that the user
named.
"""

import fnmatch
import glob
import io
import logging
import lzma
import os
import shutil
import socket
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.fs as pafs

from pacspark.dicom.decode import listed_files
from pacspark.errors import DicomDecodeError, UsageError
from pacspark.tables.journals import open_record
from pacspark.tables.storage import Storage, open_storage

IN_MEMORY_BYTES = 64 << 20
"""A zip member up to this size is inflated in memory; a larger one goes to a temporary file."""
MAX_MEMBER_BYTES = 64 << 30
MAX_INFLATION = 1000
"""Deflate cannot pass 1032:1; pixels of a scan stay far below, a bomb sits at the top."""
_SPECIAL_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to ingest.

    Attributes
    ----------
    path
        A file of this machine, or a URL that pyarrow or hdfs-native can open.
    member
        The name inside, where `path` is a zip; who sent it, where `path` is a landing's journal.
    member_offset
        Where the member's header lies in the zip: names may be there twice. Where the bytes of the
        object begin in a journal.
    size_bytes
        Its size; of a zip member, inflated, as the zip claims.
    received_at
        When a gateway received it: of an object in a landing's journal alone.
    """

    path: str
    size_bytes: int
    member: str | None = None
    member_offset: int = 0
    received_at: datetime | None = None

    def __str__(self) -> str:
        if self.member is not None and self.received_at is not None:
            return self.member  # as the gateway would have named it
        name = self.path if self.member is None else f"{self.path}!{self.member}"
        return name.encode("utf-8", "backslashreplace").decode()  # names of files are any bytes


def expand_sources(paths: Iterable[str | Path], archive: Storage | None = None) -> Iterator[Source]:
    """List what `paths` name, in a stable order.

    Parameters
    ----------
    paths
        Files, folders (walked whole, through links too, each real folder once), globs, zips
        (their members), DICOMDIRs (the files they reference), of this machine or as URLs on HDFS or
        S3. A zip is known by its first bytes; behind a URL it also has to be named ``.zip``, so
        that not every file is opened.
    archive
        Where the objects go: it is left out of folders that hold it.

    Raises
    ------
    UsageError
        When a path names nothing.
    """
    for path in paths:
        text = require_path(path, "a file, a folder or a glob")
        if "://" in text:
            yield from _expand_url(text, archive)
        elif glob.has_magic(text) and not Path(text).exists():
            matches = sorted(glob.glob(text, recursive=True))
            if not matches:
                raise _no_match(text)
            for match in matches:
                yield from _expand_local(Path(match), archive)
        else:
            yield from _expand_local(Path(text), archive)


def sources_of_files(files: Iterable[tuple[str, int]]) -> Iterator[Source]:
    """Give the sources of files that somebody else has listed, with their sizes: zips have many."""
    for path, size_bytes in files:
        if "://" in path:
            yield from _url_file(path, size_bytes)
        else:
            yield from _whole_or_members(path, size_bytes)


def require_path(path: str | Path, expected: str) -> str:
    """Return a path as text; refuse an empty one, which would be the working directory.

    Raises
    ------
    UsageError
        For an empty text, as of a shell's variable that is not set.
    """
    text = str(path)
    if not text:
        message = f"path: expected {expected}, found an empty text; give . for this folder"
        raise UsageError(message)
    return text


def _no_match(pattern: str) -> UsageError:
    return UsageError(f"{pattern}: expected files that match, found none")


def _expand_local(given: Path, archive: Storage | None) -> Iterator[Source]:
    path = given.absolute()  # tasks run elsewhere
    if path.is_dir():
        # DICOMDIRs inside a walked folder are files like the others: what they list lies in the
        # folder as well.
        for file in _walk(path, archive):
            yield from _whole_or_members(file, _size_bytes(file))
    elif path.exists():
        listed = _listed_files(str(path))
        if listed is None:
            yield from _whole_or_members(str(path), _size_bytes(str(path)))
        else:
            # a listed file that is missing becomes a reject with this name
            yield from (Source(name, _size_bytes(name)) for name in listed)
    else:
        message = f"{given}: expected a file, a folder or a glob, found nothing there"
        raise UsageError(message)


def _walk(top: Path, archive: Storage | None) -> Iterator[str]:
    """Name all below a folder that is no folder, in order, and folders that cannot be read.

    Links to folders are followed: scans often lie on other disks. A folder that was walked already
    is not walked again, so that links which lead back end.
    """
    unreadable: list[OSError] = []
    walked: set[tuple[int, int]] = set()
    own = None
    if archive is not None and archive.kind == "local" and Path(archive.folder).is_dir():
        own = _identity(archive.folder)
    for folder, names, files in os.walk(top, onerror=unreadable.append, followlinks=True):
        names.sort()  # os.walk follows this order
        identity = _identity(folder)
        if identity == own:
            _say_left_out(folder)
        if identity == own or identity in walked:
            names.clear()
            continue
        walked.add(identity)
        yield from (str(Path(folder) / name) for name in sorted(files))
    # each becomes a reject with its name, so that the count tells of it
    yield from (str(error.filename) for error in unreadable)


def _identity(folder: str) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _say_left_out(folder: str) -> None:
    logging.getLogger(__name__).warning("%s: left out: the archive itself", folder)


def _size_bytes(name: str) -> int:
    path = Path(name)
    return path.stat().st_size if path.is_file() else 0


def _expand_url(url: str, archive: Storage | None) -> Iterator[Source]:
    head, pattern = _split_pattern(url)
    storage = open_storage(head)
    root = storage.path()
    with storage.errors(f"list {url}"):
        found = list(_matches(storage.filesystem, root, pattern))
        if pattern and not found:
            raise _no_match(url)
    for info in found:
        name = head.rstrip("/") + info.path[len(root.rstrip("/")) :] if pattern else url
        if info.type == pafs.FileType.NotFound:
            message = f"{url}: expected a file or a folder, found nothing there"
            raise UsageError(message)
        if info.type == pafs.FileType.Directory:
            for inside, size_bytes in _files_below(storage, info.path, archive):
                below = inside[len(info.path.rstrip("/")) :]
                yield from _url_file(name.rstrip("/") + below, size_bytes)
            continue
        listed = _listed_files(name)
        if listed is None:
            yield from _url_file(name, info.size or 0)
            continue
        infos = storage.filesystem.get_file_info([open_storage(file).path() for file in listed])
        yield from (Source(file, at.size or 0) for file, at in zip(listed, infos, strict=True))


def _url_file(url: str, size_bytes: int) -> Iterator[Source]:
    if url.lower().endswith(".zip"):
        yield from _whole_or_members(url, size_bytes)
    else:
        yield Source(url, size_bytes)


def _split_pattern(url: str) -> tuple[str, list[str]]:
    """Split a URL where its pattern begins: a folder, and the names that follow."""
    scheme, _, rest = url.partition("://")
    names = rest.split("/")
    fixed = next((n for n, name in enumerate(names) if n and glob.has_magic(name)), len(names))
    return f"{scheme}://{'/'.join(names[:fixed])}", [name for name in names[fixed:] if name]


def _matches(
    filesystem: pafs.FileSystem, folder: str, pattern: list[str]
) -> Iterator[pafs.FileInfo]:
    """Yield what matches a glob, names in order; ``**`` stands for any folders, or none."""
    if not pattern:
        yield filesystem.get_file_info(folder)
        return
    name, *rest = pattern
    if name == "**" and rest:
        yield from _matches(filesystem, folder, rest)
    for info in _listing(filesystem, folder):
        is_folder = info.type == pafs.FileType.Directory
        if name == "**" and is_folder:
            yield from _matches(filesystem, info.path, pattern)
        elif fnmatch.fnmatchcase(info.base_name, name) and (is_folder or not rest):
            yield from _matches(filesystem, info.path, rest)


def _listing(
    filesystem: pafs.FileSystem, folder: str, *, recursive: bool = False
) -> list[pafs.FileInfo]:
    selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
    return sorted(filesystem.get_file_info(selector), key=lambda info: info.path)


def _files_below(
    storage: Storage, folder: str, archive: Storage | None
) -> Iterator[tuple[str, int]]:
    """Give path and size of what lies below a folder."""
    if storage.kind == "local":
        yield from ((file, _size_bytes(file)) for file in _walk(Path(folder), archive))
        return
    own = ""
    if archive is not None and (archive.kind, archive.authority) == (
        storage.kind,
        storage.authority,
    ):
        own = archive.path() + "/"
    left_out = False
    for info in _listing(storage.filesystem, folder, recursive=True):
        if own and info.path.startswith(own):
            left_out = True
        elif info.type == pafs.FileType.File:
            yield info.path, info.size
    if left_out:
        _say_left_out(own)


def _whole_or_members(path: str, size_bytes: int) -> Iterator[Source]:
    """Yield a file, or the members of one that is a zip; a broken zip is a file like others."""
    try:
        with _open(path) as stream:
            if stream.read(4) not in {b"PK\x03\x04", b"PK\x05\x06"}:
                yield Source(path, size_bytes)
                return
            with zipfile.ZipFile(stream) as archive:
                members = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        yield Source(path, size_bytes)
        return
    for info in members:
        yield Source(path, info.file_size, info.filename, info.header_offset)


def _listed_files(path: str) -> list[str] | None:
    """Name the files that a DICOMDIR lists; None where `path` is another object, or none."""
    folder, _, name = path.rpartition("/")
    if name.upper() != "DICOMDIR":
        return None
    try:
        with _open(path) as stream:
            references = listed_files(stream)
    except (DicomDecodeError, OSError):
        return None  # a reject that says what is wrong
    if references is None:
        return None
    listed = []
    for names in references:
        if any(part in {"", ".", ".."} or set(part) & set("/\\\0") for part in names):
            message = f"{path}: expected file names below its folder, found {'/'.join(names)!r}"
            raise UsageError(message)
        listed.append("/".join([folder, *names]))
    return listed


def _open(path: str) -> BinaryIO:
    if "://" in path:
        storage = open_storage(path)
        path = storage.path()
        if storage.kind != "local":
            return cast(BinaryIO, storage.filesystem.open_input_file(path))
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode):  # a pipe would be waited for, a device may have no end
        raise OSError(_SPECIAL_FILES.get(stat.S_IFMT(mode), "no regular file"))
    return Path(path).open("rb")


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """Open a source as a seekable binary stream.

    Raises
    ------
    DicomDecodeError
        When this machine has no such file, or a zip member is encrypted, damaged or a bomb.
    OSError
        When the file cannot be read.
    """
    try:
        if source.received_at is not None:
            stream = open_record(Path(source.path), source.member_offset, source.size_bytes)
        else:
            stream = _open(source.path) if source.member is None else _inflate_member(source)
    except FileNotFoundError as error:
        message = (
            "expected a file that every machine of the cluster can read, found none on "
            f"{socket.gethostname()}"
        )
        raise DicomDecodeError(message) from error
    with stream:
        yield stream


def _inflate_member(source: Source) -> BinaryIO:
    try:
        with _open(source.path) as stream, zipfile.ZipFile(stream) as archive:
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
