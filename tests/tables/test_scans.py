"""Stored scans: any part of them is what was imported, and no more is read or carried."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from pacspark.dicom.scan import encode_scan
from pacspark.scans.description import read_scan_description
from pacspark.scans.readers import open_frames
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.scans import read_all, read_stored_scan
from pacspark.tables.storage import open_storage
from tests.scan_files import write_phantom_scan


def test_stored_scan__gives_back_any_frames_and_any_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacspark.dicom.scan.INSTANCE_FRAMES", 7)
    path, projections = write_phantom_scan(tmp_path / "scan")
    storage = open_storage(tmp_path / "archive")
    create_tables(storage)
    intake = Intake(storage, "0" * 32)
    description = read_scan_description(path)
    with open_frames(description) as frames:
        for encoded in encode_scan(description, frames):
            intake.add("scan", encoded.data)
    commit_intake(storage, [intake.finish()], "0" * 32, "ingest")
    catalog = Catalog(storage)

    stored = read_stored_scan(catalog, encoded.series_instance_uid)

    runs = stored.scan.projections
    assert len(runs) == 6
    located = stored.located(runs, 0)
    values = read_all(catalog, located)
    assert values is not None
    np.testing.assert_allclose(values, projections, atol=1e-4)
    part = located[2].cut(3, 5).read(catalog)
    np.testing.assert_array_equal(part, values[17:19])
    for rows in ((20, 21), (3, 9), (0, 24)):
        band = located[5].cut(1, 5).read(catalog, rows)
        np.testing.assert_array_equal(band, values[36:40, slice(*rows)])
    assert read_all(catalog, stored.located(runs, 1)) is None
    assert b"PHANTOM" not in pickle.dumps(located)
