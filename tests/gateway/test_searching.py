"""The index answers as the tables do, whatever the level, before and after the commit."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable

from pacspark.dicom.attributes import BY_KEYWORD, LEVELS
from pacspark.dicom.matching import parse_query
from pacspark.errors import QueryTooLargeError
from pacspark.gateway import searching
from pacspark.gateway.groups import Group, StoredInstance
from pacspark.gateway.index import Index
from pacspark.gateway.searching import answers, search
from pacspark.gateway.storing import Store
from pacspark.tables.catalog import Catalog
from tests.ct_objects import ct_image, encoded

PIXELS = np.zeros((2, 2), np.int16)
ASKED: Mapping[str, str] = {
    "patient": "PatientID PatientName PatientSex NumberOfPatientRelatedStudies "
    "NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances OtherPatientIDs",
    "study": "StudyInstanceUID StudyDate StudyTime AccessionNumber PatientName ModalitiesInStudy "
    "SOPClassesInStudy NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances",
    "series": "SeriesInstanceUID Modality SeriesNumber NumberOfSeriesRelatedInstances PatientID "
    "SoftwareVersions OperatorsName PatientWeight",
    "instance": "SOPInstanceUID InstanceNumber Rows KVP ImagePositionPatient SOPClassUID "
    "WindowCenter SeriesNumber",
}
QUERIES: tuple[tuple[str, Mapping[str, str]], ...] = (
    *((level, {}) for level in LEVELS),
    ("patient", {"PatientID": "P1"}),
    ("patient", {"PatientID": "P*"}),
    ("patient", {"PatientName": "m\u00fcller*"}),
    ("patient", {"PatientSex": '""'}),
    ("study", {"StudyDate": "20200101-20200103"}),
    ("study", {"StudyDate": "20200102", "StudyTime": "10-12"}),
    ("study", {"ModalitiesInStudy": "MR"}),
    ("study", {"ModalitiesInStudy": "MR", "PatientID": "P1"}),
    ("study", {"SOPClassesInStudy": "1.2.840.10008.5.1.4.1.1.4"}),
    ("study", {"StudyInstanceUID": "1.2.3.1\\1.2.3.4"}),
    ("study", {"AccessionNumber": "A?"}),
    ("study", {"OtherPatientIDs": "second"}),
    ("study", {"PatientWeight": "70"}),
    ("series", {"Modality": "CT"}),
    ("series", {"Modality": "CT\\MR", "StudyInstanceUID": "1.2.3.2"}),
    ("series", {"SeriesNumber": "2"}),
    ("series", {"SoftwareVersions": "b*"}),
    ("instance", {"SOPInstanceUID": "1.2.3.1.1.1\\1.2.3.2.1.2\\9.9"}),
    ("instance", {"SeriesInstanceUID": "1.2.3.1.1"}),
    ("instance", {"SeriesInstanceUID": "1.2.3.1.1", "InstanceNumber": "2"}),
    ("instance", {"KVP": "80", "PatientID": "P2"}),
    ("instance", {"WindowCenter": "40"}),
    ("instance", {"ImageType": "LOCALIZER"}),
    ("instance", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}),
    ("instance", {"ContentDate": "2020-", "ContentTime": "12-"}),
    ("instance", {"FilterType": "BODY"}),
    ("study", {"FilterType": "BODY"}),
)


def population() -> list[bytes]:
    """Studies that differ in all that queries ask for, some within themselves."""
    draw = random.Random(5)
    objects = []
    for study in range(1, 6):
        for series in range(1, 3):
            for number in range(1, 4):
                mr = (study + series) % 3 == 0
                more: dict[str, Any] = {
                    "SOPInstanceUID": f"1.2.3.{study}.{series}.{number}",
                    "SeriesInstanceUID": f"1.2.3.{study}.{series}",
                    "StudyInstanceUID": f"1.2.3.{study}",
                    "PatientID": f"P{study % 3}",
                    "SpecificCharacterSet": "ISO_IR 192",
                    "PatientName": "M\u00fcller^Anna" if study % 2 else "Doe^Jo=\u5c71\u7530",
                    "PatientSex": "F" if study % 2 else None,
                    "StudyDate": f"2020010{study}",
                    "StudyTime": f"{8 + study:02d}3000",
                    "AccessionNumber": f"A{study}" if study != 4 else "",
                    "Modality": "MR" if mr else "CT",
                    "SeriesNumber": series if series != 2 or study != 3 else None,
                    "InstanceNumber": 4 - number,
                    "KVP": draw.choice([80, 120, None]),
                    "WindowCenter": draw.choice([[40, 80], 40, None]),
                    "ImageType": draw.choice([["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED"]]),
                    "SoftwareVersions": draw.choice(["a", ["b1", "c"], None]),
                    "OtherPatientIDs": ["first", "second"] if study == 1 else None,
                    "PatientWeight": 70.5 if study == 2 else 70,
                    "ContentDate": "20200101",
                    "ContentTime": draw.choice(["100000", "130000", ""]),
                    "FilterType": draw.choice(["BODY", "WEDGE"]),
                }
                if mr:
                    more["SOPClassUID"] = "1.2.840.10008.5.1.4.1.1.4"
                kept = {key: value for key, value in more.items() if value is not None}
                objects.append(encoded(ct_image(PIXELS, number, (0.0, 0.0, 0.0), **kept)))
    draw.shuffle(objects)
    return objects


def told(store: Store, level: str, conditions: Mapping[str, str]) -> list[dict[str, Any]]:
    query = parse_query(dict.fromkeys(ASKED[level].split(), "") | dict(conditions), level)
    return [
        {
            key: list(v) if isinstance(v, tuple) else v
            for key, v in answer.items()
            if key in asked(level)
        }
        for answer in answers(store.index, search(store.index, query), query.requested)
    ]


def asked(level: str) -> list[str]:
    return ASKED[level].split()


def expected(catalog: Catalog, level: str, conditions: Mapping[str, str]) -> list[dict[str, Any]]:
    query = parse_query(dict.fromkeys(ASKED[level].split(), "") | dict(conditions), level)
    return list(catalog.find(query).select(asked(level)).to_pylist())


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The same objects in tables alone."""
    from tests.ct_objects import archive_of

    return archive_of(tmp_path_factory.mktemp("oracle") / "archive", population())


