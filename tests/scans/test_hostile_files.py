"""Files that lie, lack something or are something else: one line each, in bounded memory."""

import os
import re
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


def virtual(folder: Path, sources: dict[str, int], unlimited: bool = False) -> Path:
    """Write a virtual data set of 6 frames, 3 of each source; sources hold so many frames."""
    for name, n_frames in sources.items():
        if n_frames:
            with h5py.File(folder / name, "w") as file:
                file["s"] = frames(n_frames)[0]
    layout = h5py.VirtualLayout((6, 4, 5), "u2", maxshape=(None, 4, 5))
    for place, name in enumerate(sources):
        source = h5py.VirtualSource(name, "s", (3, 4, 5), maxshape=(None, 4, 5))
        if unlimited:
            layout[3 * place : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
        else:
            layout[3 * place : 3 * place + 3] = source
    return write_hdf5(folder / "a.h5", lambda file: file.create_virtual_dataset("d", layout))


def test_hdf5__does_read_virtual_data_sets_whose_sources_are_there(tmp_path: Path) -> None:
    read_one(virtual(tmp_path, {"1.h5": 3, "2.h5": 3}), dataset="d")
    # HDF5 looks beside the file for what is not where it was
    gone = virtual(tmp_path, {"1.h5": 3, str(tmp_path / "gone" / "2.h5"): 0})
    read_one(gone, dataset="d")


@pytest.mark.parametrize(
    ("sources", "unlimited", "message"),
    [
        ({"1.h5": 3, "none.h5": 0}, False, "expected the source s in none.h5, found .*No such"),
        ({"1.h5": 3}, False, "every number has one source, found parts for 60 of the 120"),
        ({"1.h5": 3, "2.h5": 2}, False, r"expected 60 numbers from s in 2.h5, found .*\(2, 4, 5\)"),
        ({"1.h5": 3}, True, "expected a virtual data set of parts that have a size"),
    ],
)
def test_hdf5__does_refuse_virtual_data_sets_that_lack_a_part(
    tmp_path: Path, sources: dict[str, int], unlimited: bool, message: str
) -> None:
    assert re.search(message, refusal(virtual(tmp_path, sources, unlimited), dataset="d"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected data that were written whole, found none of /d"),
        ({"chunks": (1, 4, 5)}, "expected data that were written whole, found 4 of 6 chunks of /d"),
        ({"external": [("a.raw", 0, 240)]}, "found /d in external files"),
    ],
)
def test_hdf5__does_refuse_what_nobody_wrote(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    def write(file: h5py.File) -> None:
        data = file.create_dataset("d", (6, 4, 5), "u2", **options)
        if "chunks" in options:
            data[:4] = 1

    assert message in refusal(write_hdf5(tmp_path / "a.h5", write), dataset="d")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metadata": None},
        {"compression": "zlib"},
        {"compression": "zlib", "metadata": None},
        {"compression": "zlib", "metadata": None, "bigtiff": True, "byteorder": ">"},
        {"compression": "lzw", "tile": (16, 16)},
        {"imagej": True},
    ],
    ids=str,
)
def test_tiff__does_refuse_a_file_that_was_cut_anywhere(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 1 << 16, (5, 16, 20)).astype(np.uint16)
    grey: dict[str, Any] = {} if "imagej" in options else {"photometric": "minisblack"}
    tifffile.imwrite(path, noise, **grey, **options)
    read_one(path)
    whole = path.read_bytes()

    for size in range(100, len(whole), 97):
        path.write_bytes(whole[:size])
        refusal(path)


def test_tiff__does_refuse_a_page_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((32, 16), "u2"), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["TileByteCounts"].overwrite((0, 0))  # type: ignore[union-attr]

    assert "expected pages that are written whole, found gaps in page 1" in refusal(path)


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
