"""Queries over the tables against brute force over the rows."""

import json
import random
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
import pytest

from pacspark.dicom.attributes import LEVELS, PROMOTED, UNIQUE_KEYS
from pacspark.dicom.conditions import Query
from pacspark.dicom.matching import parse_query
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import commit_instances
from tests.tables.samples import instance_row, rows_of

NAMES = ["Doe^Jane", "DOE^JANE", "Dœ^J", "100%^A_b", "a.c*^[x]", "", None, "山田^太郎=YAMADA"]


def _hospital() -> list[dict[str, Any]]:
    draw = random.Random(7)
    rows = []
    for patient in range(6):
        of_patient = {
            "patient_id": None if patient == 5 else f"P{patient}",
            "patient_name": NAMES[patient],
            "patient_birth_date": draw.choice(["19700101", "19991231", "", None]),
        }
        for study in range(draw.randrange(1, 4)):
            study_uid = f"1.2.{patient}.{study}"
            of_study = {
                "study_instance_uid": study_uid,
                "study_date": draw.choice(["20200229", "20210314", "20261123", None]),
                "study_time": draw.choice(["101500", "1030", "235959.9", "", None]),
                "study_description": draw.choice(["Head", "head CT", "50%", "a_b", None]),
                "accession_number": draw.choice(["A1", "A2", None]),
            }
            for series in range(draw.randrange(1, 4)):
                of_series = {
                    "series_instance_uid": f"{study_uid}.{series}",
                    "modality": draw.choice(["CT", "MR", "XA"]),
                    "series_number": draw.choice([1, 2, None]),
                }
                for number in range(draw.randrange(1, 4)):
                    uid = f"{study_uid}.{series}.{number}"
                    document = {
                        "00180020": {"vr": "CS", "Value": draw.choice([["GR"], ["SE", "IR"]])},
                        "00321032": {"vr": "PN", "Value": [{"Alphabetic": "Op^One"}]},
                    }
                    steps = [{"00400009": {"vr": "SH", "Value": [f"S{i}"]}} for i in range(number)]
                    if steps:
                        document["00400275"] = {"vr": "SQ", "Value": steps}
                    row = instance_row(
                        uid,
                        instance_number=draw.choice([number, None]),
                        slice_thickness=draw.choice([0.5, 1.0, None]),
                        image_type=draw.choice([["ORIGINAL", "PRIMARY"], ["DERIVED"], None]),
                        acquisition_date_time=draw.choice(["20200229101500", "2021", None]),
                        dicom_json=json.dumps(document),
                    )
                    rows.append(row | of_patient | of_study | of_series)
    return rows


ROWS = _hospital()


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = open_storage(tmp_path_factory.mktemp("hospital"))
    create_tables(storage)
    for start in range(3):
        commit_instances(storage, rows_of(ROWS[start::3]), run_id="run-1")
    return storage


def _meets(query: Query, row: Mapping[str, Any]) -> bool:
    for condition in query.conditions:
        candidates = [row]
        if condition.any_of_study:
            uid = row["study_instance_uid"]
            candidates = [other for other in ROWS if other["study_instance_uid"] == uid]
        if not any(condition.matches(candidate) for candidate in candidates):
            return False
    return True


def _expected_keys(query: Query) -> list[str | None]:
    column = UNIQUE_KEYS[query.level].column
    return sorted({row[column] for row in ROWS if _meets(query, row)}, key=str)


