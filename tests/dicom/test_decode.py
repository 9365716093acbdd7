"""Indexing of objects: what is read, what is refused, and within which bounds."""

import io
import json
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.dicom.attributes import PROMOTED
from pacspark.dicom.decode import InstanceIndex, index_instance
from pacspark.dicom.values import COLUMN_CHARACTERS
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
    sequence,
    text,
)

CASE_TIME_LIMIT_S = 5.0


def refused(data: bytes) -> str:
    with pytest.raises(DicomDecodeError) as caught:
        index_instance(data)
    return str(caught.value)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_index_instance__does_read_every_encoding_alike(syntax: str) -> None:
    index = index_instance(ct_object(syntax))
    assert index.transfer_syntax_uid == syntax
    assert index.sop_instance_uid == "1.2.3.4"
    assert index.sop_class_uid == hostile.CT_IMAGE_STORAGE
    expected = {
        "transfer_syntax_uid": syntax,
        "sop_class_uid": hostile.CT_IMAGE_STORAGE,
        "sop_instance_uid": "1.2.3.4",
        "modality": "CT",
        "patient_name": "Doe^Jane",
        "patient_id": "ID-1",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.1",
        "instance_number": 7,
        "image_position_patient": [-1.5, 2.0, 30.0],
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "rows": 2,
        "columns": 3,
        "bits_allocated": 16,
        "pixel_representation": 0,
    }
    assert {column: value for column, value in index.row.items() if value is not None} == expected
    assert set(index.row) == {attribute.column for attribute in PROMOTED}
    document = json.loads(index.dicom_json)
    assert document["00280010"] == {"vr": "US", "Value": [2]}
    assert document["00200032"]["Value"] == [-1.5, 2, 30.0]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("prefix", ["nothing", "DICM"])
def test_index_instance__does_accept_a_data_set_without_file_meta(syntax: str, prefix: str) -> None:
    body = data_set({**header(syntax), 0x7FE00010: ("OW", bytes(12))}, syntax)
    index = index_instance((b"DICM" if prefix == "DICM" else b"") + body)
    assert index.transfer_syntax_uid == syntax
    assert index.row["rows"] == 2


def test_index_instance__does_accept_file_meta_without_preamble() -> None:
    whole = ct_object()
    assert index_instance(whole[132:]).row == index_instance(whole).row


def test_index_instance__does_see_the_encoding_that_file_meta_denies() -> None:
    explicit = part10(data_set(header()), IMPLICIT)
    implicit = part10(data_set(header(IMPLICIT), IMPLICIT), EXPLICIT)
    assert index_instance(explicit).row["rows"] == 2
    assert index_instance(implicit).row["rows"] == 2


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


@pytest.mark.parametrize("value", ["1.2.3.4 ", "1.2.3.4\0", "1.2.3.4\0\0\0", "1.2.3.4  "])
def test_index_instance__does_forgive_the_padding_of_uids(value: str) -> None:
    assert index_instance(ct_object(x00080018=("UI", value.encode()))).sop_instance_uid == "1.2.3.4"


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


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.99", "1.2.840.10008.01.2.01", "2.25.0"])
def test_index_instance__does_take_an_unknown_transfer_syntax_as_it_finds_it(syntax: str) -> None:
    index = index_instance(part10(data_set({**header(), 0x7FE00010: ("OW", bytes(12))}), syntax))
    assert index.transfer_syntax_uid == index.row["transfer_syntax_uid"] == syntax
    assert index.frames.count == 1


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("undefined", [True, False])
def test_index_instance__does_read_sequences_of_both_length_forms(
    syntax: str, undefined: bool
) -> None:
    inner = data_set({0x00080060: ("CS", text("MR"))}, syntax)
    body = (
        data_set({t: e for t, e in header(syntax).items() if t < 0x00081140}, syntax)
        + sequence(
            0x00081140,
            [item(inner, syntax, undefined=undefined), item(b"", syntax, undefined=undefined)],
            syntax,
            undefined=undefined,
        )
        + data_set({t: e for t, e in header(syntax).items() if t > 0x00081140}, syntax)
    )
    index = index_instance(part10(body, syntax))
    document = json.loads(index.dicom_json)
    assert document["00081140"]["Value"] == [{"00080060": {"vr": "CS", "Value": ["MR"]}}, {}]
    assert index.row["modality"] == "CT"


def test_index_instance__does_read_64_levels_into_json_that_can_be_parsed() -> None:
    document = json.loads(index_instance(part10(data_set(header()) + nested(64))).dicom_json)
    depth = 0
    while document and "00081140" in document:
        (document,) = document["00081140"]["Value"]
        depth += 1
    assert depth == 64


