"""Rows of `audit` that wait: bounded, and written once."""

from pathlib import Path

import pytest

from pacspark.errors import StorageError
from pacspark.gateway import audit
from pacspark.gateway.audit import AuditLog
from pacspark.tables.catalog import Catalog
from pacspark.tables.storage import Storage


def test_rows__that_wait_for_tables_that_are_away_are_bounded(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        message = "the tables are away"
        raise StorageError(message)

    monkeypatch.setattr(audit, "_MOST_WAITING_ROWS", 3)
    log = AuditLog(storage, tmp_path / "audit.jsonl", "run")
    with monkeypatch.context() as patch:
        patch.setattr(audit, "append_rows", fail)
        for number in range(10):
            log.record("CT1", "10.0.0.1", "find", "success", uid=f"1.{number}")
            with pytest.raises(StorageError):
                log.flush()
        assert len(log._rows) == 3
    log.close()
    rows = Catalog(storage).table("audit").to_pylist()
    assert [row["uid"] for row in rows] == ["1.7", "1.8", "1.9"]
    assert (tmp_path / "audit.jsonl").read_text() == ""
