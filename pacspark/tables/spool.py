"""Where bytes wait that are still coming in: in memory, or on the disk where they are many."""

import os
import tempfile
from contextlib import suppress
from typing import BinaryIO

from pacspark.errors import StorageError
from pacspark.tables.landing import LARGE_BYTES, Landing, disk_errors


class Spool:
    """One object that is on its way in; up to 8 MiB in memory, more in a file without a name.

    However many are on their way at once, they have a bounded share of the memory together; those
    that find no room there are in files, too. Whoever sends is not to be stopped in the middle of
    an object because the disk is full: what comes then is let go, and :meth:`data` tells.

    Parameters
    ----------
    landing
        on whose disk the file is, and whose reserve stays free; None for one of the system

    Attributes
    ----------
    size_bytes
        what has come
    """

    def __init__(self, landing: Landing | None = None) -> None:
        self.size_bytes = 0
        self._landing = landing
        self._held = bytearray()
        self._held_bytes = 0
        self._file: BinaryIO | None = None
        self._error: StorageError | None = None

    def write(self, part: bytes | memoryview) -> None:
        """Take one part."""
        self.size_bytes += len(part)
        if self._error is not None:
            return
        if self._file is None:
            self._held += part
            if self.size_bytes <= LARGE_BYTES and self._may_hold(len(part)):
                return
            part = bytes(self._held)
            self._let_go()
        try:
            self._write_out(part)
        except StorageError as error:
            self._error = error
            self.close()

    def _may_hold(self, size_bytes: int) -> bool:
        if self._landing is None:
            return True
        if not self._landing.hold(size_bytes):
            return False
        self._held_bytes += size_bytes
        return True

    def _let_go(self) -> None:
        self._held = bytearray()
        if self._landing is not None:
            self._landing.hold(-self._held_bytes)
        self._held_bytes = 0

    def _write_out(self, part: bytes | memoryview) -> None:
        folder = None if self._landing is None else self._landing.folder
        with disk_errors(folder or tempfile.gettempdir(), "take in an object"):
            if self._landing is not None:
                self._landing.require_room(len(part))
            if self._file is None:
                # without a buffer: what does not fit is told here, not when it is read
                self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115
            assert self._file is not None  # noqa: S101 -- just opened
            view = memoryview(part)
            while view:
                view = view[self._file.write(view) :]

    def data(self) -> bytes | BinaryIO:
        """Give the whole: bytes, or a file that stands at its start.

        Raises
        ------
        LandingFullError
            where there was no room for it
        StorageError
            where the disk failed otherwise
        """
        if self._error is not None:
            raise self._error
        if self._file is None:
            return bytes(self._held)
        self._file.seek(0, os.SEEK_SET)
        return self._file

    def close(self) -> None:
        """Let go of all of it; safe to repeat."""
        self._let_go()
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
