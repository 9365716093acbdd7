"""De-identification: nothing that the table marks survives, and what is left stays true."""

import io
import json
from contextlib import suppress
from datetime import date
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pacspark.dicom.confidentiality import Action, Profile
from pacspark.dicom.decode import index_instance
from pacspark.dicom.deidentify import Deidentifier
from pacspark.dicom.deidentify_object import deidentify_object
from pacspark.dicom.private import CREATOR
from pacspark.dicom.pseudonyms import Pseudonyms
from pacspark.errors import DeidentificationError
from tests.dicom.hostile import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    Elements,
    ct_object,
    data_set,
    element,
    header,
    item,
    part10,
    sequence,
    text,
    uid,
    words,
)
from tests.dicom.marked import NEUTRAL_SEQUENCE, REFERENCES, Marks, marked_object, marked_tags

SECRET = bytes(range(32))


def deidentified(data: bytes, profile: Profile | None = None, secret: bytes = SECRET) -> bytes:
    made = io.BytesIO()
    by = Deidentifier(profile or Profile(), Pseudonyms(secret))
    deidentify_object(io.BytesIO(data), made, by)
    return made.getvalue()


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def retaining(*options: str, clean: tuple[str, ...] = ()) -> Profile:
    return Profile(retain=frozenset(options), clean=frozenset(clean))


# nothing survives


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_deidentify__does_leave_no_marked_value(syntax: str) -> None:
    data, marks = marked_object(syntax)
    index_instance(data)  # it is an object that the archive takes
    assert len(marks.values) > 3 * 600
    if syntax != DEFLATED:
        assert len(marks.survivors(data)) == len(marks.values)
    made = deidentified(data)
    assert marks.survivors(made) == []
    assert marks.survivors(index_instance(made).dicom_json.encode()) == []


def test_deidentify__does_leave_no_marked_value_that_a_vr_hides() -> None:
    data, marks = marked_object(EXPLICIT, stated="UN")
    assert marks.survivors(deidentified(data)) == []


@pytest.mark.parametrize("stated", ["OB", "UT", "UN"])
@pytest.mark.parametrize("clean", [(), ("descriptors",)])
def test_deidentify__does_not_believe_the_vr_of_a_sequence(
    stated: str, clean: tuple[str, ...]
) -> None:
    # a sequence that the profile keeps, as bytes that nobody looks into
    inner = item(element(0x00100010, "PN", text("Doe^Jane"), IMPLICIT), IMPLICIT)
    data = ct_object(x52009229=(stated, inner))
    assert b"Doe" in data
    made = deidentified(data, retaining(clean=clean))
    assert b"Doe" not in made
    assert 0x52009229 not in read(made)


def test_deidentify__does_drop_preamble_meta_and_what_stands_behind_the_pixels() -> None:
    meta = element(0x00020010, "UI", uid(EXPLICIT)) + element(0x00020016, "AE", b"SECRETAE")
    meta += element(0x00020100, "UI", uid("1.2.99")) + element(0x00020102, "OB", b"SECRETOB")
    elements: Elements = {**header(), 0x7FE00010: ("OW", bytes(12))}
    behind = element(0xFFFCFFFC, "OB", b"SECRETPD") + element(0x7FE10010, "LO", b"SECRETLO")
    data = b"SECRETPR".ljust(128, b"\0") + b"DICM" + meta
    data += data_set(elements) + behind[18:] + behind[:20]
    data = b"SECRETPR".ljust(128, b"\0") + b"DICM" + meta + data_set(elements)
    data += element(0x7FE10010, "LO", b"SECRETLO") + element(0xFFFCFFFC, "OB", b"SECRETPD")
    made = deidentified(data)
    assert b"SECRET" not in made
    assert read(made).file_meta.MediaStorageSOPInstanceUID == read(made).SOPInstanceUID