QUERIES: list[tuple[str, dict[str, object]]] = [
    *((level, {}) for level in LEVELS),
    ("patient", {"PatientName": "doe*"}),
    ("patient", {"PatientName": "*"}),
    ("patient", {"PatientName": "100%*"}),
    ("patient", {"PatientName": "a.c[*]*"}),
    ("patient", {"PatientName": "*=yamada"}),
    ("patient", {"PatientID": "P?"}),
    ("instance", {"RequestAttributesSequence.ScheduledProcedureStepID": "S1"}),
    ("study", {"00400275.00400009": "S0", "ModalitiesInStudy": "CT"}),
    ("patient", {"PatientID": "P1\\P2"}),
    ("patient", {"PatientID": '""'}),
    ("patient", {"PatientBirthDate": "19700101"}),
    ("study", {"PatientBirthDate": '""'}),
    ("study", {"StudyDate": "20200101-20201231"}),
    ("study", {"StudyDate": "-20210314"}),
    ("study", {"StudyDate": "20210314-"}),
    ("study", {"StudyTime": "1000-1045"}),
    ("study", {"StudyTime": "-1045"}),
    ("study", {"StudyDescription": "head*"}),
    ("study", {"StudyDescription": "50%"}),
    ("study", {"StudyDescription": "a?b"}),
    ("study", {"ModalitiesInStudy": "MR"}),
    ("study", {"ModalitiesInStudy": "CT", "PatientID": "P1"}),
    ("study", {"StudyInstanceUID": "1.2.0.0\\1.2.1.0,1.2.3.0"}),
    ("study", {"ScanningSequence": "IR"}),
    ("study", {"StudyInstanceUID": "9.9"}),
    ("series", {"Modality": "CT"}),
    ("series", {"Modality": "CT\\MR", "StudyDate": "2020-"}),
    ("series", {"SeriesNumber": "2"}),
    ("series", {"SeriesNumber": "1\\2"}),
    ("series", {"SeriesNumber": '""'}),
    ("series", {"SeriesNumber": "123456789012345678901234"}),
    ("series", {"ModalitiesInStudy": "MR", "Modality": "CT"}),
    ("series", {"00321032": "op*"}),
    ("instance", {"InstanceNumber": "0"}),
    ("instance", {"SliceThickness": "0.5"}),
    ("instance", {"SliceThickness": "1\\0.5"}),
    ("instance", {"ImageType": "DERIVED"}),
    ("instance", {"ImageType": '""'}),
    ("instance", {"AcquisitionDateTime": "2020-20210101"}),
    ("instance", {"AcquisitionDateTime": "2021"}),
    ("instance", {"ScanningSequence": "GR", "Modality": "CT"}),
    ("instance", {"StudyDate": "20200229", "StudyTime": "1000-1100"}),
    ("instance", {"StudyDescription": "*" + "a?" * 500}),
]


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_find__gives_what_brute_force_over_the_rows_gives(hospital: Storage, number: int) -> None:
    level, items = QUERIES[number]
    query = parse_query(items, level)
    found = Catalog(hospital).find(query)
    keys = found[UNIQUE_KEYS[query.level].keyword].to_pylist()
    assert sorted(keys, key=str) == _expected_keys(query)
    assert set(found.column_names) >= {key.keyword for key in query.requested if key.in_json}
    for row in found.to_pylist():
        _check_entity(query, row)


def _check_entity(query: Query, found: Mapping[str, Any]) -> None:
    """An entity is shown by one of its matching instances and counted over all."""
    key = UNIQUE_KEYS[query.level]
    own = [row for row in ROWS if row[key.column] == found[key.keyword]]
    shown = min(
        (row for row in own if _meets(query, row)), key=lambda row: str(row["sop_instance_uid"])
    )
    for attribute in PROMOTED:
        if LEVELS.index(attribute.level) <= LEVELS.index(query.level):
            assert found[attribute.keyword] == shown[attribute.column]
        else:
            assert attribute.keyword not in found
    studies, series, modalities = (
        {row[column] for row in own}
        for column in ("study_instance_uid", "series_instance_uid", "modality")
    )
    counts: dict[str, dict[str, object]] = {
        "patient": {
            "NumberOfPatientRelatedStudies": len(studies),
            "NumberOfPatientRelatedSeries": len(series),
            "NumberOfPatientRelatedInstances": len(own),
        },
        "study": {
            "NumberOfStudyRelatedSeries": len(series),
            "NumberOfStudyRelatedInstances": len(own),
            "ModalitiesInStudy": sorted(modalities),
            "SOPClassesInStudy": ["1.2.840.10008.5.1.4.1.1.2"],
        },
        "series": {"NumberOfSeriesRelatedInstances": len(own)},
        "instance": {},
    }
    for name, value in counts[query.level].items():
        assert found[name] == value


def test_find__orders_its_answer(hospital: Storage) -> None:
    found = Catalog(hospital).find(parse_query({}, "study")).to_pylist()
    keys = [(r["StudyDate"] or "~", r["StudyTime"] or "~", r["StudyInstanceUID"]) for r in found]
    dated = [key for key in keys if "~" not in key]
    assert dated == sorted(dated)
    assert [key[0] for key in keys] == sorted(key[0] for key in keys)


def test_find__gives_an_attribute_that_only_the_json_has(hospital: Storage) -> None:
    query = parse_query({"ScanningSequence": "SE", "RequestingPhysician": ""}, "instance")
    found = Catalog(hospital).find(query)
    assert set(found["ScanningSequence"].to_pylist()) == {"SE\\IR"}
    assert set(found["RequestingPhysician"].to_pylist()) == {"Op^One"}


def test_find__reads_the_json_only_for_what_no_column_has(
    hospital: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacspark.tables.snapshot import Snapshot

    read, asked = Snapshot.read, []

    def noted(self: Snapshot, columns: Any, *rest: Any) -> Any:
        asked.extend(columns)
        return read(self, columns, *rest)

    monkeypatch.setattr(Snapshot, "read", noted)
    for level in LEVELS:
        Catalog(hospital).find(parse_query({"PatientName": "doe*"}, level))
    assert asked
    assert "dicom_json" not in asked


def test_instances__lie_clustered_by_study_and_series(hospital: Storage) -> None:
    for file in Catalog(hospital).files_of("instances"):
        rows = pq.read_table(hospital.path("instances", file)).to_pylist()
        keys = [(row["study_instance_uid"], row["series_instance_uid"]) for row in rows]
        assert keys == sorted(keys)
