"""CT slices: the values and the place of every voxel come back, always the same, from peers too."""

import io
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from pacspark.ct.geometry import FlatPanel, ParallelBeamGeometry, VolumeGrid
from pacspark.dicom.decode import index_instance
from pacspark.dicom.encode import CTSeries, ValueMap
from pacspark.dicom.scan import EncodedInstance, StoredScan, encode_scan, scan_from_headers
from pacspark.errors import GeometryError
from tests.dicom.scans import Memory, cone, described, rows_of

WATER = 0.0206
HU = ValueMap.hounsfield(WATER)
LINEAR = ValueMap.linear(-0.004, 0.05, 0.1)
GRID = VolumeGrid(shape=(3, 5, 7), voxel_mm=(0.7, 0.3, 0.4), center_mm=(10.0, -2.0, 1 / 3))
SUBJECT = {
    "PatientID": "P-1", "PatientName": "Müller^Zoë", "PatientSex": "F", "StudyDate": "20260101",
    "StudyTime": "1200", "StudyID": "7", "SeriesDescription": "Größe", "BodyPartExamined": "HEAD",
}  # fmt: skip


def projections(
    subject: dict[str, Any] | None = None, **more: Any
) -> tuple[list[EncodedInstance], StoredScan]:
    n_energy_bins = max(1, len(more.get("energy_bin_edges_kev", ())) - 1)
    values = np.random.default_rng(1).normal(2, 1, (n_energy_bins, 7, 4, 6))
    description = described(cone(), subject=SUBJECT if subject is None else subject, **more)
    encoded = list(encode_scan(description, Memory(values)))
    return encoded, scan_from_headers(rows_of(encoded))


def series(
    scan: StoredScan, values: ValueMap = HU, grid: VolumeGrid = GRID, **more: Any
) -> CTSeries:
    fields: dict[str, Any] = {"run_id": "run-1", "energy_bin": 0, "how": "hann"} | more
    return CTSeries.of_scan(scan, grid=grid, values=values, **fields)


def slab_of(grid: VolumeGrid, seed: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-0.004, 0.05, grid.shape).astype(np.float32)


def opened(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def restored(image: Dataset) -> NDArray[np.float64]:
    return image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)


def told_by(program: str, *files: Path) -> str:
    told = subprocess.run(
        [program, *map(str, files)], capture_output=True, text=True, errors="replace", check=False
    )
    return told.stdout + told.stderr


def in_files(folder: Path, objects: list[bytes]) -> list[Path]:
    files = [folder / f"{number}.dcm" for number in range(len(objects))]
    for file, data in zip(files, objects, strict=True):
        file.write_bytes(data)
    return files


def test_hounsfield_units__does_come_back_to_the_nearest_whole_one() -> None:
    _, scan = projections()
    slab = slab_of(GRID)
    for values, data in zip(slab, series(scan).encode_slab(slab, 0), strict=True):
        image = opened(data)
        assert image.RescaleType == "HU"
        expected = 1000 * (values.astype(np.float64) / WATER - 1)
        np.testing.assert_array_equal(restored(image), np.rint(expected))


def test_attenuation__does_come_back_to_half_a_step_without_water() -> None:
    _, scan = projections()
    slab = slab_of(GRID)
    for values, data in zip(slab, series(scan, LINEAR).encode_slab(slab, 0), strict=True):
        image = opened(data)
        assert image.RescaleType == "1/m"
        assert np.abs(restored(image) - 1000 * values).max() <= 0.501 * float(image.RescaleSlope)


@settings(max_examples=200)
@given(
    ends=st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)),
    parts=st.lists(st.floats(0, 1), max_size=8),
    headroom=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_linear_map__does_hold_every_value_of_its_range(
    ends: tuple[float, float], parts: list[float], headroom: float
) -> None:
    lowest, highest = sorted(ends)
    inside = np.array([0.0, 1.0, *parts]) * (highest - lowest) + lowest
    values: NDArray[np.float32] = np.asarray(np.clip(inside, lowest, highest), np.float32)
    map_ = ValueMap.linear(lowest, highest, headroom)
    assert map_.clamped(values) == 0
    step = float(map_.slope)
    back = map_.stored(values) * step + float(map_.intercept)
    assert np.abs(back - 1000 * values.astype(np.float64)).max() <= 0.51 * step
    assert max(len(map_.slope), len(map_.intercept)) <= 16  # a decimal string of PS3.5


