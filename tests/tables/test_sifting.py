"""Files that are not opened must not hold what is asked for."""

import random

import pytest

from pacspark.dicom.matching import parse_query
from pacspark.tables.catalog import Catalog
from pacspark.tables.sifting import files_with
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_instances
from tests.tables.samples import instance_row, rows_of


def test_files__are_those_that_hold_a_study(storage: Storage) -> None:
    draw = random.Random(1)
    studies = [f"2.25.{draw.getrandbits(100)}" for _ in range(12)]
    for number, study in enumerate(studies):
        rows = [
            instance_row(f"{uid}.{number}", study_instance_uid=uid, patient_id=patient)
            for uid, patient in ((study, None), (studies[(number + 1) % 12], f"P{number % 3}"))
        ]
        commit_instances(storage, rows_of(rows), run_id="run-1")
    snapshot = Snapshot(storage, "instances")
    by_bounds = [len(snapshot.files({"study_instance_uid": [study]})) for study in studies]
    by_content = [len(files_with(snapshot, {"study_instance_uid": [study]})) for study in studies]
    assert by_content == [2] * 12
    assert sum(by_bounds) > 2 * sum(by_content)
    assert len(files_with(snapshot, {"patient_id": ["P1"]})) == 4
    assert files_with(snapshot, {"study_instance_uid": ["2.25.1"]}) == []
    assert len(files_with(snapshot)) == 12
    for study in studies:
        query = parse_query({"StudyInstanceUID": study}, "study")
        found = Catalog(storage).find(query)
        assert found["NumberOfStudyRelatedInstances"].to_pylist() == [2]


def test_files__are_read_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        row = instance_row(f"1.2.{number}", study_instance_uid="1.2")
        commit_instances(storage, rows_of([row]), run_id="run-1")
    snapshot = Snapshot(storage, "instances")
    expected = files_with(snapshot, {"study_instance_uid": ["1.2"]})
    assert len(expected) == 3

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("pacspark.tables.sifting.open_data_file", refuse)
    assert files_with(snapshot, {"study_instance_uid": ["1.2"]}) == expected