def test_answers__are_those_of_the_tables(store: Store, oracle: Catalog) -> None:
    """From the landing alone, from both at once, from many files, and from a rewritten one."""

    def check(where: str) -> None:
        for level, conditions in QUERIES:
            found, wanted = told(store, level, conditions), expected(oracle, level, conditions)
            assert found == wanted, (where, level, conditions)

    objects = population()
    for data in objects[:10]:
        store.store(data, "x")
    store.flush()
    for data in objects[10:]:
        store.store(data, "x")
    check("tables and landing")
    store.flush()
    check("two files")
    DeltaTable(store.storage.table_uri("instances")).optimize.compact()
    store.index.refresh()
    check("one file")
    assert len(store.index) == len(objects)
    for data in objects:
        uid = next(u for u in store.index._places if store.read(store.instance(u)) == data)
        assert store.index.lookup(uid)


def test_queries__that_find_something_are_among_those_tested(oracle: Catalog) -> None:
    counts = [len(expected(oracle, level, conditions)) for level, conditions in QUERIES]
    assert sum(count > 0 for count in counts) > len(counts) - 4


def test_landing_alone__answers_too(store: Store, oracle: Catalog) -> None:
    for data in population():
        store.store(data, "x")
    for level, conditions in QUERIES:
        assert told(store, level, conditions) == expected(oracle, level, conditions), conditions


def test_deleted_rows__are_shown_no_longer(store: Store) -> None:
    for data in population():
        store.store(data, "x")
    store.flush()
    DeltaTable(store.storage.table_uri("instances")).delete("study_instance_uid = '1.2.3.2'")
    store.index.refresh()
    assert store.index.lookup("1.2.3.2.1.1") is None
    assert told(store, "study", {"StudyInstanceUID": "1.2.3.2"}) == []
    assert len(store.index) == 24
    DeltaTable(store.storage.table_uri("instances")).delete()
    store.index.refresh()
    assert (len(store.index), told(store, "patient", {})) == (0, [])
    assert not store.index._groups
    assert not any(entities.groups for entities in store.index._entities.values())


def test_query__that_would_read_all_documents_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in population():
        store.store(data, "x")
    monkeypatch.setattr(searching, "MAX_READ", 10)
    query = parse_query({"FilterType": "BODY"}, "study")
    with pytest.raises(QueryTooLargeError, match="name a patient, a study"):
        search(store.index, query)
    narrow = parse_query({"FilterType": "*E*", "StudyInstanceUID": "1.2.3.1"}, "study")
    assert [match.key for match in search(store.index, narrow)] in ([], ["1.2.3.1"])


def test_attributes_of_no_column__are_elements_of_dicom_json(store: Store) -> None:
    store.store(population()[0], "x")
    query = parse_query({"FilterType": "", "SOPInstanceUID": ""}, "instance")
    (answer,) = answers(store.index, search(store.index, query), query.requested)
    assert answer["FilterType"]["vr"] == "SH"
    assert answer["FilterType"]["Value"][0] in {"BODY", "WEDGE"}


def test_instances__come_in_reading_order(store: Store) -> None:
    for data in population():
        store.store(data, "x")
    of_series = store.index.instances("series", ["1.2.3.1.1"])
    assert [one.instance_number for one in of_series] == [1, 2, 3]
    of_study = store.index.instances("study", ["1.2.3.1", "1.2.3.1"])
    assert len(of_study) == 6
    assert len(store.index.instances("patient", ["P1"])) == 12
    assert store.index.instances("instance", ["1.2.3.1.1.1", "0"])[0].instance_number == 3


def test_page_of_instances__makes_no_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Series lie in two data files and in the landing; pages follow each other all the same."""
    objects = population()
    for some in (objects[:10], objects[10:20], objects[20:]):
        store.flush()
        for data in some:
            store.store(data, "x")
    made = 0

    def counted(group: Group, *places: Any) -> list[StoredInstance]:
        nonlocal made
        found = all_of(group, *places)
        made += len(found) if group.file else 0
        return found

    all_of = Group.instances
    monkeypatch.setattr(Group, "instances", counted)
    query = parse_query({}, "instance")
    matches = search(store.index, query)
    first = matches[:1]
    assert (len(matches), made <= 1) == (30, True)
    wanted = store.index.instances("series", {one.group["series_instance_uid"] for one in matches})
    assert [one.instance for one in matches] == wanted
    assert [one.instance for one in first] == wanted[:1]
    for size in (4, 7, 30):
        pages = [matches[start : start + size] for start in range(0, 35, size)]
        assert [one.instance for page in pages for one in page] == wanted
    assert matches[-1].instance == wanted[-1]
    assert [one.instance for one in matches[20:3:-4]] == wanted[20:3:-4]


def test_index__is_made_again_from_the_tables(store: Store, tmp_path: Path) -> None:
    for data in population():
        store.store(data, "x")
    store.flush()
    index = Index(store.storage)
    assert len(index) == 30
    assert {BY_KEYWORD["PatientID"].column} <= set(index.groups()[0].row)
