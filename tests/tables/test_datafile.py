import io
import json
import math
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.errors import StorageError
from pacspark.tables.datafile import PIECE_BYTES, DataFile, ObjectFile
from pacspark.tables.schema import INSTANCES, OBJECTS, PROJECTIONS, Column, TableSpec
from pacspark.tables.storage import Storage, open_storage
from pacspark.tables.writer import commit_files
from tests.tables.samples import noise, sha256, uid_rows

MEASURED = TableSpec(
    "measured",
    (
        Column("text", pa.string(), "text", statistics=True),
        Column("number", pa.int64(), "number", statistics=True),
        Column("value", pa.float64(), "value", statistics=True),
        Column("moment", pa.timestamp("us", tz="UTC"), "moment", statistics=True),
        Column("other", pa.string(), "without statistics"),
    ),
    ("text",),
    "for tests",
)
_MOMENTS = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: moment.year >= 1000)
_TEXTS = st.one_of(
    st.text(max_size=6),
    st.text("ab\U0010ffff", min_size=126, max_size=131),
    st.text("0123456789.", max_size=64),
)
_ROWS = st.fixed_dictionaries(
    {
        "text": st.none() | _TEXTS,
        "number": st.none() | st.integers(-(2**63), 2**63 - 1),
        "value": st.none() | st.floats(),
        "moment": st.none() | _MOMENTS,
        "other": st.none() | st.text(max_size=3),
    }
)


@pytest.fixture(scope="module")
def measured_storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    root = tmp_path_factory.mktemp("measured")
    (root / "measured").mkdir()
    return open_storage(root)


