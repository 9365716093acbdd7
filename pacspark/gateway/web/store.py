"""STOW-RS: objects in parts of one request (PS3.18 10.5), or metadata and bulk data; and deletes.

Each part is on the disk before the answer says so. Small parts are held in memory while they
arrive, at most four at a time; larger ones go through a file without a name beside the landing.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, MultipartState
from starlette.responses import Response

from pacspark.dicom.decode import InstanceIndex
from pacspark.errors import (
    DicomDecodeError,
    InstanceMismatchError,
    PacsparkError,
    QueryError,
    RequestTooLargeError,
    StorageError,
)
from pacspark.gateway.statuses import DUPLICATE_INSTANCE, OUT_OF_RESOURCES, dimse_status
from pacspark.gateway.storing import Stored
from pacspark.gateway.web.call import Call, problem
from pacspark.gateway.web.media import DICOM, DICOM_JSON, MULTIPART
from pacspark.gateway.web.retrieve import path_of
from pacspark.gateway.web.store_json import MetadataParts
from pacspark.tables.deletion import delete as delete_from_tables
from pacspark.tables.landing import LARGE_BYTES, Landing
from pacspark.tables.spool import Spool

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MOST_HEAD_BYTES: Final = 8192
_AT_ONCE: Final = 4
_LARGE_METADATA_BYTES: Final = 1 << 20
_BOUNDARY: Final = re.compile(r'boundary="?([0-9A-Za-z\'()+_,./:=? -]{1,200})"?')
"""RFC 2046 has at most 70 characters; Orthanc writes longer ones."""
_TYPE: Final = re.compile(r'[; ]type="?([A-Za-z0-9./+-]+)')
_MOST_FAILURES_TOLD: Final = 10_000


@dataclass(slots=True)
class _Outcome:
    """What became of one part."""

    stored: Stored | None = None
    index: InstanceIndex | None = None
    reason: int = 0
    error: PacsparkError | None = None


@dataclass(slots=True)
class _PartReader:
    """Takes what the parser finds; whole parts wait in :attr:`ready`."""

    most_bytes: int
    most_parts: int
    landing: Landing
    ready: list[Spool] = field(default_factory=list)
    parts: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _part: Spool = field(default_factory=Spool)

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self.begin,
            "on_header_field": self._in_head,
            "on_header_value": self._in_head,
            "on_header_end": self._line_ends,
            "on_part_data": self.take,
            "on_part_end": self.end,
        }

    def begin(self) -> None:
        self.parts += 1
        if self.parts > self.most_parts:
            message = f"expected at most {self.most_parts} parts, found more"
            raise RequestTooLargeError(message)
        self._head, self._part = bytearray(), Spool(self.landing)

    def _in_head(self, data: bytes, start: int, end: int) -> None:
        self._head += data[start:end]
        if len(self._head) > _MOST_HEAD_BYTES:
            message = f"expected at most {_MOST_HEAD_BYTES} bytes of headers in a part, found more"
            raise RequestTooLargeError(message)

    def _line_ends(self) -> None:
        self._head += b"\n"

    def take(self, data: bytes, start: int, end: int) -> None:
        if self._part.size_bytes + end - start > self.most_bytes:
            message = f"expected objects of at most {self.most_bytes} bytes, found a larger one"
            raise RequestTooLargeError(message)
        self._part.write(data[start:end])

    def end(self) -> None:
        self.ready.append(self._part)

    def close(self) -> None:
        for one in [*self.ready, self._part]:
            one.close()


async def store(call: Call) -> Response:
    """Store the parts of a request: 200 all, 202 some, 409 none of them (PS3.18 10.5.3)."""
    content_type = call.request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() == DICOM:
        told = await _store_one(call)
    else:
        match = _BOUNDARY.search(content_type)
        if not content_type.lower().startswith(MULTIPART) or match is None:
            return problem(415, f'expected {DICOM}, or {MULTIPART}; type="{DICOM}" with a boundary')
        kind = _TYPE.search(content_type)
        if kind is not None and kind[1].lower() == DICOM_JSON:
            told = await _store_metadata(call, match[1])
        elif kind is not None and kind[1].lower() != DICOM:
            return problem(415, f'expected {MULTIPART}; type="{DICOM}" or "{DICOM_JSON}"')
        else:
            told = await _store_parts(call, match[1])
    if not told:
        return problem(400, "expected at least one part")
    return await call.work(_answer, call, told)


async def _store_one(call: Call) -> list[_Outcome]:
    reader = _reader(call)
    try:
        reader.begin()  # the body is the only part
        async for data in body(call, call.door.config.web.limits.body_bytes):
            reader.take(data, 0, len(data))
        reader.end()
        return [await call.work(_store_part, call, one) for one in reader.ready]
    finally:
        reader.close()


def _reader(call: Call) -> _PartReader:
    limits = call.door.config
    return _PartReader(limits.limits.object_bytes, limits.web.limits.parts, call.store.landing)


async def _store_parts(call: Call, boundary: str) -> list[_Outcome]:
    """Store parts as they arrive, a few at once: what is written together is synced together."""
    reader = _reader(call)
    running: list[asyncio.Task[_Outcome]] = []
    outcomes: list[_Outcome] = []
    try:
        async for _ in _parsed(call, boundary, reader.callbacks()):
            while reader.ready:
                part = reader.ready.pop(0)
                running.append(asyncio.create_task(call.work(_store_part, call, part)))
                if len(running) >= _AT_ONCE:
                    outcomes.append(await running.pop(0))
        while running:
            outcomes.append(await running.pop(0))
    finally:
        # what has begun is finished: its sender may have been told nothing, but nothing is half
        await asyncio.gather(*running, return_exceptions=True)
        reader.close()
    return outcomes


async def _parsed(
    call: Call, boundary: str, callbacks: "MultipartCallbacks"
) -> AsyncIterator[None]:
    """Read the parts of a body; the caller has its turn after each piece of it."""
    parser = MultipartParser(boundary.encode(), callbacks)
    try:
        async for data in body(call, call.door.config.web.limits.body_bytes):
            for start in range(0, len(data), LARGE_BYTES):
                parser.write(data[start : start + LARGE_BYTES])
                yield
    except MultipartParseError as error:
        message = f"body: expected parts between boundaries: {error}"
        raise QueryError(message) from error
    if parser.state != MultipartState.END:
        message = "body: expected its last boundary, found the end of the bytes"
        raise QueryError(message)


async def _store_metadata(call: Call, boundary: str) -> list[_Outcome]:
    """Store objects whose metadata and bulk data come apart, once all of them are here."""
    limits = call.door.config.web.limits
    parts = MetadataParts(call.store.landing, limits.parts)
    try:
        async for _ in _parsed(call, boundary, parts.callbacks()):
            pass
        # as Python objects, metadata take some thirty times as much
        large = parts.metadata_bytes > _LARGE_METADATA_BYTES
        async with call.door.large_writer if large else nullcontext(), call.door.writers:
            instances = await call.work(parts.instances)
            return [await call.work(_store_written, call, parts, one) for one in instances]
    finally:
        parts.close()


def _store_written(call: Call, parts: MetadataParts, elements: Any) -> _Outcome:
    most_bytes = call.door.config.web.limits.transcoded_bytes
    return _stored(call, lambda: parts.object_of(elements, most_bytes))


async def body(call: Call, most_bytes: int) -> AsyncIterator[bytes]:
    """Give the body as it arrives; nobody may be slower or send more than the limits say."""
    limits = call.door.config.web.limits
    left = most_bytes
    stream = call.request.stream().__aiter__()
    while True:
        try:
            data = await asyncio.wait_for(anext(stream), limits.idle_s)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            message = f"body: expected bytes within {limits.idle_s:g} s, found none"
            raise QueryError(message) from error
        left -= len(data)
        if left < 0:
            message = f"body: expected at most {most_bytes} bytes, found more"
            raise RequestTooLargeError(message)
        if data:
            yield data


def _store_part(call: Call, part: Spool) -> _Outcome:
    try:
        return _stored(call, part.data)
    finally:
        part.close()


def _stored(call: Call, read: Callable[[], bytes | BinaryIO]) -> _Outcome:
    outcome = _Outcome()
    study = call.uid("study")

    def check(index: InstanceIndex) -> None:
        outcome.index = index
        if study is not None and index.row["study_instance_uid"] != study:
            message = f"StudyInstanceUID: expected {study}, found another"
            raise InstanceMismatchError(message)

    try:
        outcome.stored = call.store.store(read(), call.source, check)
        if outcome.stored.outcome == "conflict":
            outcome.reason = DUPLICATE_INSTANCE
    except (DicomDecodeError, StorageError) as error:
        outcome.error, outcome.reason = error, dimse_status(error)
    return outcome


def _answer(call: Call, told: list[_Outcome]) -> Response:
    stored = [one for one in told if not one.reason]
    failed = [one for one in told if one.reason]
    url = call.url
    elements: dict[str, Any] = {}
    studies = {one.stored.instance.study_instance_uid for one in stored if one.stored}
    call.record("store", "success" if not failed else "failure",
                stored=len(stored), failed=len(failed), studies=sorted(studies)[:10],
                reasons=sorted({str(one.error) for one in failed if one.error})[:2])  # fmt: skip
    if len(studies) == 1:
        elements["00081190"] = _element("UR", f"{url}/studies/{studies.pop()}")
    known = [one for one in failed if one.index is not None or one.stored is not None]
    unknown = [one for one in failed if one.index is None and one.stored is None]
    if known:
        elements["00081198"] = {"vr": "SQ", "Value": [
            _named(one) | {"00081197": _element("US", one.reason)}
            for one in known[:_MOST_FAILURES_TOLD]
        ]}  # fmt: skip
    if stored:
        elements["00081199"] = {"vr": "SQ", "Value": [
            _named(one) | {"00081190": _element("UR", url + path_of(one.stored.instance))}
            for one in stored if one.stored is not None
        ]}  # fmt: skip
    if unknown:
        elements["0008119A"] = {"vr": "SQ", "Value": [
            {"00081197": _element("US", one.reason)} for one in unknown[:_MOST_FAILURES_TOLD]
        ]}  # fmt: skip
    status = 200 if not failed else 202 if stored else 409
    if not stored and all(one.reason == OUT_OF_RESOURCES for one in failed):
        status = 507
    # one data set, no array of them: what clients of this service read
    return Response(json.dumps(elements), status, media_type=DICOM_JSON)


def _named(one: _Outcome) -> dict[str, Any]:
    if one.index is not None:
        names = (one.index.sop_class_uid, one.index.sop_instance_uid)
    elif one.stored is not None:
        names = (one.stored.instance.sop_class_uid, one.stored.instance.sop_instance_uid)
    else:
        return {}
    return {"00081150": _element("UI", names[0]), "00081155": _element("UI", names[1])}


def _element(vr: str, value: object) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}


def delete(call: Call) -> Response:
    """Delete a study, a series or an instance: one commit that can be undone."""
    instances = call.instances()
    uid = str(call.uid(call.level))
    call.store.flush()
    reason, study = f"DICOMweb: {call.user}", call.uid("study")
    delete_from_tables(call.store.storage, call.level, uid, reason=reason, study_uid=study)
    call.store.index.refresh()
    call.record("delete", "success", instances=len(instances))
    return Response(status_code=204)
