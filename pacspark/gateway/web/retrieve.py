"""WADO-RS: objects, metadata, frames and bulk data, as they were stored (PS3.18 10.4).

Objects and frames go out byte for byte as they came in where the client takes that, which
``transfer-syntax=*`` says; else :mod:`pacspark.gateway.web.frames` decodes or encodes them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from starlette.responses import Response

from pacspark.dicom.decode import EXPLICIT_VR_LITTLE_ENDIAN
from pacspark.errors import (
    QueryError,
    RequestTooLargeError,
    TranscodingError,
    UnacceptableError,
)
from pacspark.gateway.groups import StoredInstance
from pacspark.gateway.web.call import (
    Call,
    Part,
    data_sets_answer,
    etag_of,
    not_modified,
    parts_answer,
)
from pacspark.gateway.web.frames import (
    FrameSource,
    can_transcode_to,
    native_frame,
    transcoded_object,
)
from pacspark.gateway.web.media import (
    DICOM,
    OCTETS,
    Form,
    media_type_of,
)
from pacspark.tables.schema import frame_index

_LOSSLESS: Final = frozenset(
    f"1.2.840.10008.1.2{rest}"
    for rest in (
        "", ".1.99", ".2", ".5", ".8.1",  # implicit, deflated, big endian, RLE, deflated frames
        ".4.57", ".4.70", ".4.80", ".4.90", ".4.92", ".4.110", ".4.201", ".4.202",
    )
)  # fmt: skip
"""What loses nothing when it is decoded, and is nobody's to know (PS3.18 8.7.3.4)."""
_STEP_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 8 << 20
_ROWS_AT_ONCE: Final = 128
_MOST_FRAMES: Final = 100_000
_BULK_URI: Final = '"BulkDataURI":"#'
_BULK_PLACE: Final = re.compile(r'"BulkDataURI":"#([0-9]+),([0-9]+)"')
_PLACE: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")
_RANGE: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def objects(call: Call) -> Response:
    """Answer the objects of a study, of a series, or one."""
    form = _object_form(call)
    instances = call.instances()
    syntax = form.transfer_syntax
    etag = etag_of(instances, DICOM, syntax or "")
    if call.has(etag):
        return not_modified(etag)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    is_single = form.multipart is False
    given, data = given_in(call, instances[0], syntax) if is_single else ("", None)
    call.record("retrieve", "success", instances=len(instances), transfer_syntax=syntax)
    if not is_single:
        return parts_answer(call, DICOM, _object_parts(call, instances, syntax), headers=headers)
    media_type = f"{DICOM}; transfer-syntax={given}"
    if data is None:
        return ranged(call, instances[0], 0, instances[0].size_bytes, media_type, headers)
    return Response(data, media_type=media_type, headers=headers)


def _object_form(call: Call) -> Form:
    forms = call.accepted()
    for form in forms:
        if not form.takes(DICOM) or (form.multipart is False and call.level != "instance"):
            continue
        syntax = form.transfer_syntax
        if syntax in {None, "*"} or can_transcode_to(str(syntax)):
            return Form(DICOM, form.multipart, syntax)
        if all(one.transfer_syntax_uid == syntax for one in call.instances()):
            return form
    raise _unacceptable(call, f'multipart/related; type="{DICOM}", in a transfer syntax it has')


def given_in(call: Call, one: StoredInstance, asked: str | None) -> tuple[str, bytes | None]:
    """Give the transfer syntax in which an object goes out, and its bytes if it is not the stored.

    Parameters
    ----------
    asked
        a transfer syntax; ``*`` for whatever is stored. Who names none is given what everybody
        reads (PS3.18 8.7.3.4), but nothing that is lossy already is made larger

    Raises
    ------
    TranscodingError, RequestTooLargeError
        where it cannot be given in the one that was asked for
    """
    stored = one.transfer_syntax_uid
    plain = EXPLICIT_VR_LITTLE_ENDIAN if stored in _LOSSLESS else stored
    syntax = stored if asked == "*" else asked or plain
    if syntax == stored:
        return stored, None
    try:
        return syntax, transcoded_object(call, one, syntax)
    except (TranscodingError, RequestTooLargeError):
        if asked is not None:
            raise
        return stored, None


