"""Zips: the list of their members, and each as a stream; damaged and hostile ones are refusals.

Nothing is ever written under a member's name, so names may be anything.
"""

import io
import lzma
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import BinaryIO, Final, cast

from pacspark.errors import DicomDecodeError

IN_MEMORY_BYTES = 64 << 20
"""A zip member up to this size is inflated in memory; a larger one goes to a temporary file."""
MAX_DIRECTORY_BYTES = 128 << 20
"""The list of a zip is held in memory; this much has a million members, or two."""
MAX_INFLATION = 1000
"""Deflate cannot pass 1032:1; pixels of a scan stay far below, a bomb sits at the top."""
ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    IndexError,  # a member without a name
    RuntimeError,  # such as NotImplementedError
    ValueError,  # such as names that are not in the character set that the zip claims
)


def members_of(stream: BinaryIO, size_bytes: int) -> list[zipfile.ZipInfo]:
    """List the members of a zip.

    Raises
    ------
    one of ZIP_ERRORS
        where it cannot be listed, or members share bytes, as no tool but for bombs writes them
    """
    with zipfile.ZipFile(cast(BinaryIO, _Bounded(stream))) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
    if sum(info.compress_size for info in members) > size_bytes:
        message = f"members of more than its {size_bytes} bytes"
        raise zipfile.BadZipFile(message)
    return members


class _Bounded:
    """A file of which `zipfile` reads no list that would fill the memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable
        self._read = stream.read

    def read(self, size: int = -1) -> bytes:
        """Read on; only the list of a zip is asked for in one large piece."""
        if size > MAX_DIRECTORY_BYTES:
            message = f"a list of {size} bytes"
            raise zipfile.BadZipFile(message)
        return self._read(size) if size >= 0 else self._read()


class OpenZip:
    """The zip that was read last, open: to list it again for each of its members takes days."""

    def __init__(self) -> None:
        self._path = ""
        self._held = ExitStack()

    def inflate(self, path: str, offset: int, open_file: Callable[[str], BinaryIO]) -> BinaryIO:
        """Open a member as a seekable stream.

        Parameters
        ----------
        path, offset
            the zip, and where in it the member's header lies: two may have one name
        open_file
            opens the zip

        Raises
        ------
        DicomDecodeError
            where the member is encrypted, damaged, a bomb, or is no longer there
        """
        try:
            if path != self._path:
                self.close()
                stream = self._held.enter_context(open_file(path))
                self._zip = zipfile.ZipFile(cast(BinaryIO, _Bounded(stream)))
                self._members = {one.header_offset: one for one in reversed(self._zip.infolist())}
                self._path = path
            return self._inflate(self._members[offset])
        except DicomDecodeError:
            raise
        except KeyError as error:
            message = "expected the zip member that was listed, found another list: it changed"
            raise DicomDecodeError(message) from error
        except ZIP_ERRORS as error:
            message = f"expected a readable zip member, found {error}"
            raise DicomDecodeError(message) from error

    def _inflate(self, info: zipfile.ZipInfo) -> BinaryIO:
        _refuse_bomb(info)
        with self._zip.open(info) as packed:
            if info.file_size <= IN_MEMORY_BYTES:
                return io.BytesIO(packed.read(IN_MEMORY_BYTES + 1))
            spool = tempfile.TemporaryFile()  # noqa: SIM115 -- the caller closes it
            shutil.copyfileobj(packed, spool, 1 << 20)
            spool.seek(0)
            return cast(BinaryIO, spool)

    def close(self) -> None:
        """Let go of it."""
        self._path = ""
        self._held.close()


def _refuse_bomb(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        message = "expected a readable zip member, found an encrypted one"
        raise DicomDecodeError(message)
    inflation = info.file_size / max(1, info.compress_size)
    if info.file_size > IN_MEMORY_BYTES and inflation > MAX_INFLATION:
        message = (
            f"expected a zip member that inflates less than {MAX_INFLATION}-fold, found "
            f"{info.file_size} bytes from {info.compress_size}"
        )
        raise DicomDecodeError(message)
