"""Matching against brute force, against Arrow's RE2 and against the words of the standard."""

import json
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.dicom.attributes import PROMOTED
from pacspark.dicom.matching import Condition, Query, parse_query
from pacspark.errors import QueryError, UsageError

EMPTY_ROW: dict[str, object] = {attribute.column: None for attribute in PROMOTED}


def row(**columns: object) -> dict[str, object]:
    return {**EMPTY_ROW, **columns}


def matches(keyword: str, value: str, stored: object, **options: bool) -> bool:
    query = parse_query({keyword: value}, "instance", **options)
    (key,) = query.requested
    assert key.column is not None
    return query.matches(row(**{key.column: stored}))


def refused(items: dict[str, object], level: str = "instance") -> str:
    with pytest.raises(QueryError) as caught:
        parse_query(items, level)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@cache
def glob(pattern: str, string: str) -> bool:
    """Wildcard matching from its definition."""
    if not pattern:
        return not string
    if pattern[0] == "*":
        return glob(pattern[1:], string) or (bool(string) and glob(pattern, string[1:]))
    return bool(string) and pattern[0] in {"?", string[0]} and glob(pattern[1:], string[1:])


# the characters that mean something to SQL, to regular expressions and to person names
TEXT = st.text(st.sampled_from("aAb%_.[]()\\d+$|{}é山 ^-\n"), max_size=8).map(
    lambda text: text.replace("\\", "/").strip()
)
PATTERN = st.text(st.sampled_from("aAb%_.[+^é*?*?"), min_size=1, max_size=8)


@settings(max_examples=500, deadline=None)
@given(PATTERN, st.lists(TEXT, min_size=1, max_size=6))
def test_query__does_match_wildcards_as_defined(pattern: str, texts: list[str]) -> None:
    query = parse_query({"StudyDescription": pattern}, "study")
    expected = [not pattern.strip("*") or (bool(text) and glob(pattern, text)) for text in texts]
    assert [query.matches(row(study_description=text)) for text in texts] == expected
    assert pushed_down(query, "study_description", texts) == expected


@settings(max_examples=300, deadline=None)
@given(PATTERN, st.lists(TEXT, min_size=1, max_size=6))
def test_query__does_ignore_case_when_asked(pattern: str, texts: list[str]) -> None:
    query = parse_query({"StudyDescription": pattern}, "study", ignore_case=True)
    expected = [
        not pattern.strip("*") or (bool(text) and glob(pattern.lower(), text.lower()))
        for text in texts
    ]
    assert [query.matches(row(study_description=text)) for text in texts] == expected
    assert pushed_down(query, "study_description", texts) == expected


NAME = st.text(st.sampled_from("aAb^^=.é山"), min_size=1, max_size=9)
NAME_PATTERN = st.text(st.sampled_from("aAb^^=.é山*?*"), min_size=1, max_size=9)


def name_oracle(pattern: str, name: str) -> bool:
    """Compare component groups, each name component filled up to more than any pattern asks for."""

    def same(one: str, other: str) -> bool:
        one = one.rstrip("^").casefold()
        stripped = other.rstrip("^").casefold()
        return any(name_glob(one, stripped + "^" * carets) for carets in range(11))

    groups = name.rstrip("=").split("=")
    asked = pattern.rstrip("=").split("=")
    if len(asked) == 1:
        return any(same(asked[0], group) for group in groups[:3])
    groups += [""] * (len(asked) - len(groups))
    return all(
        not one.strip("^") or same(one, other) for one, other in zip(asked, groups, strict=False)
    )


@cache
def name_glob(pattern: str, string: str) -> bool:
    if not pattern:
        return not string.strip("^")
    if pattern[0] == "*":
        return name_glob(pattern[1:], string) or (bool(string) and name_glob(pattern, string[1:]))
    if pattern[0] == "?":
        return bool(string) and string[0] != "^" and name_glob(pattern[1:], string[1:])
    return bool(string) and pattern[0] == string[0] and name_glob(pattern[1:], string[1:])


@settings(max_examples=1500, deadline=None)
@given(NAME_PATTERN, NAME)
def test_query__does_match_person_names_by_component_group(pattern: str, name: str) -> None:
    query = parse_query({"PatientName": pattern}, "study")
    expected = not pattern.strip("*^=") or name_oracle(pattern, name)
    assert query.matches(row(patient_name=name)) == expected
    assert pushed_down(query, "patient_name", [name]) == [expected]


