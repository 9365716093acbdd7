"""Modality worklist from a folder of files, with DCMTK's findscu as the modality."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

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


def test_gateway_without_worklist__has_no_entries(gateway: Gateway) -> None:
    assert ask(gateway, *ASKED) == []
