"""Volumes in the formats of other fields, each read back by a library that did not write it."""

import io
import json
import signal
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import duckdb
import nibabel
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pydicom
import pytest
import tensorstore
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pacspark.cli import main
from pacspark.errors import StorageError, UsageError
from pacspark.export import export
from pacspark.export.ome_zarr import plan_levels
from pacspark.tables.catalog import Catalog
from pacspark.volume import Volume
from tests.ct_objects import (
    SERIES_UID,
    STUDY_UID,
    archive_of,
    ct_image,
    encoded,
    enhanced_ct,
    steps,
)
from tests.itk_images import read_with_itk

OBLIQUE = (0.8, 0.48, 0.36, -0.6, 0.64, 0.48)
VOLUMES = ("nifti", "zarr", "tiff", "parquet")


def noise_archive(
    root: Path, shape: tuple[int, int, int], dtype: Any = np.int16, **more: Any
) -> tuple[Catalog, NDArray[Any]]:
    """A series of random voxels, and the rescaled values that are expected of it."""
    info = np.iinfo(dtype)
    stored = np.random.default_rng(1).integers(0, info.max // 16, shape).astype(dtype)
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    images = [
        ct_image(
            pixels,
            z,
            (np.array([-5.0, 3.0, 11.0]) + z * 1.5 * normal).tolist(),
            orientation=OBLIQUE,
            **({"RescaleSlope": 1, "RescaleIntercept": -1024} | more),
        )
        for z, pixels in enumerate(stored)
    ]
    slope, intercept = images[0].RescaleSlope, images[0].RescaleIntercept
    return archive_of(root, map(encoded, images)), stored * float(slope) + float(intercept)


def tilted_archive(root: Path, dz_mm: float = 2.0, tilt_mm: float = 0.75) -> Catalog:
    """Slices of a ramp in the patient's L, P and S, on a tilted gantry."""
    images = []
    for z in range(6):
        y, x = np.indices((20, 16))
        position = np.array([3.0, -4.0 + z * tilt_mm, 9.0 + z * dz_mm])
        values = 10 * (3.0 + x * 0.25) + 20 * (position[1] + y * 0.5) + 30 * position[2]
        stored = np.rint(values * 10).astype(np.int16)
        images.append(ct_image(stored, z, position.tolist(), RescaleSlope=0.1, RescaleIntercept=0))
    return archive_of(root, map(encoded, images))


def read_zarr(path: Path, level: int) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path / str(level)}/"}}
    return np.asarray(tensorstore.open(spec).result().read().result())


@pytest.mark.parametrize("more", [{"BitsStored": 12, "HighBit": 11}, {"RescaleSlope": 0.25}])
def test_zarr__is_read_by_tensorstore_voxel_by_voxel(tmp_path: Path, more: dict[str, Any]) -> None:
    catalog, expected = noise_archive(tmp_path / "archive", (70, 150, 140), **more)
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "zarr")
    assert path.name == f"{SERIES_UID}.ome.zarr"
    values = read_zarr(path, 0)
    assert values.dtype == Volume(catalog, SERIES_UID).voxel_type
    np.testing.assert_array_equal(values, expected.astype(np.float32))
    coarse = read_zarr(path, 1)
    # dy 0.5, dx 0.25: x first
    pairs = expected.reshape(70, 150, 70, 2).mean(-1)
    np.testing.assert_allclose(coarse, pairs, atol=0.51 if values.dtype == np.int16 else 1e-3)


def test_zarr__says_where_it_lies_as_the_models_of_the_format_demand(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        from ome_zarr_models.v05.image import Image as Model
    import zarr

    catalog, _ = noise_archive(
        tmp_path / "archive", (70, 150, 140), WindowCenter=40, WindowWidth=400
    )
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "zarr")
    model: Any = Model.from_zarr(zarr.open_group(path, mode="r"))
    multiscale = model.ome_attributes.multiscales[0]
    assert [(axis.name, axis.type, axis.unit) for axis in multiscale.axes] == [
        (name, "space", "millimeter") for name in "zyx"
    ]
    channel = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["omero"][
        "channels"
    ][0]
    assert (channel["window"]["start"], channel["window"]["end"]) == (-160, 240)
    volume = Volume(catalog, SERIES_UID)
    for dataset in multiscale.datasets:
        scale, translation = (
            np.array(getattr(transform, transform.type))
            for transform in dataset.coordinateTransformations
        )
        shape = np.array(read_zarr(path, int(dataset.path)).shape)
        np.testing.assert_array_equal(np.ceil(volume.shape / (scale / volume.voxel_mm)), shape)
        # the outer edge of the first voxel is that of the first voxel of the volume
        edge = translation - scale / 2 + np.array(volume.voxel_mm) / 2
        lps = volume.axes_lps.T @ edge[::-1]
        np.testing.assert_allclose(lps, volume.affine_lps_mm[:3, 3], atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "voxel_mm", "levels"),
    [
        ((5, 4, 6), (1, 1, 1), 1),
        ((1, 4096, 4096), (1, 1, 1), 6),
        ((512, 512, 512), (0.1, 0.1, 0.1), 3),
        ((1, 129, 1), (5, 0.1, 0.1), 2),
    ],
)
def test_levels__end_where_all_axes_are_short(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], levels: int
) -> None:
    assert len(plan_levels(shape, voxel_mm)) == levels