def test_index_instance__does_read_a_sequence_hidden_in_un() -> None:
    inner = item(data_set({0x00080060: ("CS", text("MR"))}, IMPLICIT), undefined=True)
    hidden = element(0x00091001, "UN", inner, length=hostile.UNDEFINED)
    body = data_set(header()) + hidden + element(0xFFFEE0DD, "", b"")
    document = json.loads(index_instance(part10(body)).dicom_json)
    assert document["00091001"]["Value"][0]["00080060"]["Value"] == ["MR"]


def test_index_instance__does_keep_private_attributes() -> None:
    angles = np.linspace(0.0, 6.283185307179586, 8000)
    index = index_instance(
        ct_object(
            x00091010=("FD", angles.astype("<f8").tobytes()),
            x00090010=("LO", text("ACME 1.0")),
            x00091011=("OB", b"\x01\x02"),
        )
    )
    document = json.loads(index.dicom_json)
    assert document["00091010"]["vr"] == "FD"
    assert np.array_equal(document["00091010"]["Value"], angles)
    assert document["00090010"]["Value"] == ["ACME 1.0"]
    assert document["00091011"]["InlineBinary"] == "AQI="


def test_index_instance__does_refer_to_bulk_data_by_place() -> None:
    large = bytes(range(256)) * 20
    data = ct_object(x00091010=("OB", large))
    document = json.loads(index_instance(data).dicom_json)
    for tag, expected in {"00091010": large, "7FE00010": bytes(range(12))}.items():
        offset, length = map(int, document[tag]["BulkDataURI"].removeprefix("#").split(","))
        assert data[offset : offset + length] == expected


@pytest.mark.parametrize(
    ("value", "column", "in_json"),
    [
        (b"abc ", None, ["abc"]),
        (b"1.0 ", 1, [1.0]),
        (b"1.5 ", None, [1.5]),
        (b" 007", 7, [7]),
        (b"+7", 7, [7]),
        (b"99999999999999999999", None, [99999999999999999999]),
        (b"9223372036854775807 ", 9223372036854775807, [9223372036854775807]),
        (b"1_0 ", None, ["1_0"]),
        (b"\xb2 ", None, ["�"]),
        (b"1\\2 ", 1, [1, 2]),
        (b"\\2", None, [None, 2]),
        (b"1" * 5000, None, ["1" * 5000]),
        (b"", None, None),
    ],
)
def test_index_instance__does_keep_an_object_whose_number_is_wrong(
    value: bytes, column: int | None, in_json: list[object] | None
) -> None:
    index = index_instance(ct_object(x00200013=("IS", value)))
    assert index.row["instance_number"] == column
    assert json.loads(index.dicom_json)["00200013"].get("Value") == in_json


@pytest.mark.parametrize(
    ("value", "column"),
    [
        (b"1\\2\\x ", None),
        (b"1\\2\\1e999 ", None),
        (b"1\\2\\nan", None),
        (b"1\\\\3 ", None),
        (b".5\\5.\\-0 ", [0.5, 5.0, 0.0]),
        (b"1", [1.0]),
    ],
)
def test_index_instance__does_not_make_half_a_position(
    value: bytes, column: list[float] | None
) -> None:
    index = index_instance(ct_object(x00200032=("DS", value)))
    assert index.row["image_position_patient"] == column
    json.loads(index.dicom_json, parse_constant=pytest.fail)


def test_index_instance__does_write_digits_of_numbers_as_they_came() -> None:
    digits = ["0.1000000000000001", "123456789012.345", "1E-05", "-0.0", "100"]
    index = index_instance(ct_object(x00181271=("DS", "\\".join(digits).encode())))
    assert f'"Value":[{",".join(digits)}]' in index.dicom_json


@settings(deadline=None)
@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_index_instance__does_carry_doubles_exactly(numbers: list[float]) -> None:
    index = index_instance(ct_object(x00189461=("FD", struct.pack(f"<{len(numbers)}d", *numbers))))
    values = json.loads(index.dicom_json, parse_constant=pytest.fail)["00189461"].get(
        "Value", [None]
    )
    finite = [number if np.isfinite(number) else None for number in numbers]
    assert values == finite


