"""Reading a file from front to back, the next block while one is worked on."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, Self

from pacspark.tables.storage import Storage

BLOCK_BYTES: Final = 4 << 20
"""A reader holds three of these: the one it came from, the one worked on, the next."""
_GAP_BYTES: Final = 1 << 20


class _Source(Protocol):
    def read_at(self, length: int, start: int) -> bytes: ...
    def close(self) -> None: ...


class _LocalFile:
    """A file of a local disk, read from the disk and not from what the system remembers of it."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        # bytes that are still in memory say nothing of those on the disk
        self._forget()

    def read_at(self, length: int, start: int) -> bytes:
        return os.pread(self._descriptor, length, start)

    def close(self) -> None:
        self._forget()  # read once: the memory is better used for what is read often
        os.close(self._descriptor)

    def _forget(self) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class ForwardReader:
    """Some ranges of a file, read once, in order; a context manager.

    What cannot be read is told where it is asked for, as OSError, and what comes after it can be
    read on.

    Parameters
    ----------
    storage, path
        the file, its path as `Storage.path` gives it
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._source: _Source
        if storage.kind == "local":
            self._source = _LocalFile(path)
        else:
            self._source = storage.filesystem.open_input_file(path)
        self._reading = ThreadPoolExecutor(1, "pacspark-read")
        self._blocks: Iterator[tuple[int, int]] = iter(())
        self._next: tuple[int, int, Future[bytes]] | None = None
        self._held: list[tuple[int, int, Future[bytes]]] = []
        self.bytes_read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reading.shutdown(cancel_futures=True)
        self._source.close()

    def plan(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say what will be asked for: ranges ``start .. stop`` in rising order.

        Ranges that lie close together are read as one.
        """
        self._held = []
        self._blocks = _blocks(_joined(ranges))
        self._advance()

    def read(self, start: int, stop: int) -> bytes:
        """Read a short range, whole.

        Raises
        ------
        OSError
            where the file ends before, or cannot be read there
        """
        return b"".join(self.views(start, stop))

    def views(self, start: int, stop: int) -> Iterator[memoryview]:
        """Read a range as the blocks have it; it may begin one block before the last one read.

        Raises
        ------
        OSError
            where the file ends before, or cannot be read there
        """
        while start < stop:
            first, data = self._block_of(start)
            view = memoryview(data)[start - first : stop - first]
            if not view:
                message = f"expected bytes up to {stop}, found the end at {first + len(data)}"
                raise OSError(message)
            yield view
            start += len(view)

    def _block_of(self, position: int) -> tuple[int, bytes]:
        for first, last, reading in self._held:
            if first <= position < last:
                return first, reading.result()
        while self._next is not None:
            block = self._next
            self._held = [*self._held[-1:], block]
            self._advance()
            if block[0] <= position < block[1]:
                return block[0], block[2].result()
        message = f"expected bytes at {position}, which nobody said would be read"
        raise OSError(message)

    def _advance(self) -> None:
        block = next(self._blocks, None)
        self._next = None if block is None else (*block, self._reading.submit(self._read, *block))

    def _read(self, first: int, last: int) -> bytes:
        parts: list[bytes] = []
        position = first
        try:
            while position < last and (part := self._source.read_at(last - position, position)):
                parts.append(part)
                position += len(part)
        except RuntimeError as error:  # what hdfs-native says with it is the server's refusal
            raise OSError(str(error)) from error
        self.bytes_read += position - first
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start = stop = -1
    for first, last in ranges:
        if start >= 0 and first <= stop + _GAP_BYTES:
            stop = max(stop, last)
            continue
        if start >= 0:
            yield start, stop
        start, stop = first, last
    if start >= 0:
        yield start, stop


def _blocks(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, stop in spans:
        for first in range(start, stop, BLOCK_BYTES):
            yield first, min(first + BLOCK_BYTES, stop)
