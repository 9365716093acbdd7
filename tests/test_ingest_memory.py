"""What an ingest task holds is bounded, whatever comes: each case in a process of its own."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.instances import instance, write_instances
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage

TASK_BYTES = 512 << 20

# VmHWM, since what getrusage tells of a child begins with the memory of its parent
_TASK = """
import json, re, sys
from pathlib import Path
from pacspark.spark.ingest import take_in
from pacspark.tables.intake import commit_intake
from pacspark.tables.sources import expand_sources
from pacspark.tables.storage import open_storage

def peak_bytes():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

storage = open_storage(sys.argv[1])
result = take_in(storage, "run", "", list(expand_sources([sys.argv[2]])))
peak = peak_bytes()
report = commit_intake(storage, [result], "run")
print(json.dumps([report.stored, report.rejected, max(peak, peak_bytes())]))
"""


def take_in(root: Path, given: Path) -> tuple[int, int, int]:
    """Take in and commit; give how many were stored and rejected, and the peak of the process."""
    storage = open_storage(root)
    create_tables(storage)
    done = subprocess.run(
        [sys.executable, "-c", _TASK, str(root), str(given)],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stored, rejected, peak_bytes = json.loads(done.stdout)
    return stored, rejected, peak_bytes


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Encode one element, explicit VR little endian, of a VR with a long length."""
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, len(value)) + value


def with_header(elements: bytes) -> bytes:
    """Put elements that stand between the groups 0028 and 7FE0 into an object."""
    data = instance(0)
    start = data.index(b"\xe0\x7f\x10\x00OW")
    return data[:start] + elements + data[start:]


def large_text() -> bytes:
    """30 texts of a megabyte each, whose letters take four bytes in memory if one does."""
    text = ("\U0001f480" + "a" * ((1 << 20) - 4)).encode()
    return with_header(
        b"".join(element(0x40000000 | 2 * number, b"UT", text) for number in range(1, 31))
    )


def escaped_text() -> bytes:
    """5 texts of a megabyte of which every letter takes six in JSON."""
    text = b"\x01" * (1 << 20)
    return with_header(
        b"".join(element(0x40000000 | 2 * number, b"UT", text) for number in range(1, 6))
    )


def too_much_escaped_text() -> bytes:
    """60 of those: 360 MiB of JSON."""
    text = b"\x01" * (1 << 20)
    return with_header(
        b"".join(element(0x40000000 | 2 * number, b"UT", text) for number in range(1, 61))
    )


def many_elements() -> bytes:
    """Nearly as many elements as an object may have, each empty."""
    return with_header(
        b"".join(
            struct.pack("<HH2sH", 0x4001 + 2 * (number >> 15), 0x1000 + (number & 0x7FFF), b"LO", 0)
            for number in range(990_000)
        )
    )


def enhanced_of(frames: int) -> bytes:
    """An enhanced multi-frame's functional groups: 50 elements in each of the frames' items."""
    inner = b"".join(
        struct.pack("<HH2sH", 0x0018, 0x9000 + number, b"DS", 12) + b"0.1234567890"
        for number in range(50)
    )
    macro = element(0x00289110, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(macro)) + macro
    return with_header(element(0x52009230, b"SQ", item * frames))


@pytest.mark.parametrize(
    "make",
    [
        large_text,
        escaped_text,
        too_much_escaped_text,
        many_elements,
        lambda: enhanced_of(1000),
        lambda: enhanced_of(5000),
    ],
    ids=["text", "escapes", "too many escapes", "elements", "1000 frames", "5000 frames"],
)
@pytest.mark.slow
def test_task__holds_a_bounded_part_of_large_headers(
    tmp_path: Path, make: Callable[[], bytes]
) -> None:
    """Beside small objects that wait."""
    write_instances(tmp_path / "in", range(1, 200))
    (tmp_path / "in" / "large.dcm").write_bytes(make())
    stored, rejected, peak_bytes = take_in(tmp_path / "archive", tmp_path / "in")
    assert (stored, rejected) == (200, 0)
    assert peak_bytes < TASK_BYTES


def sparse_object(path: Path, pixel_bytes: int) -> None:
    """Write an object whose pixels are a hole in the file."""
    data = instance(0)
    start = data.index(b"\xe0\x7f\x10\x00OW")
    header = data[:start].replace(
        b"(\x00\x10\x00US\x02\x00\x04\x00", b"(\x00\x10\x00US\x02\x00\x00\x80"
    )
    header = header.replace(b"(\x00\x11\x00US\x02\x00\x04\x00", b"(\x00\x11\x00US\x02\x00\x00\x40")
    assert pixel_bytes % (2 * 0x8000 * 0x4000) == 0
    frames = str(pixel_bytes // (2 * 0x8000 * 0x4000)).ljust(2).encode()
    with path.open("wb") as file:
        number = b"(\x00\x08\x00IS\x02\x00" + frames
        at = header.index(b"(\x00\x10\x00US")
        file.write(header[:at] + number + header[at:])
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, pixel_bytes))
        file.truncate(file.tell() + pixel_bytes)


@pytest.mark.parametrize("gibibytes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_task__holds_a_bounded_part_of_a_large_object(tmp_path: Path, gibibytes: int) -> None:
    (tmp_path / "in").mkdir()
    sparse_object(tmp_path / "in" / "large.dcm", gibibytes << 30)
    stored, rejected, peak_bytes = take_in(tmp_path / "archive", tmp_path / "in")
    assert (stored, rejected) == (1, 0)
    assert peak_bytes < TASK_BYTES
    catalog = Catalog(open_storage(tmp_path / "archive"))
    (row,) = catalog.table("instances").to_pylist()
    assert row["size_bytes"] == (tmp_path / "in" / "large.dcm").stat().st_size
    assert row["number_of_frames"] == row["frame_count"] == gibibytes


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_task__holds_a_bounded_part_of_many_objects(tmp_path: Path, count: int) -> None:
    write_instances(tmp_path / "in", range(count))
    stored, rejected, peak_bytes = take_in(tmp_path / "archive", tmp_path / "in")
    assert (stored, rejected) == (count, 0)
    assert peak_bytes < TASK_BYTES