@pytest.mark.parametrize(
    ("vr", "value"), [("OB", b"\x02\0"), ("UL", b"\x02\0\0\0"), ("FD", struct.pack("<d", np.nan))]
)
def test_index_instance__does_take_a_wrong_vr_for_what_it_is_worth(vr: str, value: bytes) -> None:
    index = index_instance(ct_object(x00280010=(vr, value)))
    assert index.row["rows"] == (2 if vr == "UL" else None)
    assert index.row["columns"] == 3


@pytest.mark.parametrize(
    ("term", "codec", "name"),
    [
        ("ISO_IR 100", "latin_1", "Müller^Jürgen"),
        ("ISO_IR 192", "utf-8", "Müller^山田=山田^太郎"),
        ("GB18030", "gb18030", "王^小东=王^小東"),
        ("GBK", "gbk", "王^小东"),
        ("ISO_IR 144", "iso8859_5", "Люксембург"),
        ("ISO_IR 166", "tis_620", "นามสกุล"),
        ("ISO-IR 100", "latin_1", "Müller"),
    ],
)
def test_index_instance__does_decode_single_character_sets(
    term: str, codec: str, name: str
) -> None:
    index = index_instance(
        ct_object(x00080005=("CS", text(term)), x00100010=("PN", text(name, codec)))
    )
    assert index.row["patient_name"] == name
    assert index.row["specific_character_set"] == [term]
    document = json.loads(index.dicom_json)
    assert document["00080005"]["Value"] == ["ISO_IR 192"]
    groups = document["00100010"]["Value"][0]
    assert "=".join(groups.values()) == name


@pytest.mark.parametrize(
    ("terms", "value", "name"),
    [
        # the examples of PS3.5 H.3.1, H.3.2 and I.2
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            (
                b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J="
                b"\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J"
            ),
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        ("\\ISO 2022 IR 58", b"Zhang^X=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1", "Zhang^X=张^小"),
    ],
)
def test_index_instance__does_follow_escape_sequences(terms: str, value: bytes, name: str) -> None:
    index = index_instance(ct_object(x00080005=("CS", text(terms)), x00100010=("PN", value)))
    assert index.row["patient_name"] == name


@pytest.mark.parametrize("terms", ["ISO_IR 192", "NO SUCH SET", "\\ISO 2022 IR 87", "GB18030"])
def test_index_instance__does_replace_what_is_no_character(terms: str) -> None:
    value = b"A\xff\xfe\x1b$Z\x80\x1b$B\xff\x1b"
    index = index_instance(ct_object(x00080005=("CS", text(terms)), x00100010=("PN", value)))
    name = index.row["patient_name"]
    assert isinstance(name, str)
    assert name.startswith("A")
    name.encode("utf-8")
    json.loads(index.dicom_json)


def test_index_instance__does_cut_an_overlong_text_in_its_column_only() -> None:
    name = b"Doe^" + b"J" * 10_000_000
    index = index_instance(ct_object(IMPLICIT, x00100010=("PN", name)))
    assert index.row["patient_name"] == name[:COLUMN_CHARACTERS].decode()
    assert json.loads(index.dicom_json)["00100010"] == {"vr": "PN"}
    assert index.row["rows"] == 2


def test_index_instance__does_take_the_last_of_an_element_that_comes_twice() -> None:
    body = data_set(header()) + element(0x00100020, "LO", text("ID-2"))
    index = index_instance(part10(body))
    assert index.row["patient_id"] == "ID-2"
    assert index.dicom_json.count('"00100020"') == 1


class CountingFile(io.BytesIO):
    """A file that counts what is read from it."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.read_bytes += len(data)
        return data


def test_index_instance__does_seek_over_pixel_data() -> None:
    pixels = bytes(64 << 20)
    native = CountingFile(ct_object(x7FE00010=("OW", pixels), xFFFCFFFC=("OB", b"\0\0")))
    compressed = CountingFile(hostile.encapsulated([pixels, pixels], frames=2))
    for file in (native, compressed):
        index = index_instance(file)
        assert index.frames.pixel_data_length is not None
        assert index.frames.pixel_data_length >= len(pixels)
        assert file.read_bytes < 1 << 20


def test_index_instance__does_read_raw_files_that_give_less_than_asked(tmp_path: Path) -> None:
    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 7))

    data = ct_object()
    assert index_instance(Dripping(data)) == index_instance(data)
    path = tmp_path / "object.dcm"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        assert index_instance(file) == index_instance(data)


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


def test_index_instance__does_take_less_than_5_ms_for_a_ct_header() -> None:
    sample = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
    data = sample.read_bytes()
    index_instance(data)
    best_s = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        index_instance(data)
        best_s = min(best_s, time.perf_counter() - start)
    assert best_s < 0.005
