"""Modality worklist from a folder of files or a table, with DCMTK's findscu as the modality."""

import csv
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacspark.errors import UsageError
from pacspark.gateway.dimse.worklist_table import WorklistTable
from pacspark.gateway.server import Gateway
from tests.gateway.peers import dcmtk, responses


def entry(folder: Path, name: str, patient: str, *starts: str, modality: str = "CT") -> Path:
    """Write a worklist file with one step per start date."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    syntax = ImplicitVRLittleEndian if name.startswith("implicit") else ExplicitVRLittleEndian
    data_set.file_meta.TransferSyntaxUID = syntax
    data_set.PatientName, data_set.PatientID = patient, f"ID-{name}"
    data_set.AccessionNumber, data_set.RequestedProcedureID = f"A-{name}", "RP1"
    data_set.StudyInstanceUID = "1.2.3.4"
    code = Dataset()
    code.CodeValue = f"{modality}HEAD"
    data_set.RequestedProcedureCodeSequence = Sequence([code])
    steps = []
    for start in starts:
        step = Dataset()
        step.Modality, step.ScheduledStationAETitle = modality, "CT1"
        step.ScheduledProcedureStepStartDate = start
        step.ScheduledProcedureStepStartTime = "1030"
        step.ScheduledProcedureStepID = f"S{start}"
        steps.append(step)
    data_set.ScheduledProcedureStepSequence = Sequence(steps)
    path = folder / name
    data_set.save_as(path, enforce_file_format=False)
    return path


def ask(gateway: Gateway, *keys: str) -> list[dict[str, str]]:
    arguments = [part for key in keys for part in ("-k", key)]
    said = dcmtk("findscu", "-v", "-W", "127.0.0.1", gateway.dimse.port, *arguments)
    return responses(said)


STEP = "ScheduledProcedureStepSequence[0]."
STEP_ITEM = b"\x40\0\0\x01SQ\0\0\x08\0\0\0\xfe\xff\0\xe0\0\0\0\0"
ASKED = ("PatientName", "PatientID", "AccessionNumber", f"{STEP}ScheduledProcedureStepID")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two procedures, three steps, and a file that is none."""
    folder = tmp_path / "worklist"
    folder.mkdir()
    entry(folder, "one.wl", "Doe^Jane", "20260101", "20260105")
    entry(folder, "implicit.wl", "Roe^Richard", "20260102", modality="MR")
    (folder / "README").write_text("no DICOM")
    return folder


def test_worklist__has_an_entry_per_step(
    start_gateway: Callable[..., Gateway], folder: Path
) -> None:
    gateway = start_gateway(worklist=folder)
    found = ask(gateway, *ASKED)
    assert sorted((f["0010,0020"], f["0040,0009"]) for f in found) == [
        ("ID-implicit.wl", "S20260102"),
        ("ID-one.wl", "S20260101"),
        ("ID-one.wl", "S20260105"),
    ]


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        (["PatientName=doe*"], ["S20260101", "S20260105"]),
        ([f"{STEP}Modality=MR"], ["S20260102"]),
        ([f"{STEP}ScheduledProcedureStepStartDate=20260102-20260110"], ["S20260102", "S20260105"]),
        ([f"{STEP}ScheduledStationAETitle=CT2"], []),
        (["PatientID=ID-one.wl", f"{STEP}ScheduledProcedureStepStartDate=20260105"], ["S20260105"]),
        # from a time of the first day to a time of the last one
        (
            [
                f"{STEP}ScheduledProcedureStepStartDate=20260101-20260105",
                f"{STEP}ScheduledProcedureStepStartTime=1100-1200",
            ],
            ["S20260102", "S20260105"],
        ),
        (
            [
                f"{STEP}ScheduledProcedureStepStartDate=20260101-20260105",
                f"{STEP}ScheduledProcedureStepStartTime=1100",
            ],
            [],
        ),
        (["RequestedProcedureCodeSequence[0].CodeValue=CTHEAD"], ["S20260101", "S20260105"]),
        (["RequestedProcedureCodeSequence[0].CodeValue=OTHER"], []),
    ],
)
def test_worklist__matches_within_the_step(
    start_gateway: Callable[..., Gateway], folder: Path, keys: list[str], steps: list[str]
) -> None:
    gateway = start_gateway(worklist=folder)
    asked = {key.partition("=")[0]: key for key in (*ASKED, *keys)}
    assert sorted(found["0040,0009"] for found in ask(gateway, *asked.values())) == steps


