"""Indexing of objects: what is refused, and within which bounds of time and memory."""

import io
import json
import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.dicom.attributes import PROMOTED
from pacspark.dicom.decode import InstanceIndex, index_instance
from pacspark.errors import DicomDecodeError
from tests.dicom import hostile
from tests.dicom.hostile import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    ct_object,
    data_set,
    element,
    header,
    item,
    nested,
    part10,
)

CASE_TIME_LIMIT_S = 5.0


def refused(data: bytes) -> str:
    with pytest.raises(DicomDecodeError) as caught:
        index_instance(data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [pytest.param(data, message, id=name) for name, data, message in hostile.refused_objects()],
)
def test_index_instance__does_refuse_hostile_bytes_in_one_line(data: bytes, message: str) -> None:
    start = time.perf_counter()
    found = refused(data)
    assert time.perf_counter() - start < CASE_TIME_LIMIT_S
    assert message in found
    assert "\n" not in found
    assert len(found) < 250
    with pytest.raises(DicomDecodeError) as caught:
        index_instance(io.BytesIO(data))
    assert str(caught.value) == found


def test_index_instance__does_leave_long_values_out_of_a_long_json() -> None:
    """A structure set of a hundred megabytes is stored; its JSON stays short."""
    contour = b"-123.45\\678.90\\-12.345\\" * 2000 + b"0 "
    contours = [element(0x41010000 | 0x1000 + number, "DS", contour) for number in range(2100)]
    small = element(0x41030010, "LO", b"small ")
    data = part10(data_set(header()) + b"".join(contours) + small)
    assert len(data) > 90 << 20
    index = index_instance(io.BytesIO(data))
    assert len(index.dicom_json) < 20 << 20
    found = json.loads(index.dicom_json)
    assert found["41030010"]["Value"] == ["small"]
    assert len(found["41011000"]["Value"]) == 6001
    offset, length = map(int, found["41011833"]["BulkDataURI"][1:].split(","))
    assert data[offset : offset + length] == contour


def test_index_instance__does_refuse_every_truncation_inside_an_element() -> None:
    for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED):
        whole = ct_object(syntax)
        # a cut between two elements leaves a whole object, if its UIDs lie before the cut
        later = {0x7FE00010: ("OW", bytes(12))}
        later |= {tag: e for tag, e in header(syntax).items() if tag > 0x0020000E}
        tails = [{t: e for t, e in later.items() if t >= first} for first in later]
        sound = {len(whole) - len(data_set(tail, syntax)) for tail in tails}
        for end in range(len(whole)):
            if end in sound and syntax != DEFLATED:
                assert index_instance(whole[:end]).frames.kind == "none"
            else:
                refused(whole[:end])


@pytest.mark.parametrize(
    ("inflated_bytes", "tag", "vr", "stored"),
    [
        (300 << 20, 0x7FE00010, "OW", True),
        (300 << 20, 0x00204000, "UT", True),
        ((1 << 30) + 1, 0x7FE00010, "OW", False),
    ],
)
def test_index_instance__does_hold_little_of_a_zlib_bomb(
    inflated_bytes: int, tag: int, vr: str, stored: bool
) -> None:
    data = hostile.zlib_bomb(inflated_bytes, tag, vr)
    tracemalloc.start()
    try:
        if stored:
            assert index_instance(data).frames.count == 0
        else:
            assert "at most 1073741824 bytes" in refused(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20


def test_index_instance__does_bound_the_number_of_elements() -> None:
    data = part10(data_set(header()) + element(0x00400555, "SQ", item(b"") * 1_000_001))
    start = time.perf_counter()
    assert "at most 1000000 elements" in refused(data)
    assert time.perf_counter() - start < 20


def mutations(rounds: int) -> Iterator[bytes]:
    """Sound objects with bytes changed, dropped, doubled or cut, always the same ones."""
    chance = random.Random(20261123)
    sound = [ct_object(syntax) for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)]
    sound.append(
        hostile.encapsulated([b"ab", b"cdef", b"gh"], frames=3, basic_offset_table=[0, 10, 22])
    )
    sound.append(hostile.encapsulated([b"ab", b"cd"], frames=2, extended_offset_table=[0, 10]))
    sound.append(part10(nested(5) + data_set(header())))
    for _ in range(rounds):
        data = bytearray(chance.choice(sound))
        for _ in range(chance.randint(1, 2)):
            place = chance.randrange(128, len(data)) if len(data) > 129 else 0
            match chance.choice((0, 1, 1, 1, 1, 2, 3, 4)):
                case 0:
                    data[place:] = b""
                case 1:
                    data[place : place + 1] = bytes([chance.randrange(256)])
                case 2:
                    data[place : place + 4] = b"\xff\xff\xff\xff"
                case 3:
                    del data[place : place + chance.randint(1, 8)]
                case _:
                    data[place:place] = data[place : place + chance.randint(1, 40)]
        yield bytes(data)


def test_index_instance__does_answer_every_mutation_with_an_index_or_a_refusal() -> None:
    outcomes = {True: 0, False: 0}
    for data in mutations(3_000):
        start = time.perf_counter()
        try:
            index = index_instance(data)
        except DicomDecodeError as error:
            assert "\n" not in str(error)  # noqa: PT017
            outcomes[False] += 1
        else:
            check_sound(index, data)
            outcomes[True] += 1
        assert time.perf_counter() - start < CASE_TIME_LIMIT_S
    assert min(outcomes.values()) > 200


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_index_instance__does_answer_any_bytes(data: bytes, framed: bool) -> None:
    data = part10(data_set(header()) + data) if framed else data
    try:
        check_sound(index_instance(data), data)
    except DicomDecodeError as error:
        assert "\n" not in str(error)  # noqa: PT017


def check_sound(index: InstanceIndex, data: bytes) -> None:
    json.loads(index.dicom_json, parse_constant=pytest.fail)
    assert set(index.row) == {attribute.column for attribute in PROMOTED}
    for attribute in PROMOTED:
        value = index.row[attribute.column]
        if value is None:
            continue
        assert isinstance(value, list) == attribute.multiple
        kind = {"string": str, "int64": int, "double": float}[attribute.kind]
        assert all(isinstance(one, kind) for one in (value if isinstance(value, list) else [value]))
    for frame in range(index.frames.count):
        for offset, length in index.frames.ranges(frame):
            assert 0 < offset <= offset + length <= len(data)
