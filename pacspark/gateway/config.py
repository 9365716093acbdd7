"""What a gateway is told: the command line's options and a strict TOML file.

::

    ae_title = "PACSPARK"
    host = "127.0.0.1"             # any other needs [tls] or allow_unencrypted = true
    dimse_port = 11112
    http_port = 8042
    landing = "/var/lib/pacspark"  # a folder of this gateway alone, on a local disk
    worklist = "worklist/"         # DICOM worklist files; or a table: CSV, Parquet, Delta
    private_sop_classes = ["1.2.3"]

    [[destinations]]               # where C-MOVE and storage commitment may go
    ae_title = "VIEWER"
    host = "10.0.0.7"
    port = 104
    tls = false

    [[callers]]                    # without any, all callers on an allowed address are served
    ae_title = "CT1"               # or "*"
    address = "10.0.0.0/24"        # an address or a network; any unless given
    services = ["echo", "store"]   # find, move, get, commit, worklist; all unless given

    [tls]
    certificate = "gateway.pem"
    key = "gateway.key"
    client_ca = "hospital.pem"     # callers then need a certificate of it

    [limits]                       # see `Limits`

    [reconstructions]              # those that are asked for over HTTP
    at_once = 1
    waiting = 20
    voxels = 68719476736
    command = ["spark-submit", "--master", "yarn", "/opt/pacspark/pacspark/__main__.py"]

    [web]                          # see `pacspark.gateway.web_config`

A key that is not known, or a value that cannot be, is one line that names it.
"""

import errno
import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pacspark.dicom.uids import is_uid
from pacspark.errors import ScanDescriptionError, StorageError, UsageError
from pacspark.gateway.web_config import WebConfig, keys_of, read_limits, read_web
from pacspark.scans.toml import TomlTable, one_line, read_text
from pacspark.tables.storage import Storage

SERVICES: Final = ("echo", "store", "find", "move", "get", "commit", "worklist")
LOOPBACK: Final = "127.0.0.1"
_MOST_AE_TITLE_CHARACTERS: Final = 16
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Destination:
    """An application entity that objects may be sent to."""

    ae_title: str
    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who may use which services.

    Attributes
    ----------
    ae_title
        that it calls itself, ``*`` for any
    address
        the network that it calls from
    services
        that it may use
    """

    ae_title: str
    address: str = "0.0.0.0/0"
    services: tuple[str, ...] = SERVICES

    def is_meant(self, ae_title: str, address: str) -> bool:
        """Tell whether this is who calls from an address."""
        if self.ae_title not in {"*", ae_title}:
            return False
        network = ipaddress.ip_network(self.address, strict=False)
        return self.address == "0.0.0.0/0" or ipaddress.ip_address(address) in network


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of a gateway; paths of PEM files."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer, and all together, may take.

    Attributes
    ----------
    associations, associations_per_address
        at once
    associations_per_minute
        that one address may begin
    pdu_bytes
        of a PDU, both as promised to peers and as read
    object_bytes
        of one object
    identifier_bytes, identifier_depth
        of a query or request, and of the sequences in it
    negotiate_s
        from the connection to a complete association request
    idle_s
        without a byte from the peer
    pdu_s
        for the rest of a PDU that has begun
    answers
        of one query
    reserve_bytes
        of the landing's disk that stay free
    refused_bytes_per_hour
        of what is no DICOM and of conflicts that are kept in `rejects`: who may store is not to
        fill the disk with what nobody can find or delete
    commit_objects, commit_bytes, commit_s
        whichever is reached first, the landing is committed to the tables
    follow_s
        between two looks for new versions of the tables
    """

    associations: int = 100
    associations_per_address: int = 50
    associations_per_minute: int = 6000
    pdu_bytes: int = 1 << 20
    object_bytes: int = 8 << 30
    identifier_bytes: int = 1 << 20
    identifier_depth: int = 8
    negotiate_s: float = 10.0
    idle_s: float = 60.0
    pdu_s: float = 30.0
    answers: int = 100_000
    reserve_bytes: int = 256 << 20
    refused_bytes_per_hour: int = 1 << 30
    commit_objects: int = 1000
    commit_bytes: int = 512 << 20
    commit_s: float = 5.0
    follow_s: float = 1.0