def test_value_map__does_count_and_clamp_what_does_not_fit() -> None:
    values = np.array([-1.0, -0.004, 0.05, 1.0], np.float32)
    assert LINEAR.clamped(values) == 2
    np.testing.assert_array_equal(LINEAR.stored(values)[[0, 3]], [0, 65535])
    fitting = np.array([-32, 0, 32], np.float32) * np.float32(WATER)  # -33,000 to 31,000 HU
    assert HU.clamped(fitting) == 0
    beyond = np.array([-33, 0, 33], np.float32) * np.float32(WATER)
    assert HU.clamped(beyond) == 2
    np.testing.assert_array_equal(HU.stored(beyond), [-32768, 24, 32767])


@pytest.mark.parametrize("water", [0.0, -1.0, float("nan"), float("inf")])
def test_hounsfield_units__does_need_an_attenuation_of_water(water: float) -> None:
    with pytest.raises(GeometryError, match="water_mu_per_mm: expected a number > 0"):
        ValueMap.hounsfield(water)


def test_voxels__does_lie_where_the_grid_says_for_a_peer() -> None:
    _, scan = projections()
    slab = slab_of(GRID)
    images = [opened(data) for data in series(scan).encode_slab(slab, 0)]
    volume = highdicom.get_volume_from_series(images[::-1], rtol=1e-6)
    array, affine = volume.array, volume.affine
    z_mm, y_mm, x_mm = GRID.z_mm, GRID.y_mm, GRID.x_mm
    for index in np.ndindex(array.shape):
        x, y, z, _ = affine @ (*index, 1)
        at = tuple(
            int(np.argmin(np.abs(axis - mm)))
            for axis, mm in ((z_mm, z), (y_mm, y), (x_mm, x))
        )  # fmt: skip
        np.testing.assert_allclose((z_mm[at[0]], y_mm[at[1]], x_mm[at[2]]), (z, y, x), atol=1e-9)
        assert array[index] == np.rint(1000 * (float(slab[at]) / WATER - 1))


def test_encode_slab__does_not_depend_on_how_a_volume_is_cut() -> None:
    _, scan = projections()
    slab = slab_of(GRID)
    whole = list(series(scan).encode_slab(slab, 0))
    pieces = [
        data
        for start, stop in ((0, 1), (1, 3))
        for data in series(scan).encode_slab(slab[start:stop], start)
    ]
    assert whole == pieces


@pytest.mark.parametrize("subject", [{}, SUBJECT])
def test_encode_slab__does_write_as_pydicom_does(subject: dict[str, Any]) -> None:
    _, scan = projections(subject)
    grid = replace(GRID, shape=(11, 2, 3))  # numbers and positions of several lengths
    for data in series(scan, LINEAR, grid).encode_slab(slab_of(grid), 0):
        again = io.BytesIO()
        dcmwrite(again, opened(data), enforce_file_format=True)
        assert again.getvalue() == data


def test_ct_series__does_have_uids_of_its_own_run_and_slices() -> None:
    _, scan = projections()
    slab = slab_of(GRID)
    first, other = series(scan), series(scan, run_id="run-2")
    assert first.series_instance_uid != other.series_instance_uid
    uids = [
        opened(data).SOPInstanceUID
        for one in (first, other)
        for data in one.encode_slab(slab, 0)
    ]  # fmt: skip
    assert len(set(uids)) == 2 * len(slab)
    for data in first.encode_slab(slab, 0):
        image = opened(data)
        assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
        assert image.SeriesInstanceUID == first.series_instance_uid