@given(groups=st.lists(st.lists(_ROWS, min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_statistics__bound_every_value(
    measured_storage: Storage, groups: list[list[dict[str, Any]]]
) -> None:
    file = DataFile(measured_storage, MEASURED)
    for group in groups:
        file.append(pa.Table.from_pylist(group, schema=MEASURED.arrow_schema))
    added = file.close()
    file.abort()
    statistics = json.loads(added.statistics)
    rows = [row for group in groups for row in group]
    assert added.num_records == statistics["numRecords"] == len(rows)
    assert set(statistics["nullCount"]) == {"text", "number", "value", "moment"}
    for name in ("text", "number", "value", "moment"):
        values = [row[name] for row in rows if row[name] is not None]
        assert statistics["nullCount"][name] == len(rows) - len(values)
        low, high = statistics["minValues"].get(name), statistics["maxValues"].get(name)
        if name == "moment":
            low, high = (datetime.fromisoformat(t) if t else None for t in (low, high))
        if any(isinstance(value, float) and math.isnan(value) for value in values):
            assert low is None
            assert high is None
        elif values and name in {"number", "moment"}:
            assert (low, high) == (min(values), max(values))
        elif values:
            assert low is None or low <= min(values)
            assert high is None or high >= max(values)


def test_statistics__are_exact_for_uids(storage: Storage) -> None:
    uids = [f"1.2.{'9' * 50}.{n}" for n in range(30)]
    with DataFile(storage, INSTANCES) as file:
        file.append(uid_rows(uids[:20]))
        file.append(uid_rows(uids[20:]))
    statistics = json.loads(file.close().statistics)
    assert statistics["minValues"]["sop_instance_uid"] == min(uids)
    assert statistics["maxValues"]["sop_instance_uid"] == max(uids)
    assert "dicom_json" not in statistics["minValues"]
    assert "patient_name" not in statistics["maxValues"]
    assert statistics["nullCount"]["patient_name"] == 30


def test_statistics__let_an_engine_skip_files_and_lose_no_row(storage: Storage) -> None:
    moments = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=n) for n in range(40)]
    for start in range(0, 40, 10):
        rows = pa.concat_tables(
            uid_rows([f"1.2.{n:03}"], received_at=moments[n]) for n in range(start, start + 10)
        )
        with DataFile(storage, INSTANCES) as file:
            file.append(rows)
        commit_files(storage, "instances", [file.close()], run_id="r", operation="test")
    engine = QueryBuilder().register("instances", DeltaTable(storage.table_uri("instances")))
    for n in (0, 9, 10, 25, 39):
        wanted = moments[n].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        for condition in (f"received_at = '{wanted}'", f"sop_instance_uid = '1.2.{n:03}'"):
            query = f"SELECT sop_instance_uid AS uid FROM instances WHERE {condition}"
            found = pa.table(engine.execute(query).read_all())
            assert found["uid"].to_pylist() == [f"1.2.{n:03}"]


def test_added_file__survives_pickle(storage: Storage) -> None:
    with DataFile(storage, INSTANCES) as file:
        file.append(uid_rows(["1.2.3"], patient_name="Dœ^Jane"))
    added = file.close()
    assert pickle.loads(pickle.dumps(added)) == added
    assert added.size_bytes == Path(storage.path("instances", added.path)).stat().st_size


def test_data_file__is_removed_when_the_block_fails(storage: Storage) -> None:
    file = DataFile(storage, INSTANCES)
    file.append(uid_rows(["1.2.3"]))
    assert list(Path(storage.path("instances")).glob("*.parquet"))
    with pytest.raises(RuntimeError, match="in the middle"), file:
        raise RuntimeError("in the middle")
    assert not list(Path(storage.path("instances")).glob("*.parquet"))


def test_data_file__refuses_a_missing_value_that_has_to_be_there(storage: Storage) -> None:
    file = DataFile(storage, INSTANCES)
    with pytest.raises(StorageError, match="series_instance_uid"), file:
        file.append(uid_rows(["1.2.3"], series_instance_uid=None))
    assert not list(Path(storage.path("instances")).glob("*.parquet"))


def test_data_file__has_statistics_of_all_but_bulk_columns(storage: Storage) -> None:
    row = dict.fromkeys(PROJECTIONS.arrow_schema.names, 0) | {
        "series_instance_uid": "1.2",
        "gantry_angles_rad": [0.0],
        "run_id": "r",
        "line_integrals": bytes(4096),
    }
    with DataFile(storage, PROJECTIONS) as file:
        file.append(pa.Table.from_pylist([row], schema=PROJECTIONS.arrow_schema))
    metadata = pq.read_metadata(storage.path("projections", file.close().path)).row_group(0)
    columns = [metadata.column(number) for number in range(metadata.num_columns)]
    without = [column.path_in_schema for column in columns if column.statistics is None]
    assert without == ["gantry_angles_rad.list.element", "line_integrals"]


def test_data_file__may_hold_no_rows(storage: Storage) -> None:
    added = DataFile(storage, INSTANCES).close()
    assert added.num_records == 0
    assert pq.read_table(storage.path("instances", added.path)).num_rows == 0


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pacspark.errors import StorageError
from pacspark.tables.datafile import ObjectFile
from pacspark.tables.storage import open_storage

storage = open_storage(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with ObjectFile(storage) as file:
        file.append(bytes(4 << 20))
        file.close()
except StorageError as error:
    print(error)
print(len(list(Path(sys.argv[1], "objects").glob("*.parquet"))))
"""


def test_object_file__leaves_nothing_when_it_cannot_be_written_whole(storage: Storage) -> None:
    command = [sys.executable, "-c", _FULL_DISK, storage.root]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    message, files = done.stdout.splitlines()
    assert message.startswith(f"{storage.root}: cannot write a file of objects")
    assert files == "0"


SIZES = [0, 1, 132, 5000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 40_000_000]


@pytest.mark.parametrize("as_stream", [False, True])
def test_object_file__keeps_every_piece_contiguous(storage: Storage, *, as_stream: bool) -> None:
    objects = [noise(size, seed) for seed, size in enumerate(SIZES)]
    with ObjectFile(storage) as file:
        located = [file.append(io.BytesIO(data) if as_stream else data) for data in objects]
        assert file.size_bytes > sum(SIZES)
    added = file.close()
    raw = Path(storage.path("objects", added.path)).read_bytes()
    parquet = pq.ParquetFile(storage.path("objects", added.path))
    for data, location in zip(objects, located, strict=True):
        assert (location.sha256, location.size_bytes) == (sha256(data), len(data))
        assert location.object_file == added.path
        assert location.object_pieces == max(1, -(-len(data) // PIECE_BYTES))
        pieces = [data[i : i + PIECE_BYTES] for i in range(0, max(len(data), 1), PIECE_BYTES)]
        for number, piece in enumerate(pieces):
            offset = location.object_offsets[number]
            assert raw[offset : offset + len(piece)] == piece
            group = parquet.read_row_group(location.object_row_group + number).to_pylist()
            assert group == [{"sha256": location.sha256, "piece": number, "content": piece}]
    assert parquet.schema_arrow.names == OBJECTS.arrow_schema.names


class _Dribble(io.BytesIO):
    """A stream that gives less than it is asked for, as sockets and pipes do."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 70_001))


def test_object_file__takes_a_stream_from_where_it_stands_and_in_small_bites(
    storage: Storage,
) -> None:
    data = noise(PIECE_BYTES + 12_345)
    stream = _Dribble(b"before" + data)
    stream.seek(6)
    with ObjectFile(storage) as file:
        location = file.append(stream)
    file.close()
    assert (location.sha256, location.object_pieces) == (sha256(data), 2)


def test_object_file__notices_a_file_that_changed_since_its_digest(storage: Storage) -> None:
    file = ObjectFile(storage)
    with pytest.raises(StorageError, match="changed while they were read"), file:
        file.append(io.BytesIO(b"changed"), sha256=sha256(b"as promised"))
    assert not list(Path(storage.path("objects")).glob("*.parquet"))


_LARGE_OBJECT = """
import io, resource, sys
from pacspark.tables.datafile import ObjectFile
from pacspark.tables.storage import open_storage

class Zeros(io.RawIOBase):
    position = 0
    size_bytes = 1 << 30
    def seek(self, position, whence=0):
        self.position = position
        return position
    def tell(self):
        return self.position
    def read(self, size=-1):
        size = min(size, self.size_bytes - self.position)
        self.position += size
        return bytes(size)

storage = open_storage(sys.argv[1])
with ObjectFile(storage) as file:
    file.append(bytes(16 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    location = file.append(Zeros())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file.abort()
print(location.size_bytes, location.object_pieces, (after - before) // 1024)
"""


def test_object_file__holds_a_bounded_part_of_an_object(storage: Storage) -> None:
    command = [sys.executable, "-c", _LARGE_OBJECT, storage.root]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    size_bytes, pieces, grown_mib = map(int, done.stdout.split())
    assert (size_bytes, pieces) == (1 << 30, 64)
    assert grown_mib < 128


def test_data_file__cuts_many_rows_into_row_groups(storage: Storage) -> None:
    with DataFile(storage, INSTANCES) as file:
        file.append(uid_rows([f"1.2.{n}" for n in range(5000)]))
        assert (file.num_records, file.row_groups) == (5000, 2)
    metadata = pq.read_metadata(storage.path("instances", file.close().path))
    assert [metadata.row_group(n).num_rows for n in range(2)] == [4096, 904]