@pytest.mark.parametrize("more", [{"BitsStored": 12, "HighBit": 11}, {"RescaleSlope": 0.25}])
def test_tiff__is_read_by_pillow_and_itk(tmp_path: Path, more: dict[str, Any]) -> None:
    catalog, expected = noise_archive(tmp_path / "archive", (5, 40, 30), **more)
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "tiff")
    with Image.open(path) as pages:
        assert pages.n_frames == 5  # type: ignore[attr-defined]
        dpi = pages.info["dpi"]
        assert dpi == pytest.approx((25.4 / 0.25, 25.4 / 0.5), rel=1e-4)
        for z in range(5):
            pages.seek(z)
            np.testing.assert_array_equal(np.asarray(pages), expected[z].astype(np.float32))
    np.testing.assert_array_equal(read_with_itk(path).values, expected.astype(np.float32))


def test_tiff__says_the_size_of_its_voxels(tmp_path: Path) -> None:
    import xml.etree.ElementTree as ET

    catalog, _ = noise_archive(tmp_path / "archive", (5, 40, 30))
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "tiff")
    with Image.open(path) as pages:
        text = pages.tag_v2[270]  # type: ignore[attr-defined]
    pixels = next(node for node in ET.fromstring(text).iter() if node.tag.endswith("}Pixels"))
    sizes = [pixels.attrib[f"PhysicalSize{axis}"] for axis in "ZYX"]
    assert list(map(float, sizes)) == pytest.approx([1.5, 0.5, 0.25])
    assert {pixels.attrib[f"PhysicalSize{axis}Unit"] for axis in "ZYX"} == {"mm"}
    planes = [node for node in pixels if node.tag.endswith("}Plane")]
    places = [float(node.attrib["PositionZ"]) for node in planes]
    np.testing.assert_allclose(places, Volume(catalog, SERIES_UID).z_mm)


def test_parquet__has_a_row_for_each_slice(tmp_path: Path) -> None:
    catalog = tilted_archive(tmp_path / "archive")
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "parquet")
    volume = Volume(catalog, SERIES_UID)
    table = pq.read_table(path)
    for z, row in enumerate(table.to_pylist()):
        pixels = np.frombuffer(row["pixels"], f"<{np.dtype(row['voxel_type']).str[1:]}")
        np.testing.assert_array_equal(pixels.reshape(row["rows"], row["columns"]), volume[z])
        assert row["z"] == z
        assert row["position_lps_mm"] == volume.images[z]["image_position_patient"]
        assert (row["row_spacing_mm"], row["column_spacing_mm"]) == (0.5, 0.25)
        assert row["sop_instance_uid"] == f"{SERIES_UID}.{z}"
    assert table.num_rows == 6


def test_parquet__is_read_by_duckdb_polars_and_pandas(tmp_path: Path) -> None:
    catalog = tilted_archive(tmp_path / "archive")
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "parquet")
    volume = Volume(catalog, SERIES_UID)
    query = "SELECT z, position_lps_mm[3], pixels FROM read_parquet(?) WHERE z >= 4 ORDER BY z"
    by_duckdb = duckdb.execute(query, [str(path)]).fetchall()
    frame = pl.scan_parquet(path).filter(pl.col("z") >= 4).sort("z").collect()
    by_polars = frame.select("z", pl.col("position_lps_mm").list.get(2), "pixels").rows()
    table = pd.read_parquet(path).query("z >= 4").sort_values("z")
    heights = [position[2] for position in table["position_lps_mm"]]
    by_pandas = list(zip(table["z"], heights, table["pixels"], strict=True))
    assert by_duckdb == by_polars == by_pandas
    assert [row[0] for row in by_duckdb] == [4, 5]
    for z, height_mm, pixels in by_duckdb:
        assert height_mm == volume.images[z]["image_position_patient"][2]
        np.testing.assert_array_equal(np.frombuffer(pixels, volume[z].dtype), volume[z].ravel())