def test_ct_series__does_belong_to_patient_study_and_frame_of_the_projections() -> None:
    encoded, scan = projections()
    source = opened(encoded[0].data)
    image = opened(next(series(scan).encode_slab(slab_of(GRID), 0)))
    for keyword in (*SUBJECT, "StudyInstanceUID", "FrameOfReferenceUID"):
        if keyword != "SeriesDescription":
            assert image[keyword].value == source[keyword].value, keyword
    related = image.RelatedSeriesSequence[0]
    assert related.SeriesInstanceUID == source.SeriesInstanceUID
    assert related.StudyInstanceUID == source.StudyInstanceUID
    assert image.SeriesDescription == "Größe, FDK hann"
    assert "filter hann, of 7 views" in image.DerivationDescription
    assert "PixelData" not in scan.header


def test_ct_series__does_tell_energy_bins_apart() -> None:
    _, scan = projections(energy_bin_edges_kev=(20.0, 45.5, 80.0))
    low, high = (series(scan, energy_bin=energy_bin, run_id=f"run-{energy_bin}")
                 for energy_bin in (0, 1))  # fmt: skip
    assert low.series_description == "Größe, FDK hann, 20-45.5 keV"
    assert high.series_description == "Größe, FDK hann, 45.5-80 keV"
    assert (low.series_number, high.series_number) == (100, 101)


def test_ct_series__does_refuse_images_that_dicom_cannot_hold() -> None:
    _, scan = projections()
    with pytest.raises(GeometryError, match=r"grid\.shape: expected at most 65535 rows"):
        series(scan, grid=replace(GRID, shape=(1, 65536, 2)))


VARIANTS = {
    "hounsfield": (HU, GRID),
    "attenuation": (LINEAR, GRID),
    "one slice": (HU, replace(GRID, shape=(1, 5, 7))),
    "odd pixels": (LINEAR, replace(GRID, shape=(2, 1, 1))),
    "thin and far": (
        LINEAR,
        VolumeGrid((2, 3, 4), (1e-3, 2e-3, 3e-3), (-1234.567890123, 1e4 / 3, 0)),
    ),
}


@pytest.mark.parametrize("subject", [{}, SUBJECT], ids=["nobody", "somebody"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ct_series__does_pass_dciodvfy_and_dcentvfy_beside_its_projections(
    variant: str, subject: dict[str, Any], peer: Callable[[str], str], tmp_path: Path
) -> None:
    values, grid = VARIANTS[variant]
    encoded, scan = projections(subject)
    slices = list(series(scan, values, grid).encode_slab(slab_of(grid), 0))
    files = in_files(tmp_path, slices + [one.data for one in encoded])
    for file in files[: len(slices)]:
        told = told_by(peer("dciodvfy"), file)
        assert "Error" not in told, told
        assert "CTImage" in told
    told = told_by(peer("dcentvfy"), *files)
    assert "Error" not in told, told


def test_ct_series__does_open_in_dcmdump(peer: Callable[[str], str], tmp_path: Path) -> None:
    _, scan = projections()
    files = in_files(tmp_path, list(series(scan).encode_slab(slab_of(GRID), 0)))
    told = told_by(peer("dcmdump"), files[2])
    assert "(0008,0016) UI =CTImageStorage" in told
    assert "(0020,0013) IS [3]" in told
    assert not [line for line in told.splitlines() if line.startswith(("E:", "W:", "F:"))]


def test_ct_series__does_come_from_a_parallel_beam_and_index_as_ct() -> None:
    geometry = ParallelBeamGeometry(np.linspace(0, 3, 9), FlatPanel(2, 5, 1.0, 1.0))
    encoded = list(encode_scan(described(geometry), Memory(np.ones((1, 9, 2, 5)))))
    scan = scan_from_headers(rows_of(encoded))
    grid = replace(GRID, shape=(2, 3, 4))
    for data in series(scan, grid=grid).encode_slab(slab_of(grid), 0):
        row = index_instance(data).row
        assert row["modality"] == "CT"
        assert row["study_instance_uid"] == opened(encoded[0].data).StudyInstanceUID
