"""Where an archive lives: one root, as pyarrow, delta-rs and Spark each want to be told of it.

=======================  ==========================  ============================================
root                     pyarrow                     delta-rs
=======================  ==========================  ============================================
``folder``, ``file://``  `LocalFileSystem`           built in
``s3://``, ``s3a://``    `S3FileSystem`              built in, commits by conditional put
``hdfs://``              hdfs-native, through fsspec  built in (hdfs-native as well), no JVM
=======================  ==========================  ============================================

S3 takes its settings from the environment that AWS tools and Spark use: ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` and
``AWS_ALLOW_HTTP=true``.
"""

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake.exceptions import DeltaError, TableNotFoundError

from pacspark.errors import (
    ArchiveNotFoundError,
    PacsparkError,
    StorageError,
    UsageError,
)
from pacspark.tables import hdfs

Kind = Literal["local", "s3", "hdfs"]
T = TypeVar("T")

_SCHEMES: Final[Mapping[str, Kind]] = MappingProxyType(
    {"file": "local", "s3": "s3", "s3a": "s3", "hdfs": "hdfs"}
)
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_REASON_CHARS: Final = 300
# delta-rs would try for three minutes before it says that nobody answers
_S3_PATIENCE: Final = {
    "connect_timeout": "5s",
    "timeout": "60s",
    "max_retries": "4",
    "retry_timeout": "20s",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A root and how to reach it; cheap, picklable, without connections of its own.

    Attributes
    ----------
    root
        the root as messages and people name it
    kind
        ``local``, ``s3`` or ``hdfs``
    authority
        the bucket on S3, host and port on HDFS, empty on a local disk
    folder
        the path of the root for :attr:`filesystem`: absolute, or bucket and prefix on S3
    """

    root: str
    kind: Kind
    authority: str
    folder: str

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system, one per process; its paths are those of :meth:`path`.

        Raises
        ------
        StorageError
            where the server cannot be reached
        MissingDependencyError
            on HDFS without hdfs-native
        """
        if self.kind == "s3":
            return _s3_filesystem(tuple(sorted(_s3_environment().items())))
        if self.kind == "hdfs":
            with self.errors("connect to HDFS"):
                return _hdfs_filesystem(self.authority)
        return _local_filesystem()

    @property
    def delta_options(self) -> dict[str, str]:
        """The ``storage_options`` of delta-rs."""
        if self.kind != "s3":
            return {}
        # a conditional put needs no lock table, and answers "not there yet" as one atomic step
        return _s3_environment() | _S3_PATIENCE | {"conditional_put": "etag"}

    def path(self, *parts: str) -> str:
        """Give the path of something under the root, for :attr:`filesystem`.

        Parameters
        ----------
        parts
            relative, with ``/`` between folders

        Raises
        ------
        StorageError
            where a part would lead out of the root
        """
        names = [name for part in parts for name in part.split("/")]
        if any(name in {"", ".", ".."} or "\0" in name or "\\" in name for name in names):
            message = f"{self.root}: expected a path below the root, found {'/'.join(parts)!r}"
            raise StorageError(message)
        return "/".join([self.folder.rstrip("/"), *names])

    def require_outside(self, path: Path, expected: str) -> None:
        """Refuse to write a file of people's into the archive, where `compact` would delete it.

        Raises
        ------
        UsageError
            where a path leads into a root on a disk
        """
        if self.kind == "local" and path.resolve().is_relative_to(Path(self.folder).resolve()):
            message = (
                f"{path}: expected {expected} outside the archive {self.root}, found it inside"
            )
            raise UsageError(message)

    def is_same(self, other: "Storage") -> bool:
        """Tell whether two roots are one archive's; a folder may have several names."""
        if self.kind == other.kind == "local":
            with suppress(OSError):  # one that is not there yet is no other
                return Path(self.folder).samefile(other.folder)
        here = (self.kind, self.authority, self.folder)
        return here == (other.kind, other.authority, other.folder)

    def table_uri(self, name: str) -> str:
        """Give a table's address for delta-rs and other tools that read Delta."""
        if self.kind == "local":
            return self.path(name)
        if self.kind == "s3":
            return f"s3://{self.path(name)}"
        return f"hdfs://{self.authority}{self.path(name)}"

    def spark_uri(self, name: str) -> str:
        """Give a table's address for Spark, whose S3 client answers to ``s3a``."""
        if self.kind == "local":
            return f"file://{self.path(name)}"  # not encoded, as Hadoop's paths are
        return re.sub("^s3:", "s3a:", self.table_uri(name))

    def require_seen(self) -> None:
        """Check, where a task runs, that a local root is the archive and not just a name.

        Raises
        ------
        UsageError
            where this machine does not see it
        """
        if self.kind == "local" and not Path(self.folder, "instances").is_dir():
            message = (
                f"{self.root}: expected a folder that all machines of the cluster share, found "
                f"none on {socket.gethostname()}; mount it there, or use hdfs:// or s3a://"
            )
            raise UsageError(message)

    def make_durable(self, path: str) -> None:
        """Wait until a written file or folder and its name are on the disk.

        Servers see to it themselves.
        """
        if self.kind == "local":
            _sync(path)
            _sync(str(Path(path).parent))

    def create_folder(self, name: str) -> None:
        """Make a folder below the root, and those above it that are missing, durably."""
        path = self.path(name)
        folders = (Path(path), *Path(path).parents) if self.kind == "local" else ()
        missing = [folder for folder in folders if not folder.exists()]
        self.filesystem.create_dir(path, recursive=True)
        for folder in missing:
            self.make_durable(str(folder))

    def patiently(self, write: Callable[[], T]) -> T:
        """Let delta-rs write; on HDFS again while a datanode is dead and not yet missed."""
        if self.kind != "hdfs":
            return write()
        return hdfs.patiently(write, partial(self.filesystem.get_file_info, "/"))

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn what pyarrow, delta-rs or the operating system raise into one line with the root.

        Parameters
        ----------
        doing
            what is tried inside, to stand after "cannot"

        Raises
        ------
        ArchiveNotFoundError
            where a table is not there
        StorageError
            else
        """
        try:
            yield
        except PacsparkError:
            raise
        except TableNotFoundError as error:
            if self.kind == "local" and _is_forbidden(self.folder):
                message = f"{self.root}: cannot {doing}: {_NO_PERMISSION}"
                raise StorageError(message) from error
            if self._has_tables():
                message = (
                    f"{self.root}: cannot {doing}: an archive is here, but entries of this table's "
                    f"log are lost; `pacspark verify {self.root} --repair-from REPLICA` mends it"
                )
                raise StorageError(message) from error
            message = (
                f"{self.root}: no archive here; look at the name, or `pacspark init {self.root}` "
                "makes one"
            )
            if self.kind == "local" and Path(self.folder).is_file():
                message = f"{self.root}: expected the folder of an archive, found a file"
            raise ArchiveNotFoundError(message) from error
        except (OSError, DeltaError, pa.ArrowException, RuntimeError) as error:
            if isinstance(error, RuntimeError) and self.kind != "hdfs":
                raise  # only hdfs-native says with it what its server refused
            message = f"{self.root}: cannot {doing}: {self._reason(error)}"
            raise StorageError(message) from error

    def _has_tables(self) -> bool:
        """Tell whether the root has tables of an archive, be it ones that cannot be opened."""
        with suppress(OSError, RuntimeError):
            paths = [self.path(name, "_delta_log") for name in ("instances", "objects", "holds")]
            logs = self.filesystem.get_file_info(paths)
            return any(info.type == pafs.FileType.Directory for info in logs)
        return False

    def _reason(self, error: Exception) -> str:
        number = error.errno if isinstance(error, OSError) else None
        if number in _FIXES:
            return _FIXES[number]
        # delta-rs draws its chains of causes with colours and arrows
        text = " ".join(re.sub("\x1b\\[[0-9;]*m|\u21b3", "", str(error)).split())
        for pattern, fix in _REASONS[self.kind]:
            if re.search(pattern, text, re.IGNORECASE):
                return fix.format(authority=self.authority)
        return text if len(text) <= _MAX_REASON_CHARS else f"{text[:_MAX_REASON_CHARS]}..."


def _is_forbidden(folder: str) -> bool:
    there = os.path.isdir(folder)  # noqa: PTH112 -- a Path's asks for more leave
    return there and not os.access(folder, os.R_OK | os.X_OK)


_NO_PERMISSION: Final = "no permission; give this user the right to read and write there"
_NO_FOLDER: Final = "a file stands where a folder should be; choose another root"
_NO_SPACE: Final = "the disk is full; free some space and repeat the command"
_READ_ONLY: Final = "the file system is read-only; choose a root that can be written"
_NO_KEYS: Final = "the keys were refused; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_NO_HTTP: Final = "plain http is refused; set AWS_ALLOW_HTTP=true if that is meant"
_NO_SERVER: Final = "the server does not answer; check AWS_ENDPOINT_URL and the network"
_NO_NAMENODE: Final = "the namenode {authority} does not answer; check the address and its state"
_FIXES: Final[Mapping[int | None, str]] = MappingProxyType(
    {
        errno.EACCES: _NO_PERMISSION,
        errno.EPERM: _NO_PERMISSION,
        errno.EROFS: _READ_ONLY,
        errno.ENOSPC: _NO_SPACE,
        errno.EDQUOT: "the quota is used up; free some space and repeat the command",
        errno.ENOTDIR: _NO_FOLDER,
        errno.EEXIST: _NO_FOLDER,
    }
)
_REASONS: Final[Mapping[Kind, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {
        "local": (
            ("permission denied", _NO_PERMISSION),
            ("no space left", _NO_SPACE),
            ("read-only file system", _READ_ONLY),
            ("not a directory|file exists", _NO_FOLDER),
        ),
        "s3": (
            (
                "NoSuchBucket|bucket .*(does not exist|not found)",
                "no bucket {authority}; create it first",
            ),
            ("InvalidAccessKeyId|SignatureDoesNotMatch|Access.?Denied|Forbidden|: 403", _NO_KEYS),
            ("http.* not allowed|scheme is not allowed|BadScheme|builder error", _NO_HTTP),
            ("error sending request|NETWORK_CONNECTION|connect|timed? ?out|dns", _NO_SERVER),
        ),
        "hdfs": (
            ("permission|AccessControl", _NO_PERMISSION),
            ("safe ?mode", "the namenode is in safe mode; wait until it has left it"),
            ("connect|refused|dns|lookup|resolve|timed? ?out|namenode|unreachable", _NO_NAMENODE),
        ),
    }
)


def open_storage(root: str | Path) -> Storage:
    """Say where an archive lives; nothing is read, written or connected yet.

    Parameters
    ----------
    root
        a folder, ``file://``, ``s3://bucket/prefix``, ``s3a://bucket/prefix`` or
        ``hdfs://host:port/path``

    Raises
    ------
    UsageError
        for an address that is none of these

    Examples
    --------
    >>> storage = open_storage("s3a://hospital/archive")
    >>> storage.table_uri("instances"), storage.spark_uri("instances")
    ('s3://hospital/archive/instances', 's3a://hospital/archive/instances')
    """
    text = str(root)
    if not text or "\0" in text:
        message = f"root: expected a folder or a URL, found {text!r}"
        raise UsageError(message)
    if isinstance(root, Path) or not _URL.match(text):
        return _local(text, Path(text).expanduser())
    url = urlsplit(text)
    kind = _SCHEMES.get(url.scheme.lower())
    if kind is None:
        message = (
            f"root {text}: expected a folder or file://, s3://, s3a://, hdfs://, found "
            f"{url.scheme}://"
        )
        raise UsageError(message)
    if url.query or url.fragment:
        message = f"root {text}: expected no ? or # in it"
        raise UsageError(message)
    if kind == "local":
        if url.netloc not in {"", "localhost"}:
            message = f"root {text}: expected file:///folder, found the host {url.netloc}"
            raise UsageError(message)
        return _local(text, Path(unquote(url.path)))
    if not url.netloc:
        expected = "s3://bucket/prefix" if kind == "s3" else "hdfs://host:port/path"
        message = f"root {text}: expected {expected}"
        raise UsageError(message)
    names = [name for name in url.path.split("/") if name]
    if {".", ".."} & set(names):
        message = f"root {text}: expected no . or .. in it"
        raise UsageError(message)
    folder = "/".join([url.netloc if kind == "s3" else "", *names]) or "/"
    return Storage(text.rstrip("/"), kind, url.netloc, folder)


def _local(root: str, folder: Path) -> Storage:
    # not resolved: a link that is moved on purpose goes on pointing to the archive
    return Storage(root, "local", "", str(folder.absolute()))


def _s3_environment() -> dict[str, str]:
    """Give what this process is told of S3, under the names that all tools share."""
    names = (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ALLOW_HTTP",
    )
    found = {name: os.environ[name] for name in names if os.environ.get(name)}
    found.setdefault("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
    allowed = found.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true", "yes", "on"}
    return found | {"AWS_ALLOW_HTTP": "true" if allowed else "false"}


@cache
def _local_filesystem() -> pafs.FileSystem:
    return pafs.LocalFileSystem()


@cache
def _s3_filesystem(environment: tuple[tuple[str, str], ...]) -> pafs.FileSystem:
    settings = dict(environment)
    options: dict[str, Any] = {
        "access_key": settings.get("AWS_ACCESS_KEY_ID"),
        "secret_key": settings.get("AWS_SECRET_ACCESS_KEY"),
        "session_token": settings.get("AWS_SESSION_TOKEN"),
        "region": settings["AWS_REGION"],
        "connect_timeout": 10,
        "request_timeout": 60,
    }
    endpoint = settings.get("AWS_ENDPOINT_URL")
    if endpoint:
        url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        if url.scheme == "http" and settings["AWS_ALLOW_HTTP"] != "true":
            message = (
                f"AWS_ENDPOINT_URL={endpoint}: plain http is refused; set AWS_ALLOW_HTTP=true if "
                "that is meant"
            )
            raise StorageError(message)
        options |= {"scheme": url.scheme, "endpoint_override": url.netloc}
    return pafs.S3FileSystem(**options)


@cache
def _hdfs_filesystem(authority: str) -> pafs.FileSystem:
    return hdfs.connect(authority)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