def test_parquet__is_read_by_spark(tmp_path: Path, spark: Any) -> None:
    frames = [steps()[z] + 1000 * t for z in range(5) for t in range(2)]
    positions = [(0, 0, 2.0 * z) for z in range(5) for _ in range(2)]
    image = enhanced_ct(frames, positions, times=[t for _ in range(5) for t in range(2)])
    catalog = archive_of(tmp_path / "archive", [encoded(image)])
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "parquet")
    rows = spark.read.parquet(str(path)).where("part = 1 AND z_mm >= 6").orderBy("z").collect()
    assert [row["frame"] for row in rows] == [7, 9]
    values = np.frombuffer(rows[1]["pixels"], np.float32).reshape(4, 6)
    np.testing.assert_array_equal(values, (steps()[4] + 1000) * 2.0 - 1000)


def test_nifti_of_time_points__has_four_axes(tmp_path: Path) -> None:
    frames = [steps()[z] + 1000 * t for z in range(5) for t in range(3)]
    positions = [(0, 0, 2.0 * z) for z in range(5) for _ in range(3)]
    image = enhanced_ct(frames, positions, times=[t for _ in range(5) for t in range(3)])
    catalog = archive_of(tmp_path / "archive", [encoded(image)])
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "nifti")
    values = nibabel.load(path).get_fdata()  # type: ignore[attr-defined]
    assert values.shape == (6, 4, 5, 3)
    for t in range(3):
        expected = (steps() + 1000 * t) * 2.0 - 1000
        np.testing.assert_array_equal(values[..., t].transpose(2, 1, 0), expected)
    (one,) = export(catalog, tmp_path / "one", "series", SERIES_UID, "nifti", part=1)
    np.testing.assert_array_equal(nibabel.load(one).get_fdata(), values[..., 1])  # type: ignore[attr-defined]
    for file_format in ("zarr", "tiff"):
        with pytest.raises(UsageError, match="choose a part"):
            export(catalog, tmp_path / "out", "series", SERIES_UID, file_format)


def test_public_time_series__is_read_by_itk(tmp_path: Path, shared_data: Path) -> None:
    paths = sorted((shared_data / "dicom" / "dcm_qa_enh").glob("In/Siemens/XA10/*.dcm"))
    images = [pydicom.dcmread(path) for path in paths]
    catalog = archive_of(tmp_path / "archive", [path.read_bytes() for path in paths])
    (path,) = export(catalog, tmp_path / "out", "series", images[0].SeriesInstanceUID, "nifti")
    found = read_with_itk(path)
    assert found.values.shape == (4, 6, 64, 64)
    for t, dicom in enumerate(images):
        np.testing.assert_array_equal(found.values[t], dicom.pixel_array)
    groups = images[0].PerFrameFunctionalGroupsSequence
    for z in (0, 5):
        place = groups[z].PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(found.affine_lps_mm @ [0, 0, z, 1], [*place, 1], atol=1e-3)


@pytest.mark.parametrize("file_format", ["nifti", "zarr", "tiff"])
def test_tilted_slices__are_refused_with_the_way_out(tmp_path: Path, file_format: str) -> None:
    catalog = tilted_archive(tmp_path / "archive")
    with pytest.raises(UsageError, match=r"found tilted by 20.6° \(--resample") as caught:
        export(catalog, tmp_path / "out", "series", SERIES_UID, file_format)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("places", [(0, 1, 2, 3, 4, 5), (0, 1, 3, 4, 5)], ids=["tilt", "gap too"])
def test_resampled_slices__have_the_values_of_their_place(
    tmp_path: Path, places: tuple[int, ...]
) -> None:
    catalog = tilted_archive(tmp_path / "whole")
    objects = [catalog.read_object(catalog.instance(f"{SERIES_UID}.{z}")) for z in places]
    catalog = archive_of(tmp_path / "archive", objects)
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "nifti", resample=True)
    image: Any = nibabel.load(path)
    values = image.get_fdata()
    assert values.shape == (16, 20 + 8, 6)  # 5 x 0.75 mm of tilt are 7.5 rows
    np.testing.assert_allclose(image.header.get_zooms(), (0.25, 0.5, 2.0), rtol=1e-6)
    inside = 0
    for index in np.ndindex(*values.shape):
        right, front, head = (image.affine @ [*index, 1])[:3]
        first_row = 4.0 - 0.75 * (head - 9.0) / 2.0  # of a slice at this height
        beside_gap = len(places) == 6 or abs(head - 13.0) > 0.1
        if first_row - 19 * 0.5 <= front <= first_row and beside_gap:
            expected = -10 * right - 20 * front + 30 * head
            assert values[index] == pytest.approx(expected, abs=0.2)
            inside += 1
    assert inside > 16 * len(places) * 18


