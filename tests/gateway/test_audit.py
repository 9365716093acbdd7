"""Rows of `audit` that wait: bounded, and written once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pacspark.errors import StorageError
from pacspark.gateway import audit
from pacspark.gateway.audit import AuditLog
from pacspark.tables.catalog import Catalog
from pacspark.tables.storage import Storage
from pacspark.tables.writer import append_rows


def test_rows__that_wait_for_tables_that_are_away_are_bounded(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        message = "the tables are away"
        raise StorageError(message)

    monkeypatch.setattr(audit, "_MOST_WAITING_ROWS", 3)
    log = AuditLog(storage, tmp_path / "audit.jsonl", "run")
    with monkeypatch.context() as patch:
        for name in ("append_rows", "append_unseen"):
            patch.setattr(audit, name, fail)
        for number in range(10):
            log.record("CT1", "10.0.0.1", "find", "success", uid=f"1.{number}")
            with pytest.raises(StorageError):
                log.flush()
        assert len(log._rows) == 3
    log.close()
    rows = Catalog(storage).table("audit").to_pylist()
    assert [row["uid"] for row in rows] == ["1.7", "1.8", "1.9"]
    assert (tmp_path / "audit.jsonl").read_text() == ""


KILLED = """
import os, sys
from pathlib import Path
from pacspark.gateway import audit
from pacspark.tables.storage import open_storage

def committed(*arguments, **more):
    append_rows(*arguments, **more)
    os._exit(9)

append_rows = audit.append_rows
audit.append_rows = committed
log = audit.AuditLog(open_storage(sys.argv[1]), Path(sys.argv[2]), "run")
for number in range(3):
    log.record("CT1", "10.0.0.1", "find", "success", uid=f"1.{number}")
log.flush()
"""


def test_rows__of_a_gateway_that_was_killed_after_its_commit_are_there_once(
    storage: Storage, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, storage.root, path], check=False)
    assert (killed.returncode, len(path.read_text().splitlines())) == (9, 3)
    log = AuditLog(storage, path, "next")
    log.record("CT1", "10.0.0.1", "find", "success", uid="1.3")
    log.close()
    rows = Catalog(storage).table("audit").to_pylist()
    assert sorted(row["uid"] for row in rows) == ["1.0", "1.1", "1.2", "1.3"]


def test_rows__whose_commit_was_not_heard_of_are_there_once(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unheard(*arguments: Any, **more: Any) -> None:
        append_rows(*arguments, **more)
        message = "the answer was lost"
        raise StorageError(message)

    log = AuditLog(storage, tmp_path / "audit.jsonl", "run")
    log.record("CT1", "10.0.0.1", "find", "success", uid="1.1")
    with monkeypatch.context() as patch:
        patch.setattr(audit, "append_rows", unheard)
        with pytest.raises(StorageError):
            log.flush()
    log.record("CT1", "10.0.0.1", "find", "success", uid="1.2")
    log.close()
    rows = Catalog(storage).table("audit").to_pylist()
    assert sorted(row["uid"] for row in rows) == ["1.1", "1.2"]
