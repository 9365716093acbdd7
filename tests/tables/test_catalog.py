import pickle
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.dicom.decode import InstanceIndex, index_instance
from pacspark.dicom.matching import parse_query
from pacspark.errors import (
    DicomDecodeError,
    InstanceNotFoundError,
    SeriesNotFoundError,
    StorageError,
    UsageError,
)
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.datafile import PIECE_BYTES, DataFile, ObjectFile
from pacspark.tables.schema import (
    INSTANCES,
    LOCATION_COLUMNS,
    PROJECTIONS,
    frame_columns,
    frame_index,
)
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import append_rows, commit_files, commit_instances
from tests.tables.samples import instance_row, noise, rows_of, sha256, store, uid_rows

LARGE = noise(40_000_000, 5)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, dict[str, Any]]:
    """An object of three pieces among others."""
    storage = open_storage(tmp_path_factory.mktemp("large"))
    create_tables(storage)
    store(storage, {"1.1": noise(999), "1.2": LARGE, "1.3": b""})
    catalog = Catalog(storage)
    return catalog, catalog.instance("1.2", LOCATION_COLUMNS)


def test_read_object__gives_the_bytes_that_came_in(large: tuple[Catalog, dict[str, Any]]) -> None:
    catalog, row = large
    assert row["object_pieces"] == 3
    assert catalog.read_object(row) == LARGE
    assert catalog.read_object(catalog.instance("1.1")) == noise(999)
    assert catalog.read_object(catalog.instance("1.3")) == b""


def test_stream_object__gives_pieces_of_bounded_size(large: tuple[Catalog, dict[str, Any]]) -> None:
    catalog, row = large
    sizes = [len(piece) for piece in catalog.stream_object(row)]
    assert sizes == [PIECE_BYTES, PIECE_BYTES, len(LARGE) - 2 * PIECE_BYTES]


_EDGES = st.sampled_from([0, 1, PIECE_BYTES, 2 * PIECE_BYTES, len(LARGE)])
_POSITIONS = st.one_of(
    st.integers(0, len(LARGE)),
    st.builds(lambda edge, step: min(max(edge + step, 0), len(LARGE)), _EDGES, st.integers(-3, 3)),
)


@given(ends=st.tuples(_POSITIONS, _POSITIONS).map(sorted))
@settings(max_examples=60, deadline=None)
def test_read_range__is_a_slice_of_the_object(
    large: tuple[Catalog, dict[str, Any]], ends: list[int]
) -> None:
    catalog, row = large
    start, stop = ends
    assert catalog.read_range(row, start, stop - start) == LARGE[start:stop]


def test_read_range__touches_only_the_pieces_it_needs(
    large: tuple[Catalog, dict[str, Any]],
) -> None:
    catalog, row = large
    offsets = list(row["object_offsets"])
    only_second = row | {"object_offsets": [None, offsets[1], None]}
    start = PIECE_BYTES + 77
    assert catalog.read_range(only_second, start, 5000) == LARGE[start : start + 5000]


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (len(LARGE), 1), (1, len(LARGE))])
def test_read_range__refuses_bytes_that_are_not_there(
    large: tuple[Catalog, dict[str, Any]], start: int, length: int
) -> None:
    catalog, row = large
    with pytest.raises(UsageError, match=f"the object's {len(LARGE)} bytes"):
        catalog.read_range(row, start, length)


def test_read_object__notices_changed_bytes_and_missing_files(storage: Storage) -> None:
    store(storage, {"1.1": noise(5000)})
    catalog = Catalog(storage)
    row = catalog.instance("1.1")
    path = Path(storage.path("objects", row["object_file"]))
    raw = bytearray(path.read_bytes())
    raw[row["object_offsets"][0] + 17] ^= 1
    path.write_bytes(raw)
    with pytest.raises(StorageError, match=f"expected bytes of SHA-256 {sha256(noise(5000))}"):
        catalog.read_object(row)
    path.write_bytes(raw[: row["object_offsets"][0] + 100])
    with pytest.raises(StorageError, match="expected 5000 bytes, found 100"):
        catalog.read_object(row)
    path.unlink()
    with pytest.raises(StorageError, match=f"cannot read objects/{row['object_file']}"):
        catalog.read_object(row)


def test_read_range__refuses_a_path_out_of_the_archive(storage: Storage) -> None:
    row = {"object_file": "../../etc/passwd", "object_offsets": [0], "size_bytes": 10}
    with pytest.raises(StorageError, match="expected a path below the root"):
        Catalog(storage).read_range(row, 0, 10)


