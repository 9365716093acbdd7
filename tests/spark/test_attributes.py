"""Attributes by path as Spark gives them, against what pydicom reads in the same objects."""

import datetime as dt
import subprocess
import sys
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from pacspark import attribute
from pacspark.archive import Archive, create_archive
from pacspark.dicom.decode import index_instance
from pacspark.errors import QueryError
from pacspark.spark.query import collect
from tests.ct_objects import ct_image, encoded

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LARGE = 18_446_744_073_709_551_615
DIGITS = "9007199254740993"  # which no double is


def item(code: str, meaning: str | None, **more: Any) -> Dataset:
    dataset = Dataset()
    dataset.CodeValue = code
    if meaning is not None:
        dataset.CodeMeaning = meaning
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def image() -> Dataset:
    dataset = ct_image(np.zeros((4, 4), np.int16), 1, (0, 0, 0))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    dataset.RequestingPhysician = "Doe^Jane^Q^Dr^PhD"
    dataset.PatientBirthDate = "19700131"
    dataset.ScheduledProcedureStepStartDate = "20261128"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ScanningSequence = ["SE", "IR"]
    dataset.TubeAngle = 3.25
    dataset.TriggerTime = DIGITS
    dataset.ReferencedImageBoxSequence = []
    modifiers = [item("M1", "left"), item("M2", None)]
    dataset.AnatomicRegionSequence = [
        item("T-1", "head", AnatomicRegionModifierSequence=modifiers),
        item("T-2", "neck", AnatomicRegionModifierSequence=[item("M3", "right")]),
        item("T-3", None),
    ]
    dataset.ExtendedOffsetTable = LARGE.to_bytes(8, "little")
    dataset.add_new(0x00720082, "SV", -5)  # Selector SV Value
    dataset.add_new(0x00720083, "UV", [LARGE, 1])  # Selector UV Value
    block = dataset.private_block(0x0029, "PACSPARK TEST", create=True)
    block.add_new(0x01, "LO", ["one", "two"])
    block.add_new(0x02, "OB", b"\x00\x01\xff\x00")
    block.add_new(0x03, "SQ", [item("P-1", "private")])
    return dataset


