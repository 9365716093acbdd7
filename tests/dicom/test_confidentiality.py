"""The table of PS3.15, the options, and the file that chooses among them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.sr._concepts_dict import concepts

from pacspark.dicom.confidentiality import (
    CLEAN,
    FIXED,
    METHODS,
    RETAIN,
    Action,
    Profile,
    attribute_types,
    table,
)
from pacspark.dicom.plain_text import clean_text, plain_words
from pacspark.dicom.private import CREATOR, GROUP
from pacspark.dicom.profile_file import read_profile
from pacspark.dicom.pseudonyms import Pseudonyms, make_secret, read_secret
from pacspark.dicom.safe_private import safe_private
from pacspark.errors import UsageError

# rows of Table E.1-1 as the standard prints them: basic, then option -> cell
ROWS = {
    "AccessionNumber": ("Z", {}),
    "AcquisitionContextSequence": ("Z", {"structured-content": "C"}),
    "AcquisitionDateTime": ("D", {"longitudinal-full": "K", "longitudinal-modified": "C"}),
    "AcquisitionDeviceProcessingDescription": ("D", {"descriptors": "C"}),
    "Allergies": ("X", {"patient-characteristics": "C", "descriptors": "C"}),
    "CassetteID": ("X", {"device": "K"}),
    "ClinicalTrialSiteID": ("Z", {"institution": "K"}),
    "ConcatenationUID": ("U", {"uids": "K"}),
    "ContentSequence": ("D", {"structured-content": "C"}),
    "ContrastBolusAgent": ("D", {"descriptors": "C"}),
    "DetectorID": ("D", {"device": "K"}),
    "DeviceUID": ("U", {"uids": "K", "device": "K"}),
    "DigitalSignaturesSequence": ("X", {}),
    "PatientAge": ("X", {"patient-characteristics": "K"}),
    "PatientSex": ("Z", {"patient-characteristics": "K"}),
    "PatientID": ("D", {}),
    "PatientName": ("Z", {}),
    "PatientWeight": ("X", {"patient-characteristics": "K"}),
    "SeriesDescription": ("X", {"descriptors": "C"}),
    "StudyDate": ("Z", {"longitudinal-full": "K", "longitudinal-modified": "C"}),
    "StudyTime": ("Z", {"longitudinal-full": "K", "longitudinal-modified": "C"}),
    "SOPInstanceUID": ("U", {"uids": "K"}),
    "SourceImageSequence": ("U", {"uids": "K"}),
    "StationName": ("D", {"device": "K"}),
}


def tag_of(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return tag


@pytest.mark.parametrize("keyword", sorted(ROWS))
def test_table__does_say_what_the_standard_says(keyword: str) -> None:
    basic, options = ROWS[keyword]
    rule = table()[tag_of(keyword)]
    assert (str(rule.basic(None)), dict(rule.options)) == (basic, options)


@pytest.mark.parametrize(
    ("keyword", "by_type"),
    [
        # X/Z/D, X/D, X/Z, Z/D, X/Z/U*: of type 1, of type 2, need not be there, nobody knows
        ("AcquisitionDateTime", "DZXD"),
        ("SeriesDate", "DDXD"),
        ("AcquisitionDate", "ZZXZ"),
        ("ContentDate", "DZZD"),
        ("SourceImageSequence", "UUUU"),
    ],
)
def test_rule__does_follow_the_type_of_the_attribute(keyword: str, by_type: str) -> None:
    rule = table()[tag_of(keyword)]
    assert "".join(map(str, map(rule.basic, ("1", "2", "", None)))) == by_type


def test_attribute_types__are_those_of_the_standard() -> None:
    ct, enhanced_mr = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"
    for sop_class_uid, keyword, found in (
        (ct, "ContentDate", "2"),
        (ct, "AcquisitionDateTime", ""),
        (enhanced_mr, "ContentDate", "1"),
        (enhanced_mr, "AcquisitionDateTime", "1"),
        (enhanced_mr, "DeviceSerialNumber", "1"),
    ):
        types = attribute_types(sop_class_uid)
        assert types is not None
        assert types.get(tag_of(keyword), "") == found, (sop_class_uid, keyword)
    assert attribute_types("1.2.3") is None


def test_table__is_whole() -> None:
    assert len(table()) == 652
    assert {option for rule in table().values() for option in rule.options} == (
        set(RETAIN) | set(CLEAN)
    ) - {"safe-private", "pixel-data"}
    assert set(METHODS) == {"basic", *RETAIN, *CLEAN}
    codes: Any = concepts["DCM"]  # pydicom's copy of PS3.16
    meanings = {code: found[code][0] for found in codes.values() for code in found}
    assert all(meanings[code] == meaning for code, meaning in METHODS.values())
    assert len(safe_private()) > 87
    assert (GROUP, 0x02, CREATOR) in safe_private()


@pytest.mark.parametrize(
    ("keyword", "vr", "retain", "clean", "expected"),
    [
        ("StudyDate", "DA", (), (), "Z"),
        ("StudyDate", "DA", ("longitudinal-full",), (), "K"),
        ("StudyDate", "DA", ("longitudinal-modified",), (), "shift"),
        ("SeriesDescription", "LO", (), ("descriptors",), "C"),
        ("Allergies", "LO", ("patient-characteristics",), (), "C"),
        ("ContentSequence", "SQ", (), ("structured-content",), "content"),
        ("GraphicAnnotationSequence", "SQ", (), ("graphics",), "graphics"),
        ("SOPInstanceUID", "UI", ("uids",), (), "K"),
        # what the table does not name
        ("Rows", "US", (), (), "K"),
        ("SOPClassUID", "UI", (), (), "K"),
        ("MultiFrameSourceSOPInstanceUID", "UI", (), (), "U"),
        ("MultiFrameSourceSOPInstanceUID", "UI", ("uids",), (), "K"),
        ("EvaluatorName", "PN", (), (), "X"),
        ("EncryptedAttributesSequence", "SQ", (), (), "X"),
        ("DateOfGainCalibration", "DA", (), (), "X"),
        ("DateOfGainCalibration", "DA", ("longitudinal-modified",), (), "shift"),
    ],
)
def test_profile__does_resolve_options(
    keyword: str, vr: str, retain: tuple[str, ...], clean: tuple[str, ...], expected: str
) -> None:
    profile = Profile(retain=frozenset(retain), clean=frozenset(clean))
    assert str(profile.action(tag_of(keyword), vr)) == expected


def test_profile__does_remove_what_no_dictionary_knows() -> None:
    assert Profile().action(0x00080FFE, "LO") is Action.REMOVE
    assert Profile().action(0x50003000, "OW") is Action.REMOVE
    assert Profile(clean=frozenset({"graphics"})).action(0x60043000, "OW") is Action.REMOVE


@pytest.mark.parametrize(
    ("retain", "clean", "word"),
    [
        ({"names"}, (), "names"),
        ((), {"faces"}, "faces"),
        ((), {"recognizable-visual-features"}, "recognizable"),
        ({"longitudinal-full", "longitudinal-modified"}, (), "both"),
        ((), {"pixel-data"}, "no rule"),
    ],
)
def test_profile__does_refuse_contradictions(retain: set[str], clean: set[str], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Profile(retain=frozenset(retain), clean=frozenset(clean))


# the file

WHOLE = """
format_version = 1
retain = ["device", "safe-private"]
clean = ["descriptors"]
allowed_words = ["Hippocampus"]
burned_in = "keep"
[actions]
StationName = "K"
"0018,1030" = "X"
[[pixels]]
match = { Modality = "US", Rows = 480, Manufacturer = ["ACME*", "Beta"] }
blank = [[0, 0, 640, 40], [600, 0, 40, 480]]
[[pixels]]
match = { Modality = "CT" }
blank = []
"""


def test_read_profile__does_read_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(WHOLE)
    profile = read_profile(path)
    assert profile.clean == {"descriptors", "pixel-data"}
    assert profile.actions == {0x00081010: Action.KEEP, 0x00181030: Action.REMOVE}
    assert profile.allowed_words == {"hippocampus"}
    assert profile.weakened
    assert [len(rule.blank) for rule in profile.pixel_rules] == [2, 0]
    assert profile.pixel_rules[0].match["Rows"] == ("480",)
    path.write_text("")
    assert read_profile(path) == Profile()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("retian = []", "retian: expected one of the keys.*did you mean retain"),
        ("format_version = 2", "format_version: expected 1, found 2"),
        ("retain = ['all']", "retain: expected of uids"),
        ("retain = 'uids'", "retain: expected a list of texts"),
        ("clean = ['pixel-data']", "no rule"),
        ("burned_in = 'ignore'", "burned_in: expected one of refuse, keep"),
        ("[actions]\nStudyName = 'X'", "actions.StudyName: expected a DICOM keyword"),
        ("[actions]\nStudyDate = 'Q'", "actions.StudyDate: expected one of X"),
        ("[actions]\nStudyDate = 'U'", "actions.StudyDate: expected U for a UID only"),
        ("[actions]\nSOPInstanceUID = 'K'", "actions.SOPInstanceUID: .*a fixed one"),
        ("[actions]\nPatientIdentityRemoved = 'X'", "a fixed one"),
        ("actions = 3", "actions: expected a table"),
        ("pixels = 3", "pixels: expected tables"),
        ("[[pixels]]\nblank = []", "pixels.0..match: expected what objects"),
        ("[[pixels]]\nmatch = { Modality = 'CT' }", "pixels.0..blank: expected a list"),
        ("[[pixels]]\nmatch = { Mod = 'CT' }\nblank = []", "pixels.0..match.Mod: expected"),
        ("[[pixels]]\nmatch = { Rows = [] }\nblank = []", "pixels.0..match.Rows: expected"),
        ("[[pixels]]\nmatch = { Rows = 1 }\nblank = [[0, 0, 0, 5]]", "pixels.0..blank"),
        ("[[pixels]]\nmatch = { Rows = 1 }\nblank = [[0, -1, 9, 5]]", "pixels.0..blank"),
        ("[[pixels]]\nmatch = { Rows = 1 }\nblank = [[1, 2, 3]]", "pixels.0..blank"),
        ("[[pixels]]\nmatch = { Rows = 1 }\nblank = [5]", "pixels.0..blank"),
        ("[[pixels]]\nmatch = { Rows = 1 }\nblank = []\nfill = 0", "pixels.0..fill: expected"),
        ("retain = [", "expected TOML"),
        ("x = " + "[" * 5000, "expected TOML"),
        ("format_version = 1" + "0" * 5000, "format_version|expected TOML"),
        ("[[pixels]]\nblank=[]\nmatch={ Rows = 1" + "0" * 4000 + " }", ""),
        ("\0", "expected TOML"),
    ],
)
def test_read_profile__does_refuse_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(content)
    if not said:
        read_profile(path)
        return
    with pytest.raises(UsageError, match=said) as refused:
        read_profile(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 600


def test_read_profile__does_refuse_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UsageError, match="expected"):
            read_profile(path)


def test_profile__does_have_no_own_rule_for_what_makes_an_object() -> None:
    assert {"SOPInstanceUID", "PixelData", "SpecificCharacterSet", "Rows"} <= FIXED


# the secret


def test_secret__does_stay_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    made = make_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(path) == made
    assert made.decode() not in repr(Pseudonyms(made))
    with pytest.raises(UsageError, match="expected no file yet"):
        make_secret(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match="640") as refused:
        read_secret(path)
    assert made.decode() not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 5000, b" " * 100])
def test_secret__does_have_to_be_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="expected a secret of 16 to 4096 bytes"):
        read_secret(path)
    with pytest.raises(UsageError, match="expected a file with a secret"):
        read_secret(tmp_path)


@given(st.text(), st.text())
def test_pseudonyms__does_give_each_its_own(one: str, other: str) -> None:
    by = Pseudonyms(bytes(32))
    assert (by.patient(one) == by.patient(other)) == (one == other)
    assert 365 <= -by.shift(one).days < 365 + 3650


# words


@pytest.mark.parametrize(
    ("given_text", "left"),
    [
        ("CT Thorax", "CT Thorax"),
        ("MR brain w/o contrast T2 FLAIR", "MR brain w/o contrast T2 FLAIR"),
        ("Dr. Smith phoned 555-123-4567", ""),
        ("head, John DOE 12 Jan 1968", "head"),
        ("mail j.doe@example.com axial", "axial"),
        ("slice 1.25 mm 512", "slice 1.25 mm 512"),
        ("No 12345678 lung", "No lung"),
        ("Brown lesion", "lesion"),
        ("Μαρία chest", "chest"),
        ("", ""),
    ],
)
def test_clean_text__does_keep_plain_words_alone(given_text: str, left: str) -> None:
    assert clean_text(given_text, frozenset(), frozenset()) == left


@settings(max_examples=200)
@given(st.text(max_size=80))
def test_clean_text__does_never_add_nor_keep_an_unknown_word(given_text: str) -> None:
    left = clean_text(given_text, frozenset(), frozenset({"head"}))
    for word in left.lower().split():
        letters = "".join(letter for letter in word if letter.isalpha())
        assert letters != "head"
        if letters.isascii() and len(letters) > 6:
            parts = [part for part in "".join(
                letter if letter.isalnum() else " " for letter in word
            ).split() if part.isalpha()]  # fmt: skip
            assert all(part in plain_words() for part in parts)
