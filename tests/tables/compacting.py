"""Archives to be compacted, and what is in them."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import CompactionReport, compact
from pacspark.tables.datafile import ObjectFile
from pacspark.tables.schema import REJECTS
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files, commit_instances, commit_rejects
from tests.tables.samples import RECEIVED_AT, instance_row, noise, rows_of

EAGER: dict[str, Any] = {"min_age_hours": 0}
"""Files of tests are young."""
NOW: dict[str, Any] = {"retain_days": 0, "min_age_hours": 0}


def ingest(storage: Storage, objects: dict[str, bytes], run_id: str = "run-1") -> int:
    """Take objects in; a UID names its study and series: 1.2.STUDY.SERIES.NUMBER."""
    with ObjectFile(storage) as file:
        places = {uid: file.append(data) for uid, data in objects.items()}
    commit_files(storage, "objects", [file.close()], run_id=run_id, operation="ingest")
    rows = []
    for uid, data in objects.items():
        *above, number = uid.split(".")
        columns = {
            "study_instance_uid": ".".join(above[:3]),
            "series_instance_uid": ".".join(above[:4]),
            "instance_number": int(number),
            "run_id": run_id,
        }
        rows.append(instance_row(uid, data, **columns) | places[uid].columns())
    return int(commit_instances(storage, rows_of(rows), run_id=run_id).stored.num_rows)


def reject(storage: Storage, source: str, data: bytes) -> None:
    """Keep the bytes of a refused input."""
    with ObjectFile(storage) as file:
        place = file.append(data)
    commit_files(storage, "objects", [file.close()], run_id="run-1", operation="ingest")
    row = {"source": source, "received_at": RECEIVED_AT, "error_class": "e", "message": "m"}
    rows = pa.Table.from_pylist([row | place.columns()], schema=REJECTS.arrow_schema)
    commit_rejects(storage, rows, run_id="run-1", operation="ingest")


def read_all(storage: Storage, as_of: int | None = None) -> dict[str, bytes]:
    """Read every stored object; a UID that is there twice is an error."""
    catalog = Catalog(storage, as_of)
    columns = ["sop_instance_uid", "sha256", "size_bytes", "object_file", "object_offsets"]
    rows = catalog.table("instances", columns).to_pylist()
    found = {row["sop_instance_uid"]: catalog.read_object(row) for row in rows}
    assert len(found) == len(rows)
    return found


def data_files(storage: Storage, table: str) -> set[str]:
    return {path.name for path in Path(storage.path(table)).glob("*.parquet")}


def listed(storage: Storage, table: str) -> set[str]:
    return set(Catalog(storage).files_of(table))


def settle(storage: Storage) -> CompactionReport:
    """Compact, all retention ended, until nothing is left to do."""
    while True:
        report = compact(storage, **NOW)
        if not report.deleted_files and report.merged_files.keys() <= {"runs"}:
            return report


def objects_of(n: int, seed: int = 0) -> dict[str, bytes]:
    draw = random.Random(seed)
    return {
        f"1.2.{draw.randrange(3)}.{draw.randrange(2)}.{seed * 100 + k}": noise(200 + k, seed + k)
        for k in range(n)
    }


def fill(storage: Storage, commits: int = 6) -> dict[str, bytes]:
    stored: dict[str, bytes] = {}
    for number in range(commits):
        objects = objects_of(4, number)
        ingest(storage, objects, f"run-{number}")
        stored |= objects
    return stored
