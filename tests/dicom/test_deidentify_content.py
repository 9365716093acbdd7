"""De-identification of reports: content keeps its form, and nothing that identifies."""

from typing import Any

import pytest

from pacspark.dicom.confidentiality import Profile
from pacspark.dicom.deidentify import code_item
from tests.dicom.hostile import ct_object, element, header, item, part10, sequence, text, uid
from tests.dicom.test_deidentify import deidentified, read, retaining


def report_object() -> bytes:
    def named(value: str, meaning: str, scheme: str = "DCM") -> bytes:
        code = (
            element(0x00080100, "SH", text(value))
            + element(0x00080102, "SH", text(scheme))
            + element(0x00080104, "LO", text(meaning))
        )
        return sequence(0x0040A043, [item(code)], undefined=False)

    def content(kind: str, name: bytes, *values: bytes) -> bytes:
        parts: list[bytes] = [
            element(0x0040A010, "CS", text("CONTAINS")),
            element(0x0040A040, "CS", text(kind)),
            name,
            *values,
        ]
        return item(b"".join(sorted(parts, key=_element_number)))

    finding = element(0x0040A160, "UT", text("Mass of Jane Doe in left lung"))
    measured = sequence(
        0x0040A300, [item(element(0x0040A30A, "DS", text("12.5")))], undefined=False
    )
    observer = element(0x0040A123, "PN", text("Doe^Jane"))
    age = sequence(0x0040A300, [item(element(0x0040A30A, "DS", text("77")))], undefined=False)
    born = element(0x0040A121, "DA", text("19610203"))
    image = sequence(
        0x00081199,
        [item(element(0x00081150, "UI", uid("1.2.840.10008.5.1.4.1.1.2"))
              + element(0x00081155, "UI", uid("1.2.3.4")))],
        undefined=False,
    )  # fmt: skip
    items = [
        content("TEXT", named("121071", "Finding"), finding),
        content("NUM", named("G-D7FE", "Length", "SRT"), measured),
        content("PNAME", named("121008", "Person Observer Name"), observer),
        content("NUM", named("121033", "Subject Age"), age),
        content("DATE", named("121031", "Subject Birth Date"), born),
        content("IMAGE", named("121112", "Source of Measurement"), image),
        content("TEXT", named("X1", "Doe family history", "99HOSPITAL"), finding),
    ]
    elements = {tag: element(tag, vr, value) for tag, (vr, value) in header().items()}
    elements[0x0040A730] = sequence(0x0040A730, items, undefined=False)
    return part10(b"".join(value for _, value in sorted(elements.items())))


def content_object(said: dict[str, tuple[str, str, str]]) -> bytes:
    """A report with a text for each code: its scheme, its meaning, the text."""
    items = []
    for code, (scheme, meaning, value) in said.items():
        name = (
            element(0x00080100, "SH", text(code))
            + element(0x00080102, "SH", text(scheme))
            + element(0x00080104, "LO", text(meaning))
        )
        items.append(
            item(
                element(0x0040A040, "CS", text("TEXT"))
                + sequence(0x0040A043, [item(name)], undefined=False)
                + element(0x0040A160, "UT", text(value))
            )
        )
    elements = {tag: element(tag, vr, value) for tag, (vr, value) in header().items()}
    elements[0x0040A730] = sequence(0x0040A730, items, undefined=False)
    return part10(b"".join(value for _, value in sorted(elements.items())))


def _element_number(data: Any) -> int:
    """All of them are of one group."""
    return int.from_bytes(data[2:4], "little")


def test_deidentify__does_replace_the_content_of_a_report_but_not_its_references() -> None:
    made = deidentified(report_object())
    assert b"Doe" not in made
    tree = read(made).ContentSequence
    assert [one.ValueType for one in tree] == [
        "TEXT",
        "NUM",
        "PNAME",
        "NUM",
        "DATE",
        "IMAGE",
        "TEXT",
    ]
    assert tree[0].ConceptNameCodeSequence[0].CodeMeaning == "Finding"
    assert tree[0].TextValue == "Removed"
    assert tree[1].MeasuredValueSequence[0].NumericValue == 0
    assert tree[5].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == (
        read(deidentified(ct_object())).SOPInstanceUID
    )


def test_deidentify__does_clean_structured_content_when_asked() -> None:
    profile = retaining(clean=("structured-content", "descriptors"))
    made = deidentified(report_object(), profile)
    assert b"Doe" not in made
    tree = read(made).ContentSequence
    assert tree[0].TextValue == "Mass of in left lung"
    assert tree[1].MeasuredValueSequence[0].NumericValue == 12.5
    assert tree[3].MeasuredValueSequence[0].NumericValue == 0  # the subject's age
    assert tree[6].ConceptNameCodeSequence[0].CodeMeaning == "family history"
    kept = Profile(
        retain=frozenset({"patient-characteristics"}), clean=frozenset({"structured-content"})
    )
    tree = read(deidentified(report_object(), kept)).ContentSequence
    assert tree[3].MeasuredValueSequence[0].NumericValue == 77
    assert tree[0].TextValue == "Removed"


@pytest.mark.parametrize("clean", [(), ("structured-content",)])
@pytest.mark.parametrize("dates", ["longitudinal-full", "longitudinal-modified"])
def test_deidentify__does_keep_no_date_of_birth_whatever_dates_are_kept(
    dates: str, clean: tuple[str, ...]
) -> None:
    made = [
        read(
            deidentified(report_object().replace(b"19610203", born), retaining(dates, clean=clean))
        )
        for born in (b"19610203", b"19710304")
    ]
    first, second = (one.ContentSequence[4].Date for one in made)
    assert first == second


@pytest.mark.parametrize("retain", [(), ("patient-characteristics",)])
def test_deidentify__does_know_which_content_identifies(retain: tuple[str, ...]) -> None:
    # small numbers and plain words, which cleaned text would keep
    said = {"121030": "4711", "121022": "4712", "121016": "No 4713", "121009": "General Hospital"}
    data = content_object({code: ("DCM", "x", value) for code, value in said.items()})
    profile = retaining(*retain, clean=("structured-content", "descriptors"))
    assert {one.TextValue for one in read(deidentified(data, profile)).ContentSequence} == {
        "Removed"
    }


def test_deidentify__does_not_keep_the_objects_own_names_in_concepts() -> None:
    data = content_object({"X1": ("99HOSPITAL", "size of Head", "")})
    data = data.replace(b"Doe^Jane", b"Head^Ann")
    (one,) = read(deidentified(data)).ContentSequence
    assert one.ConceptNameCodeSequence[0].CodeMeaning == "size of"


def test_deidentify__does_replace_codes_of_persons() -> None:
    code = item(
        element(0x00080100, "SH", text("JDOE"))
        + element(0x00080102, "SH", text("99STAFF"))
        + element(0x00080104, "LO", text("Doe, Jane"))
    )
    data = ct_object(x00401101=("SQ", code))
    made = deidentified(data)
    assert b"DOE" not in made.upper()
    (left,) = read(made).PersonIdentificationCodeSequence
    assert left == code_item("0", "99PACSPARK", "Removed")