def test_worklist__follows_its_folder(start_gateway: Callable[..., Gateway], folder: Path) -> None:
    gateway = start_gateway(worklist=folder)
    assert len(ask(gateway, *ASKED)) == 3
    (folder / "one.wl").unlink()
    path = entry(folder, "implicit.wl", "Poe^Edgar", "20260202", "20260203")
    os.utime(path, (1, 1))
    assert {found["0010,0010"] for found in ask(gateway, *ASKED)} == {"Poe^Edgar"}
    assert len(ask(gateway, *ASKED)) == 2


@pytest.mark.parametrize(
    "element",
    [
        b"\x40\0\0\x01LO\x04\0abcd",  # the sequence of steps is a text
        b"\x08\0\x50\0IS\x04\0abcd" + STEP_ITEM,  # a text where a number should be
    ],
)
def test_entry__that_is_hostile_hides_no_other(
    start_gateway: Callable[..., Gateway], folder: Path, element: bytes
) -> None:
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.save_as(folder / "hostile", enforce_file_format=False)
    with (folder / "hostile").open("ab") as file:
        file.write(element)
    gateway = start_gateway(worklist=folder)
    assert len(ask(gateway, *ASKED)) == 3


ROWS: list[dict[str, Any]] = [
    {"PatientName": "Doe^Jane=\u5c71\u7530", "PatientID": "P1", "Modality": "CT",
     "PatientWeight": 61.5, "ScheduledProcedureStepID": "S1",
     "ScheduledProcedureStepStartDate": "20260301"},
    {"PatientName": "Roe^Richard", "PatientID": "P2", "Modality": "MR", "PatientWeight": None,
     "ScheduledProcedureStepID": "S2", "ScheduledProcedureStepStartDate": "20260302"},
]  # fmt: skip


def write_table(path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    if kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return
    start = "ScheduledProcedureStepStartDate"
    typed = [row | {start: date.fromisoformat(row[start])} for row in rows]
    table = pa.Table.from_pylist(typed)
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        write_deltalake(path, table, mode="overwrite")


@pytest.mark.parametrize("kind", ["csv", "parquet", "delta"])
def test_table__is_a_worklist_whose_rows_are_steps(
    start_gateway: Callable[..., Gateway], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"steps.{kind}"
    write_table(path, kind, ROWS)
    gateway = start_gateway(worklist=path)
    keys = ("PatientName", "PatientID", "PatientWeight", f"{STEP}ScheduledProcedureStepID")
    first, second = ask(gateway, *keys)
    assert (first["0010,1030"], first["0040,0009"]) == ("61.5", "S1")
    assert first["0010,0010"].startswith("Doe^Jane=")
    assert (second["0010,0020"], second["0040,0009"]) == ("P2", "S2")
    dates = f"{STEP}ScheduledProcedureStepStartDate=20260301-20260301"
    assert [found["0010,0020"] for found in ask(gateway, *keys, dates)] == ["P1"]
    assert [found["0010,0020"] for found in ask(gateway, *keys, f"{STEP}Modality=MR")] == ["P2"]
    assert len(ask(gateway, *keys[1:], "PatientName=doe*")) == 1
    write_table(path, kind, ROWS[1:])
    assert [found["0010,0020"] for found in ask(gateway, *keys)] == ["P2"]


def test_table__that_turns_bad_leaves_the_last_good_one(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    path = tmp_path / "steps.csv"
    write_table(path, "csv", [ROWS[0], ROWS[1] | {"PatientWeight": "heavy"}])
    gateway = start_gateway(worklist=path)
    assert [found["0010,0020"] for found in ask(gateway, *ASKED)] == ["P1"]
    path.write_text("Nonsense\n1\n")
    assert [found["0010,0020"] for found in ask(gateway, *ASKED)] == ["P1"]
    path.unlink()
    assert [found["0010,0020"] for found in ask(gateway, *ASKED)] == ["P1"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("w.csv", b"PatientID,Nonsense\n1,2\n", "keywords of texts or numbers, found 'Nonsense'"),
        ("w.csv", b"PixelData\n1\n", "found 'PixelData'"),
        ("w.csv", b"PatientID,PatientID\n1,2\n", "each column once"),
        ("w.csv", b"PatientID\n\xff\n", "expected a table"),
        ("w.csv", b'PatientID\n"1\n', "expected a table"),
        ("w.parquet", b"PAR1", "expected a table"),
        ("w.csv", None, "No such file"),
    ],
)
def test_table__that_is_none_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        WorklistTable(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_gateway_without_worklist__has_no_entries(gateway: Gateway) -> None:
    assert ask(gateway, *ASKED) == []