@pytest.mark.parametrize(
    ("value", "stored", "expected"),
    [
        ("doe^jane", "Doe^Jane", True),
        ("DOE^JANE^^", "Doe^Jane", True),
        ("Doe", "Doe^Jane", False),
        ("Doe*", "Doe^Jane", True),
        ("Doe^*", "Doe", True),
        ("*jane*", "Doe^Jane", True),
        ("山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("Yamada*=山*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("=山*", "Yamada^Tarou=山田^太郎", True),
        ("山*=", "Yamada^Tarou=山田^太郎", True),
        ("Tanaka*=山*", "Yamada^Tarou=山田^太郎", False),
        ("Yamada*=*", "Yamada^Tarou", True),
        ("müller*", "MÜLLER^Jürgen", True),
        ("%", "Doe", False),
        ("D_e", "Doe", False),
    ],
)
def test_query__does_match_person_names(value: str, stored: str, expected: bool) -> None:
    assert matches("PatientName", value, stored) == expected


def test_query__does_take_linear_time_for_any_pattern() -> None:
    text = "a" * 5000
    start = time.perf_counter()
    for keyword in ("StudyDescription", "PatientName"):
        assert not matches(keyword, "*a" * 300 + "*b", text)
        assert not matches(keyword, "*a*?" * 100 + "b", text)
    for carets in (60, 5000):  # of a name: which of them a component ends at is not tried out
        name = f"a{'^' * carets}=b"
        assert not matches("PatientName", f"a{'*^' * 12}*=c", name)
        assert not matches("PatientName", f"{'^*' * 200}=c", name)
    assert time.perf_counter() - start < 5


def seconds(text: str) -> tuple[float, float]:
    """First and last moment of a TM, in seconds of the day."""
    whole, _, fraction = text.partition(".")
    parts = [int(whole[i : i + 2]) for i in range(0, len(whole), 2)]
    first = sum(part * factor for part, factor in zip(parts, (3600, 60, 1), strict=False))
    first_us = first * 10**6 + int(fraction.ljust(6, "0") or 0)
    width_us = 10 ** (6 - len(fraction)) if fraction else {1: 3600, 2: 60, 3: 1}[len(parts)] * 10**6
    return first_us, first_us + width_us - 1


@st.composite
def times_of_day(draw: st.DrawFn) -> str:
    parts = [f"{draw(st.integers(0, 23)):02}"]
    parts += draw(st.lists(st.sampled_from(["00", "01", "30", "59"]), max_size=2))
    text = "".join(parts)
    if len(text) == 6 and draw(st.booleans()):
        text += "." + draw(st.text("059", min_size=1, max_size=6))
    return text


@settings(max_examples=1000, deadline=None)
@given(times_of_day(), times_of_day(), times_of_day(), st.sampled_from(["ab-", "-b", "a-", "a-b"]))
def test_query__does_match_ranges_of_times(a: str, b: str, stored: str, form: str) -> None:
    value = {"ab-": a, "-b": f"-{b}", "a-": f"{a}-", "a-b": f"{a}-{b}"}[form]
    lower = seconds(a)[0] if form != "-b" else 0
    upper = seconds(a if form == "ab-" else b)[1] if form != "a-" else 10**12
    expected = lower <= seconds(stored)[0] <= upper
    query = parse_query({"StudyTime": value}, "study")
    assert query.matches(row(study_time=stored)) == expected
    assert pushed_down(query, "study_time", [stored]) == [expected]


DATE = st.dates().map(lambda date: date.strftime("%Y%m%d").rjust(8, "0"))


@settings(deadline=None)
@given(DATE, DATE, DATE)
def test_query__does_match_ranges_of_dates(a: str, b: str, stored: str) -> None:
    forms = {f"{a}-{b}": a <= stored <= b, f"{a}-": stored >= a, f"-{b}": stored <= b}
    forms |= {a: stored == a, stored: True, a[:6]: stored[:6] == a[:6], a[:4]: stored[:4] == a[:4]}
    for value, expected in forms.items():
        query = parse_query({"StudyDate": value}, "study")
        assert query.matches(row(study_date=stored)) == expected
        assert pushed_down(query, "study_date", [stored]) == [expected]


@settings(deadline=None)
@given(DATE, DATE, times_of_day(), times_of_day(), DATE, times_of_day())
def test_query__does_combine_date_and_time(
    date_a: str, date_b: str, time_a: str, time_b: str, date: str, stored_time: str
) -> None:
    items = {"StudyDate": f"{date_a}-{date_b}", "StudyTime": f"{time_a}-{time_b}"}
    moment = (date, seconds(stored_time)[0])
    together = (date_a, seconds(time_a)[0]) <= moment <= (date_b, seconds(time_b)[1])
    apart = date_a <= date <= date_b and seconds(time_a)[0] <= moment[1] <= seconds(time_b)[1]
    stored = row(study_date=date, study_time=stored_time)
    combined = parse_query(items, "study", combined_date_time=True)
    assert combined.matches(stored) == together
    assert not any(condition.pushable for condition in combined.conditions)
    assert parse_query(items, "study").matches(stored) == apart


@pytest.mark.parametrize(
    ("dates", "date", "time_of_day", "expected"),
    [
        ("2020-2021", "20200101", "0900", False),
        ("2020-2021", "20200102", "0900", True),
        ("2020-2021", "20211231", "1800", False),
        ("202002-", "20200201", "0900", False),
        ("20200101", "20200101", "1200", True),
        ("20200101", "20200101", None, True),
    ],
)
def test_query__does_combine_partial_dates(
    dates: str, date: str, time_of_day: str | None, expected: bool
) -> None:
    items = {"StudyDate": dates, "StudyTime": "1000-1700"}
    query = parse_query(items, "study", combined_date_time=True)
    assert query.matches(row(study_date=date, study_time=time_of_day)) == expected


@pytest.mark.parametrize(
    ("value", "stored", "offset", "expected"),
    [
        ("20200101", "20200101235959.999999", None, True),
        ("2020", "20201231", None, True),
        ("2019-2020", "20200630120000", None, True),
        ("202006301200-", "20200630120000", None, True),
        ("202006301201-", "20200630120000", None, False),
        ("-20200630", "20200630235959", None, True),
        ("20200630120000+0000", "20200630140000+0200", None, True),
        ("20200630120000-0500", "20200630170000+0000", None, True),
        ("20200630120000+0000", "20200630140000", "+0200", True),
        ("20200630120000+0000", "20200630120000", None, True),
        ("20200630110000+0000-20200630130000+0000", "20200630130000+0200", None, True),
        ("20200630110000+0000-20200630130000+0000", "20200630120000-0500", None, False),
        ("202002", "20200229", None, True),
        ("2020", "nonsense", None, False),
    ],
)
def test_query__does_match_date_times(
    value: str, stored: str, offset: str | None, expected: bool
) -> None:
    query = parse_query({"AcquisitionDateTime": value}, "instance")
    assert not query.conditions[0].pushable
    columns = row(acquisition_date_time=stored, timezone_offset_from_utc=offset)
    assert query.matches(columns) == expected


@pytest.mark.parametrize(
    ("keyword", "value", "stored", "expected"),
    [
        ("StudyInstanceUID", "1.2\\1.3", "1.3", True),
        ("StudyInstanceUID", "1.2,1.3", "1.3", True),
        ("StudyInstanceUID", "1.2,1.3", "1.31", False),
        ("StudyInstanceUID", "1.2", None, False),
        ("Modality", "CT\\MR", "MR", True),
        ("Modality", "ct", "CT", False),
        ("ImageType", "AXIAL", ["ORIGINAL", "PRIMARY", "AXIAL"], True),
        ("ImageType", "AX*", ["ORIGINAL", "PRIMARY", "AXIAL"], True),
        ("ImageType", "LOCALIZER", ["ORIGINAL", "PRIMARY"], False),
        ("InstanceNumber", "007", 7, True),
        ("InstanceNumber", "7.0", 7, True),
        ("InstanceNumber", "7\\8", 8, True),
        ("InstanceNumber", "7", None, False),
        ("SliceThickness", "1.250", 1.25, True),
        ("PixelSpacing", ".5", [0.5, 0.7], True),
        ("Rows", "512", 512.0, True),
        ("PatientAge", "042Y", "042Y", True),
        ("PatientName", '""', None, True),
        ("PatientName", '""', "Doe", False),
        ("PatientName", "*", None, True),
        ("PatientName", "", None, True),
        ("PatientName", "?*", None, False),
        ("PatientName", "Doe", float("nan"), False),
    ],
)
def test_query__does_match_values(keyword: str, value: str, stored: object, expected: bool) -> None:
    assert matches(keyword, value, stored) == expected


def test_query__does_reach_attributes_that_are_no_columns() -> None:
    document = {
        "00181160": {"vr": "SH", "Value": ["NONE"]},
        "00091010": {"vr": "LO", "Value": ["private"]},
        "00101005": {"vr": "PN", "Value": [{"Alphabetic": "Roe^Jane"}]},
        "00189461": {"vr": "FD", "Value": [1.5, None]},
    }
    cases = {
        ("FilterType", "NO*"): True,
        ("FilterType", "X"): False,
        ("00091010", "priv*"): True,
        ("00091011", "priv*"): False,
        ("PatientBirthName", "roe*"): True,
        ("FieldOfViewDimensionsInFloat", "1.5"): True,
        ("FilterMaterial", '""'): True,
        ("FilterType", '""'): False,
    }
    for (name, value), expected in cases.items():
        query = parse_query({name: value}, "series")
        (condition,) = query.conditions
        assert query.needs_json
        assert condition.in_json
        assert not condition.pushable
        assert query.matches({"dicom_json": json.dumps(document)}) == expected
        assert query.matches({"dicom_json": document}) == expected


def test_parse_query__does_take_tags_and_keywords_alike() -> None:
    by_tag = parse_query({"00100010": "Doe*", "0020000d": "1.2"}, "study")
    assert by_tag == parse_query({"PatientName": "Doe*", "StudyInstanceUID": "1.2"}, "study")
    assert [key.json_tag for key in by_tag.requested] == ["00100010", "0020000D"]


def test_parse_query__does_ask_for_attributes_without_a_value() -> None:
    query = parse_query(
        {"PatientName": "", "NumberOfStudyRelatedSeries": "", "RequestAttributesSequence": None},
        "study",
    )
    assert query.conditions == ()
    assert [key.keyword for key in query.requested] == [
        "PatientName",
        "NumberOfStudyRelatedSeries",
        "RequestAttributesSequence",
    ]


@pytest.mark.parametrize("value", ["CT\\MR", "C*"])
def test_parse_query__does_turn_modalities_in_study_to_modalities(value: str) -> None:
    (condition,) = parse_query({"ModalitiesInStudy": value}, "study").conditions
    assert condition.any_of_study
    assert condition.column == "modality"
    assert condition.matches(row(modality="CT"))
    assert not condition.matches(row(modality="US"))


@pytest.mark.parametrize(
    ("items", "level", "message"),
    [
        ({"PatientNam": "x"}, "study", "PatientNam: expected a DICOM keyword"),
        ({"PatientNam": "x"}, "study", "did you mean PatientName?"),
        ({"../..": "x"}, "study", "../..: expected a DICOM keyword"),
        ({"a\nb" * 99: "x"}, "study", "'a\\nba"),
        ({"Modality": "CT"}, "study", "Modality: an attribute of level series, below"),
        ({"ModalitiesInStudy": "CT"}, "patient", "ModalitiesInStudy"),
        ({"NumberOfStudyRelatedSeries": "3"}, "study", "NumberOfStudyRelatedSeries: is computed"),
        ({"RequestAttributesSequence": "x"}, "series", "values of VR SQ cannot be matched"),
        ({"RequestAttributesSequence[0].PatientID": "x"}, "series", "any item can match"),
        ({"Modality.PatientID": "x"}, "series", "expected a sequence before a dot"),
        ({"RequestAttributesSequence.": "x"}, "series", r"with dots between"),
        ({"PatientName.FamilyName": "x"}, "series", "expected the whole name of a person"),
        ({".".join(["ContentSequence"] * 16 + ["TextValue"]): "x"}, "series", "at most 16 deep"),
        ({"PixelData": "x"}, "instance", "values of VR OB cannot be matched"),
        ({"StudyDate": "yesterday"}, "study", "StudyDate: expected a DA or a range"),
        ({"StudyDate": "20201301"}, "study", "StudyDate"),
        ({"StudyDate": "-"}, "study", "StudyDate"),
        ({"StudyDate": "2020*"}, "study", "StudyDate"),
        ({"StudyDate": "2019-2020-2021"}, "study", "StudyDate"),
        ({"StudyTime": "2500"}, "study", "StudyTime: expected a TM"),
        ({"AcquisitionDateTime": "20200230"}, "instance", "AcquisitionDateTime: expected a DT"),
        ({"StudyInstanceUID": "1.2.*"}, "study", "StudyInstanceUID: expected UIDs"),
        ({"StudyInstanceUID": "1.2,"}, "study", "StudyInstanceUID: expected UIDs"),
        ({"InstanceNumber": "1-5"}, "instance", "InstanceNumber: expected a number"),
        ({"InstanceNumber": "1.5"}, "instance", "InstanceNumber: expected an integer"),
        ({"SliceThickness": "1e999"}, "instance", "SliceThickness: expected a number"),
        ({"PatientAge": "04*"}, "study", "PatientAge: expected no wildcard in VR AS"),
        ({"PatientAge": 5}, "study", "PatientAge: expected an age like 045Y, found '5'"),
        ({"patientid": "A"}, "study", "did you mean PatientID?"),
        ({"detectorid": "A"}, "study", "did you mean DetectorID?"),
        ({"PatientName": "x" * 2000}, "study", "PatientName: expected at most 1024 characters"),
        ({"PatientID": "a", "00100020": "b"}, "study", "expected each attribute once"),
    ],
)
def test_parse_query__does_name_the_key_that_it_refuses(
    items: dict[str, object], level: str, message: str
) -> None:
    assert message in refused(items, level)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([attribute.keyword for attribute in PROMOTED]), st.text(max_size=20))
