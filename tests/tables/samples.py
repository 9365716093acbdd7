"""Objects and rows for the tables' tests."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from pacspark.tables import storage as storage_module
from pacspark.tables.datafile import ObjectFile, ObjectLocation
from pacspark.tables.schema import INSTANCES
from pacspark.tables.storage import Storage
from pacspark.tables.writer import CommitOutcome, commit_files, commit_instances

RECEIVED_AT = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def instance_row(uid: str, data: bytes = b"", **columns: Any) -> dict[str, Any]:
    """A row of `instances` whose bytes are nowhere, unless the columns say where."""
    row = dict.fromkeys(INSTANCES.arrow_schema.names) | {
        "sop_instance_uid": uid,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "series_instance_uid": "1.2.1",
        "study_instance_uid": "1.2",
        "sha256": sha256(data),
        "size_bytes": len(data),
        "dicom_json": json.dumps({"00080018": {"vr": "UI", "Value": [uid]}}),
        "source": f"{uid}.dcm",
        "received_at": RECEIVED_AT,
        "run_id": "run-1",
    }
    return row | columns


def rows_of(rows: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=INSTANCES.arrow_schema)


def uid_rows(uids: Sequence[str], data: bytes = b"", **columns: Any) -> pa.Table:
    return rows_of(instance_row(uid, data, **columns) for uid in uids)


def store(storage: Storage, objects: dict[str, bytes], run_id: str = "run-1") -> CommitOutcome:
    """Take objects in: bytes first, then rows, whose commit is the moment of truth."""
    with ObjectFile(storage) as file:
        located = {uid: (data, file.append(data)) for uid, data in objects.items()}
    commit_files(storage, "objects", [file.close()], run_id=run_id, operation="ingest")
    return commit_instances(storage, located_rows(located, run_id), run_id=run_id)


def located_rows(located: dict[str, tuple[bytes, ObjectLocation]], run_id: str) -> pa.Table:
    return rows_of(
        instance_row(uid, data, run_id=run_id) | location.columns()
        for uid, (data, location) in located.items()
    )


@contextmanager
def synced() -> Iterator[set[str]]:
    """Gather the paths that are waited for until they are on the disk."""
    paths: set[str] = set()
    sync = storage_module._sync

    def noted(path: str) -> None:
        sync(path)
        paths.add(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage_module, "_sync", noted)
        yield paths


def noise(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)
