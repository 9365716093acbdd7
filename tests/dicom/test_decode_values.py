"""Indexing of objects: numbers and texts, right ones and wrong ones."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.dicom.decode import index_instance
from pacspark.dicom.values import COLUMN_CHARACTERS
from tests.dicom.hostile import (
    IMPLICIT,
    ct_object,
    text,
)


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
