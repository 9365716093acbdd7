"""Where objects come from: files, folders, globs, zip members, DICOMDIRs, on a disk, HDFS or S3.

A `Source` is a name that pickles; `open_source` turns it into a seekable stream in the task that
reads it. Nothing here looks inside a file but for the list of a zip or of a DICOMDIR that the user
named.
"""

import fnmatch
import glob
import io
import logging
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.fs as pafs

from pacspark.dicom.decode import ZIP_STARTS, listed_files
from pacspark.errors import DicomDecodeError, UsageError
from pacspark.tables.journals import open_record
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.zips import ZIP_ERRORS, OpenZip, members_of

MAX_OBJECT_BYTES = 64 << 30
"""Nothing is read of what says that it is larger, as the kernel's files do and sparse ones."""
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
        elif glob.has_magic(text) and not os.path.lexists(text):
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
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{given}: expected a file, a folder or a glob, found nothing there"
        raise UsageError(message) from error
    except (OSError, ValueError) as error:  # no permission, a name that is too long, with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"{given}: expected a file, a folder or a glob, found {reason}"
        raise UsageError(message) from error
    if stat.S_ISDIR(mode):
        # DICOMDIRs inside a walked folder are files like the others: what they list lies in the
        # folder as well.
        for file in _walk(path, archive):
            yield from _whole_or_members(file, _size_bytes(file))
    else:
        listed = _listed_files(str(path))
        if listed is None:
            yield from _whole_or_members(str(path), _size_bytes(str(path)))
        else:
            # a listed file that is missing becomes a reject with this name
            yield from (Source(name, _size_bytes(name)) for name in listed)


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
        try:
            identity = _identity(folder)
        except OSError as error:  # it has gone meanwhile
            unreadable.append(error)
            names.clear()
            continue
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
    try:
        status = Path(name).stat()
    except OSError:  # a reject that says why
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


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
            if stream.read(4) not in ZIP_STARTS:
                yield Source(path, size_bytes)
                return
            members = members_of(stream, size_bytes)
    except (*ZIP_ERRORS, OSError):
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
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device may have no end
        raise OSError(_SPECIAL_FILES.get(stat.S_IFMT(status.st_mode), "no regular file"))
    stream = Path(path).open("rb")  # noqa: SIM115 -- the caller closes it
    if not status.st_size:  # files of the kernel say so, too, and some are waited for like a pipe
        stream.close()
        return io.BytesIO()
    return stream


@contextmanager
def open_source(source: Source, opened: OpenZip | None = None) -> Iterator[BinaryIO]:
    """Open a source as a seekable binary stream.

    Parameters
    ----------
    source
        Which.
    opened
        Keeps its zip open for the next member; whoever made it closes it.

    Raises
    ------
    DicomDecodeError
        When this machine has no such file, it is too large for an object, or a zip member is
        encrypted, damaged or a bomb.
    OSError
        When the file cannot be read.
    """
    if source.size_bytes > MAX_OBJECT_BYTES:
        message = (
            f"expected an object of at most {MAX_OBJECT_BYTES >> 30} GiB, found "
            f"{source.size_bytes} bytes"
        )
        raise DicomDecodeError(message)
    try:
        if source.received_at is not None:
            stream = open_record(Path(source.path), source.member_offset, source.size_bytes)
        elif source.member is None:
            stream = _open(source.path)
        elif opened is not None:
            stream = _member(source, opened)
        else:
            with closing(OpenZip()) as own:
                stream = _member(source, own)
    except FileNotFoundError as error:
        message = (
            "expected a file that every machine of the cluster can read, found none on "
            f"{socket.gethostname()}"
        )
        raise DicomDecodeError(message) from error
    with stream:
        yield stream


def _member(source: Source, opened: OpenZip) -> BinaryIO:
    return opened.inflate(source.path, source.member_offset, _open)
