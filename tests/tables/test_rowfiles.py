"""Files of rows are committed as they are where all rows are new, and written anew elsewhere."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pacspark.tables import rowfiles
from pacspark.tables.catalog import Catalog
from pacspark.tables.rowfiles import InstanceFiles, RowFile
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_row_files
from tests.tables.samples import sha256, uid_rows


def finished(storage: Storage, *batches: list[str], data: bytes = b"x") -> tuple[RowFile, ...]:
    """Write a file of some batches of rows."""
    files = InstanceFiles(storage)
    for uids in batches:
        files.append(uid_rows(uids, data))
    return files.close()


def on_disk(storage: Storage) -> set[str]:
    return {path.name for path in Path(storage.path("instances")).glob("*.parquet")}


def test_commit_row_files__takes_files_of_new_rows_as_they_are(storage: Storage) -> None:
    given = finished(storage, ["1", "2"]) + finished(storage, ["3"])
    outcome = commit_row_files(storage, given, run_id="run", operation="ingest")
    assert outcome.stored["sop_instance_uid"].to_pylist() == ["1", "2", "3"]
    names = {one.file.path for one in given}
    assert on_disk(storage) == set(Catalog(storage).files_of("instances")) == names


def test_commit_row_files__writes_anew_only_what_has_other_rows_too(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowfiles, "WAITING_BYTES", 1)  # a row group for each batch
    commit_row_files(storage, finished(storage, ["2", "5"]), run_id="old", operation="ingest")
    known = on_disk(storage)
    mixed = finished(storage, ["1", "2"], ["3", "1"], ["4"])
    new, old = finished(storage, ["6"]), finished(storage, ["5"])
    other = finished(storage, ["2"], data=b"other")
    outcome = commit_row_files(
        storage, [*mixed, *new, *old, *other], run_id="run", operation="ingest"
    )
    assert outcome.stored["sop_instance_uid"].to_pylist() == ["1", "3", "4", "6"]
    assert outcome.duplicates["sop_instance_uid"].to_pylist() == ["2", "1", "5"]
    (conflict,) = outcome.conflicts
    assert (conflict["sop_instance_uid"], conflict["sha256"]) == ("2", sha256(b"other"))
    assert conflict["source"] == "2.dcm"
    listed = set(Catalog(storage).files_of("instances"))
    assert on_disk(storage) == listed
    assert listed >= known | {new[0].file.path}
    assert not listed & {one.file.path for one in (*mixed, *old, *other)}
    (rewritten,) = listed - known - {new[0].file.path}
    rows = pq.read_table(storage.path("instances", rewritten))
    assert rows["sop_instance_uid"].to_pylist() == ["1", "3", "4"]
    assert set(Catalog(storage).known("123456")) == set("123456")


def test_instance_files__bound_what_waits_and_keep_keys_in_the_order_of_rows(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowfiles, "ROW_GROUP_ROWS", 4)
    monkeypatch.setattr(rowfiles, "FILE_ROWS", 8)
    files = InstanceFiles(storage)
    for number in range(9, 0, -1):
        files.append(uid_rows([f"{number}.1", f"{number}.0"], instance_number=number))
        assert sum(rows.num_rows for rows in files._waiting) < 4
    done = files.close()
    assert [one.file.num_records for one in done] == [8, 8, 2]
    for one in done:
        rows = pq.read_table(storage.path("instances", one.file.path))
        assert rows["sop_instance_uid"].to_pylist() == one.keys["sop_instance_uid"].to_pylist()
        numbers = rows["instance_number"].to_pylist()
        groups = [numbers[at : at + 4] for at in range(0, len(numbers), 4)]
        assert all(group == sorted(group) for group in groups)
