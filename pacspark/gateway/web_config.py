"""What the web door of a gateway is told: the table ``[web]`` of its TOML file.

::

    [web]
    enabled = true
    anonymous = ["read"]            # without credentials; scopes: read, write, delete, reconstruct
    cors_origins = ["https://viewer.example.org"]
    hosts = ["pacs.example.org"]    # names in the Host header that are answered; any unless given
    public_url = "https://pacs.example.org"   # where a proxy shows the gateway

    [[web.users]]
    name = "radiology"              # basic authentication
    password = "scrypt:..."         # written by `pacspark credential`
    scopes = ["read"]

    [[web.users]]
    name = "station-3"              # bearer token
    token = "sha256:..."            # written by `pacspark credential --token`
    scopes = ["read", "write"]

    [[web.users]]
    name = "oidc"                   # a proxy that has asked who it is: it puts that into a header
    token = "sha256:..."
    user_header = "X-Forwarded-Email"
    scopes = ["read"]

Without users whoever reaches the gateway may read, write and reconstruct; with users, only they
may, unless ``anonymous`` says otherwise.
"""

import re
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from pacspark.scans.toml import TomlTable

SCOPES: Final = ("read", "write", "delete", "reconstruct")
_TOKEN: Final = re.compile(r"sha256:[0-9a-f]{64}")
_PASSWORD: Final = re.compile(r"scrypt:[0-9a-f]{32}:[0-9a-f]{64}")
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_T = TypeVar("_T")
_URL: Final = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~/-]*)?")


@dataclass(frozen=True, slots=True)
class WebUser:
    """Somebody who says who he is.

    Attributes
    ----------
    name
        for basic authentication, and for the table `audit`
    password, token
        what is kept of them: a salted scrypt hash, a SHA-256; one of the two
    scopes
        of :data:`SCOPES`
    user_header
        of a proxy: the header in which it says for whom it asks
    """

    name: str
    password: str | None = None
    token: str | None = None
    scopes: tuple[str, ...] = ("read",)
    user_header: str | None = None


@dataclass(frozen=True, slots=True)
class WebLimits:
    """What one client, and all together, may take.

    Attributes
    ----------
    connections
        at once; where one more comes, one that keeps the gateway waiting goes
    requests_per_minute
        of one address; frames of a series are a request each
    body_bytes, parts
        of one request that stores
    first_request_s
        from the connection to a whole request head
    idle_s
        without a byte of a body that is awaited, or of an answer that is to be taken
    rendered_pixels
        of one frame that is rendered or transcoded
    transcoded_bytes
        of one object that is transcoded as a whole
    """

    connections: int = 500
    requests_per_minute: int = 60_000
    body_bytes: int = 64 << 30
    parts: int = 100_000
    first_request_s: float = 10.0
    idle_s: float = 60.0
    rendered_pixels: int = 1 << 27
    transcoded_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class WebConfig:
    """Everything that the web door is told."""

    enabled: bool = True
    anonymous: tuple[str, ...] | None = None
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    public_url: str | None = None
    users: tuple[WebUser, ...] = ()
    limits: WebLimits = field(default_factory=WebLimits)

    @property
    def anonymous_scopes(self) -> frozenset[str]:
        """What may be done without credentials."""
        if self.anonymous is not None:
            return frozenset(self.anonymous)
        return frozenset() if self.users else frozenset({"read", "write", "reconstruct"})


def read_web(table: TomlTable) -> WebConfig:
    """Read the table ``[web]``.

    Parameters
    ----------
    table
        it, with the keys of :class:`WebConfig`
    """
    given: dict[str, Any] = {}
    if "enabled" in table:
        given["enabled"] = table.flag("enabled")
    if "anonymous" in table:
        given["anonymous"] = _scopes(table, "anonymous")
    for key in ("cors_origins", "hosts"):
        if key in table:
            given[key] = tuple(table.texts(key))
    if "public_url" in table:
        url = table.text("public_url")
        if not _URL.fullmatch(url):
            raise table.error("public_url", "https://host or http://host", repr(url)[:80])
        given["public_url"] = url.rstrip("/")
    if "users" in table:
        given["users"] = _users(table)
    if "limits" in table:
        given["limits"] = read_limits(WebLimits, table)
    return WebConfig(**given)


def keys_of(kind: type) -> dict[str, str]:
    """Give the fields of a dataclass as the keys of its table."""
    return dict.fromkeys((one.name for one in fields(kind)), "")


def read_limits(kind: type[_T], table: TomlTable) -> _T:
    """Read the table ``limits`` below one: counts where the default is one, else numbers."""
    limits = table.table("limits", keys_of(kind))
    given: dict[str, Any] = {}
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name in limits:
            is_count = isinstance(one.default, int)
            given[one.name] = (
                limits.count(one.name) if is_count else limits.number(one.name, positive=True)
            )
    return kind(**given)


def _users(table: TomlTable) -> tuple[WebUser, ...]:
    users = tuple(map(_user, table.tables("users", keys_of(WebUser))))
    if len({user.name for user in users}) < len(users):
        raise table.error("users", "each name once", "one twice")
    return users


def _user(table: TomlTable) -> WebUser:
    name = table.text("name")
    if not name or ":" in name or not name.isprintable():
        raise table.error("name", "a name without a colon", repr(name)[:80])
    secrets: dict[str, str] = {}
    for key, pattern in (("password", _PASSWORD), ("token", _TOKEN)):
        if key in table:
            secrets[key] = table.text(key)
            if not pattern.fullmatch(secrets[key]):
                # whatever it is may be a secret: it is not shown
                raise table.error(key, "what `pacspark credential` writes", "something else")
    if len(secrets) != 1:
        raise table.error("password", "a password or a token", f"{len(secrets)} of them")
    scopes = _scopes(table, "scopes") if "scopes" in table else ("read",)
    header = table.text("user_header") if "user_header" in table else None
    if header is not None and not _HEADER.fullmatch(header):
        raise table.error("user_header", "the name of a header", repr(header)[:80])
    return WebUser(name, secrets.get("password"), secrets.get("token"), scopes, header)


def _scopes(table: TomlTable, key: str) -> tuple[str, ...]:
    scopes = table.texts(key)
    for scope in scopes:
        if scope not in SCOPES:
            raise table.error(key, f"some of {', '.join(SCOPES)}", repr(scope)[:80])
    return tuple(scopes)