def test_parse_query__does_answer_any_text(keyword: str, value: str) -> None:
    try:
        query = parse_query({keyword: value}, "instance")
    except QueryError as error:
        assert keyword in str(error)  # noqa: PT017
    else:
        assert query.matches(EMPTY_ROW) == (not query.conditions or value.strip(" \0") == '""')


def pushed_down(query: Query, column: str, texts: list[str]) -> list[bool]:
    """What a table makes of the conditions of a query, with Arrow's own functions."""
    stored = pa.array([text or None for text in texts], pa.string())
    keep = pa.array([True] * len(texts))
    for condition in query.conditions:
        assert condition.pushable
        assert condition.column == column
        keep = pc.and_(keep, pc.fill_null(arrow_mask(condition, stored), fill_value=False))
    result: list[bool] = keep.to_pylist()
    return result


def arrow_mask(condition: Condition, stored: Any) -> Any:
    if condition.operator in {"equals", "one_of"}:
        return pc.is_in(stored, pa.array(condition.values, stored.type))
    if condition.operator == "pattern":
        return pc.match_substring_regex(stored, condition.regex)
    mask = pc.is_valid(stored)
    if condition.lower is not None:
        mask = pc.and_(mask, pc.greater_equal(stored, condition.lower))
    if condition.upper is not None:
        mask = pc.and_(mask, pc.less_equal(stored, condition.upper))
    return mask