def _object_parts(
    call: Call, instances: Sequence[StoredInstance], syntax: str | None
) -> Iterator[Part]:
    for start in range(0, len(instances), _ROWS_AT_ONCE):
        some = instances[start : start + _ROWS_AT_ONCE]
        rows = call.store.locate([one for one in some if one.landed is None])
        for one in some:
            given, made = given_in(call, one, syntax)
            data: Callable[[], Iterable[bytes]]
            data = partial(call.store.stream, one, rows.get(one.sop_instance_uid))
            if made is not None:
                data = partial(list, [made])
            yield Part(f"{DICOM}; transfer-syntax={given}", data, call.url + path_of(one))


def path_of(instance: StoredInstance) -> str:
    """Give the path of an instance, below that of DICOMweb."""
    return (
        f"/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}"
        f"/instances/{instance.sop_instance_uid}"
    )


# metadata


def metadata(call: Call) -> Response:
    """Answer the data sets without bulk data, from the tables alone."""
    media_type = call.data_set_type()
    instances = call.instances()
    etag = etag_of(instances, "metadata", media_type, call.url)
    if call.has(etag):
        return not_modified(etag)
    call.record_reading(instances[0], "metadata")
    data_sets = _data_sets(call, instances)
    return data_sets_answer(call, data_sets, media_type, headers={"ETag": etag})


def _data_sets(call: Call, instances: Sequence[StoredInstance]) -> Iterator[str]:
    url = call.url
    for start in range(0, len(instances), _ROWS_AT_ONCE):
        some = instances[start : start + _ROWS_AT_ONCE]
        rows = call.store.index.rows(some, ["dicom_json"])
        for one in some:
            row = rows.get(one.sop_instance_uid)
            if row is not None:
                yield with_bulk_urls(row["dicom_json"], url + path_of(one))


def with_bulk_urls(document: str, url: str) -> str:
    """Turn the places of bulk data in a DICOM JSON into addresses.

    A text in JSON has no bare quotes, so that what is replaced is no part of one.
    """
    if _BULK_URI not in document:
        return document
    return _BULK_PLACE.sub(rf'"BulkDataURI":"{url}/bulkdata/\1-\2"', document)


# frames


def frames(call: Call) -> Response:
    """Answer some frames of an instance, each a range read (PS3.18 10.4.1.1.6)."""
    instance = call.instance()
    source = FrameSource(call.store, instance, call.door.places.of(instance),
                         call.door.config.web.limits.rendered_pixels)  # fmt: skip
    numbers = frame_numbers(call.request.path_params["frames"], source.count)
    answer = _frames_answer(call, source, numbers)
    call.record_reading(instance, "frames")
    return answer


def _frames_answer(call: Call, source: FrameSource, numbers: Sequence[int]) -> Response:
    instance = source.instance
    form, syntax = _frame_form(call, source, len(numbers))
    etag = etag_of([instance], "frames", syntax, ",".join(map(str, numbers)))
    if call.has(etag):
        return not_modified(etag)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    media_type = form.media_type
    told = f"{media_type}; transfer-syntax={syntax}"
    read = source.stored if syntax == source.syntax else partial(native_frame, source)
    if form.multipart is False:
        return Response(read(numbers[0]), media_type=told, headers=headers)
    first = read(numbers[0])  # what goes wrong here still has a status of its own
    url = f"{call.url}{path_of(instance)}/frames"
    parts = (
        Part(
            told, partial(_one, first if place == 0 else None, read, number), f"{url}/{number + 1}"
        )
        for place, number in enumerate(numbers)
    )
    is_small = len(numbers) == 1 and len(first) <= _SMALL_BYTES
    return parts_answer(call, media_type, parts, headers=headers, is_small=is_small)


def _one(known: bytes | None, read: Callable[[int], bytes], number: int) -> list[bytes]:
    return [read(number) if known is None else known]


def frame_numbers(text: str, count: int) -> list[int]:
    """Read a list of frames, counted from 1; give them counted from 0.

    Raises
    ------
    QueryError
        where it is none, or has a frame that is not there
    """
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text) or text.count(",") >= _MOST_FRAMES:
        message = f"frames: expected numbers separated by commas, found {text[:64]!r}"
        raise QueryError(message)
    numbers = [int(part) for part in text.split(",")]
    for number in numbers:
        if not 1 <= number <= count:
            message = f"frames: expected numbers from 1 to {count}, found {number}"
            raise QueryError(message)
    return [number - 1 for number in numbers]