nestings = st.lists(
    st.tuples(
        st.sampled_from([0x52009229, 0x00081115, 0x00400260, 0x0040A730, 0x00291002, 0x00081140]),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(
    path=nestings,
    tags=st.lists(st.sampled_from(sorted(marked_tags())), min_size=1, max_size=12, unique=True),
    syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN]),
    retained=st.sampled_from([(), ("safe-private",), ("device", "institution")]),
)
def test_deidentify__does_reach_every_depth(
    path: list[tuple[int, bool]], tags: list[int], syntax: str, retained: tuple[str, ...]
) -> None:
    # tags that an option of this test keeps are left out of it
    profile = retaining(*retained)
    marks = Marks(syntax)
    content = b"".join(
        marks.one(tag, marked_tags()[tag], "deep")
        for tag in sorted(tags)
        if tag not in REFERENCES and str(profile.action(tag, marked_tags()[tag])) != "K"
    )
    for tag, undefined in path:
        content = sequence(tag, [item(content, syntax, undefined=undefined)], syntax,
                           undefined=undefined)  # fmt: skip
    elements = {t: element(t, vr, value, syntax) for t, (vr, value) in header(syntax).items()}
    elements[path[-1][0]] = content
    data = part10(b"".join(value for _, value in sorted(elements.items())), syntax)
    made = deidentified(data, profile)
    assert marks.survivors(made) == []
    assert index_instance(made).sop_instance_uid.startswith("2.25.")


# what is left stays true


