"""Zeiss' compound file: made here, and the public one."""

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, ParallelBeamGeometry
from pacspark.ct.phantom import project
from pacspark.errors import ScanDescriptionError
from pacspark.scans.description import read_scan_description
from pacspark.scans.toml import read_toml
from pacspark.scans.vendors.describe import describe_scan
from tests.scans.vendors.compound import write_compound
from tests.scans.vendors.samples import (
    N_COLUMNS,
    N_ROWS,
    PIXEL_MM,
    TO_AXIS_MM,
    TO_DETECTOR_MM,
    WHITE,
    body,
    counts,
    reconstructed,
    require_body,
)

N_VIEWS, STEP_DEG = 120, 3.0
TABLES = dict.fromkeys(("format_version", "projections", "geometry", "angles"), "")
Streams = dict[str, bytes]


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def number(value: int) -> bytes:
    return struct.pack("<i", value)


def streams_of(frames: NDArray[np.uint16], step_deg: float = STEP_DEG) -> Streams:
    """Give the streams of a cone-beam scan whose flat is a ramp."""
    n_views, n_rows, n_columns = frames.shape
    to_detector = -(TO_DETECTOR_MM - TO_AXIS_MM)  # signs are directions
    streams = {
        "ImageInfo/ImageHeight": number(n_rows),
        "ImageInfo/ImageWidth": number(n_columns),
        "ImageInfo/NoOfImages": number(n_views),
        "ImageInfo/ImagesTaken": number(n_views),
        "ImageInfo/AcquisitionMode": number(0),
        "ImageInfo/XrayGeometry": number(1),
        "ImageInfo/DataType": number(5),
        "ImageInfo/PixelSize": floats(1000 * PIXEL_MM * TO_AXIS_MM / TO_DETECTOR_MM),
        "ImageInfo/Angles": floats(*(step_deg * view for view in range(n_views))),
        "ImageInfo/StoRADistance": floats(*[-TO_AXIS_MM] * n_views),
        "ImageInfo/DtoRADistance": floats(*[-to_detector] * n_views),
        "ReferenceData/DataType": number(10),
        "ReferenceData/Image": np.full((n_rows, n_columns), WHITE, "<f4").tobytes(),
    }
    for view, frame in enumerate(frames):
        name = f"ImageData{view // 100 + 1}/Image{view + 1}"
        streams[name] = frame.astype("<u2").tobytes()
    return streams


def small_scan(**changes: bytes | None) -> Streams:
    """Give a scan of few pixels, with streams of ImageInfo changed or taken away."""
    streams = streams_of(np.full((12, 4, 5), 7, np.uint16), 30.0)
    for name, value in changes.items():
        if value is None:
            del streams[f"ImageInfo/{name}"]
        else:
            streams[f"ImageInfo/{name}"] = value
    return streams


def test_describe__has_the_body_at_its_place(tmp_path: Path) -> None:
    """Rows from below, columns along +u, the source clockwise: so CIL's reader has it."""
    panel = FlatPanel(N_ROWS, N_COLUMNS, PIXEL_MM, PIXEL_MM, row_order="bottom_up")
    angles = -np.radians(STEP_DEG * np.arange(N_VIEWS))
    geometry = ConeBeamGeometry(TO_AXIS_MM, TO_DETECTOR_MM, angles, panel)
    write_compound(tmp_path / "scan.txrm", streams_of(counts(project(body(), geometry))))
    made = describe_scan(tmp_path / "scan.txrm", extract=True)
    assert [path.name for path in made.beside] == ["SCAN.frames.npy", "SCAN.flat.npy"]
    assert not made.to_fill_in
    require_body(reconstructed(made.path), body())


def test_describe__leaves_the_frames_inside_unless_told(tmp_path: Path) -> None:
    write_compound(tmp_path / "scan.txrm", small_scan())
    made = describe_scan(tmp_path / "scan.txrm")
    assert made.beside == ()
    assert [key.split(":")[0] for key in made.to_fill_in] == [
        "projections.files",
        "projections.flat",
    ]
    assert "12 x 4 x 5 (views, rows, columns) inside scan.txrm: --extract" in made.to_fill_in[0]
    with pytest.raises(ScanDescriptionError, match=r"projections.files: expected a text"):
        read_scan_description(made.path)


def test_describe__takes_what_is_not_one_for_parallel(tmp_path: Path) -> None:
    streams = small_scan(XrayGeometry=number(2), StoRADistance=None, DtoRADistance=None)
    streams |= {"Alignment/X-Shifts": floats(*range(12)), "Alignment/Y-Shifts": floats(*[0.0] * 12)}
    write_compound(tmp_path / "scan.txrm", streams)
    made = describe_scan(tmp_path / "scan.txrm", extract=True)
    assert any("Shifts are not used" in key for key in made.to_check)
    assert isinstance(read_scan_description(made.path).geometry, ParallelBeamGeometry)