def test_read_object__says_that_the_bytes_of_a_reject_were_not_kept(storage: Storage) -> None:
    row = {"source": "huge.bin", "size_bytes": 5, "object_offsets": None, "sha256": None}
    with pytest.raises(UsageError, match=r"huge\.bin: the bytes of this input were not kept"):
        Catalog(storage).read_object(row)


def test_instance__is_not_found(storage: Storage) -> None:
    store(storage, {"1.1": b"x"})
    with pytest.raises(InstanceNotFoundError, match=r"no instance .* '1\.2'"):
        Catalog(storage).instance("1.2")


def test_instances_of__sorts_by_instance_number(storage: Storage) -> None:
    numbers = {"1.1": 10, "1.2": None, "1.3": 2, "1.4": 2, "1.5": -1}
    rows = rows_of(instance_row(uid, instance_number=n) for uid, n in numbers.items())
    commit_instances(storage, rows.slice(0, 3), run_id="r")
    commit_instances(storage, rows.slice(3), run_id="r")
    found = Catalog(storage).instances_of("1.2.1", ["sop_instance_uid"])
    assert found.column_names == ["sop_instance_uid"]
    assert found["sop_instance_uid"].to_pylist() == ["1.5", "1.3", "1.4", "1.1", "1.2"]
    assert Catalog(storage).instances_of("1.2.1").column_names == INSTANCES.arrow_schema.names


def test_instances_of__says_what_else_a_uid_is(storage: Storage) -> None:
    store(storage, {"1.2.1.7": b"x"})
    catalog = Catalog(storage)
    assert catalog.count_of("1.2.1") == 1
    assert catalog.count_of("1.2") == 0
    with pytest.raises(SeriesNotFoundError, match=r"it is a study, with the series 1\.2\.1$"):
        catalog.instances_of("1.2")
    with pytest.raises(SeriesNotFoundError, match=r"it is an instance, of the series 1\.2\.1$"):
        catalog.instances_of("1.2.1.7")
    with pytest.raises(SeriesNotFoundError, match="pacspark find --level series"):
        catalog.instances_of("1.9")


def test_instances_of__refuses_unknown_columns(storage: Storage) -> None:
    with pytest.raises(UsageError, match="found nonsense"):
        Catalog(storage).instances_of("1.2.1", ["sop_instance_uid", "nonsense"])


def test_catalog__sees_new_versions_and_only_committed_files(storage: Storage) -> None:
    catalog = Catalog(storage)
    assert catalog.known(["1.1"]) == {}
    store(storage, {"1.1": b"x"})
    assert set(catalog.known(["1.1"])) == {"1.1"}
    with DataFile(storage, INSTANCES) as orphan:
        orphan.append(uid_rows(["1.2"]))
    orphan.close()
    assert set(catalog.known(["1.1", "1.2"])) == {"1.1"}
    assert catalog.instances_of("1.2.1").num_rows == 1
    assert catalog.find(parse_query({}, "instance")).num_rows == 1


def test_catalog__is_picklable(storage: Storage) -> None:
    store(storage, {"1.1": b"x"})
    catalog = Catalog(storage, as_of=1)
    catalog.known(["1.1"])
    copy = pickle.loads(pickle.dumps(catalog))
    assert set(copy.known(["1.1"])) == {"1.1"}
    assert copy.as_of == 1