def _frame_form(call: Call, source: FrameSource, number: int) -> tuple[Form, str]:
    """Choose form and transfer syntax of the frames."""
    stored, kind = source.syntax, media_type_of(source.syntax)
    for form in call.accepted():
        if form.multipart is False and number > 1:
            continue
        if form.takes(OCTETS) and form.media_type != "*/*":
            # unless said otherwise these are plain pixels (PS3.18 8.7.3.2)
            syntax = form.transfer_syntax or EXPLICIT_VR_LITTLE_ENDIAN
            syntax = stored if syntax == "*" else syntax
            if syntax in {stored, EXPLICIT_VR_LITTLE_ENDIAN}:
                return Form(OCTETS, form.multipart), syntax
        elif form.takes(kind) and form.transfer_syntax in {None, "*", stored}:
            return Form(kind, form.multipart), stored
    raise _unacceptable(call, f"frames as they are ({kind}; transfer-syntax={stored}) or {OCTETS}")


def _unacceptable(call: Call, expected: str) -> UnacceptableError:
    found = call.request.headers.get("accept", "")
    return UnacceptableError(f"Accept: expected {expected}, found {found[:200]!r}")


# bulk data


def bulk_data(call: Call) -> Response:
    """Answer a value that metadata only name."""
    match = _PLACE.fullmatch(call.request.path_params["place"])
    if match is None:
        message = "bulk data: expected a place as the metadata have it"
        raise QueryError(message)
    start, length = int(match[1]), int(match[2])
    instance = call.instance()
    row = call.door.places.of(instance)
    index = frame_index(row)
    call.record_reading(instance, "bulk data")
    source = FrameSource(call.store, instance, row, call.door.config.web.limits.rendered_pixels)
    if index.kind == "encapsulated" and start == index.pixel_data_offset and index.count:
        return _frames_answer(call, source, range(index.count))
    forms = call.accepted()
    etag = etag_of([instance], "bulk data", match[0], str(forms))
    if call.has(etag):
        return not_modified(etag)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if source.is_deflated:
        data = source.inflated(start, length)
        return _bulk_answer(call, headers, lambda: [data], length)
    if start + length > instance.size_bytes:
        message = f"bulk data: expected a place within {instance.size_bytes} bytes"
        raise QueryError(message)
    if any(form.multipart is not True and form.takes(OCTETS) for form in forms[:1]):
        return ranged(call, instance, start, length, OCTETS, headers)
    read = partial(_pieces, call, instance, start, length)
    return _bulk_answer(call, headers, read, length)


def _bulk_answer(
    call: Call, headers: dict[str, str], read: Callable[[], Iterable[bytes]], length: int
) -> Response:
    for form in call.accepted():
        if not form.takes(OCTETS):
            continue
        if form.multipart:
            return parts_answer(call, OCTETS, iter([Part(OCTETS, read)]), headers=headers)
        headers = headers | {"Content-Length": str(length)}
        return call.streamed(read(), OCTETS, headers)
    raise _unacceptable(call, OCTETS)


def _pieces(call: Call, instance: StoredInstance, start: int, length: int) -> Iterator[bytes]:
    row = call.door.places.of(instance)
    for at in range(start, start + length, _STEP_BYTES):
        size = min(_STEP_BYTES, start + length - at)
        yield call.store.read_range(instance, at, size, row)


def ranged(
    call: Call,
    instance: StoredInstance,
    start: int,
    length: int,
    media_type: str,
    headers: Mapping[str, str],
) -> Response:
    """Answer some bytes of an object, or the range of them that is asked for (RFC 9110 14.2)."""
    told = {**headers, "Accept-Ranges": "bytes"}
    match = _RANGE.fullmatch(call.request.headers.get("range", "").replace(" ", ""))
    if call.request.headers.get("if-range", told["ETag"]) != told["ETag"]:
        match = None  # what the client has a part of is another version (RFC 9110 13.1.5)
    if match is None or not (match[1] or match[2]):
        told["Content-Length"] = str(length)
        whole = start == 0 and length == instance.size_bytes
        pieces = (
            call.store.stream(instance)
            if whole
            else _pieces(call, instance, start, length)
        )  # fmt: skip
        return call.streamed(pieces, media_type, told)
    if match[1]:
        first, last = int(match[1]), min(int(match[2] or length - 1), length - 1)
    else:
        first, last = max(length - int(match[2]), 0), length - 1
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{length}"})
    told |= {
        "Content-Range": f"bytes {first}-{last}/{length}",
        "Content-Length": str(last - first + 1),
    }
    pieces = _pieces(call, instance, start + first, last - first + 1)
    return call.streamed(pieces, media_type, told, 206)
