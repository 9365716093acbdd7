"""Files that lie, lack something or are something else: one line each, in bounded memory."""

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacspark.errors import ScanDescriptionError
from pacspark.scans.arrays import ArraySource
from pacspark.scans.description import read_scan_description
from tests.scans.scan_folder import frames

AXES = ("angle", "row", "column")


def read_one(path: Path, **more: Any) -> None:
    """Open a file as a scan and read all of it."""
    stack = ArraySource("projections.files", (path,), AXES, **more).open()
    try:
        stack.read(0, stack.length("angle"))
    finally:
        stack.close()


def refusal(path: Path, **more: Any) -> str:
    with pytest.raises(ScanDescriptionError) as caught:
        read_one(path, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: projections.files: expected ")
    return message


def write_hdf5(path: Path, write: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        write(file)
    return path


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".png", ".npy", ".h5", ".nxs"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"\x89PNG\r\n\x1a\n", b"hello"],
)
def test_file__does_get_one_line_if_it_is_something_else(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)

    refusal(path, dataset="/exchange/data")


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a", "b"]]),
        np.array([[{}, []]], dtype=object),
        np.ones((2, 3, 4), dtype=complex),
        np.ones((2, 3, 4), dtype=bool),
        np.zeros((2, 3, 4), dtype=[("a", "u2"), ("b", "f4")]),
        np.float64(3.0),
        np.ones((0, 3, 4)),
        np.ones(4),
        np.ones((2, 2, 3, 4)),
    ],
    ids=lambda array: f"{array.dtype.kind}{array.ndim}",
)
def test_npy__does_hold_frames_of_real_numbers(tmp_path: Path, array: Any) -> None:
    path = tmp_path / "stack.npy"
    np.save(path, array)

    refusal(path)


def test_npy__does_not_run_what_is_pickled(tmp_path: Path) -> None:
    class Mischief:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    path = tmp_path / "stack.npy"
    np.save(path, np.array([Mischief()], dtype=object), allow_pickle=True)

    refusal(path)
    assert not (tmp_path / "touched").exists()


def test_npy__does_not_allocate_what_its_header_claims(tmp_path: Path) -> None:
    path = tmp_path / "stack.npy"
    np.save(path, frames()[0])
    path.write_bytes(path.read_bytes().replace(b"(6, 4, 5)", b"(6,4,50)"))

    refusal(path)


def test_hdf5__does_name_the_data_sets_that_there_are(tmp_path: Path) -> None:
    path = write_hdf5(
        tmp_path / "a.h5", lambda file: [file.create_group("g"), file.update({"g/d": 1})]
    )

    assert "expected a data set /no, found /g/d" in refusal(path, dataset="/no")
    assert "expected a data set g, found /g/d" in refusal(path, dataset="g")


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.update({"d": 3.0}),
        lambda file: file.update({"d": h5py.Empty("f4")}),
        lambda file: file.update({"d": "text"}),
        lambda file: file.update({"d": np.ones((2, 3, 4), dtype=complex)}),
        lambda file: file.update({"d": np.zeros((2, 3, 4), dtype=[("a", "u2")])}),
        lambda file: file.update({"d": np.zeros((0, 3, 4))}),
        lambda file: file.update({"d": np.ones(3)}),
        lambda file: file.update({"d": h5py.SoftLink("/d")}),
        lambda file: file.update({"d": h5py.ExternalLink("none.h5", "/d")}),
        lambda file: file.create_dataset("d", (2, 1 << 20, 1 << 20), "f8", chunks=(1, 64, 64)),
    ],
    ids=[
        "scalar", "empty", "text", "complex", "compound", "none", "line", "circle", "elsewhere",
        "bomb",
    ],
)  # fmt: skip
def test_hdf5__does_hold_frames_of_real_numbers(
    tmp_path: Path, write: Callable[[h5py.File], object]
) -> None:
    refusal(write_hdf5(tmp_path / "a.h5", write), dataset="/d")