@dataclass(frozen=True, slots=True)
class ReconstructionConfig:
    """How reconstructions run that are asked for over HTTP.

    Attributes
    ----------
    at_once
        processes
    waiting
        jobs beyond those; more are refused
    command
        that stands for ``pacspark``, such as a ``spark-submit`` with its options; this Python's
        own unless given
    voxels
        of the grid of one job; that of a detector of 4096 x 4096 pixels is within it
    """

    at_once: int = 1
    waiting: int = 20
    command: tuple[str, ...] = ()
    voxels: int = 1 << 36


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Everything that a gateway is told."""

    ae_title: str = "PACSPARK"
    host: str = LOOPBACK
    dimse_port: int = 11112
    http_port: int = 8042
    allow_unencrypted: bool = False
    landing: Path | None = None
    worklist: Path | None = None
    private_sop_classes: tuple[str, ...] = ()
    destinations: Mapping[str, Destination] = field(default_factory=lambda: MappingProxyType({}))
    callers: tuple[Caller, ...] = ()
    tls: Tls | None = None
    limits: Limits = field(default_factory=Limits)
    reconstructions: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    web: WebConfig = field(default_factory=WebConfig)

    def services_of(self, ae_title: str, address: str) -> frozenset[str]:
        """Tell what a caller may do; nothing where nobody told of it."""
        if not self.callers:
            return frozenset(SERVICES)
        return frozenset(
            service
            for caller in self.callers
            if caller.is_meant(ae_title, address)
            for service in caller.services
        )

    def landing_folder(self, storage: Storage) -> Path:
        """Give the landing's folder: below a local root, else below the user's state folder."""
        if self.landing is not None:
            return self.landing
        if storage.kind == "local":
            return Path(storage.folder) / "_landing" / self.ae_title
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        name = "".join(letter if letter.isalnum() else "-" for letter in storage.root)
        return state / "pacspark" / "landing" / name.strip("-") / self.ae_title

    def checked(self) -> "GatewayConfig":
        """Return the same where it can be.

        Raises
        ------
        UsageError
            for an AE title or a port that cannot be, and for an address beyond this machine that
            would be served in plain text without a word that this is meant
        """
        require_ae_title("ae_title", self.ae_title)
        for name in ("dimse_port", "http_port"):
            port = getattr(self, name)
            if not 0 <= port <= 65535:
                message = f"{name}: expected a port from 0 to 65535, found {port}"
                raise UsageError(message)
        if not (is_loopback(self.host) or self.tls or self.allow_unencrypted):
            message = (
                f"host {self.host}: expected an address of this machine alone, or [tls], or "
                "allow_unencrypted = true (--allow-unencrypted), found none of them"
            )
            raise UsageError(message)
        return self


def cannot_listen(key: str, port: int, host: str, error: OSError) -> StorageError:
    """Give the error of a port that cannot be listened on, with what mends it."""
    number = error.errno or 0  # below zero: a name that cannot be resolved
    reason = os.strerror(number) if number > 0 else error.strerror
    is_address = number == errno.EADDRNOTAVAIL or number < 0
    mends = "--host takes an address of this machine"
    if not is_address:
        mends = f"--{key.replace('_', '-')} takes another, 0 any"
    return StorageError(f"{key} {port}: cannot listen on {host}: {reason}; {mends}")


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_ae_title(name: str, value: str) -> str:
    """Return an AE title (PS3.5 6.2: 16 characters of the default repertoire, no backslash).

    Raises
    ------
    UsageError
        for all else
    """
    plain = value.strip(" ")
    if (
        not 0 < len(plain) <= _MOST_AE_TITLE_CHARACTERS
        or not plain.isascii()
        or not plain.isprintable()
        or "\\" in plain
    ):
        message = f"{name}: expected an AE title of 1 to 16 ASCII characters, found {value!r:.80}"
        raise UsageError(message)
    return plain


def read_config(path: str | Path) -> GatewayConfig:
    """Read a gateway's TOML file.

    Raises
    ------
    UsageError
        naming the key that is wrong, in one line
    """
    path = Path(path)
    try:
        values = tomllib.loads(read_text(path))
    except OSError as error:
        message = f"{path}: expected a gateway's configuration, found {error.strerror}"
        raise UsageError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"{path}: expected TOML, found {one_line(error)}"
        raise UsageError(message) from error
    try:
        return _config(path, values)
    except ScanDescriptionError as error:
        raise UsageError(*error.args) from None


def _config(path: Path, values: Mapping[str, Any]) -> GatewayConfig:
    table = TomlTable(path, "", values, keys_of(GatewayConfig))
    readers: dict[str, Callable[[], Any]] = {
        "ae_title": lambda: table.text("ae_title"),
        "host": lambda: table.text("host"),
        "dimse_port": lambda: table.count("dimse_port", smallest=0),
        "http_port": lambda: table.count("http_port", smallest=0),
        "allow_unencrypted": lambda: table.flag("allow_unencrypted"),
        "landing": lambda: path.parent / Path(table.text("landing")).expanduser(),
        "worklist": lambda: path.parent / Path(table.text("worklist")).expanduser(),
        "private_sop_classes": lambda: _sop_classes(table),
        "destinations": lambda: _destinations(table),
        "callers": lambda: tuple(map(_caller, table.tables("callers", keys_of(Caller)))),
        "tls": lambda: _tls(path, table.table("tls", keys_of(Tls))),
        "limits": lambda: read_limits(Limits, table),
        "reconstructions": lambda: _reconstructions(
            table.table("reconstructions", keys_of(ReconstructionConfig))
        ),
        "web": lambda: read_web(table.table("web", keys_of(WebConfig))),
    }
    return GatewayConfig(**{key: read() for key, read in readers.items() if key in table})


def _sop_classes(table: TomlTable) -> tuple[str, ...]:
    classes = table.texts("private_sop_classes")
    for uid in classes:
        if not is_uid(uid):
            raise table.error("private_sop_classes", "UIDs", repr(uid)[:80])
    return tuple(classes)


def _destinations(table: TomlTable) -> Mapping[str, Destination]:
    made = map(_destination, table.tables("destinations", keys_of(Destination)))
    return MappingProxyType({one.ae_title: one for one in made})


def _ae_title(table: TomlTable, *, star: bool = False) -> str:
    value = table.text("ae_title")
    if star and value == "*":
        return value
    try:
        return require_ae_title("ae_title", value)
    except UsageError as error:
        raise table.error(
            "ae_title", "an AE title of 1 to 16 ASCII characters", repr(value)[:80]
        ) from error


def _destination(table: TomlTable) -> Destination:
    port = table.count("port")
    if port > 65535:
        raise table.error("port", "a port from 1 to 65535", port)
    return Destination(_ae_title(table), table.text("host"), port, table.flag("tls"))


def _caller(table: TomlTable) -> Caller:
    caller = Caller(_ae_title(table, star=True))
    if "address" in table:
        address = table.text("address")
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            raise table.error("address", "an IP address or network", repr(address)[:80]) from error
        caller = replace(caller, address=address)
    if "services" in table:
        services = table.texts("services")
        for service in services:
            if service not in SERVICES:
                raise table.error("services", f"some of {', '.join(SERVICES)}", repr(service)[:80])
        caller = replace(caller, services=tuple(services))
    return caller


def _tls(path: Path, table: TomlTable) -> Tls:
    files = {}
    for key in keys_of(Tls):
        if key == "client_ca" and key not in table:
            continue
        file = path.parent / Path(table.text(key)).expanduser()
        if not file.is_file():
            raise table.error(key, "a PEM file", f"no file {file}")
        files[key] = file
    return Tls(**files)


def _reconstructions(table: TomlTable) -> ReconstructionConfig:
    given: dict[str, Any] = {
        key: table.count(key) for key in ("at_once", "waiting", "voxels") if key in table
    }
    if "command" in table:
        given["command"] = tuple(table.texts("command"))
        if not given["command"]:
            raise table.error("command", "a program and its arguments", "none")
    return ReconstructionConfig(**given)
