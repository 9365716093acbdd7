"""The landing: where received objects are durable before they reach the tables.

A landing is a folder on a local disk that belongs to one process. Objects are appended to numbered
journals; nothing that a peer sent names a file::

    000000000007.landing:   record │ record │ ...
    record:                 magic │ lengths │ SHA-256 of the object │ CRC-32 │ notes, JSON │ object

Whoever appends while a journal is being written waits and is then written together with all others
that wait: one write and one ``fdatasync`` for all of them. An object of more than 8 MiB gets a
journal of its own, so that small ones do not wait for it. A journal is removed once the tables have
all that it holds. After a crash :meth:`Landing.open` reads the journals again; a last record that
is cut off was never acknowledged. A journal that a disk has damaged is not removed: once its whole
records are in the tables it is ``000000000007.landing.damaged``, for people.
"""

import errno
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final, Self

from pacspark.errors import LandingFullError, StorageError, UsageError
from pacspark.progress import counted_unit
from pacspark.tables.journals import (
    JOURNAL_NAME,
    LOCK_NAME,
    Landed,
    open_record,
    read_journal,
    record_header,
)

LOGGER: Final = logging.getLogger(__name__)

__all__ = ["Landed", "Landing"]

JOURNAL_BYTES: Final = 128 << 20
"""A journal that has reached this size is followed by the next one."""
LARGE_BYTES: Final = 8 << 20
IN_MEMORY_BYTES: Final = 256 << 20
"""Objects that are still coming in have so much memory together."""
_STEP_BYTES: Final = 1 << 20
_BATCH_BYTES: Final = 64 << 20
_MOST_ID_BYTES: Final = 64
_UNFINISHED: Final = -1


@dataclass(slots=True)
class _Record:
    """One object on its way to a journal."""

    header: bytes
    data: bytes
    done: bool = False
    place: tuple[int, int] = (0, 0)
    error: OSError | None = None


@dataclass(slots=True)
class _Journal:
    number: int
    descriptor: int
    size_bytes: int = 0
    live: set[int] = field(default_factory=set)
    is_damaged: bool = False


