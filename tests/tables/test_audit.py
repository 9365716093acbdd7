"""Who did what: read without Spark, by patient, user, action and time."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pacspark.archive import Archive, open_archive
from pacspark.cli import main
from pacspark.tables.schema import AUDIT
from pacspark.tables.writer import append_rows
from tests.ct_objects import SERIES_UID, STUDY_UID, archive_of, ct_image, encoded

PIXELS = np.zeros((4, 4), np.int16)
ROWS = [
    # hour, actor, action, uid
    (8, "CT1", "store", f"{SERIES_UID}.1"),
    (9, "ANNA", "retrieve", STUDY_UID),
    (10, "ANNA", "retrieve", "1.2.3"),
    (11, "BERT", "frames", SERIES_UID),
    (12, "BERT", "find", None),
]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    image = ct_image(PIXELS, 1, (0.0, 0.0, 0.0), PatientID="P1")
    other = ct_image(
        PIXELS, 1, (0.0, 0.0, 0.0), PatientID="P2", StudyInstanceUID="1.2.3", series_uid="1.2.3.4"
    )
    storage = archive_of(tmp_path / "archive", [encoded(image), encoded(other)]).storage
    rows = [
        {"occurred_at": datetime(2026, 11, 29, hour, tzinfo=UTC), "actor": actor, "action": action,
         "uid": uid, "outcome": "success"}
        for hour, actor, action, uid in ROWS
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=AUDIT.arrow_schema)
    append_rows(storage, "audit", table, run_id="test", operation="test")
    return open_archive(storage.root)


@pytest.mark.parametrize(
    ("asked", "hours"),
    [
        ({}, [12, 11, 10, 9, 8]),
        ({"most": 2}, [12, 11]),
        ({"patient": "P1"}, [11, 9, 8]),
        ({"patient": "P2"}, [10]),
        ({"patient": "P3"}, []),
        ({"user": "ANNA", "patient": "P1"}, [9]),
        ({"action": "retrieve"}, [10, 9]),
        ({"since": datetime(2026, 11, 29, 11)}, [12, 11]),  # noqa: DTZ001
        ({"since": datetime.fromisoformat("2026-11-29T12:00+01:00")}, [12, 11]),
    ],
)
def test_audit__tells_who_did_what(
    archive: Archive, asked: dict[str, object], hours: list[int]
) -> None:
    found = archive.audit(**asked)  # type: ignore[arg-type]
    assert [moment.hour for moment in found["occurred_at"]] == hours


def test_command__tells_it_to_people_and_machines(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["audit", archive.root, "--patient", "P1", "--since", "2026-11-29T09:00:00"]
    assert main(given) == 0
    told = capsys.readouterr().out
    assert "2026-11-29 11:00:00" in told
    assert "CT1" not in told
    assert main([*given, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["actor"], row["uid"]) for row in rows] == [
        ("BERT", SERIES_UID),
        ("ANNA", STUDY_UID),
    ]
    assert main(["audit", archive.root, "--since", "yesterday"]) == 2
    assert "Invalid value for '--since'" in capsys.readouterr().err