@pytest.mark.parametrize("file_format", VOLUMES)
def test_again__is_the_same_and_never_another(tmp_path: Path, file_format: str) -> None:
    catalog, _ = noise_archive(tmp_path / "archive", (3, 140, 30))
    target = tmp_path / "out"
    (path,) = export(catalog, target, "series", SERIES_UID, file_format)
    file = path / "zarr.json" if path.is_dir() else path
    changed = file.stat().st_mtime_ns
    assert export(catalog, target, "series", SERIES_UID, file_format) == [path]
    assert file.stat().st_mtime_ns == changed
    for other in (file.read_bytes()[:-20], b""):
        file.write_bytes(other)
        with pytest.raises(UsageError, match="something else"):
            export(catalog, target, "series", SERIES_UID, file_format)
        assert file.read_bytes() == other
    assert list(target.iterdir()) == [path]


class FailingCatalog(Catalog):
    """Fails to read after some bytes."""

    error: Callable[[], Exception]
    reads = 0

    def read_range(self, row: Any, start: int, length: int) -> bytes:
        self.reads += 1
        if self.reads > 3:
            raise self.error()
        return super().read_range(row, start, length)


@pytest.mark.parametrize("file_format", VOLUMES)
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (lambda: OSError(28, "No space left on device"), "cannot write: No space left on device"),
        (lambda: StorageError("objects: gone"), "objects: gone"),
        (KeyboardInterrupt, "^$"),
    ],
    ids=["full", "gone", "Ctrl-C"],
)
def test_a_failure__leaves_nothing(
    tmp_path: Path, file_format: str, error: Callable[[], Exception], told: str
) -> None:
    catalog, _ = noise_archive(tmp_path / "archive", (6, 40, 30))
    failing = FailingCatalog(catalog.storage)
    failing.error = error
    with pytest.raises((StorageError, KeyboardInterrupt), match=told):
        export(failing, tmp_path / "out", "series", SERIES_UID, file_format)
    assert list((tmp_path / "out").iterdir()) == []


def test_tiff__is_read_whatever_a_device_wrote_as_description(tmp_path: Path) -> None:
    image = ct_image(steps()[0], 1, (0, 0, 0), SeriesDescription="a\x1b<b>&\x01")
    catalog = archive_of(tmp_path / "archive", [encoded(image)])
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, "tiff")
    with tifffile.TiffFile(path) as file:
        name = ET.fromstring(file.ome_metadata or "").find("{*}Image")
        assert name is not None
        assert name.get("Name") == "a\ufffd<b>&\ufffd"
        assert file.series[0].axes == "YX"


def test_zarr__says_of_which_finite_values_it_is(tmp_path: Path, shared_data: Path) -> None:
    name = "dicom/pydicom-data/data_store/data/parametric_map_float.dcm"
    image = pydicom.dcmread(shared_data / name)
    values = np.array(image.pixel_array)
    values.flat[:2] = np.nan, -np.inf
    image.FloatPixelData = values.astype("<f4").tobytes()
    catalog = archive_of(tmp_path / "archive", [encoded(image)])
    (path,) = export(catalog, tmp_path / "out", "series", image.SeriesInstanceUID, "zarr")
    (channel,) = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["omero"][
        "channels"
    ]
    finite = values[np.isfinite(values)]
    assert (channel["window"]["min"], channel["window"]["max"]) == (finite.min(), finite.max())
    np.testing.assert_array_equal(read_zarr(path, 0).ravel(), values.ravel())


