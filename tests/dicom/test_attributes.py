"""The table of promoted attributes against pydicom's dictionary."""

import re

import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, keyword_for_tag

from pacspark.dicom.attributes import (
    BY_KEYWORD,
    BY_TAG,
    LEVELS,
    PROMOTED,
    UNIQUE_KEYS,
    column_name,
)


@pytest.mark.parametrize(
    ("keyword", "column"),
    [
        ("SOPInstanceUID", "sop_instance_uid"),
        ("KVP", "kvp"),
        ("StudyInstanceUID", "study_instance_uid"),
        ("PatientID", "patient_id"),
        ("SOPInstanceUIDOfConcatenationSource", "sop_instance_uid_of_concatenation_source"),
        ("MIMETypeOfEncapsulatedDocument", "mime_type_of_encapsulated_document"),
        ("XRayTubeCurrent", "x_ray_tube_current"),
        ("TimezoneOffsetFromUTC", "timezone_offset_from_utc"),
        ("Rows", "rows"),
        ("OtherPatientIDs", "other_patient_ids"),
        ("OtherPatientIDsSequence", "other_patient_ids_sequence"),
        ("ComponentWelderIDs", "component_welder_ids"),
    ],
)
def test_column_name__does_follow_the_words_of_the_keyword(keyword: str, column: str) -> None:
    assert column_name(keyword) == column


def test_column_name__does_make_an_identifier_of_every_keyword_of_the_dictionary() -> None:
    keywords = [entry[4] for entry in DicomDictionary.values() if entry[4]]
    for keyword in keywords:
        column = column_name(keyword)
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", column), keyword
        assert column.replace("_", "") == keyword.lower()


def test_promoted__does_agree_with_the_dictionary() -> None:
    for attribute in PROMOTED:
        assert keyword_for_tag(attribute.tag) == attribute.keyword
        assert dictionary_VR(attribute.tag) == attribute.vr
        assert attribute.multiple == (DicomDictionary[attribute.tag][1] != "1")
        assert attribute.level in LEVELS
        assert " or " not in attribute.vr
        assert attribute.vr != "SQ"


def test_promoted__does_hold_each_attribute_once() -> None:
    assert len(BY_KEYWORD) == len(BY_TAG) == len(PROMOTED)
    assert len({attribute.column for attribute in PROMOTED}) == len(PROMOTED)


@pytest.mark.parametrize(
    ("keyword", "kind", "multiple"),
    [
        ("Rows", "int64", False),
        ("InstanceNumber", "int64", False),
        ("KVP", "double", False),
        ("ImagePositionPatient", "double", True),
        ("ImageType", "string", True),
        ("StudyDate", "string", False),
        ("PatientName", "string", False),
    ],
)
def test_attribute__does_know_the_type_of_its_column(
    keyword: str, kind: str, multiple: bool
) -> None:
    attribute = BY_KEYWORD[keyword]
    assert (attribute.kind, attribute.multiple) == (kind, multiple)


def test_promoted__does_cover_the_keys_that_the_standard_names() -> None:
    # the keys of PS3.4 tables C.6-1 to C.6-5 and the default answers of QIDO-RS (PS3.18)
    required = {
        "patient": "PatientName PatientID PatientBirthDate PatientSex IssuerOfPatientID",
        "study": "StudyDate StudyTime AccessionNumber StudyID StudyInstanceUID "
        "ReferringPhysicianName StudyDescription TimezoneOffsetFromUTC",
        "series": "Modality SeriesNumber SeriesInstanceUID SeriesDescription "
        "PerformedProcedureStepStartDate PerformedProcedureStepStartTime",
        "instance": "InstanceNumber SOPInstanceUID SOPClassUID Rows Columns BitsAllocated "
        "NumberOfFrames",
    }
    for level, keywords in required.items():
        for keyword in keywords.split():
            assert BY_KEYWORD[keyword].level == level


def test_unique_keys__does_name_one_key_for_each_level() -> None:
    assert tuple(UNIQUE_KEYS) == LEVELS
    assert all(attribute.level == level for level, attribute in UNIQUE_KEYS.items())