def test_describe__carries_shifts_over(tmp_path: Path) -> None:
    streams = small_scan() | {
        "Alignment/X-Shifts": floats(*range(12)),
        "Alignment/Y-Shifts": floats(*[-2.0] * 12),
    }
    write_compound(tmp_path / "scan.txrm", streams)
    made = describe_scan(tmp_path / "scan.txrm")
    geometry = read_toml(made.path, TABLES).table("geometry")
    assert geometry.text("detector_shifts_file") == "SCAN.shifts.txt"
    expected = PIXEL_MM * np.stack([np.arange(12), np.full(12, -2)], axis=1)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "SCAN.shifts.txt"), expected, rtol=1e-6)


def test_describe__ends_with_the_frames_that_were_taken(tmp_path: Path) -> None:
    write_compound(tmp_path / "scan.txrm", small_scan(ImagesTaken=number(9)))
    made = describe_scan(tmp_path / "scan.txrm", extract=True)
    assert any("9 of 12 frames were taken" in key for key in made.to_check)
    assert read_scan_description(made.path).geometry.n_angles == 9


def test_describe__reads_the_public_file(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "projections" / "tomopy-xradia-txrm"
    scan = folder / "txrm_test_chip_tomo.txrm"
    made = describe_scan(scan, tmp_path / "SCAN.toml", extract=True)
    assert np.load(tmp_path / "SCAN.frames.npy", mmap_mode="r").shape == (7, 256, 256)
    assert [key.split(":")[0] for key in made.to_fill_in] == ["projections.unattenuated_counts"]
    made.path.write_text(
        made.path.read_text().replace("[geometry]", "unattenuated_counts = 65535\n[geometry]")
    )
    geometry = read_scan_description(made.path).geometry
    assert isinstance(geometry, ParallelBeamGeometry)
    assert geometry.detector.column_spacing_mm == pytest.approx(0.15578948e-3)
    np.testing.assert_allclose(
        -np.degrees(geometry.gantry_angles_rad), np.arange(-45, 46, 15), atol=0.02
    )
    with pytest.raises(ScanDescriptionError, match=r"expected a tomography of 2 to .* found 1"):
        describe_scan(folder / "test_chip00.xrm", tmp_path / "other.toml")


HOSTILE: dict[str, tuple[dict[str, bytes | None], str]] = {
    "dummies": ({"StoRADistance": floats(*[1.0] * 12), "DtoRADistance": floats(*[1.0] * 12)},
                "found 1 and 1, which stand for none"),
    "no distances": ({"StoRADistance": None}, "12 numbers in ImageInfo/StoRADistance, found none"),
    "few angles": ({"Angles": floats(1.0)}, "12 numbers in ImageInfo/Angles, found 4 bytes"),
    "NaN": ({"PixelSize": floats(float("nan"))}, "finite numbers in ImageInfo/PixelSize"),
    "type": ({"DataType": number(99)}, "one of the data types"),
    "huge": ({"ImageWidth": number(2**31 - 1)}, "frames that the file has room for"),
    "many": ({"NoOfImages": number(2**31 - 1), "ImagesTaken": None},
             "expected a tomography of 2 to 131072 frames, found 2147483647"),
    "size": ({"ImageWidth": number(4)}, "a frame of 32 bytes in ImageData1/Image1, found 40"),
    "mosaic": ({"MosiacMode": number(1)}, "expected a tomography, found a mosaic"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_describe__refuses_in_one_line(tmp_path: Path, name: str) -> None:
    changes, told = HOSTILE[name]
    path = tmp_path / "scan.txrm"
    write_compound(path, small_scan(**changes))
    refuse(path, told)


def test_describe__refuses_what_is_cut(tmp_path: Path) -> None:
    """However much is missing, or however the rest is garbled."""
    path = tmp_path / "scan.txrm"
    write_compound(path, small_scan())
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for length in [8, 100, 512, 600, 1024, 2000, len(whole) - 600]:
        path.write_bytes(whole[:length])
        refuse(path, "expected")
    lines = []
    for _ in range(60):
        garbled = bytearray(whole)
        at = generator.integers(8, 2048)
        garbled[at : at + 64] = generator.bytes(64)
        path.write_bytes(garbled)
        try:
            describe_scan(path, extract=True)
        except ScanDescriptionError as error:
            lines.append(str(error))
        for made in ("SCAN.toml", "SCAN.frames.npy", "SCAN.flat.npy"):
            (tmp_path / made).unlink(missing_ok=True)
    assert lines
    assert not any("\n" in line for line in lines)


def refuse(path: Path, told: str) -> None:
    """Require one line, and nothing written."""
    with pytest.raises(ScanDescriptionError, match=told) as caught:
        describe_scan(path, extract=True)
    assert "\n" not in str(caught.value)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
