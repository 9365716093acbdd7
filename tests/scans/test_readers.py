"""Frames of a described scan: projections, flats and darks, and what is refused before any."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from pacspark.errors import ScanDescriptionError, UsageError
from pacspark.scans.description import read_scan_description
from pacspark.scans.readers import open_frames
from tests.scans.scan_folder import CONE, frames, with_values, write_scan, write_toml

COUNTS = with_values(
    {"projections.kind": "counts", "projections.flat": "flat.npy", "projections.dark": "dark.npy"}
)


def write_counts(
    folder: Path,
    flat: NDArray[Any] | None = None,
    dark: NDArray[Any] | None = None,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Write counts with flats of 1000 and darks of 10, unless others are given."""
    np.save(folder / "stack.npy", frames()[0])
    np.save(folder / "flat.npy", np.full((2, 4, 5), 1000, "u2") if flat is None else flat)
    np.save(folder / "dark.npy", np.full((3, 4, 5), 10, "u2") if dark is None else dark)
    return write_toml(folder, with_values(changes or {}, COUNTS))


def refusal(path: Path) -> str:
    with pytest.raises(ScanDescriptionError) as caught, open_frames(read_scan_description(path)):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_frames__does_give_projections_flats_and_darks(tmp_path: Path) -> None:
    with open_frames(read_scan_description(write_counts(tmp_path))) as source:
        assert (source.n_angles, source.n_rows, source.n_columns) == (6, 4, 5)
        assert source.n_energy_bins == 1
        assert source.dtype == np.uint16
        np.testing.assert_array_equal(source.read(2, 5), frames()[0, 2:5])
        flats, darks = source.flats(), source.darks()

    np.testing.assert_array_equal(flats, np.full((2, 4, 5), 1000))
    np.testing.assert_array_equal(darks, np.full((3, 4, 5), 10))


def test_frames__does_give_none_where_there_are_none(tmp_path: Path) -> None:
    with open_frames(read_scan_description(write_scan(tmp_path))) as source:
        assert source.flats() is None
        assert source.darks() is None


def test_counts__does_need_no_flats_if_it_knows_their_level(tmp_path: Path) -> None:
    path = write_scan(
        tmp_path, {"projections.kind": "counts", "projections.unattenuated_counts": 950}
    )
    description = read_scan_description(path)

    assert description.kind == "counts"
    assert description.unattenuated_counts == 950.0
    with open_frames(description) as source:
        assert source.flats() is None


def test_frames__does_refuse_views_and_bins_that_are_not_there(tmp_path: Path) -> None:
    with open_frames(read_scan_description(write_counts(tmp_path))) as source:
        for start, stop in ((0, 7), (-1, 2), (3, 3), (4, 2)):
            with pytest.raises(UsageError, match="0 <= start < stop <= 6"):
                source.read(start, stop)
        for read in (source.flats, source.darks, lambda energy_bin: source.read(0, 1, energy_bin)):
            for energy_bin in (-1, 1):
                with pytest.raises(UsageError, match=f"found {energy_bin}"):
                    read(energy_bin)


def test_scale__does_turn_stored_integers_into_line_integrals(tmp_path: Path) -> None:
    path = write_scan(tmp_path, {"projections.scale": 0.001})

    with open_frames(read_scan_description(path)) as source:
        block = source.read(0, 6)
        assert source.dtype == block.dtype == np.float64

    np.testing.assert_array_equal(block, frames()[0] * 0.001)


def test_hdf5__does_hold_flats_and_darks_in_the_same_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["/exchange/data"] = frames()[0]
        file["/exchange/white"] = np.full((4, 5), 1000.0)  # one flat
        file["/exchange/data_dark"] = np.full((3, 4, 5), 10.0)
    changes = {
        "projections.files": "scan.h5",
        "projections.flat": "scan.h5",
        "projections.flat_dataset": "/exchange/white",
        "projections.dark": None,
        "projections.dark_dataset": "/exchange/data_dark",
    }
    path = write_toml(tmp_path, with_values(changes, COUNTS))

    with open_frames(read_scan_description(path)) as source:
        np.testing.assert_array_equal(source.read(0, 6), frames()[0])
        np.testing.assert_array_equal(source.flats(), np.full((1, 4, 5), 1000.0))
        np.testing.assert_array_equal(source.darks(), np.full((3, 4, 5), 10.0))