def test_colour__is_one_line(tmp_path: Path, shared_data: Path) -> None:
    data = (shared_data / "dicom/pydicom-data/data_store/data/SC_rgb.dcm").read_bytes()
    image = pydicom.dcmread(io.BytesIO(data))
    catalog = archive_of(tmp_path / "archive", [data])
    for file_format in VOLUMES:
        with pytest.raises(UsageError, match=r"found RGB .*; colour is exported as dicom"):
            export(catalog, tmp_path / "out", "series", image.SeriesInstanceUID, file_format)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"file_format": "nifti", "dicomdir": True}, "dicomdir: expected the format dicom"),
        ({"file_format": "dicom", "part": 0}, "dicom: expected no part"),
        ({"file_format": "dicom", "resample": True}, "dicom: expected no part and no resampling"),
        ({"file_format": "parquet", "resample": True}, "parquet: expected no resampling"),
        ({"file_format": "tiff", "part": 2}, "expected part 0, the only one, found 2"),
    ],
)
def test_options_that_do_not_go_together__are_refused(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    catalog, _ = noise_archive(tmp_path / "archive", (2, 10, 10))
    with pytest.raises(UsageError, match=told):
        export(catalog, tmp_path / "out", "series", SERIES_UID, **options)
    assert not (tmp_path / "out").exists()


def test_a_study__has_a_file_for_each_volume(tmp_path: Path) -> None:
    slices = [encoded(ct_image(steps()[z], z, (0, 0, z))) for z in range(3)]
    others = [
        encoded(ct_image(steps()[z], z, (0, 0, z), series_uid=f"{STUDY_UID}.2")) for z in range(2)
    ]
    catalog = archive_of(tmp_path / "archive", [*slices, *others])
    for file_format, suffix in (
        ("tiff", ".ome.tif"),
        ("zarr", ".ome.zarr"),
        ("parquet", ".parquet"),
    ):
        paths = export(catalog, tmp_path / file_format, "study", STUDY_UID, file_format)
        assert {path.name for path in paths} == {f"{SERIES_UID}{suffix}", f"{STUDY_UID}.2{suffix}"}
        assert all(path.exists() for path in paths)


@pytest.mark.parametrize("file_format", ["nifti", "tiff"])
def test_memory__is_that_of_slices_not_of_the_volume(tmp_path: Path, file_format: str) -> None:
    image = enhanced_ct([np.ones((256, 256), np.int16)] * 120, [(0, 0, z) for z in range(120)])
    catalog = archive_of(tmp_path / "archive", [encoded(image)])
    export(catalog, tmp_path / "first", "series", SERIES_UID, file_format)  # imports
    tracemalloc.start()
    try:
        export(catalog, tmp_path / "out", "series", SERIES_UID, file_format)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 120 * 256 * 256 * 4 / 4  # of the volume, which is float32


LIMITED = """
import resource, sys
from pacspark.cli import main
root, out, uid, *formats = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
for name in formats:
    print(name, main(["export", root, f"{out}/{name}", "--series", uid, "--format", name]))
"""


def test_a_disk_that_takes_no_more__is_one_line_each(tmp_path: Path) -> None:
    noise_archive(tmp_path / "archive", (3, 200, 200))
    formats = ("dicom", *VOLUMES)
    words = [tmp_path / "archive", tmp_path / "out", SERIES_UID, *formats]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [word for name in formats for word in (name, "1")]
    told = [line for line in done.stderr.splitlines() if not line.startswith("export: ")]
    assert len(told) == len(formats), done.stderr
    for line in told:
        assert line.startswith("StorageError: ")
        assert "File too large" in line or "requested and" in line  # NumPy's words
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


KILLED = """
import os, signal, sys
from pathlib import Path
from pacspark.export import export
from pacspark.tables.catalog import Catalog
from pacspark.tables.storage import open_storage

class Dying(Catalog):
    reads = 0
    def read_range(self, *where):
        Dying.reads += 1
        if Dying.reads > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_range(*where)

root, out, uid, name = sys.argv[1:]
export(Dying(open_storage(root)), Path(out), "series", uid, name)
"""


@pytest.mark.parametrize("file_format", VOLUMES)
def test_a_killed_export__has_no_name_and_is_made_again(tmp_path: Path, file_format: str) -> None:
    catalog, _ = noise_archive(tmp_path / "archive", (6, 40, 30))
    words = [tmp_path / "archive", tmp_path / "out", SERIES_UID, file_format]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = list((tmp_path / "out").iterdir())
    assert all(path.name.startswith(".") and path.suffix == ".part" for path in left)
    (path,) = export(catalog, tmp_path / "out", "series", SERIES_UID, file_format)
    assert path.exists()


def test_command__lists_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise_archive(tmp_path / "archive", (3, 10, 10))
    words = ["export", str(tmp_path / "archive"), str(tmp_path / "out"), "--series", SERIES_UID]
    for more, count in ((["--format", "tiff"], 1), (["--dicomdir"], 4)):
        assert main([*words, *more, "--json"]) == 0
        printed = capsys.readouterr()
        files = json.loads(printed.out.splitlines()[-1])
        assert len(files) == count
        assert all(Path(file).exists() for file in files)
        assert "export: 0 of 3" in printed.err
    assert main(["export", words[1], "s3://bucket/out", "--series", SERIES_UID]) == 2
    assert "a folder on this machine, found 's3://bucket/out'" in capsys.readouterr().err
    assert main([*words, "--format", "zarr", "--part", "1"]) == 2
    assert "expected part 0, the only one, found 1" in capsys.readouterr().err