@pytest.fixture(scope="module")
def archive(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("attributes")
    (folder / "image.dcm").write_bytes(encoded(image()))
    (folder / "bare.dcm").write_bytes(encoded(ct_image(np.zeros((4, 4), np.int16), 2, (0, 0, 1))))
    archive = create_archive(folder / "archive", spark)
    assert archive.ingest(folder).stored == 2
    return archive


CASES: list[tuple[str, str | None, Any]] = [
    ("PatientName", None, "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("PatientName.Ideographic", None, "山田^太郎"),
    ("PatientName.FamilyName", None, "Yamada"),
    ("PatientName.Phonetic.GivenName", None, "たろう"),
    ("PatientName.MiddleName", None, None),
    ("RequestingPhysician", None, "Doe^Jane^Q^Dr^PhD"),
    ("RequestingPhysician.Alphabetic.NameSuffix", None, "PhD"),
    ("RequestingPhysician.Ideographic", None, None),
    ("00100030", None, "19700131"),
    ("PatientBirthDate", "date", dt.date(1970, 1, 31)),
    ("ScheduledProcedureStepStartDate", "date", dt.date(2026, 11, 28)),
    ("CodeMeaning", "date", None),
    ("ImageType", None, ["ORIGINAL", "PRIMARY", "AXIAL"]),
    ("ImageType[2]", None, "AXIAL"),
    ("ImageType[3]", None, None),
    ("ScanningSequence", None, ["SE", "IR"]),
    ("ScanningSequence[1]", None, "IR"),
    ("TubeAngle", None, 3.25),
    ("TriggerTime", None, float(DIGITS)),
    ("TriggerTime", "decimal(38,18)", Decimal(DIGITS)),
    ("TriggerTime", "bigint", 9007199254740993),
    ("TubeAngle", "bigint", None),
    ("Rows", "decimal(5,0)", Decimal(4)),
    ("Rows", "string", "4"),
    ("PixelSpacing", "decimal(20,10)", [Decimal("0.5"), Decimal("0.25")]),
    ("00720082", None, [-5]),
    ("00720083", None, [Decimal(LARGE), Decimal(1)]),
    ("00720083[0]", None, Decimal(LARGE)),
    ("00720083[0]", "bigint", None),
    ("ExtendedOffsetTable", None, LARGE.to_bytes(8, "little")),
    ("AnatomicRegionSequence.CodeMeaning", None, "head"),
    ("AnatomicRegionSequence[1].CodeMeaning", None, "neck"),
    ("AnatomicRegionSequence[9].CodeMeaning", None, None),
    ("AnatomicRegionSequence[*].CodeMeaning", None, ["head", "neck", None]),
    ("00082218[*].00080100", None, ["T-1", "T-2", "T-3"]),
    (
        "AnatomicRegionSequence[*].AnatomicRegionModifierSequence[*].CodeValue",
        None,
        ["M1", "M2", "M3"],
    ),
    (
        "AnatomicRegionSequence[*].AnatomicRegionModifierSequence.CodeMeaning",
        None,
        ["left", "right", None],
    ),
    ("ReferencedImageBoxSequence[*].CodeMeaning", None, None),
    ("00290010", None, "PACSPARK TEST"),
    ("00291001", None, "one\\two"),
    ("00291001[1]", None, "two"),
    ("00291001[*]", None, ["one", "two"]),
    ("00291002", "binary", b"\x00\x01\xff\x00"),
    ("00291003.CodeMeaning", None, "private"),
    ("00291003[*].CodeMeaning", None, ["private"]),
    ("PixelData", None, None),
]


def test_attributes__are_what_the_object_has(archive: Archive) -> None:
    columns = [attribute(path, as_type).alias(str(i)) for i, (path, as_type, _) in enumerate(CASES)]
    rows = archive.instances.orderBy("instance_number").select(*columns).collect()
    found = {(path, kind): rows[0][i] for i, (path, kind, _) in enumerate(CASES)}
    assert found == {(path, kind): value for path, kind, value in CASES}
    present = {path for i, (path, _, _) in enumerate(CASES) if rows[1][i] is not None}
    assert present <= {"Rows", "PixelSpacing", "ImageType", "ImageType[2]", "PatientName",
                       "PatientName.FamilyName", "00100030", "PatientBirthDate"}  # fmt: skip


def test_attributes__are_of_the_data_set_and_not_of_an_item(spark: "SparkSession") -> None:
    """Whatever stands around them in the JSON, and in them."""
    text = 'a "quoted", [b], {c} \u00fc'

    def document(before: bool, own: bool, after: bool) -> str:
        image = ct_image(np.zeros((4, 4), np.int16), 1, (0, 0, 0))
        image.SpecificCharacterSet = "ISO_IR 192"
        inner = item("1", None, KVP="80", TubeAngle=1.5, FilterType="inner")
        image.ReferencedImageSequence = [inner] if before else []
        image.RequestAttributesSequence = [inner] if after else []
        if own:
            image.KVP, image.TubeAngle, image.FilterType = "120", 3.25, "own"
            image.RequestedProcedureDescription = text
        image.ImageComments = '"00189303":{"vr":"FD","Value":[1.5]}'
        return index_instance(encoded(image)).dicom_json

    cases = list(product((False, True), repeat=3))
    documents = [(number, document(*case)) for number, case in enumerate(cases)]
    documents.append((len(cases), '{"00189303":{"vr":"FD","Value":[null,7]}}'))
    paths: list[tuple[str, str | None]] = [
        ("TubeAngle", None),
        ("TubeAngle[1]", None),
        ("KVP", "string"),
        ("FilterType", None),
        ("RequestedProcedureDescription", None),
    ]
    rows = (
        spark.createDataFrame(documents, "number int, dicom_json string")
        .select("number", *(attribute(*path).alias(str(i)) for i, path in enumerate(paths)))
        .orderBy("number")
        .collect()
    )
    for case, (_, *found) in zip(cases, rows, strict=False):
        expected = [3.25, None, "120", "own", text] if case[1] else [None] * 5
        assert found == expected, case
    assert list(rows[-1])[1:] == [None, 7.0, None, None, None]


def test_sql__takes_paths_in_backquotes(archive: Archive) -> None:
    (row,) = collect(
        archive.sql(
            "SELECT i.`AnatomicRegionSequence[*].CodeMeaning` AS m, `00291001`, KVP AS `a.b`, "
            "`TriggerTime::decimal(38,18)` AS t, AnatomicRegionSequence AS items "
            "FROM instances i WHERE `PatientName.FamilyName` = 'Yamada'"
        )
    )
    assert (row["m"], row["00291001"]) == (["head", "neck", None], "one\\two")
    assert row["t"] == Decimal(DIGITS)
    assert row["items"].toPython()[1]["00080104"]["Value"] == ["neck"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("AnatomicRegionSequenc.CodeMeaning", "expected a DICOM keyword"),
        ("PatientName.CodeMeaning", "expected a part of a person name"),
        ("Modality.CodeMeaning", "expected a sequence before a dot, found Modality of VR CS"),
        ("ImageType[-1]", r"and \[n\] or \[\*\], found 'ImageType\[-1\]'"),
        ("ImageType::floating", "expected the type string, .* found 'floating'"),
    ],
)
def test_sql__says_what_is_no_path(archive: Archive, path: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        archive.sql(f"SELECT `{path}` FROM instances")


def test_sql__opens_only_tables_that_are_named(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacspark.spark import query

    opened = []
    table = query.table

    def noted(spark: "SparkSession", catalog: Any, name: str) -> Any:
        opened.append(name)
        return table(spark, catalog, name)

    monkeypatch.setattr(query, "table", noted)
    named = "WITH objects AS (SELECT 1 AS n) SELECT * FROM objects, RUNS WHERE n IN "
    archive.sql(f"{named} (SELECT 1 FROM runs)")
    assert opened == ["objects", "runs"]
    del opened[:]
    archive.sql("SELECT 1")
    assert opened == []


def test_attribute__before_spark_is_one_line() -> None:
    script = """
import pacspark
try:
    pacspark.attribute("KVP")
except pacspark.PacsparkError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "KVP: expected a Spark session; take `archive.instances` first\n"