def test_raw__does_take_the_shape_of_flats_from_the_projections(tmp_path: Path) -> None:
    frames()[0].astype(">u2").tofile(tmp_path / "scan.raw")
    np.full((2, 4, 5), 1000, ">u2").tofile(tmp_path / "flat.raw")
    changes = {
        "projections.files": "scan.raw",
        "projections.shape": [6, 4, 5],
        "projections.dtype": "uint16",
        "projections.byte_order": "big",
        "projections.flat": "flat.raw",
        "projections.dark": None,
    }
    path = write_toml(tmp_path, with_values(changes, COUNTS))

    with open_frames(read_scan_description(path)) as source:
        np.testing.assert_array_equal(source.read(1, 3), frames()[0, 1:3])
        np.testing.assert_array_equal(source.flats(), np.full((2, 4, 5), 1000))


def test_spectral_counts__does_have_flats_of_each_bin(tmp_path: Path) -> None:
    bins = frames(n_bins=3)
    flats = np.stack([np.full((2, 4, 5), 1000 * (b + 1), "u2") for b in range(3)])
    np.save(tmp_path / "stack.npy", bins.transpose(1, 2, 3, 0))
    np.save(tmp_path / "flat.npy", flats.transpose(1, 2, 3, 0))
    changes = {
        "projections.axes": ["angle", "row", "column", "energy_bin"],
        "projections.dark": None,
        "energy_bins.edges_kev": [20, 45, 60, 80],
    }
    description = read_scan_description(write_toml(tmp_path, with_values(changes, COUNTS)))

    assert description.n_energy_bins == 3
    assert description.energy_bin_edges_kev == (20.0, 45.0, 60.0, 80.0)
    with open_frames(description) as source:
        assert source.n_energy_bins == 3
        for energy_bin in range(3):
            np.testing.assert_array_equal(source.read(0, 6, energy_bin), bins[energy_bin])
            np.testing.assert_array_equal(source.flats(energy_bin), flats[energy_bin])