class Landing:
    """A landing folder, held by this process alone; a context manager, safe for threads.

    Parameters
    ----------
    folder
        on a local disk; made where it is missing
    reserve_bytes
        of the disk that stay free: below, nothing more is taken in, so that what is here can still
        be committed

    Raises
    ------
    UsageError
        where another process holds the folder
    StorageError
        where it cannot be used
    """

    def __init__(self, folder: Path, reserve_bytes: int = 64 << 20) -> None:
        self.folder = folder
        self.reserve_bytes = reserve_bytes
        self._queue: list[_Record] = []
        self._in_memory_bytes = 0
        self._queue_lock, self._write_lock, self._memory_lock = Lock(), Lock(), Lock()
        self._journals: dict[int, _Journal] = {}
        self._active: _Journal | None = None
        self._next = 1
        with disk_errors(folder, "open the landing (--landing takes another)"):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock_file = (folder / LOCK_NAME).open("a+b")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            message = (
                f"{folder}: expected a landing folder of this gateway alone, found one that "
                "another process holds; --landing or another --ae-title gives a gateway its own; "
                "wait, where an ingest reads it"
            )
            raise UsageError(message) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; what is in it stays for the next :meth:`open`."""
        with self._write_lock:
            for journal in self._journals.values():
                if journal.descriptor >= 0:
                    os.close(journal.descriptor)
            self._journals.clear()
            self._active = None
            self._lock_file.close()

    def open(self, archive_id: str = "") -> list[Landed]:
        """Read what earlier processes left; to be called once, before the first :meth:`append`.

        Parameters
        ----------
        archive_id
            what tells the archive that it goes into from others; empty where that does not matter

        Returns
        -------
        list of Landed
            all whole objects, oldest first. A journal that never held any is removed

        Raises
        ------
        UsageError
            where they wait for another archive
        """
        found: list[Landed] = []
        with disk_errors(self.folder, "read the landing"):
            for path in sorted(self.folder.iterdir()):
                match = JOURNAL_NAME.fullmatch(path.name)
                if match is None:
                    continue
                number = int(match[1])
                self._next = max(self._next, number + 1)
                landed, damaged_bytes = read_journal(path, number)
                live = {one.offset for one in landed}
                journal = _Journal(number, -1, path.stat().st_size, live, damaged_bytes > 0)
                self._journals[number] = journal
                found += landed
                if damaged_bytes:
                    LOGGER.warning(
                        "%s: the disk has damaged %d bytes of it: objects that were acknowledged "
                        "may be lost; it stays, as %s, and %d whole objects are taken from it",
                        path, damaged_bytes, _aside(path).name, len(landed),
                    )  # fmt: skip
                if not landed:
                    self._drop(journal)
            if archive_id:
                self._belong_to(archive_id, len(found))
        return found

    def _belong_to(self, archive_id: str, waiting: int) -> None:
        """Note in the lock file which archive this is a landing of."""
        self._lock_file.seek(0)
        known = self._lock_file.read(_MOST_ID_BYTES).decode("ascii", "replace")
        if known == archive_id:
            return
        if known and waiting:
            message = (
                f"{self.folder}: expected a landing of this archive, found {waiting} "
                f"{counted_unit(waiting, 'objects')} in it for another: serve that one with it, or "
                f"take them into this one by `pacspark ingest ROOT {self.folder}`"
            )
            raise UsageError(message)
        self._lock_file.truncate(0)
        self._lock_file.write(archive_id.encode())
        self._lock_file.flush()

    def append(
        self,
        data: bytes | BinaryIO,
        source: str,
        *,
        sha256: str | None = None,
        received_at: datetime | None = None,
    ) -> Landed:
        """Write one object and wait until it is durable.

        Parameters
        ----------
        data
            the whole object, or a seekable file that stands at its start
        source
            where it came from
        sha256
            of the bytes, where the caller knows it
        received_at
            None for now

        Raises
        ------
        LandingFullError
            where the disk has no room; nothing is left of the object, and later ones are taken
            again as soon as there is room
        StorageError
            where the disk fails otherwise
        """
        size_bytes = len(data) if isinstance(data, bytes) else _size_of(data)
        self.require_room(size_bytes)
        received_at = received_at or datetime.now(UTC)
        digest = bytes.fromhex(sha256) if sha256 else _digest(data)
        header = record_header(digest, size_bytes, source, received_at)
        with disk_errors(self.folder, "store in the landing"):
            if isinstance(data, bytes) and size_bytes <= LARGE_BYTES:
                journal, offset = self._append_small(header, data)
            else:
                journal, offset = self._append_large(header, data)
        return Landed(digest.hex(), size_bytes, source, received_at, journal, offset)

    def read(self, landed: Landed) -> bytes:
        """Read a whole object.

        Raises
        ------
        StorageError
            where it is no longer here: the tables have it then
        """
        return self.read_range(landed, 0, landed.size_bytes)

    def read_range(self, landed: Landed, start: int, length: int) -> bytes:
        """Read a part of an object, which it has to have; errors are those of :meth:`read`."""
        with disk_errors(self.folder, "read the landing"):
            descriptor = os.open(self._path(landed.journal), os.O_RDONLY)
            try:
                data = os.pread(descriptor, length, landed.offset + start)
                while len(data) < length:  # one call gives 2 GiB at most
                    more = os.pread(
                        descriptor, length - len(data), landed.offset + start + len(data)
                    )
                    if not more:
                        break
                    data += more
            finally:
                os.close(descriptor)
            if len(data) != length:
                message = (
                    f"{self._path(landed.journal)}: expected {length} bytes, found {len(data)}"
                )
                raise OSError(message)
            return data

    def open_stream(self, landed: Landed) -> BinaryIO:
        """Open an object as a seekable file; errors are those of :meth:`read`."""
        with disk_errors(self.folder, "read the landing"):
            return open_record(self._path(landed.journal), landed.offset, landed.size_bytes)

    def remove(self, landed: Iterable[Landed]) -> None:
        """Forget objects that the tables have; journals without others are removed."""
        with self._write_lock, disk_errors(self.folder, "clear the landing"):
            for one in landed:
                journal = self._journals.get(one.journal)
                if journal is not None:
                    journal.live.discard(one.offset)
            for journal in list(self._journals.values()):
                if not journal.live:
                    self._drop(journal)

    @property
    def held_bytes(self) -> int:
        """The size of all journals together."""
        return sum(journal.size_bytes for journal in list(self._journals.values()))

    @property
    def free_bytes(self) -> int:
        """What the disk has room for beside the reserve; below zero, nothing is taken in."""
        with disk_errors(self.folder, "look at the disk of the landing"):
            return shutil.disk_usage(self.folder).free - self.reserve_bytes

    def hold(self, size_bytes: int) -> bool:
        """Count bytes in memory that are on their way here; False where there is no room for them.

        Parameters
        ----------
        size_bytes
            more of them; negative: less
        """
        with self._memory_lock:
            if size_bytes > 0 and self._in_memory_bytes + size_bytes > IN_MEMORY_BYTES:
                return False
            self._in_memory_bytes += size_bytes
        return True

    # writing

    def require_room(self, size_bytes: int) -> None:
        """Raise a `LandingFullError` where so many bytes would not leave the reserve free."""
        left = self.free_bytes
        if left < size_bytes:
            message = (
                f"{self.folder}: expected room for {size_bytes} bytes beside the "
                f"{self.reserve_bytes} that stay free, found {left + self.reserve_bytes}"
            )
            raise LandingFullError(message)

    def _append_small(self, header: bytes, data: bytes) -> tuple[int, int]:
        record = _Record(header, data)
        with self._queue_lock:
            self._queue.append(record)
        with self._write_lock:
            # whoever holds the lock writes for all that wait for it
            while not record.done:
                self._write_batch(self._next_batch())
        if record.error is not None:
            raise record.error
        return record.place

    def _next_batch(self) -> list[_Record]:
        with self._queue_lock:
            size_bytes = count = 0
            while count < len(self._queue) and (not count or size_bytes < _BATCH_BYTES):
                size_bytes += len(self._queue[count].data)
                count += 1
            batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def _write_batch(self, batch: Sequence[_Record]) -> None:
        try:
            journal = self._journal()
            end = journal.size_bytes
            try:
                for record in batch:
                    _write_all(journal.descriptor, record.header, end)
                    end += len(record.header)
                    _write_all(journal.descriptor, record.data, end)
                    record.place = (journal.number, end)
                    end += len(record.data)
                os.fdatasync(journal.descriptor)
            except OSError:
                self._give_up(journal)
                raise
            journal.size_bytes = end
            journal.live.update(record.place[1] for record in batch)
        except OSError as error:
            for record in batch:
                record.error = error
        for record in batch:
            record.done = True

    def _journal(self) -> _Journal:
        if self._active is not None and self._active.size_bytes >= JOURNAL_BYTES:
            os.close(self._active.descriptor)
            self._active.descriptor = -1
            self._active = None
        if self._active is None:
            self._active = self._create()
        return self._active

    def _create(self) -> _Journal:
        number, self._next = self._next, self._next + 1
        path = self._path(number)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        journal = self._journals[number] = _Journal(number, descriptor)
        try:
            _sync_folder(self.folder)
        except OSError:
            self._drop(journal)
            raise
        return journal

    def _give_up(self, journal: _Journal) -> None:
        """Leave a journal after a failed write; after a failed sync nobody knows what is in it."""
        with suppress(OSError):
            os.ftruncate(journal.descriptor, journal.size_bytes)
        os.close(journal.descriptor)
        journal.descriptor = -1
        self._active = None
        if not journal.live:
            with suppress(OSError):
                self._drop(journal)

    def _append_large(self, header: bytes, data: bytes | BinaryIO) -> tuple[int, int]:
        with self._write_lock:
            journal = self._create()
            journal.live.add(_UNFINISHED)
        try:
            _write_all(journal.descriptor, header, 0)
            offset = end = len(header)
            for part in _parts(data):
                _write_all(journal.descriptor, part, end)
                end += len(part)
            os.fsync(journal.descriptor)
        except BaseException:
            with self._write_lock, suppress(OSError):
                self._drop(journal)
            raise
        with self._write_lock:
            os.close(journal.descriptor)
            journal.descriptor = -1
            journal.size_bytes = end
            journal.live = {offset}
        return journal.number, offset

    def _drop(self, journal: _Journal) -> None:
        if journal.descriptor >= 0:
            os.close(journal.descriptor)
            journal.descriptor = -1
        if journal is self._active:
            self._active = None
        self._journals.pop(journal.number, None)
        path = self._path(journal.number)
        if journal.is_damaged:
            with suppress(FileNotFoundError):
                path.rename(_aside(path))
        else:
            path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:012d}.landing"


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def _digest(data: bytes | BinaryIO) -> bytes:
    if isinstance(data, bytes):
        return hashlib.sha256(data).digest()
    start = data.tell()
    digest = hashlib.file_digest(data, "sha256").digest()  # type: ignore[arg-type]
    data.seek(start)
    return digest


def _size_of(stream: BinaryIO) -> int:
    start = stream.tell()
    size_bytes = stream.seek(0, os.SEEK_END) - start
    stream.seek(start)
    return size_bytes


def _parts(data: bytes | BinaryIO) -> Iterator[bytes | memoryview]:
    if isinstance(data, bytes):
        yield memoryview(data)
    else:
        yield from iter(lambda: data.read(_STEP_BYTES), b"")


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(folder: Path | str, doing: str) -> Iterator[None]:
    """Turn errors of the disk into a line that names the folder."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"{folder}: cannot {doing}: {reason}; free some space"
            raise LandingFullError(message) from error
        message = f"{folder}: cannot {doing}: {reason}"
        raise StorageError(message) from error