def test_hdf5__does_get_one_line_if_a_chunk_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("d", data=frames()[0], chunks=True, compression="gzip")
        at, length = data.id.get_chunk_info(0).byte_offset, data.id.get_chunk_info(0).size
    content = bytearray(path.read_bytes())
    content[at : at + length] = b"\xff" * length
    path.write_bytes(content)

    assert "expected readable data" in refusal(path, dataset="d")


def test_raw__does_have_the_size_that_its_shape_says(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(6 * 4 * 5 * 2 + 1))

    assert "expected 240 bytes for shape (6, 4, 5) of uint16, found 241" in refusal(
        path, shape=(6, 4, 5), dtype="<u2"
    )
    assert "found 241" in refusal(path, shape=(-1, 4, 5), dtype="<u2")
    assert "found 241" in refusal(path, shape=(6, 4, 5), dtype="<u2", offset_bytes=1 << 40)
    assert "found 241" in refusal(path, shape=(1 << 40, 1 << 40, 1 << 40), dtype="<u2")


def test_tiff__does_refuse_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 5, 3), "u1"), photometric="rgb")
    assert "expected grey images" in refusal(path)

    colormap = np.zeros((3, 256), "u2")
    tifffile.imwrite(path, np.zeros((4, 5), "u1"), photometric="palette", colormap=colormap)
    assert "expected grey images" in refusal(path)


def test_tiff__does_refuse_pages_of_several_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((4, 5), "u2"))
        file.write(np.zeros((2, 3), "u2"))

    assert "expected pages of one shape, found (2, 3) uint16, (4, 5) uint16" in refusal(path)


def test_png__does_refuse_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for channels in (2, 3, 4):
        path.write_bytes(imagecodecs.png_encode(np.zeros((4, 5, channels), "u1")))
        assert "expected a grey PNG" in refusal(path)


def png(width: int, height: int, content: bytes) -> bytes:
    """Write a grey PNG of 16 bits by hand."""
    chunks = b""
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(content)), (b"IEND", b"")):
        check = zlib.crc32(name + body)
        chunks += struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_png__does_not_decode_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(1 << 30, 1 << 30, b""))

    tracemalloc.start()
    assert "expected images of at most 1024 MiB" in refusal(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16 << 20


def test_png__does_get_one_line_if_pixels_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(5, 4, bytes(7)))

    refusal(path)


def test_tiff__does_not_decode_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 5), "u2"), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["ImageWidth"].overwrite(60_000)  # type: ignore[union-attr]
        file.pages[0].tags["ImageLength"].overwrite(60_000)  # type: ignore[union-attr]

    assert "expected images of at most 1024 MiB" in refusal(path)


ORIGINALS: dict[str, Callable[[Path], object]] = {
    ".tif": lambda path: tifffile.imwrite(path, frames()[0], photometric="minisblack"),
    ".tiff": lambda path: tifffile.imwrite(
        path, frames()[0], photometric="minisblack", compression="zlib"
    ),
    ".npy": lambda path: np.save(path, frames()[0]),
    ".png": lambda path: path.write_bytes(imagecodecs.png_encode(frames()[0, 0])),
    ".h5": lambda path: write_hdf5(path, lambda file: file.update({"d": frames()[0]})),
}


@pytest.mark.filterwarnings("ignore")  # libraries may warn of broken files as they like
@pytest.mark.parametrize("suffix", ORIGINALS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_file__does_read_or_end_in_one_line_however_it_is_broken(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path / f"scan{suffix}"
    ORIGINALS[suffix](path)
    content = bytearray(path.read_bytes())
    n_changes = data.draw(st.integers(0, 4))
    for _ in range(n_changes):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    path.unlink()
    path.write_bytes(content[:kept])

    said = ""
    try:
        read_one(path, dataset="/d")
    except ScanDescriptionError as error:
        said = str(error)
    assert said or kept or not n_changes
    assert not said or said.startswith(f"{path}: projections.files: expected ")
    assert "\n" not in said


def test_description__does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "SCAN.toml")
    with pytest.raises(ScanDescriptionError, match="no regular file"):
        read_scan_description(tmp_path / "SCAN.toml")
