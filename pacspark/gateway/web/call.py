"""What the handler of one HTTP request has at hand, and the answers that handlers give."""

import asyncio
import hashlib
import json
import re
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any, Final, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pacspark.dicom.uids import is_uid
from pacspark.errors import (
    InstanceNotFoundError,
    QueryError,
    SeriesNotFoundError,
    UnacceptableError,
)
from pacspark.gateway.audit import AuditLog
from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.groups import StoredInstance
from pacspark.gateway.pulse import Pulse
from pacspark.gateway.reconstructing import Reconstructions
from pacspark.gateway.storing import Store
from pacspark.gateway.web.media import (
    DICOM_JSON,
    DICOM_XML,
    JSON,
    MULTIPART,
    Form,
    read_accept,
)
from pacspark.gateway.web.native_model import native_model
from pacspark.gateway.web.recent import Places, RecentAccesses
from pacspark.gateway.web.turns import Turns

ROOT: Final = "/dicom-web"
"""The path under which DICOMweb is served."""
_HOST: Final = re.compile(
    r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?"
)
_PORTLESS_ADDRESS: Final = re.compile(r"localhost|[0-9.]+|\[[0-9A-Fa-f:.]+\]")
_GZIP: Final = 16 + zlib.MAX_WBITS
_TAKES_GZIP: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE)
_WRITE_BYTES: Final = 256 << 10
_WRITTEN_AT_ONCE: Final = 4

_T = TypeVar("_T")
Level = Literal["study", "series", "instance"]


