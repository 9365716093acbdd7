"""Digests of objects on their way in and out: of all of one, or of its data set alone."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from pacspark.dicom.decode import data_set_start
from pacspark.errors import StorageError
from pacspark.gateway.groups import StoredInstance
from pacspark.tables.landing import LARGE_BYTES

_STEP_BYTES: Final = 1 << 20


def sha256_of(data: bytes | BinaryIO) -> str:
    """Give the SHA-256 of an object; a file stands at its start before and afterwards."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.file_digest(data, "sha256").hexdigest()  # type: ignore[arg-type]
    data.seek(0)
    return digest


def data_set_digest(pieces: Iterable[bytes]) -> bytes:
    """Give the SHA-256 of an object without its file meta information, which is in the first piece.

    Raises
    ------
    DicomDecodeError
        where it is no DICOM object
    """
    digest, is_first = hashlib.sha256(), True
    for piece in pieces:
        digest.update(piece[data_set_start(piece) :] if is_first else piece)
        is_first = False
    return digest.digest()


def pieces_of(data: bytes | BinaryIO) -> Iterator[bytes]:
    """Give an object piece by piece, a file from its start."""
    if isinstance(data, bytes):
        yield data
        return
    data.seek(0)
    yield from iter(lambda: data.read(_STEP_BYTES), b"")


def rewound(data: bytes | BinaryIO) -> bytes | BinaryIO:
    """Give the same, a file so that it stands at its start."""
    if not isinstance(data, bytes):
        data.seek(0)
    return data


def checked(instance: StoredInstance, stream: BinaryIO) -> Iterator[bytes]:
    """Read an object of the landing; one that is small is checked before any of it is given.

    Raises
    ------
    StorageError
        where its bytes are not those that came; a large one's last piece is held back
    """
    digest = hashlib.sha256()
    step = LARGE_BYTES if instance.size_bytes <= LARGE_BYTES else _STEP_BYTES
    piece = stream.read(step)
    while piece:
        digest.update(piece)
        following = stream.read(step)
        if not following and digest.hexdigest() != instance.sha256:
            message = f"{instance.sop_instance_uid}: a disk has changed its bytes since they came"
            raise StorageError(message)
        yield piece
        piece = following