def test_parse_query__refuses_a_level_that_is_none() -> None:
    expected = "level: expected one of patient, study, series, instance, found 'image'"
    with pytest.raises(UsageError, match=expected):
        parse_query({"PatientID": "x"}, "image")


def _document(items: Sequence[tuple[str, Sequence[str]]]) -> dict[str, object]:
    """Give the JSON of a data set of request attributes: an ID, and code values below each."""
    return {
        "00400275": {
            "vr": "SQ",
            "Value": [
                {
                    "00400009": {"vr": "SH", "Value": [step]},
                    "00400008": {
                        "vr": "SQ",
                        "Value": [{"00080100": {"vr": "SH", "Value": [code]}} for code in codes],
                    },
                }
                for step, codes in items
            ],
        }
    }


STEP = "RequestAttributesSequence.ScheduledProcedureStepID"
CODE = "00400275.ScheduledProtocolCodeSequence.00080100"


@pytest.mark.parametrize(
    ("asked", "items", "expected"),
    [
        ({STEP: "A"}, [("A", [])], True),
        ({STEP: "A"}, [("B", []), ("A", [])], True),
        ({STEP: "A"}, [], False),
        ({STEP: "a*"}, [("A1", [])], False),
        ({STEP: "?1"}, [("A1", [])], True),
        ({STEP: ""}, [], True),
        ({STEP: '""'}, [("A", [])], False),
        ({CODE: "X"}, [("A", ["Y"]), ("B", ["Y", "X"])], True),
        ({STEP: "A", CODE: "X"}, [("A", ["Y"]), ("B", ["X"])], False),  # not of one item
        ({STEP: "A", CODE: "X"}, [("A", ["Y", "X"])], True),
    ],
)
def test_keys_in_sequences__are_met_by_one_item(
    asked: dict[str, object], items: Sequence[tuple[str, Sequence[str]]], expected: bool
) -> None:
    query = parse_query(asked, "series")
    assert query.matches({"dicom_json": _document(items)}) is expected
    assert query.matches({"dicom_json": json.dumps(_document(items))}) is expected
    assert [key.keyword.split(".")[0] for key in query.requested] == [
        "RequestAttributesSequence"
    ] * len(asked)