@dataclass(slots=True)
class Door:
    """What all requests share.

    Attributes
    ----------
    store
        the archive
    config
        what the gateway was told
    audit
        takes a row for each access
    reconstructions
        that were asked for
    places
        of objects that were asked for lately
    recent
        accesses that have their audit row
    pulse
        counts requests
    writers
        has a place for each request that may hold parsed metadata and an object that is written
        from them: many times the bytes that came
    turns
        in which threads work for an address
    large_writer
        is held by the one of these that may have many metadata
    """

    store: Store
    config: GatewayConfig
    audit: AuditLog
    reconstructions: Reconstructions
    places: Places = field(init=False)
    recent: RecentAccesses = field(default_factory=RecentAccesses)
    pulse: Pulse = field(default_factory=Pulse)
    turns: Turns = field(default_factory=Turns)
    writers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_WRITTEN_AT_ONCE))
    large_writer: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.places = Places(self.store)


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request that is being answered.

    Attributes
    ----------
    request
        as it came
    door
        what all requests share
    user, address
        who asks, and from where
    """

    request: Request
    door: Door
    user: str
    address: str

    async def work(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Run a function in a thread, when it is this client's turn."""
        return await self.door.turns.run(self.address, function, *arguments)

    def streamed(
        self,
        pieces: Iterable[bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
        status: int = 200,
    ) -> Response:
        """Answer piece by piece; whoever asks for the head alone has none of them made."""
        if self.request.method == "HEAD":
            pieces = ()
        turns = self.door.turns.pieces(self.address, pieces)
        return StreamingResponse(turns, status, media_type=media_type, headers=headers)

    @property
    def store(self) -> Store:
        """The archive."""
        return self.door.store

    @property
    def source(self) -> str:
        """Who asks, for the tables and for people."""
        return f"http://{self.user}@{self.address}"

    @property
    def url(self) -> str:
        """The address of DICOMweb as this client sees it."""
        told = self.door.config.web.public_url
        if told is not None:
            return told + ROOT
        host = self.request.headers.get("host", "")
        scheme = "https" if self.door.config.tls else "http"
        if _PORTLESS_ADDRESS.fullmatch(host):
            # clients that forget the port in their Host header; proxies have names
            host = f"{host}:{(self.request.scope.get('server') or ('', 80))[1]}"
        # a name that is none is not repeated: a path alone will do
        return f"{scheme}://{host}{ROOT}" if _HOST.fullmatch(host) else ROOT

    def uid(self, name: str) -> str | None:
        """Give a UID of the path; None where the path has none.

        Raises
        ------
        QueryError
            where it is no UID
        """
        value = self.request.path_params.get(name)
        if value is None:
            return None
        if not is_uid(value):
            message = f"{name}: expected a UID, found {value[:64]!r}"
            raise QueryError(message)
        return str(value)

    @property
    def level(self) -> Level:
        """What the path names: a study, a series or an instance."""
        names = self.request.path_params
        return "instance" if "instance" in names else "series" if "series" in names else "study"

    def instances(self) -> list[StoredInstance]:
        """Give the instances that the path names, in reading order.

        Raises
        ------
        NotInArchiveError
            where there are none
        """
        if self.level == "instance":
            return [self.instance()]
        study, series = self.uid("study"), self.uid("series")
        level, key = ("study" if series is None else "series"), series or str(study)
        found = self.store.index.instances(self.level, [key])
        if series is not None:
            found = [one for one in found if one.study_instance_uid == study]
        if not found:
            message = f"no instance of {level} {key}"
            raise SeriesNotFoundError(message)
        return found

    def instance(self) -> StoredInstance:
        """Give the instance that the path names.

        Raises
        ------
        InstanceNotFoundError
            where there is none in that study and series
        """
        found = self.store.instance(str(self.uid("instance")))
        if (found.study_instance_uid, found.series_instance_uid) != (
            self.uid("study"),
            self.uid("series"),
        ):
            message = f"no instance {found.sop_instance_uid} in that study and series"
            raise InstanceNotFoundError(message)
        return found

    def accepted(self) -> list[Form]:
        """Give the forms that the client takes, the best first (PS3.18 8.3.3.1, 8.7.5)."""
        asked = self.request.query_params.get("accept")
        return read_accept(asked or self.request.headers.get("accept", ""))

    def data_set_type(self) -> str:
        """Give the media type of data sets without bulk data that the client takes (PS3.18 8.7.3).

        Raises
        ------
        UnacceptableError
            where it takes none that there is
        """
        for form in self.accepted():
            for kind in (DICOM_JSON, JSON):
                if form.multipart is not True and form.takes(kind):
                    return kind
            if form.multipart is not False and form.takes(DICOM_XML):
                return DICOM_XML
        asked = self.request.headers.get("accept", "")
        message = f'Accept: expected {DICOM_JSON} or {MULTIPART}; type="{DICOM_XML}", found '
        raise UnacceptableError(message + repr(asked[:200]))

    def record(self, action: str, outcome: str, **told: Any) -> None:
        """Write an audit row for what the path names."""
        names = self.request.path_params
        uid = names.get("instance") or names.get("series") or names.get("study")
        level = self.level if uid else None
        self.door.audit.record(
            self.user, self.address, action, outcome, level=level, uid=uid, detail=told or None
        )

    def record_reading(self, instance: StoredInstance, what: str) -> None:
        """Write an audit row for reading of a series, once a minute."""
        series = instance.series_instance_uid
        if self.door.recent.is_new(self.user, self.address, what, series):
            self.door.audit.record(
                self.user, self.address, "retrieve", "success",
                level="series", uid=series, detail={"what": what},
            )  # fmt: skip

    def has(self, etag: str) -> bool:
        """Tell whether the client says that it has a version already (RFC 9110 13.1.2)."""
        told = self.request.headers.get("if-none-match", "")
        return told.strip() == "*" or etag in [
            part.strip().removeprefix("W/") for part in told.split(",")
        ]


def etag_of(instances: Sequence[StoredInstance], *form: str) -> str:
    """Give the entity tag of some instances in some form."""
    digest = hashlib.sha256("\n".join(form).encode())
    for one in instances:
        digest.update(f"{one.sop_instance_uid} {one.sha256}\n".encode())
    return f'"{digest.hexdigest()[:32]}"'


def not_modified(etag: str) -> Response:
    """Answer that the client has it already."""
    return Response(status_code=304, headers={"ETag": etag, "Cache-Control": "private, no-cache"})


def data_sets_answer(
    call: Call,
    pieces: Iterator[str],
    media_type: str,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer data sets, piece by piece: as JSON, compressed where the client takes that, or XML.

    Parameters
    ----------
    call
        that is answered
    pieces
        one data set in the DICOM JSON model each; the first is made before the answer begins, so
        that what goes wrong there still has a status of its own
    media_type
        of :meth:`Call.data_set_type`
    headers
        more
    """
    first = list(_first(pieces))
    if media_type == DICOM_XML:
        each = (Part(DICOM_XML, partial(_as_xml, piece)) for piece in chain(first, pieces))
        return parts_answer(call, DICOM_XML, each, headers=headers)
    parts: Iterable[bytes] = _array(chain(first, pieces))
    told = {"Vary": "Accept, Accept-Encoding", "Cache-Control": "private, no-cache"}
    told |= headers or {}
    if _TAKES_GZIP.search(call.request.headers.get("accept-encoding", "")):
        parts = _compressed(parts)
        told["Content-Encoding"] = "gzip"
    return call.streamed(_gathered(parts), media_type, told)


def _as_xml(document: str) -> list[bytes]:
    return [native_model(document).encode()]


def _gathered(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces: each that goes out is a turn of a worker thread and of the event loop."""
    held: list[bytes] = []
    size_bytes = 0
    for part in parts:
        held.append(part)
        size_bytes += len(part)
        if size_bytes >= _WRITE_BYTES:
            yield b"".join(held) if len(held) > 1 else part
            held, size_bytes = [], 0
    if held:
        yield b"".join(held)


def _first(pieces: Iterator[str]) -> Iterator[str]:
    for piece in pieces:
        yield piece
        return


def _array(pieces: Iterable[str]) -> Iterator[bytes]:
    before = "["
    for piece in pieces:
        yield (before + piece).encode()
        before = ",\n"
    yield b"]" if before != "[" else b"[]"


def _compressed(parts: Iterable[bytes]) -> Iterator[bytes]:
    squeezer = zlib.compressobj(1, wbits=_GZIP)
    for part in parts:
        data = squeezer.compress(part)
        if data:
            yield data
    yield squeezer.flush()


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an answer in parts.

    Attributes
    ----------
    media_type
        with its parameters
    data
        gives the bytes
    location
        where the part alone is
    """

    media_type: str
    data: Callable[[], Iterable[bytes]]
    location: str | None = None


def parts_answer(
    call: Call,
    media_type: str,
    parts: Iterator[Part],
    *,
    headers: Mapping[str, str] | None = None,
    is_small: bool = False,
) -> Response:
    """Answer ``multipart/related`` (PS3.18 8.6.1.2), part by part.

    Parameters
    ----------
    call
        that is answered
    media_type
        of the first part
    parts
        whose bytes are read as they are sent, the first ones before the answer begins, so that what
        fails there has a status; where that fails later, the answer ends without its last
        boundary and the connection closes, so that nobody takes it for whole
    headers
        more
    is_small
        whether all of it may be read before it is sent: each turn between the threads that read and
        the one that sends takes as long as reading a frame
    """
    boundary = uuid.uuid4().hex
    told = {"Vary": "Accept"} | dict(headers or {})
    kind = f'{MULTIPART}; type="{media_type}"; boundary={boundary}'
    pieces = _parts(boundary, parts)
    if is_small:
        return Response(b"".join(pieces), media_type=kind, headers=told)
    gathered = _gathered(pieces)
    return call.streamed(chain(list(islice(gathered, 1)), gathered), kind, told)


def _parts(boundary: str, parts: Iterator[Part]) -> Iterator[bytes]:
    for part in parts:
        head = f"--{boundary}\r\nContent-Type: {part.media_type}\r\n"
        if part.location:
            head += f"Content-Location: {part.location}\r\n"
        yield f"{head}\r\n".encode()
        yield from part.data()
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def problem(status: int, told: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer that something went wrong, in one line."""
    return Response(
        json.dumps({"status": status, "error": told}),
        status,
        headers=dict(headers or {}),
        media_type="application/json",
    )
