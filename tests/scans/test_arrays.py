"""Any format, any order of axes, any division into files: the same frames come out."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.errors import ScanDescriptionError
from pacspark.scans.arrays import AXES, ArraySource, AxedStack, natural_order
from tests.scans.scan_folder import frames

ANGLE_FIRST = ("angle", "row", "column")

Writer = Callable[[Path, NDArray[Any]], ArraySource]


def source(path: Path, **more: Any) -> ArraySource:
    return ArraySource("projections.files", (path,), ANGLE_FIRST, **more)


def written_tiff(path: Path, array: NDArray[Any], **options: Any) -> ArraySource:
    tifffile.imwrite(path, array, **{"photometric": "minisblack", **options})
    return source(path)


def written_imagej(path: Path, array: NDArray[Any]) -> ArraySource:
    tifffile.imwrite(path, array, imagej=True)
    return source(path)


def written_one_by_one(path: Path, array: NDArray[Any]) -> ArraySource:
    """Write each page as a series of its own, as programs do that save while they measure."""
    with tifffile.TiffWriter(path) as file:
        for image in array.reshape(-1, *array.shape[-2:]):
            file.write(image, contiguous=False)
    return source(path)


def written_npy(path: Path, array: NDArray[Any]) -> ArraySource:
    with path.open("wb") as file:
        np.save(file, array)
    return ArraySource("projections.files", (path.rename(path.with_suffix(".npy")),), ANGLE_FIRST)


def written_hdf5(path: Path, array: NDArray[Any], **options: Any) -> ArraySource:
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("/exchange/data", data=array, **options)
    return source(path, dataset="/exchange/data")


def written_raw(path: Path, array: NDArray[Any], order: str, skipped: int) -> ArraySource:
    path = path.with_suffix(".raw")
    stored = array.astype(array.dtype.newbyteorder(order))  # type: ignore[arg-type]
    path.write_bytes(b"\xab" * skipped + stored.tobytes())
    return source(path, shape=array.shape, dtype=stored.dtype.str, offset_bytes=skipped)


FORMATS: dict[str, Writer] = {
    "tiff": written_tiff,
    "tiff_bare": lambda path, array: written_tiff(path, array, metadata=None),
    "tiff_big_endian": lambda path, array: written_tiff(path, array, byteorder=">"),
    "tiff_deflated": lambda path, array: written_tiff(path, array, compression="zlib"),
    "tiff_tiled": lambda path, array: written_tiff(
        path, array, tile=(16, 16), compression="lzw", predictor=array.dtype.kind != "f"
    ),
    "tiff_ome": lambda path, array: written_tiff(path, array, ome=True),
    "tiff_imagej": written_imagej,
    "tiff_one_by_one": written_one_by_one,
    "big_tiff": lambda path, array: written_tiff(path, array, bigtiff=True),
    "npy": written_npy,
    "npy_fortran": lambda path, array: written_npy(path, np.asfortranarray(array)),
    "hdf5": written_hdf5,
    "hdf5_chunked": lambda path, array: written_hdf5(path, array, chunks=True, compression="gzip"),
    "raw": lambda path, array: written_raw(path, array, "<", 0),
    "raw_big_endian": lambda path, array: written_raw(path, array, ">", 137),
}


def read_all(of: ArraySource, energy_bin: int = 0) -> NDArray[np.generic]:
    stack = of.open()
    try:
        return stack.read(0, stack.length("angle"), energy_bin)
    finally:
        stack.close()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("name", FORMATS)
def test_format__does_give_back_what_was_written(tmp_path: Path, name: str, dtype: str) -> None:
    array = frames()[0].astype(dtype)
    stack = FORMATS[name](tmp_path / "scan.tif", array).open()

    assert [stack.length(axis) for axis in AXES] == [1, *array.shape]
    assert stack.dtype == array.dtype
    for start in range(6):
        for stop in range(start + 1, 7):
            block = stack.read(start, stop)
            np.testing.assert_array_equal(block, array[start:stop])
            assert block.dtype == stack.dtype
            assert block.dtype.isnative
    stack.close()


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_axes__does_not_matter_in_which_order_they_are(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    lengths = {axis: data.draw(st.integers(2, 4), label=axis) for axis in ANGLE_FIRST}
    array = frames(*lengths.values())[0]
    order = data.draw(st.sampled_from(list(permutations(range(3)))))
    start = data.draw(st.integers(0, lengths["angle"] - 1))
    stop = data.draw(st.integers(start + 1, lengths["angle"]))
    written = FORMATS[name](tmp_path / "scan.tif", np.ascontiguousarray(array.transpose(order)))
    axes = tuple(ANGLE_FIRST[place] for place in order)

    stack = AxedStack(
        ArraySource(
            written.key, written.paths, axes, False, written.dataset, written.shape,
            written.dtype, written.offset_bytes,
        )
    )  # fmt: skip

    np.testing.assert_array_equal(stack.read(start, stop), array[start:stop])
    stack.close()


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_energy_bins__does_not_matter_where_they_are(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    array = frames(n_bins=3)
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["/data"] = array.transpose(order)
    axes = tuple(AXES[place] for place in order)
    stack = ArraySource("projections.files", (path,), axes, dataset="/data").open()

    assert stack.length("energy_bin") == 3
    for energy_bin in range(3):
        np.testing.assert_array_equal(stack.read(1, 4, energy_bin), array[energy_bin, 1:4])
    stack.close()


@pytest.mark.parametrize("name", ["tiff", "tiff_deflated", "npy", "hdf5", "raw"])
@pytest.mark.parametrize("cuts", [(1, 2, 3, 4, 5), (3,), (1, 5)])
def test_files__does_join_along_the_first_axis(
    tmp_path: Path, name: str, cuts: tuple[int, ...]
) -> None:
    array = frames()[0]
    parts = np.split(array, cuts)
    of = [FORMATS[name](tmp_path / f"p{i}.tif", part) for i, part in enumerate(parts)]
    joined = ArraySource(
        "projections.files",
        tuple(one.paths[0] for one in of),
        ANGLE_FIRST,
        dataset=of[0].dataset,
        shape=(-1, 4, 5) if of[0].shape else (),
        dtype=of[0].dtype,
    )
    stack = joined.open()

    for start in range(6):
        for stop in range(start + 1, 7):
            np.testing.assert_array_equal(stack.read(start, stop), array[start:stop])
    stack.close()


@pytest.mark.parametrize("name", ["tiff", "tiff_deflated", "npy", "hdf5", "raw"])
def test_files__does_stack_single_frames(tmp_path: Path, name: str) -> None:
    array = frames()[0]
    of = [FORMATS[name](tmp_path / f"p{i}.tif", frame) for i, frame in enumerate(array)]
    stacked = ArraySource(
        "projections.files",
        tuple(one.paths[0] for one in of),
        ANGLE_FIRST,
        dataset=of[0].dataset,
        shape=of[0].shape,
        dtype=of[0].dtype,
    )

    np.testing.assert_array_equal(read_all(stacked), array)


def test_files__does_take_one_sinogram_a_file(tmp_path: Path) -> None:
    array = frames()[0]
    paths = []
    for row in range(array.shape[1]):
        paths.append(tmp_path / f"sinogram{row}.png")
        paths[-1].write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array[:, row])))
    of = ArraySource("projections.files", tuple(paths), ("row", "angle", "column"))

    stack = of.open()
    assert [stack.length(axis) for axis in ANGLE_FIRST] == [6, 4, 5]
    np.testing.assert_array_equal(stack.read(2, 5), array[2:5])
    stack.close()


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_png__does_hold_a_fan_beam_sinogram(tmp_path: Path, depth: str) -> None:
    sinogram = frames(n_rows=1)[0, :, 0].T.astype(depth)
    path = tmp_path / "sinogram.png"
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(sinogram)))

    read = read_all(ArraySource("projections.files", (path,), ("column", "angle")))

    np.testing.assert_array_equal(read[:, 0, :], sinogram.T)
    assert read.dtype == depth


def test_leading_axes__does_not_matter_if_they_are_of_length_one(tmp_path: Path) -> None:
    array = frames()[0]

    np.testing.assert_array_equal(read_all(written_npy(tmp_path / "a", array[None, None])), array)


def test_many_pages__does_read_only_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = frames(n_angles=50)[0]
    stack = written_tiff(tmp_path / "scan.tif", array, compression="zlib").open()
    decoded: list[int] = []
    decode = tifffile.TiffPage.asarray

    def counting(page: Any, *args: Any, **kwargs: Any) -> Any:
        decoded.append(page.index)
        return decode(page, *args, **kwargs)

    monkeypatch.setattr(tifffile.TiffPage, "asarray", counting)
    np.testing.assert_array_equal(stack.read(20, 23), array[20:23])
    stack.close()

    assert decoded == [20, 21, 22]


def test_many_files__does_keep_one_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = frames(n_angles=12)[0]
    paths = []
    for angle, frame in enumerate(array):
        paths.append(tmp_path / f"{angle}.h5")
        with h5py.File(paths[-1], "w") as file:
            file["/d"] = frame
    stack = ArraySource("projections.files", tuple(paths), ANGLE_FIRST, dataset="/d").open()
    most_open = 0
    opening = ArraySource.open_file

    def counting(of: ArraySource, path: Path) -> Any:
        nonlocal most_open
        opened = opening(of, path)
        most_open = max(most_open, len(h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE)))
        return opened

    monkeypatch.setattr(ArraySource, "open_file", counting)
    np.testing.assert_array_equal(stack.read(0, 12), array)
    stack.close()

    assert most_open == 1
    assert not h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE)


def test_scattered_views__does_read_block_by_block_what_is_too_large_to_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = frames()[0]
    written = written_hdf5(tmp_path / "a", array.transpose(1, 0, 2))
    of = ArraySource(
        written.key, written.paths, ("row", "angle", "column"), dataset=written.dataset
    )
    monkeypatch.setattr("pacspark.scans.arrays.MAX_KEPT_BYTES", 0)
    stack = of.open()

    np.testing.assert_array_equal(stack.read(2, 5), array[2:5])
    assert stack._kept is None
    stack.close()


@pytest.mark.parametrize(
    ("n_files", "shape", "expected"),
    [
        (1, (4, 5), (1, 4, 5)),  # one frame
        (1, (3, 4, 5), (3, 4, 5)),
        (3, (4, 5), (3, 4, 5)),
        (2, (3, 4, 5), (6, 4, 5)),
    ],
)
def test_flats__does_take_one_frame_or_many(
    tmp_path: Path, n_files: int, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    array = frames(*expected)[0]
    paths = []
    for number, part in enumerate(np.split(array, n_files)):
        paths.append(tmp_path / f"flat{number}.npy")
        np.save(paths[-1], part.reshape(shape))
    flat = ArraySource("projections.flat", tuple(paths), ANGLE_FIRST, may_lack_angle=True)

    np.testing.assert_array_equal(read_all(flat), array)


def test_flats__does_take_one_frame_of_a_scan_in_another_order(tmp_path: Path) -> None:
    flat = np.arange(20.0).reshape(4, 5)
    np.save(tmp_path / "flat.npy", flat)
    of = ArraySource(
        "projections.flat",
        (tmp_path / "flat.npy",),
        ("row", "angle", "column"),
        may_lack_angle=True,
    )

    np.testing.assert_array_equal(read_all(of), flat[None])


def test_files__does_have_to_agree(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for other in (np.zeros((4, 6)), np.zeros((4, 5), "u2"), np.zeros(4), np.zeros((1, 4, 5))):
        np.save(paths[0], np.ones((4, 5)))
        np.save(paths[1], other)
        stack = ArraySource("projections.files", tuple(paths), ANGLE_FIRST).open()
        with pytest.raises(ScanDescriptionError, match=r"b.npy: .*\(4, 5\) float64 as in a.npy"):
            stack.read(0, 2)
        stack.close()


def test_joined_files__does_have_to_agree_before_anything_is_read(tmp_path: Path) -> None:
    paths = (tmp_path / "a.npy", tmp_path / "b.npy")
    np.save(paths[0], np.ones((2, 4, 5)))
    np.save(paths[1], np.ones((2, 5, 4)))

    with pytest.raises(ScanDescriptionError, match=r"b\.npy"):
        ArraySource("projections.files", paths, ANGLE_FIRST).open()


def test_natural_order__does_count_as_people_do() -> None:
    names = ["f10.tif", "f9.tif", "f009.tif", "g1.tif", "f1_2.tif", "f1_10.tif", "f.tif", "f².tif"]

    ordered = [path.name for path in sorted((Path(name) for name in names), key=natural_order)]

    assert ordered.index("f9.tif") < ordered.index("f10.tif")
    assert ordered.index("f1_2.tif") < ordered.index("f1_10.tif") < ordered.index("f9.tif")
    assert ordered[-1] == "g1.tif"


@given(st.lists(st.text(alphabet="ab019²٣_", max_size=6), unique=True))
def test_natural_order__does_order_any_names_totally(names: list[str]) -> None:
    keys = [natural_order(Path(f"x{name}")) for name in names]

    assert len(set(keys)) == len(keys)
    assert all((one < other) != (other < one) for one, other in pairwise(keys))


READ_ALL = """
import resource, sys
from pathlib import Path
import numpy as np
from pacspark.scans.formats import NumpyFile, RawFile
path = Path(sys.argv[1])
if sys.argv[2] == "npy":
    stack = NumpyFile(path, "files")
else:
    stack = RawFile(path, "files", (-1, 1024, 1024), "f4", 128)
stack.read([slice(0, 1), slice(None), slice(None)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, stack.shape[0], 4):
    assert not stack.read([slice(start, start + 4), slice(None), slice(None)]).any()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("form", ["npy", "raw"])
def test_mapped_file__takes_no_memory_once_it_is_read(tmp_path: Path, form: str) -> None:
    path = tmp_path / "stack.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (64, 1024, 1024)).flush()
    command = [sys.executable, "-c", READ_ALL, str(path), form]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(grown) < 64  # of 256 MiB