def test_deidentify__does_say_what_it_did() -> None:
    profile = retaining("longitudinal-modified", "device", clean=("descriptors",))
    made = read(deidentified(ct_object(), profile))
    assert made.PatientIdentityRemoved == "YES"
    assert "PS3.15" in made.DeidentificationMethod[0]
    codes = [code.CodeValue for code in made.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107", "113109"]
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    plain = read(deidentified(ct_object()))
    assert plain.LongitudinalTemporalInformationModified == "REMOVED"
    kept = read(deidentified(ct_object(), retaining("longitudinal-full")))
    assert kept.LongitudinalTemporalInformationModified == "UNMODIFIED"


def test_deidentify__does_keep_the_image() -> None:
    before, after = read(ct_object()), read(deidentified(ct_object()))
    for keyword in ("Rows", "Columns", "Modality", "SOPClassUID", "ImagePositionPatient"):
        assert after[keyword] == before[keyword]
    assert after.PixelData == before.PixelData
    assert after.PatientName == after.PatientID != before.PatientID


def test_deidentify__does_make_the_same_of_the_same_and_other_with_another_secret() -> None:
    data = ct_object()
    assert deidentified(data) == deidentified(data)
    assert (
        read(deidentified(data, secret=bytes(32))).PatientID != read(deidentified(data)).PatientID
    )


def test_deidentify__does_map_references_as_it_maps_what_they_refer_to() -> None:
    reference = item(
        element(0x00081150, "UI", uid("1.2.840.10008.5.1.4.1.1.2"))
        + element(0x00081155, "UI", uid("1.2.3.4"))
    )
    referring = ct_object(
        x00080018=("UI", uid("1.2.3.5")),
        x00081140=("SQ", reference),
        x00200052=("UI", uid("1.2.840.10008.1.4.1.1")),
        x00081167=("UI", uid("1.2.3.4")),
    )
    one, other = read(deidentified(ct_object())), read(deidentified(referring))
    assert other.ReferencedImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert other.ReferencedImageSequence[0].ReferencedSOPClassUID == one.SOPClassUID
    assert other.MultiFrameSourceSOPInstanceUID == one.SOPInstanceUID
    assert other.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"  # of the standard: an atlas
    assert other.StudyInstanceUID == one.StudyInstanceUID != "1.2.3"
    kept = read(deidentified(referring, retaining("uids")))
    assert kept.SOPInstanceUID == "1.2.3.5"


@pytest.mark.parametrize(
    ("sop_class_uid", "left"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", [None, "", None]),  # CT: optional, type 2, optional
        ("1.2.840.10008.5.1.4.1.1.4.1", ["19000101000000", "19000101", "Removed"]),  # enhanced MR
        ("1.2.3", ["19000101000000", "19000101", "Removed"]),  # nobody knows
    ],
)
def test_deidentify__does_leave_what_the_class_of_the_object_needs(
    sop_class_uid: str, left: list[str | None]
) -> None:
    data = ct_object(
        x00080016=("UI", uid(sop_class_uid)),
        x0008002A=("DT", text("20240301120000")),
        x00080023=("DA", text("20240301")),
        x00181000=("LO", text("SN-1")),
    )
    made = read(deidentified(data))
    keywords = ("AcquisitionDateTime", "ContentDate", "DeviceSerialNumber")
    assert [made.get(keyword) for keyword in keywords] == left


def test_deidentify__does_move_all_dates_of_a_patient_alike() -> None:
    def dated(study: str, at: str) -> Dataset:
        data = ct_object(
            x00080020=("DA", text(study)), x00080030=("TM", text("235959.5")),
            x0008002A=("DT", text(at)),
        )  # fmt: skip
        return read(deidentified(data, retaining("longitudinal-modified")))

    one, other = dated("20240229", "20240301000001.5+0100"), dated("20250101", "202501")
    days = [date.fromisoformat(made.StudyDate) for made in (one, other)]
    assert (days[1] - days[0]).days == (date(2025, 1, 1) - date(2024, 2, 29)).days
    assert 365 <= (date(2024, 2, 29) - days[0]).days < 365 + 3650
    assert one.StudyTime == "235959.5"
    acquired = one.AcquisitionDateTime
    assert (date.fromisoformat(acquired[:8]) - days[0]).days == 1
    assert acquired[8:] == "000001.5+0100"
    assert len(other.AcquisitionDateTime) == 6  # as vague as it was
    stranger = ct_object(x00100020=("LO", text("ID-2")), x00080020=("DA", text("20240229")))
    shifted = read(deidentified(stranger, retaining("longitudinal-modified")))
    assert shifted.StudyDate != one.StudyDate


@pytest.mark.parametrize("value", ["0001", "20241340", "yesterday", "00010101", "2024-01-02x"])
def test_deidentify__does_empty_what_is_no_date(value: str) -> None:
    data = ct_object(x00080020=("DA", text(value)))
    made = read(deidentified(data, retaining("longitudinal-modified")))
    assert not made.StudyDate or (value == "0001" and made.StudyDate == "")


@pytest.mark.parametrize(
    ("age", "kept"),
    [
        *(("045Y", "045Y"), ("089Y", "089Y"), ("090Y", "090Y"), ("101Y", "090Y"), ("009M", "009M")),
        *(("101y", ""), ("101 Y", ""), ("101", ""), ("over 95", "")),  # no ages of DICOM
    ],
)
def test_deidentify__does_keep_ages_only_when_asked_and_none_above_89(age: str, kept: str) -> None:
    data = ct_object(x00101010=("AS", text(age)))
    assert "PatientAge" not in read(deidentified(data))
    assert read(deidentified(data, retaining("patient-characteristics"))).PatientAge == kept


@pytest.mark.parametrize(
    ("charset", "encoding", "description"),
    [
        ("ISO_IR 192", "utf-8", "Kopf CT Müller axial"),
        ("ISO_IR 100", "latin_1", "Kopf CT Müller axial"),
        ("ISO_IR 144", "iso8859_5", "CT Иванов axial"),
        ("GB18030", "gb18030", "CT 王小东 axial"),
        ("ISO_IR 13", "shift_jis", "CT ﾔﾏﾀﾞ axial"),
        ("\\ISO 2022 IR 87", "iso2022_jp", "CT 山田 axial"),
        ("\\ISO 2022 IR 149", "iso2022_kr", "CT axial"),
    ],
)
def test_deidentify__does_read_and_write_every_character_set(
    charset: str, encoding: str, description: str
) -> None:
    data = ct_object(
        x00080005=("CS", text(charset)),
        x00081030=("LO", text(description, encoding)),
        x00080070=("LO", text("Büro" if encoding in {"utf-8", "latin_1"} else "Office", encoding)),
    )
    made = read(deidentified(data, retaining(clean=("descriptors",))))
    assert made.StudyDescription == "CT axial"
    assert made.SpecificCharacterSet == read(data).SpecificCharacterSet
    assert made.Manufacturer == read(data).Manufacturer


def test_deidentify__does_not_keep_the_objects_own_names_in_cleaned_text() -> None:
    data = ct_object(
        x00100010=("PN", text("Head^Brain")),
        x00081030=("LO", text("CT Head with contrast, Dr Smith 555-123456, ID-1")),
        x0008103E=("LO", text("Brain axial 5 mm 12.03.1968")),
    )
    made = read(deidentified(data, retaining(clean=("descriptors",))))
    assert made.StudyDescription == "CT with contrast"
    assert made.SeriesDescription == "axial 5 mm"
    assert "StudyDescription" not in read(deidentified(data))


@pytest.mark.parametrize(
    ("promised", "written"),
    [(IMPLICIT, EXPLICIT), (EXPLICIT, IMPLICIT), ("", EXPLICIT), ("", IMPLICIT)],
)
@pytest.mark.parametrize("pixels", [True, False])
def test_deidentify__does_follow_the_encoding_that_is_there(
    promised: str, written: str, pixels: bool
) -> None:
    elements: Elements = {**header(written), 0x00321064: ("SQ", b"")}
    if pixels:
        elements[0x7FE00010] = ("OW", bytes(range(12)))
    body = data_set(elements, written)
    made = deidentified(part10(body, promised) if promised else body)
    index = index_instance(made)
    assert index.row["rows"] == 2
    assert index.transfer_syntax_uid == written
    assert read(made).Modality == "CT"
    assert b"Doe" not in made


# private elements


def private_object(*elements: bytes) -> bytes:
    body = {tag: element(tag, vr, value) for tag, (vr, value) in header().items()}
    for data in elements:
        tag = int.from_bytes(data[:2], "little") << 16 | int.from_bytes(data[2:4], "little")
        body[tag] = data
    return part10(b"".join(value for _, value in sorted(body.items())))


def test_deidentify__does_keep_private_elements_only_where_they_are_known_to_be_safe() -> None:
    data = private_object(
        element(0x00190010, "LO", text("SIEMENS MR HEADER")),
        element(0x0019100C, "IS", text("1000")),
        element(0x001910FE, "LO", text("Doe^Jane")),
        element(0x00190011, "LO", text(CREATOR)),
        element(0x00191102, "CS", text("FLAT")),
        element(0x001911EE, "CS", text("Doe")),
    )
    made = read(deidentified(data, retaining("safe-private")))
    assert made[0x0019100C].value == 1000
    assert made[0x00191102].value == "FLAT"
    assert 0x001910FE not in made
    assert 0x001911EE not in made
    blocks = made.PrivateDataElementCharacteristicsSequence
    assert [b.PrivateCreatorReference for b in blocks] == [CREATOR, "SIEMENS MR HEADER"]
    assert {b.BlockIdentifyingInformationStatus for b in blocks} == {"SAFE"}
    assert not [e for e in read(deidentified(data)) if e.tag.is_private]


def test_deidentify__does_follow_what_an_object_says_of_its_private_blocks() -> None:
    def says(creator: str, status: str, *elements: int) -> bytes:
        listed = element(0x00080304, "US", words(*elements)) if elements else b""
        return item(
            element(0x00080301, "US", words(0x0029))
            + element(0x00080302, "LO", text(creator))
            + element(0x00080303, "CS", text(status))
            + listed
        )

    said = [says("ALL", "SAFE"), says("SOME", "MIXED", 0x01), says("NONE", "UNSAFE")]
    inner = item(element(0x00100010, "PN", text("Doe^Jane")) + element(0x00080060, "CS", b"CT"))
    data = private_object(
        sequence(0x00080300, said, undefined=False),
        element(0x00290010, "LO", text("ALL")),
        element(0x00290011, "LO", text("SOME")),
        element(0x00290012, "LO", text("NONE")),
        element(0x00291001, "DS", text("1")),
        sequence(0x00291002, [inner], undefined=False),
        element(0x00291003, "UN", b"DoeJaneX"),
        element(0x00291004, "UI", uid("1.2.3.4")),
        element(0x00291005, "DA", text("20240101")),
        element(0x00291101, "DS", text("2")),
        element(0x00291102, "DS", text("3")),
        element(0x00291201, "DS", text("4")),
    )  # fmt: skip
    made = read(deidentified(data, retaining("safe-private")))
    kept = {f"{e.tag}" for e in made if e.tag.is_private and e.tag.element > 0xFF}
    assert kept == {"(0029,1001)", "(0029,1002)", "(0029,1004)", "(0029,1101)"}
    assert made[0x00291002].value[0].Modality == "CT"
    assert made[0x00291002].value[0].PatientName == made.PatientName != "Doe^Jane"
    assert made[0x00291004].value == made.SOPInstanceUID


# own rules, documents


def test_deidentify__does_follow_own_rules_and_tell_of_them() -> None:
    emptied = Profile(actions={0x00100010: Action.EMPTY})
    assert read(deidentified(ct_object(), emptied)).PatientName == ""
    kept = Profile(actions={0x00080020: Action.KEEP})
    made = read(deidentified(ct_object(x00080020=("DA", text("20240301"))), kept))
    assert made.StudyDate == "20240301"
    assert made.LongitudinalTemporalInformationModified == "UNMODIFIED"
    assert "113100" not in [code.CodeValue for code in made.DeidentificationMethodCodeSequence]


@pytest.mark.parametrize(
    ("kind", "left"), [("application/pdf", b"%PDF-1.4"), ("text/XML", b"\0\0")]
)
def test_deidentify__does_leave_an_empty_document(kind: str, left: bytes) -> None:
    data = ct_object(
        x00420011=("OB", b"Doe^Jane"),
        x00420012=("LO", text(kind)),
        x00420015=("UL", b"\x08\0\0\0"),
    )
    made = deidentified(data)
    assert b"Doe" not in made
    document = read(made).EncapsulatedDocument
    assert document.startswith(left)
    assert len(document) - 1 <= read(made).EncapsulatedDocumentLength <= len(document)


# refusals


@pytest.mark.parametrize(
    "changes",
    [
        {"x00080016": ("UI", uid("1.2.840.10008.5.1.4.1.1.9.4.1"))},  # a voice
        {"x00280301": ("CS", text("YES"))},  # burned in, and no rule
    ],
)
def test_deidentify__does_refuse_what_it_cannot_clean(changes: dict[str, Any]) -> None:
    with pytest.raises(DeidentificationError) as refused:
        deidentified(ct_object(**changes))
    assert "\n" not in str(refused.value)


def test_deidentify__does_refuse_a_data_set_beyond_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = ct_object(x00420011=("OB", bytes(40_000)))
    deidentified(document)
    monkeypatch.setattr("pacspark.dicom.deidentify_object.MOST_HEADER_BYTES", 20_000)
    with pytest.raises(DeidentificationError, match="at most 20000 bytes besides pixel data"):
        deidentified(document)
    deidentified(ct_object(x7FE00010=("OW", bytes(40_000))))


def test_deidentify__does_not_say_what_it_read() -> None:
    data = ct_object(x00100010=("PN", text("Doe^Jane")))[:-4]
    broken = data.replace(uid("1.2.3.4"), b"Doe+Jane")
    for hostile in (data, broken, b"Doe^Jane" * 40):
        with pytest.raises(DeidentificationError) as refused:
            deidentified(hostile)
        assert "Doe" not in str(refused.value)
        assert refused.value.__cause__ is None


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 400))
def test_deidentify__does_end_in_one_error_for_any_bytes(noise: bytes, at: int) -> None:
    sound = ct_object()
    data = sound[: 132 + at] + noise + sound[132 + at + len(noise) :]
    with suppress(DeidentificationError):
        index_instance(deidentified(data))


def test_deidentify__does_end_sequences_nested_without_end() -> None:
    content = element(0x00100010, "PN", text("Doe^Jane"))
    for _ in range(60):
        content = sequence(NEUTRAL_SEQUENCE, [item(content)], undefined=False)
    elements = {tag: element(tag, vr, value) for tag, (vr, value) in header().items()}
    elements[NEUTRAL_SEQUENCE] = content
    made = deidentified(part10(b"".join(value for _, value in sorted(elements.items()))))
    assert b"Doe" not in made
    json.loads(index_instance(made).dicom_json)
