"""Repair from a replica: whole afterwards, or exactly as before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pacspark.errors import ArchiveNotFoundError, UsageError
from pacspark.spark.repair import RepairReport, repair
from pacspark.spark.replicate import replicate
from pacspark.tables import mending
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.datafile import PIECE_BYTES
from pacspark.tables.deletion import delete
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import replace_files
from tests.tables.samples import noise, store
from tests.tables.test_fixity import SMALL, flip, here, place_of, read, verified, write

OBJECTS = SMALL | {"1.2.9": noise(PIECE_BYTES + 100, 9), "1.2.8": b""}
Harm = Callable[[Storage, str], None]


@pytest.fixture
def replica(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "replica")


def filled(storage: Storage, objects: dict[str, bytes] = OBJECTS) -> str:
    """Store objects in one data file; give its name."""
    create_tables(storage)
    store(storage, objects)
    intake = Intake(storage, "run-2")
    intake.add("notes.txt", b"no DICOM")
    commit_intake(storage, [intake.finish()], "run-2")
    return place_of(storage, "1.2.9")[0]


def mended(storage: Storage, other: Storage) -> RepairReport:
    return repair(here, storage, other, verified(storage))


def assert_whole(storage: Storage) -> None:
    catalog = Catalog(storage)
    for uid, data in OBJECTS.items():
        assert catalog.read_object(catalog.instance(uid)) == data
    (reject,) = catalog.rejects().to_pylist()
    assert catalog.read_object(reject) == b"no DICOM"
    assert verified(storage).clean


def in_content(storage: Storage, file: str) -> None:
    for uid in ("1.2.3", "1.2.9"):
        flip(storage, place_of(storage, uid)[1] + 40, "objects", file)


def in_a_digest(storage: Storage, file: str) -> None:
    row = Catalog(storage).instance("1.2.3")
    footer = pq.read_metadata(pa.BufferReader(read(storage, "objects", file)))
    chunk = footer.row_group(row["object_row_group"]).column(0)
    flip(storage, chunk.data_page_offset + chunk.total_compressed_size - 2, "objects", file)


def in_the_footer(storage: Storage, file: str) -> None:
    flip(storage, -3, "objects", file)


def cut(storage: Storage, file: str) -> None:
    start = place_of(storage, "1.2.9")[1]
    write(storage, read(storage, "objects", file)[: start + 10], "objects", file)


def gone(storage: Storage, file: str) -> None:
    storage.filesystem.delete_file(storage.path("objects", file))


HARMS = [in_content, in_a_digest, in_the_footer, cut, gone]


@pytest.mark.parametrize(
    ("harm", "side"), [(in_content, "archive"), (gone, "archive"), (in_content, "replica")]
)
def test_repair__copies_from_a_replica_on_every_storage(
    contract_storage: Storage, replica: Storage, harm: Harm, side: str
) -> None:
    storage, other = contract_storage, replica
    if side == "replica":
        storage, other = other, storage
    file = filled(storage)
    whole = read(storage, "objects", file)
    replicate(here, storage, other)
    harm(storage, file)

    report = mended(storage, other)

    assert (report.files, report.left) == (1, ())
    assert report.objects == (2 if harm is in_content else len(OBJECTS))
    assert read(storage, "objects", file) == whole
    assert_whole(storage)
    run = Catalog(storage).runs().to_pylist()[-2]
    assert (run["run_id"], run["operation"]) == (report.run_id, "repair")
    (audit,) = Catalog(storage).table("audit").to_pylist()
    assert (audit["action"], audit["run_id"]) == ("repair", report.run_id)
    assert file in audit["detail"]


@pytest.mark.parametrize("harm", HARMS)
def test_repair__takes_objects_wherever_the_replica_has_them(
    storage: Storage, replica: Storage, harm: Harm
) -> None:
    """The replica took the objects in by itself: its files and its layout are others."""
    file = filled(storage)
    create_tables(replica)
    for uid in reversed(OBJECTS):
        store(replica, {uid: OBJECTS[uid]}, "own")
    intake = Intake(replica, "own")
    intake.add("another name.txt", b"no DICOM")
    commit_intake(replica, [intake.finish()], "own")
    harm(storage, file)

    report = mended(storage, replica)

    assert (report.files, report.left) == (1, ())
    assert_whole(storage)
    assert verified(storage).kinds.keys() <= {"unlisted"}
    patched = harm in {in_content, in_a_digest}
    assert (Catalog(storage).instance("1.2.9")["object_file"] == file) is patched
    assert Catalog(storage).table("instances").num_rows == len(OBJECTS)


@pytest.mark.parametrize("harm", [in_content, gone])
def test_repair__changes_nothing_where_the_replica_is_broken_too(
    storage: Storage, replica: Storage, harm: Harm
) -> None:
    # an object without bytes is never lost
    file = filled(storage, {uid: data for uid, data in OBJECTS.items() if data})
    replicate(here, storage, replica)
    for one in (storage, replica):
        harm(one, file)
    before = None if harm is gone else read(storage, "objects", file)
    versions = {name: Catalog(storage).version(name) for name in ("instances", "objects")}

    report = mended(storage, replica)

    assert (report.files, report.objects) == (0, 0)
    (line,) = report.left
    assert line.startswith(f"objects/{file}: {replica.root} does not have it whole either: ")
    assert "1.2.9" in line or "1.2.1" in line
    assert line.endswith("nothing changed")
    assert {name: Catalog(storage).version(name) for name in versions} == versions
    if before is not None:
        assert read(storage, "objects", file) == before
    assert {one.base_name for one in _files(storage)} == {
        info for info in Catalog(storage).files_of("objects") if harm is not gone or info != file
    }


def _files(storage: Storage) -> list[Any]:
    selector = pa.fs.FileSelector(storage.path("objects"))
    return [info for info in storage.filesystem.get_file_info(selector) if info.is_file]


def test_repair__takes_what_there_is_from_a_replica_that_is_broken_elsewhere(
    storage: Storage, replica: Storage
) -> None:
    file = filled(storage)
    replicate(here, storage, replica)
    flip(storage, place_of(storage, "1.2.3")[1], "objects", file)
    flip(replica, place_of(replica, "1.2.9")[1], "objects", file)
    assert mended(storage, replica).left == ()
    assert_whole(storage)
    assert mended(replica, storage).left == ()
    assert_whole(replica)


def test_repair__mends_what_it_can_of_a_file(storage: Storage, replica: Storage) -> None:
    file = filled(storage)
    replicate(here, storage, replica)
    for uid in ("1.2.3", "1.2.5"):
        flip(storage, place_of(storage, uid)[1], "objects", file)
    flip(replica, place_of(replica, "1.2.5")[1], "objects", file)

    report = mended(storage, replica)

    assert (report.files, report.objects, len(report.left)) == (1, 1, 1)
    assert "1 objects, 1.2.5" in report.left[0]
    wrong = [(one.kind, one.name) for one in verified(storage).findings if one.wrong]
    assert wrong == [("damaged", "1.2.5")]
    catalog = Catalog(storage)
    row = catalog.instance("1.2.3")
    assert (catalog.read_object(row), row["object_file"]) == (OBJECTS["1.2.3"], file)


def test_repair__lists_again_what_rows_refer_to_and_no_version_lists(
    storage: Storage, replica: Storage
) -> None:
    file = filled(storage)
    replicate(here, storage, replica)
    (listed,) = (one for one in Snapshot(storage, "objects").files() if one.path == file)
    replace_files(storage, "objects", [listed], [], run_id="other", operation="vacuum")
    gone(storage, file)

    report = mended(storage, replica)

    assert (report.files, report.objects) == (1, len(OBJECTS))
    assert_whole(storage)


@pytest.mark.parametrize("harm", [in_content, gone])
def test_repair__says_that_bytes_of_nobody_stay_broken(
    storage: Storage, replica: Storage, harm: Harm
) -> None:
    """`verify` goes on to fail for them, until a compaction removes the file."""
    create_tables(replica)
    file = filled(storage)
    places = [place_of(storage, uid) for uid in ("1.2.3", "1.2.9")]
    delete(storage, "study", "1.2")
    if harm is gone:
        gone(storage, file)
    else:
        for _, start in places:
            flip(storage, start, "objects", file)

    report = mended(storage, replica)

    (line,) = report.left
    assert line.startswith(f"objects/{file}: {replica.root} does not have it whole either")
    assert not verified(storage).clean


def test_repair__never_puts_a_bad_copy_in_place(
    storage: Storage, replica: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = filled(storage)
    replicate(here, storage, replica)
    in_content(storage, file)
    before = read(storage, "objects", file)

    def damages(source: Storage, path: str, stream: Any) -> None:
        stream.write(bytes(len(before)))

    monkeypatch.setattr(mending, "copy_bytes", damages)
    monkeypatch.setattr(mending, "_patched", lambda *arguments: False)
    monkeypatch.setattr(mending, "_moved", lambda *arguments: (None, {}))
    assert len(mended(storage, replica).left) == 1
    assert read(storage, "objects", file) == before
    monkeypatch.undo()
    assert mended(storage, replica).left == ()
    assert_whole(storage)


def test_repair__brings_the_rows_of_a_lost_file_back(storage: Storage, replica: Storage) -> None:
    filled(storage)
    replicate(here, storage, replica)
    (file,) = Catalog(storage).files_of("rejects")
    storage.filesystem.delete_file(storage.path("rejects", file))
    report = mended(storage, replica)
    assert (report.files, report.left) == (1, ())
    assert_whole(storage)
    with pytest.raises(UsageError, match="itself"):
        mended(storage, storage)
    with pytest.raises(ArchiveNotFoundError):
        mended(storage, open_storage(f"{storage.root}-nowhere"))