@pytest.fixture
def far_from_utc() -> Iterator[None]:
    """A machine whose local time is nine hours behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Etc/GMT+9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_utc")
def test_as_of__shows_the_archive_as_it_was(storage: Storage) -> None:
    moments = []
    for number in range(3):
        store(storage, {f"1.{number}": b"x"}, f"run-{number}")
        rejects = {"source": f"{number}", "received_at": datetime.now(UTC), "error_class": "e"}
        rows = pa.Table.from_pylist(
            [dict.fromkeys(Catalog(storage).rejects().column_names) | rejects | {"message": "m"}],
            schema=Catalog(storage).rejects().schema,
        )
        append_rows(storage, "rejects", rows, run_id="r", operation="ingest")
        moments.append(datetime.now(UTC))
        # commits of one millisecond could not be told apart
        while datetime.now(UTC) - moments[-1] < timedelta(milliseconds=3):
            time.monotonic()
    uids = ["1.0", "1.1", "1.2"]
    for number in range(3):
        moment = moments[number]
        for as_of in (number + 1, moment, moment.astimezone(), moment.replace(tzinfo=None)):
            catalog = Catalog(storage, as_of)
            assert sorted(catalog.known(uids)) == uids[: number + 1]
            assert catalog.rejects().num_rows == number + 1
            assert catalog.version() == number + 1
    assert Catalog(storage, 0).known(uids) == {}


@pytest.mark.parametrize("as_of", [-1, 2, 10**9])
def test_as_of__refuses_a_version_that_is_not_there(storage: Storage, as_of: int) -> None:
    store(storage, {"1.1": b"x"})
    with pytest.raises(UsageError, match=f"expected a version from 0 to 1, found {as_of}"):
        Catalog(storage, as_of).known(["1.1"])


def test_as_of__shows_nothing_before_the_archive_began(storage: Storage) -> None:
    store(storage, {"1.1": b"x"})
    catalog = Catalog(storage, datetime(2001, 1, 1, tzinfo=UTC))
    assert catalog.known(["1.1"]) == {}
    assert catalog.find(parse_query({}, "study")).num_rows == 0


def test_versions__say_what_was_done_and_by_which_run(storage: Storage) -> None:
    store(storage, {"1.1": b"x"}, "run-a")
    store(storage, {"1.2": b"y"}, "run-b")
    rows = Catalog(storage).versions().to_pylist()
    of_instances = [row for row in rows if row["table"] == "instances"]
    assert [row["version"] for row in of_instances] == [0, 1, 2]
    assert [row["run_id"] for row in of_instances] == [None, "run-a", "run-b"]
    assert [row["operation"] for row in of_instances] == ["CREATE TABLE", "ingest", "ingest"]
    moments = [row["committed_at"] for row in rows]
    assert moments == sorted(moments)
    assert datetime.now(UTC) - moments[-1] < timedelta(minutes=5)
    assert Catalog(storage).versions("instances").to_pylist() == of_instances


def test_files_of__skips_files_by_their_statistics(storage: Storage) -> None:
    for energy_bin in range(3):
        row = dict.fromkeys(PROJECTIONS.arrow_schema.names, 0) | {
            "series_instance_uid": "1.2",
            "energy_bin": energy_bin,
            "gantry_angles_rad": [0.0],
            "run_id": "r",
            "line_integrals": bytes(4),
        }
        with DataFile(storage, PROJECTIONS) as file:
            file.append(pa.Table.from_pylist([row], schema=PROJECTIONS.arrow_schema))
        commit_files(storage, "projections", [file.close()], run_id="r", operation="prepare")
    catalog = Catalog(storage)
    assert len(catalog.files_of("projections")) == 3
    assert len(catalog.files_of("projections", {"energy_bin": 1})) == 1
    assert catalog.files_of("projections", {"series_instance_uid": "1.3"}) == []
    found = catalog.files_of("projections", {"series_instance_uid": "1.2", "energy_bin": 2})
    assert (
        pa.parquet.read_table(storage.path("projections", found[0]))["energy_bin"][0].as_py() == 2
    )


PUBLIC = Path(__file__).parents[3] / "shared" / "data" / "dicom"


def test_public_data__comes_out_as_it_went_in(storage: Storage) -> None:
    if not PUBLIC.is_dir():
        pytest.skip("no public data beside the checkout")
    rows: list[dict[str, Any]] = []
    stored: dict[str, tuple[bytes, InstanceIndex]] = {}
    with ObjectFile(storage) as file:
        for path in sorted(path for path in PUBLIC.rglob("*") if path.is_file()):
            data = path.read_bytes()
            try:
                index = index_instance(data)
            except DicomDecodeError:
                continue
            stored.setdefault(index.sop_instance_uid, (data, index))
            extra = {"dicom_json": index.dicom_json, "run_id": "r"}
            rows.append(
                dict.fromkeys(INSTANCES.arrow_schema.names)
                | index.row
                | file.append(data).columns()
                | frame_columns(index.frames)
                | extra
            )
    commit_files(storage, "objects", [file.close()], run_id="r", operation="ingest")
    outcome = commit_instances(storage, rows_of(rows), run_id="r")
    assert outcome.stored.num_rows == len(stored)
    assert outcome.stored.num_rows + outcome.duplicate + len(outcome.conflicts) == len(rows)
    catalog = Catalog(storage)
    for uid, (data, index) in stored.items():
        row = catalog.instance(uid)
        assert catalog.read_object(row) == data
        assert row["dicom_json"] == index.dicom_json
        for frame in range(min(index.frames.count, 3)):
            for start, length in frame_index(row).ranges(frame):
                assert catalog.read_range(row, start, length) == data[start : start + length]
