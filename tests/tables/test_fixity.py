"""Fixity: whatever happens to an archive's files is found and named, on every storage."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pacspark.errors import StorageError, UsageError
from pacspark.spark import verify as verify_module
from pacspark.spark.verify import VerifyReport, VerifyRequest, verify
from pacspark.tables import forward
from pacspark.tables.catalog import Catalog
from pacspark.tables.compaction import compact
from pacspark.tables.datafile import PIECE_BYTES, DataFile, ObjectFile
from pacspark.tables.fixity import LISTED, FileToCheck, check_object_file, check_table_file
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.inventory import Listing, Sample, Scope, rows_of_files
from pacspark.tables.schema import INSTANCES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import append_rows, commit_files, replace_files
from tests.tables.samples import instance_row, noise, rows_of, sha256, store
from tests.taking_in import ct_slice

OBJECTS = {
    "1.2.1": noise(5_000),
    "1.2.2": noise(PIECE_BYTES + 4321, 1),
    "1.2.3": b"",
    "1.2.4": noise(24, 2),
    "1.2.5": noise(7_169, 3),
}
SMALL = {f"1.2.{n}": noise(500 + n, n) for n in range(8)}


def here(tasks: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
    return [work(task) for task in tasks]


def verified(storage: Storage, **request: Any) -> VerifyReport:
    return verify(here, storage, VerifyRequest(**request))


def named(report: VerifyReport) -> list[tuple[str, str]]:
    return sorted((one.kind, one.name) for one in report.findings if one.wrong)


def read(storage: Storage, *parts: str) -> bytes:
    with storage.filesystem.open_input_file(storage.path(*parts)) as stream:
        data: bytes = stream.read()
    return data


def write(storage: Storage, data: bytes, *parts: str) -> None:
    path = storage.path(*parts)
    if storage.filesystem.get_file_info(path).is_file:
        storage.filesystem.delete_file(path)
    with storage.filesystem.open_output_stream(path) as stream:
        stream.write(data)


def flip(storage: Storage, position: int, *parts: str) -> None:
    data = bytearray(read(storage, *parts))
    data[position] ^= 4
    write(storage, bytes(data), *parts)


def place_of(storage: Storage, uid: str) -> tuple[str, int]:
    row = Catalog(storage).instance(uid)
    return row["object_file"], row["object_offsets"][0]


def object_file(storage: Storage) -> str:
    (file,) = Catalog(storage).files_of("objects")
    return file


def test_verify__finds_a_flipped_bit_on_every_storage(contract_storage: Storage) -> None:
    store(contract_storage, OBJECTS)
    intake = Intake(contract_storage, "run-2")
    intake.add("notes.txt", b"no DICOM")
    commit_intake(contract_storage, [intake.finish()], "run-2")

    report = verified(contract_storage)

    assert report.findings == ()
    assert (report.objects, report.bytes) == (6, sum(map(len, OBJECTS.values())) + 8)
    file, start = place_of(contract_storage, "1.2.2")
    flip(contract_storage, start + PIECE_BYTES // 2, "objects", file)
    (reject,) = Catalog(contract_storage).rejects().to_pylist()
    flip(contract_storage, reject["object_offsets"][0], "objects", reject["object_file"])

    report = verified(contract_storage)

    assert named(report) == [("damaged", "1.2.2"), ("damaged", "notes.txt")]
    assert not report.clean
    (line,) = (one.line for one in report.findings if one.name == "1.2.2")
    assert line.startswith(f"damaged: objects/{file}: 1.2.2: expected bytes of SHA-256")
    assert sha256(OBJECTS["1.2.2"]) in line
    (run,) = (run for run in Catalog(contract_storage).runs().to_pylist() if run["message"])
    assert (run["run_id"], run["operation"], run["outcome"]) == (report.run_id, "verify", "done")


def test_verify__finds_lost_files_on_every_storage(contract_storage: Storage) -> None:
    store(contract_storage, {"1.1": noise(3000), "1.2": noise(4000, 1)})
    store(contract_storage, {"2.1": noise(5000, 2)})
    file, start = place_of(contract_storage, "1.2")
    write(contract_storage, read(contract_storage, "objects", file)[: start + 100], "objects", file)
    gone, _ = place_of(contract_storage, "2.1")
    contract_storage.filesystem.delete_file(contract_storage.path("objects", gone))

    report = verified(contract_storage)

    assert named(report) == [
        ("file", ""),
        ("file", ""),
        ("footer", ""),
        ("missing", "1.2"),
        ("missing", "2.1"),
    ]


def test_verify__names_the_object_of_any_flipped_bit(storage: Storage) -> None:
    """Bits of contents, digests, lengths and footers alike; nothing that is flipped ends it."""
    store(storage, SMALL)
    file = object_file(storage)
    whole = read(storage, "objects", file)
    places = {
        uid: range(start := place_of(storage, uid)[1], start + len(data))
        for uid, data in SMALL.items()
    }
    footer = pq.read_metadata(pa.BufferReader(whole))
    listing = Listing(storage)
    asked = FileToCheck(
        file, len(whole), rows_of_files(listing, Scope(), [file], frozenset())[file]
    )
    xxh3 = listing.seals("objects")[file] or ""
    found_in_footer = 0
    for position in [*range(0, len(whole) - 1, 37), len(whole) - 1, 0, len(whole) - 6]:
        flip(storage, position, "objects", file)
        check = check_object_file(storage, asked)
        hit = [uid for uid, places_of in places.items() if position in places_of]
        if hit:
            found = [(one.kind, one.name) for one in check.findings]
            assert found == [("damaged", hit[0])], position
        elif position >= len(whole) - 8 - footer.serialized_size:
            found_in_footer += bool(check.findings)
        sealed = check_object_file(storage, replace(asked, xxh3=xxh3))
        assert sealed.findings[: len(check.findings)] == check.findings
        assert any(one.wrong for one in sealed.findings), position
        write(storage, whole, "objects", file)
    assert found_in_footer > 10
    assert verified(storage).clean


@pytest.mark.parametrize("column", [0, 1])
def test_verify__finds_wrong_values_beside_right_bytes(storage: Storage, column: int) -> None:
    store(storage, SMALL)
    file = object_file(storage)
    row = Catalog(storage).instance("1.2.3")
    footer = pq.read_metadata(pa.BufferReader(read(storage, "objects", file)))
    chunk = footer.row_group(row["object_row_group"]).column(column)
    flip(storage, chunk.data_page_offset + chunk.total_compressed_size - 2, "objects", file)
    assert named(verified(storage)) == [("digest", "1.2.3")]


def test_verify__finds_bytes_that_are_elsewhere(storage: Storage) -> None:
    store(storage, SMALL)
    rows = Catalog(storage).table("instances").to_pylist()
    wrong = [
        rows[0] | {"sop_instance_uid": "9.1", "object_offsets": [rows[1]["object_offsets"][0]]},
        rows[0] | {"sop_instance_uid": "9.2", "object_row_group": 99},
        rows[0] | {"sop_instance_uid": "9.3", "sha256": sha256(b"other")},
        rows[0] | {"sop_instance_uid": "9.4", "size_bytes": 3},
        rows[0] | {"sop_instance_uid": "9.5", "object_file": "part-nowhere.parquet"},
    ]
    append_rows(storage, "instances", rows_of(wrong), run_id="r", operation="t")
    assert named(verified(storage)) == [
        ("damaged", "9.3"),
        ("file", ""),
        ("missing", "9.1"),
        ("missing", "9.2"),
        ("missing", "9.4"),
        ("missing", "9.5"),
    ]


def test_verify__tells_of_what_jobs_leave_and_is_content(storage: Storage) -> None:
    store(storage, SMALL)
    with ObjectFile(storage) as orphan:
        orphan.append(b"killed before the commit")
    orphan.close()
    with ObjectFile(storage) as unlisted:
        unlisted.append(b"bytes of a running ingest")
    commit_files(storage, "objects", [unlisted.close()], run_id="r", operation="t")
    with DataFile(storage, INSTANCES) as rows:
        rows.append(rows_of([instance_row("1.3")]))
    rows.close()

    report = verified(storage)

    assert report.clean
    assert report.kinds == {"orphan": 2, "unlisted": 1}
    assert any("0.0 hours old" in one.message for one in report.findings)
    file, start = place_of(storage, "1.2.1")
    flip(storage, start, "objects", file)
    assert not verified(storage).clean


def test_verify__finds_damage_that_no_row_refers_to(storage: Storage) -> None:
    with ObjectFile(storage) as unlisted:
        place = unlisted.append(noise(1000))
    commit_files(storage, "objects", [unlisted.close()], run_id="r", operation="t")
    flip(storage, place.object_offsets[0] + 500, "objects", place.object_file)
    report = verified(storage)
    assert report.kinds == {"damaged": 1, "unlisted": 1}


def test_verify__finds_two_rows_of_one_instance(storage: Storage) -> None:
    store(storage, SMALL)
    rows = Catalog(storage).table("instances").to_pylist()
    append_rows(storage, "instances", rows_of(rows[2:4]), run_id="r", operation="t")
    twice = sorted(row["sop_instance_uid"] for row in rows[2:4])
    assert named(verified(storage)) == [("twice", uid) for uid in twice]


def test_twins__are_found_in_any_number_of_passes(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacspark.tables.inventory._ROWS_PER_PASS", 3)
    test_verify__finds_two_rows_of_one_instance(storage)


@pytest.mark.parametrize("table", ["instances", "objects", "runs"])
def test_verify__finds_lost_entries_of_a_log(storage: Storage, table: str) -> None:
    for number in range(4):
        store(storage, {f"1.{number}": noise(100, number)})
        verified(storage)  # a row in `runs`, which knows the versions
    log = f"{table}/_delta_log"
    newest = max(int(info.base_name[:20]) for info in _files(storage, log))
    # what only the lost run itself has seen, nobody knows
    for lost in (newest - 2,) if table == "runs" else (newest, newest - 2):
        storage.filesystem.delete_file(storage.path(log, f"{lost:020}.json"))
        report = verified(storage)
        lines = [one.file for one in report.findings if one.kind == "log" and not one.name]
        assert f"_delta_log/{lost:020}.json" in lines, (lost, report.findings)


def _files(storage: Storage, folder: str) -> list[pafs.FileInfo]:
    found: list[pafs.FileInfo] = storage.filesystem.get_file_info(
        pafs.FileSelector(storage.path(folder))
    )
    return found


def test_verify__takes_a_log_that_was_cleaned_up_as_whole(storage: Storage) -> None:
    for number in range(3):
        store(storage, {f"1.{number}": noise(100, number)})
    delta = Catalog(storage)._snapshot("instances").delta
    delta.create_checkpoint()
    for version in range(2):
        storage.filesystem.delete_file(storage.path("instances/_delta_log", f"{version:020}.json"))
    assert verified(storage).findings == ()


@pytest.mark.parametrize("table", ["instances", "rejects", "runs"])
def test_verify__finds_files_of_rows_that_cannot_be_read(storage: Storage, table: str) -> None:
    store(storage, SMALL)
    intake = Intake(storage, "run-2")
    intake.add("notes.txt", b"no DICOM")
    commit_intake(storage, [intake.finish()], "run-2")
    verified(storage)
    file = Catalog(storage).files_of(table)[0]
    whole = read(storage, table, file)
    for position in range(4, len(whole), 211):
        flip(storage, position, table, file)
        check_table_file(storage, table, file, len(whole), None)  # ends, whatever it finds
        write(storage, whole, table, file)
    write(storage, whole[:-20] + whole[-20:][::-1], table, file)
    assert ("file", "") in named(verified(storage))
    write(storage, whole[:-20], table, file)
    assert ("file", "") in named(verified(storage))
    storage.filesystem.delete_file(storage.path(table, file))
    assert ("file", "") in named(verified(storage))


def test_verify__looks_at_a_series_alone(storage: Storage) -> None:
    objects = {"1.2.1": ct_slice("1.2.1", 1), "1.3.1": ct_slice("1.3.1", 2)}
    intake = Intake(storage, "run")
    for uid, data in objects.items():
        intake.add(uid, data)
    commit_intake(storage, [intake.finish()], "run")
    row = Catalog(storage).instance("1.2.1")
    flip(storage, row["object_offsets"][0], "objects", row["object_file"])
    report = verified(storage, series=row["series_instance_uid"])
    assert (report.objects, named(report)) == (2, [("damaged", "1.2.1")])
    report = verified(storage, study=row["study_instance_uid"])
    assert (report.objects, named(report)) == (2, [("damaged", "1.2.1")])
    assert verified(storage, series="1.9").objects == 0


def test_verify__compares_rows_with_bytes_when_asked(storage: Storage) -> None:
    intake = Intake(storage, "run")
    for number in range(3):
        intake.add("x", ct_slice(f"1.2.{number}", number))
    commit_intake(storage, [intake.finish()], "run")
    assert verified(storage, deep=True).findings == ()
    rows = Catalog(storage).table("instances").to_pylist()
    rows[1] |= {"modality": "MR", "rows": 17}
    rows[2] |= {"dicom_json": rows[2]["dicom_json"].replace("steps", "stops")}
    with DataFile(storage, INSTANCES) as changed:
        changed.append(rows_of(rows))
    old = Snapshot(storage, "instances").files()
    replace_files(storage, "instances", old, [changed.close()], run_id="r", operation="t")

    report = verified(storage, deep=True)

    found = {one.name: one.message for one in report.findings if one.kind == "row"}
    assert set(found) == {rows[1]["sop_instance_uid"], rows[2]["sop_instance_uid"]}
    assert (
        "modality: the bytes say 'CT', the row 'MR'; also rows"
        in found[rows[1]["sop_instance_uid"]]
    )


def test_sample__draws_its_share_and_the_same_for_the_same_seed(storage: Storage) -> None:
    digests = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(2000)]
    drawn = [digest for digest in digests if Sample(0.25, "a").has(digest)]
    assert 400 < len(drawn) < 600
    assert drawn == [digest for digest in digests if Sample(0.25, "a").has(digest)]
    assert drawn != [digest for digest in digests if Sample(0.25, "b").has(digest)]
    assert all(Sample(1.0, "a").has(digest) for digest in digests)
    store(storage, SMALL)
    report = verified(storage, sample=50, seed="a")
    expected = [uid for uid, data in SMALL.items() if Sample(0.5, "a").has(sha256(data))]
    assert (report.objects, report.seed) == (len(expected), "a")
    assert 0 < report.objects < len(SMALL)
    for uid, data in SMALL.items():
        file, start = place_of(storage, uid)
        flip(storage, start, "objects", file)
        found = named(verified(storage, sample=50, seed="a"))
        assert found == ([("damaged", uid)] if uid in expected else [])
        flip(storage, start, "objects", file)
        assert read(storage, "objects", file)[start] == data[0]


@pytest.mark.parametrize(
    "request_", [{"sample": 0}, {"sample": 101}, {"study": "1", "series": "2"}]
)
def test_verify__refuses_what_cannot_be(request_: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        VerifyRequest(**request_)


def test_verify__goes_on_where_it_was_stopped(
    contract_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = contract_storage
    monkeypatch.setattr(verify_module, "TASK_FILES", 1)
    for number in range(4):
        store(storage, {f"1.{number}": noise(1000, number)})
    file, start = place_of(storage, "1.0")
    flip(storage, start, "objects", file)
    files = 4 + 4  # of objects and of instances

    def stopped_after(count: int) -> Callable[[Sequence[Any], Callable[[Any], Any]], list[Any]]:
        done = iter(range(count))

        def run(tasks: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
            found = []
            for task in tasks:
                if next(done, None) is None:
                    raise KeyboardInterrupt
                found.append(work(task))
            return found

        return run

    with pytest.raises(KeyboardInterrupt):
        verify(stopped_after(7), storage, VerifyRequest())
    store(storage, {"2.1": noise(1000, 9)})  # after the moment that is verified
    (begun,) = (run for run in Catalog(storage).runs().to_pylist() if run["outcome"] == "failed")
    other = verify(here, storage, VerifyRequest(sample=100.0), resume=True)
    assert (other.kept, other.objects) == (0, 5)

    report = verify(here, storage, VerifyRequest(), resume=True)

    assert report.run_id == begun["run_id"]
    assert (report.files, report.kept, report.objects) == (files, 7, 4)
    assert named(report) == [("damaged", "1.0")]
    again = verify(here, storage, VerifyRequest(), resume=True)
    assert (again.kept, again.objects) == (0, 5)
    assert not _files(storage, "_scratch")


def test_verify__tells_a_storage_that_is_away_from_a_broken_archive(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage, SMALL)
    whole = verified(storage)
    assert whole.clean

    def fails(self: Any, length: int, start: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(forward._LocalFile, "read_at", fails)
    report = verified(storage)
    assert {one.kind for one in report.findings} == {"file", "footer"}
    assert all("Input/output error" in one.message for one in report.findings)
    file = object_file(storage)

    def away(self: Any, length: int, start: int) -> bytes:
        if Path(storage.path("objects")).exists():
            Path(storage.path("objects")).rename(storage.path("away"))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(forward._LocalFile, "read_at", away)
    with pytest.raises(StorageError):
        check_object_file(storage, FileToCheck(file, None, LISTED.empty_table()))


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1000, 1 << 20])
def test_forward_reader__gives_the_bytes_whatever_its_blocks(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(forward, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(forward, "_GAP_BYTES", 20)
    data = noise(3000)
    write(storage, data, "instances", "x")
    drawn = random.Random(block_bytes)
    places = sorted(drawn.sample(range(3000), 40))
    ranges = list(zip(places[::2], places[1::2], strict=True))
    with forward.ForwardReader(storage, storage.path("instances", "x")) as reader:
        reader.plan(ranges)
        for start, stop in ranges:
            assert reader.read(start, stop) == data[start:stop]
        reader.plan([(2990, 3010)])
        assert reader.read(2990, 3000) == data[2990:]
        reader.plan([(2990, 3010)])
        with pytest.raises(OSError, match="found the end"):
            reader.read(2990, 3001)


def test_check_object_file__holds_a_few_blocks(storage: Storage) -> None:
    with ObjectFile(storage) as file:
        place = file.append(bytes(3 * PIECE_BYTES))
    added = file.close()
    row = {"table": "instances", "name": "1.1"} | place.columns()
    rows = pa.Table.from_pylist([row], schema=LISTED)
    before = pa.total_allocated_bytes()
    check = check_object_file(storage, FileToCheck(added.path, added.size_bytes, rows))
    assert (check.objects, check.bytes, check.findings) == (1, 3 * PIECE_BYTES, ())
    assert check.bytes_read < added.size_bytes + 4096
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_verify__tells_of_a_log_that_cannot_be_opened(storage: Storage) -> None:
    store(storage, SMALL)
    Catalog(storage)._snapshot("rejects").delta.create_checkpoint()
    (checkpoint,) = (
        info.base_name
        for info in _files(storage, "rejects/_delta_log")
        if info.base_name.endswith(".parquet")
    )
    write(storage, b"PAR1 torn", "rejects/_delta_log", checkpoint)
    report = verified(storage)
    assert not report.clean
    assert "open the table rejects" in report.findings[0].line


def test_verify__is_content_while_and_after_files_are_compacted(storage: Storage) -> None:
    for number in range(6):
        store(storage, {f"1.{number}": noise(1000, number)})

    def compacting(tasks: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
        """Compact in the middle, and delete at once what only older versions need."""
        compact(storage, retain_days=0, min_age_hours=0)
        return here(tasks, work)

    assert verify(compacting, storage, VerifyRequest()).clean
    report = verified(storage)
    assert (report.objects, report.findings) == (6, ())
    (file,) = Catalog(storage).files_of("objects")
    storage.filesystem.delete_file(storage.path("objects", file))
    assert not verified(storage).clean
