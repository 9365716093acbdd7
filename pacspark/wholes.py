"""Files and folders that appear whole or not at all, and never in the place of something else.

Each is made beside its name, waited for until it is on the disk, and only then given its name. What
has the name already is left alone where it holds the same bytes; all formats are written so that
the same voxels make the same bytes.
"""

import errno
import filecmp
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pacspark.errors import StorageError, UsageError

ALMOST_NOTHING_BYTES: Final = 1 << 20
"""What is left on a disk that is full."""


@contextmanager
def whole_file(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield the name of a file to write in the place of `path`.

    Parameters
    ----------
    path
        its name; folders on the way are made
    replace
        whether it may take the place of a file that holds something else

    Raises
    ------
    StorageError
        When it cannot be written; nothing is left then.
    UsageError
        When `path` is there and holds something else.
    """
    if os.path.lexists(path) and not path.is_file():
        raise holds_something_else(path)
    with _making(path) as temporary:
        yield temporary
        _sync(temporary)
        if os.path.lexists(path) and not replace:
            if not filecmp.cmp(temporary, path, shallow=False):
                raise holds_something_else(path)
        else:
            temporary.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield the name of a folder to make in the place of `path`; see `whole_file`."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        raise holds_something_else(path)
    with _making(path) as temporary:
        yield temporary
        for parent, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(parent, name))
            _sync(Path(parent))
        if os.path.lexists(path):
            if not _same_folder(temporary, path):
                raise holds_something_else(path)
        else:
            temporary.rename(path)
            _sync(path.parent)


def holds_something_else(path: Path) -> UsageError:
    """Make the error of a name that is taken."""
    message = (
        f"{path}: expected no file or the same bytes, found something else; nothing was written"
    )
    return UsageError(message)


@contextmanager
def _making(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        message = f"{path}: cannot write: {_reason(error, path)}"
        raise StorageError(message) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: OSError, path: Path) -> str:
    """Say why: NumPy tells how much it wrote of an array, not that the disk is full."""
    with suppress(OSError):
        if error.errno is None and shutil.disk_usage(path.parent).free < ALMOST_NOTHING_BYTES:
            return os.strerror(errno.ENOSPC)
    return error.strerror or str(error)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _same_folder(one: Path, other: Path) -> bool:
    listed = [
        {str(path.relative_to(folder)): path.is_file() for path in folder.rglob("*")}
        for folder in (one, other)
    ]
    return listed[0] == listed[1] and all(
        filecmp.cmp(one / name, other / name, shallow=False)
        for name, is_file in listed[0].items()
        if is_file
    )
