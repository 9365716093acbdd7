"""Seals: no byte of a data file, nor of what the log says of it, changes without being told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacspark.spark.repair import repair
from pacspark.spark.replicate import replicate
from pacspark.tables import datafile, logstatistics
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.fixity import check_object_file, check_table_file
from pacspark.tables.holds import set_hold
from pacspark.tables.inventory import Listing, Scope, files_to_check, rows_of_files
from pacspark.tables.log import make_checkpoint
from pacspark.tables.logstatistics import statistics
from pacspark.tables.seals import with_seal, xxh3_in
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage, open_storage
from tests.tables.samples import noise, store
from tests.tables.test_fixity import flip, here, named, read, verified, write

OBJECTS = {"1.2.1": noise(900), "1.2.2": noise(40, 1)}


def flipped(data: bytes, step: int) -> Iterator[tuple[int, bytes]]:
    """Give a file with one bit turned, again and again: a bit of each byte, or of some."""
    for position in range(0, len(data), step):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        yield position, bytes(changed)


def test_seal__tells_every_flipped_bit_of_statistics() -> None:
    sealed = with_seal('{"numRecords":2,"minValues":{"a":"\u00e9"}}', "0123456789abcdef" * 2)
    assert xxh3_in(sealed) == "0123456789abcdef" * 2
    assert json.loads(sealed)["numRecords"] == 2
    for bit in range(8 * len(sealed.encode())):
        data = bytearray(sealed.encode())
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="as they were sealed"):
            xxh3_in(data.decode(errors="replace"))


@pytest.mark.parametrize("statistics", ["", "{}", '{"numRecords":3,"nullCount":{"a":0}}'])
def test_seal__is_not_asked_of_what_others_wrote(statistics: str) -> None:
    assert xxh3_in(statistics) == ""


def test_verify__tells_a_flipped_bit_in_any_byte_of_a_file_of_objects(storage: Storage) -> None:
    store(storage, OBJECTS)
    listing = Listing(storage)
    ((file, size_bytes),) = listing.sizes("objects").items()
    rows = rows_of_files(listing, Scope(), [file], frozenset())
    (asked,) = files_to_check(listing, rows)
    whole = read(storage, "objects", file)
    assert len(whole) == size_bytes
    for position, changed in flipped(whole, 1):
        write(storage, changed, "objects", file)
        findings = check_object_file(storage, asked).findings
        assert any(one.wrong for one in findings), position
    write(storage, whole, "objects", file)
    assert check_object_file(storage, asked).findings == ()


# of a file of `instances` most bytes are statistics and names of its 64 columns
@pytest.mark.parametrize(("table", "step"), [("instances", 67), ("holds", 1)])
def test_verify__tells_a_flipped_bit_in_any_byte_of_a_file_of_rows(
    storage: Storage, table: str, step: int
) -> None:
    store(storage, OBJECTS)
    set_hold(storage, Catalog(storage).instance("1.2.1")["study_instance_uid"])
    listing = Listing(storage)
    ((file, size_bytes),) = listing.sizes(table).items()
    xxh3 = listing.seals(table)[file] or ""
    whole = read(storage, table, file)
    for position, changed in flipped(whole, step):
        write(storage, changed, table, file)
        check = check_table_file(storage, table, file, size_bytes, None, xxh3)
        assert [one.kind for one in check.findings] == ["file"], position
    write(storage, whole, table, file)
    assert check_table_file(storage, table, file, size_bytes, None, xxh3).findings == ()


def test_verify__tells_a_flipped_bit_in_what_the_log_says_of_a_file(storage: Storage) -> None:
    store(storage, OBJECTS)
    names = ("instances", "_delta_log", f"{Catalog(storage).version():020}.json")
    entry = read(storage, *names)
    start = entry.index(b'"stats":"') + len(b'"stats":"')
    stop = entry.index(b'"}",', start)
    assert b"1.2.1" in entry[start:stop]
    for position in range(start, stop, 47):
        flip(storage, position, *names)
        assert not verified(storage).clean, position
        write(storage, entry, *names)
    assert verified(storage).clean


def test_verify__of_a_study_reads_the_seals_of_its_rows_first(storage: Storage) -> None:
    """What is damaged is not parsed: of some bits that would end the process."""
    store(storage, OBJECTS)
    (file,) = Catalog(storage).files_of("instances")
    study = Catalog(storage).instance("1.2.1")["study_instance_uid"]
    flip(storage, len(read(storage, "instances", file)) - 40, "instances", file)
    report = verified(storage, study=study)
    assert (named(report), report.objects) == ([("file", "")], 0)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_seals__are_read_from_entries_and_checkpoints(storage: Storage, checkpoint: bool) -> None:
    for number in range(3):
        store(storage, {f"1.{number}": noise(100, number)})
        if checkpoint and number == 1:
            make_checkpoint(Snapshot(storage, "objects"))
    seals = Listing(storage).seals("objects")
    assert set(seals) == set(Catalog(storage).files_of("objects"))
    assert all(len(xxh3 or "") == 32 for xxh3 in seals.values())
    first = Snapshot(storage, "objects", 1)
    names = [file.path for file in first.files()]
    assert [path for path, _ in statistics(storage, "objects", 1, set(seals))] == names


@pytest.mark.parametrize("checkpoint", [False, True])
def test_ingest__stores_nothing_twice_by_bounds_that_changed(
    storage: Storage, checkpoint: bool
) -> None:
    store(storage, OBJECTS)
    store(storage, {"1.9": noise(10)})
    path = f"instances/_delta_log/{1:020}.json"
    # a digit of the largest SOP Instance UID of the file: what is looked for seems to lie beyond
    text = read(storage, path)
    write(
        storage, text.replace(b'sop_instance_uid\\":\\"1.2.', b'sop_instance_uid\\":\\"1.0.'), path
    )
    assert read(storage, path) != text
    if checkpoint:
        make_checkpoint(Snapshot(storage, "instances"))
    logstatistics._SOUND.clear()  # a process that begins
    assert len(Snapshot(storage, "instances").files({"sop_instance_uid": ["5"]})) == 1
    assert set(Catalog(storage).known(OBJECTS)) == set(OBJECTS)
    outcome = store(storage, OBJECTS)
    assert (outcome.stored.num_rows, outcome.duplicate) == (0, 2)


def test_verify__reads_files_without_seals_as_before(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of archives that were made before there were seals; compaction seals what it writes."""
    with monkeypatch.context() as patch:
        patch.setattr(datafile, "with_seal", lambda told, _: told)
        store(storage, OBJECTS)
    listing = Listing(storage)
    assert set(listing.seals("objects").values()) == {""}
    report = verified(storage)
    assert (report.objects, report.findings) == (2, ())
    row = Catalog(storage).instance("1.2.1")
    flip(storage, row["object_offsets"][0] + 5, "objects", row["object_file"])
    assert named(verified(storage)) == [("damaged", "1.2.1")]


@pytest.mark.parametrize("table", ["objects", "instances"])
@pytest.mark.parametrize("own", [False, True])
def test_repair__mends_what_only_a_seal_tells(
    storage: Storage, tmp_path: Path, table: str, own: bool
) -> None:
    """From the replica's file, or, where it took the objects in by itself, into a new one."""
    store(storage, OBJECTS)
    other = open_storage(tmp_path / "replica")
    create_tables(other)
    if own:
        store(other, OBJECTS)
    replicate(here, storage, other)
    (file,) = Catalog(storage).files_of(table)
    flip(storage, len(read(storage, table, file)) - 40, table, file)  # whose writer is named there
    assert named(verified(storage)) == [("file", "")]

    report = repair(here, storage, other, verified(storage))

    assert (report.files, report.left) == (1, ())
    assert verified(storage).clean
    catalog = Catalog(storage)
    for uid, data in OBJECTS.items():
        assert catalog.read_object(catalog.instance(uid)) == data