def test_spectral_counts__does_need_edges(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", frames(n_bins=3))
    changes = {"projections.axes": ["energy_bin", "angle", "row", "column"]}
    path = write_toml(tmp_path, with_values(changes))

    assert "energy_bins.edges_kev: expected 4 edges for 3 energy bins" in refusal(path)


NAN_FLAT = np.full((2, 4, 5), 1000.0)
NAN_FLAT[1, 2, 3] = np.nan
MOSTLY_DARK = np.full((2, 4, 5), 1000)
MOSTLY_DARK[:, :3] = 10
SATURATED = np.full((2, 4, 5), 65535, "u2")
SATURATED[:, 0] = 1000


@pytest.mark.parametrize(
    ("flat", "dark", "message"),
    [
        (np.zeros((2, 4, 5)), None, "flat: .* 20 of 20 pixels that are not above the dark level"),
        (np.full((2, 4, 5), 10), None, "flat: .* 20 of 20 pixels .* row 0, column 0, in energy"),
        (MOSTLY_DARK, None, "flat: .* 15 of 20 pixels that are not above the dark level"),
        (SATURATED, None, "flat: expected .*, found 15 of 20 saturated pixels, .* row 1, column 0"),
        (NAN_FLAT, None, "flat: expected finite counts, found nan at 2, 3, in energy bin 0"),
        (np.full((2, 4, 5), np.inf), None, "flat: expected finite counts, found inf at 0, 0"),
        (None, np.full((2, 4, 5), np.nan), "dark: expected finite counts, found nan at 0, 0"),
        (np.ones((2, 5, 5)), None, "flat: expected 4 along row, as the projections, found 5"),
        (None, np.ones((2, 4, 6)), "dark: expected 5 along column, as the projections, found 6"),
        (np.ones((2, 2, 4, 5)), None, "flat: expected 3 axes"),
    ],
)
def test_counts__does_refuse_flats_that_cannot_be(
    tmp_path: Path, flat: NDArray[Any] | None, dark: NDArray[Any] | None, message: str
) -> None:
    path = write_counts(tmp_path, flat, dark)

    with (
        pytest.raises(ScanDescriptionError, match=message),
        open_frames(read_scan_description(path)),
    ):
        pass


def test_counts__does_refuse_a_level_that_is_below_the_darks(tmp_path: Path) -> None:
    changes = {"projections.flat": None, "projections.unattenuated_counts": 9}
    path = write_counts(tmp_path, changes=changes)

    assert "projections.unattenuated_counts: expected the beam" in refusal(path)


def test_counts__does_live_with_dead_pixels_in_a_flat(tmp_path: Path) -> None:
    flat = np.full((2, 4, 5), 1000, "u2")
    flat[:, 0, :2] = 0
    flat[:, 1, 0] = 65535

    with open_frames(read_scan_description(write_counts(tmp_path, flat))) as source:
        np.testing.assert_array_equal(source.flats(), flat)


def test_files__does_have_to_stay_as_described(tmp_path: Path) -> None:
    description = read_scan_description(write_scan(tmp_path))
    np.save(tmp_path / "stack.npy", frames(n_angles=7)[0])

    with (
        pytest.raises(ScanDescriptionError, match="as when the description was read"),
        open_frames(description),
    ):
        pass


def test_files__does_have_to_stay_there(tmp_path: Path) -> None:
    description = read_scan_description(write_scan(tmp_path))
    (tmp_path / "stack.npy").unlink()

    with pytest.raises(ScanDescriptionError, match=r"stack\.npy"), open_frames(description):
        pass


def test_pattern__does_follow_natural_order_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "scan [1] *.tif"
    (folder / "frames").mkdir(parents=True)
    for angle, frame in enumerate(frames(n_angles=12)[0]):
        tifffile.imwrite(folder / "frames" / f"frame-{angle}.tif", frame)
    changes = {"projections.files": "frames/frame-*.tif", "angles.step_deg": 30}
    path = write_toml(folder, with_values(changes))

    with open_frames(read_scan_description(path)) as source:
        np.testing.assert_array_equal(source.read(0, 12), frames(n_angles=12)[0])


def test_pattern__does_take_names_that_look_like_patterns(tmp_path: Path) -> None:
    np.save(tmp_path / "stack[0].npy", frames()[0])
    path = write_toml(tmp_path, with_values({"projections.files": "stack[0].npy"}))

    assert read_scan_description(path).geometry.n_angles == 6


def test_pattern__does_refuse_a_mixture_of_formats(tmp_path: Path) -> None:
    np.save(tmp_path / "frame1.npy", frames()[0, 0])
    tifffile.imwrite(tmp_path / "frame2.tif", frames()[0, 1])
    path = write_toml(tmp_path, with_values({"projections.files": "frame*"}))

    assert "projections.files: expected files of one format, .npy, found frame2.tif" in refusal(
        path
    )


def test_absolute_names__does_work(tmp_path: Path) -> None:
    elsewhere = tmp_path / "data"
    elsewhere.mkdir()
    for angle, frame in enumerate(frames()[0]):
        np.save(elsewhere / f"{angle}.npy", frame)
    folder = tmp_path / "descriptions"
    folder.mkdir()
    path = write_toml(folder, with_values({"projections.files": f"{elsewhere}/*.npy"}, CONE))

    with open_frames(read_scan_description(path)) as source:
        np.testing.assert_array_equal(source.read(0, 6), frames()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [6, 4.0, 5]}, r"shape\[1\]: expected a whole number"),
        ({"shape": [6, 0, 5]}, "shape: expected lengths >= 1"),
        ({"shape": [6, -1, 5]}, "shape: expected lengths >= 1"),
        ({"shape": []}, "shape: expected a list of whole numbers"),
        ({"shape": None}, "shape: expected TIFF, PNG, HDF5 or .npy files, or shape and dtype"),
        ({"dtype": "uint12"}, "dtype: expected one of uint8, .*'uint12'"),
        ({"dtype": None}, "dtype: expected one of uint8, .*nothing"),
        ({"byte_order": "middle"}, "byte_order: expected one of little, big"),
        ({"offset_bytes": -3}, "offset_bytes: expected a whole number >= 0, found -3"),
        ({"offset_bytes": 8}, "files: expected 248 bytes .*, found 240"),
        ({"dtype": "float32"}, "files: expected 480 bytes .*, found 240"),
    ],
)
def test_raw__does_name_the_key_that_is_wrong(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    frames()[0].tofile(tmp_path / "frames.raw")
    raw = {"files": "frames.raw", "shape": [6, 4, 5], "dtype": "uint16", **changes}
    tables = with_values({f"projections.{key}": value for key, value in raw.items()})

    with pytest.raises(ScanDescriptionError, match=f"projections.{message}"):
        read_scan_description(write_toml(tmp_path, tables))
