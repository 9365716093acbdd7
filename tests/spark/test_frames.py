"""Frames as a DataFrame, against what pydicom decodes of the same objects."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

import pacspark
from pacspark import attribute
from pacspark.archive import Archive, create_archive
from pacspark.errors import QueryError, UsageError
from pacspark.progress import SILENT
from pacspark.spark import frames as frames_module
from pacspark.tables import framing
from pacspark.tables.catalog import Catalog
from tests.ct_objects import archive_of, ct_image, encoded

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DRAW = np.random.default_rng(3)
N_FRAMES = 5


def grey(number: int, **more: Any) -> Dataset:
    """A multi-frame image of noise."""
    pixels = DRAW.integers(-1000, 1000, (6, 4)).astype(np.int16)
    image = ct_image(pixels, number, (0, 0, number), **more)
    frames = int(more.get("NumberOfFrames", 1))
    image.PixelData = DRAW.integers(-1000, 1000, (frames, 6, 4)).astype(np.int16).tobytes()
    return image


def colours(number: int, planar: int) -> Dataset:
    image = ct_image(np.zeros((6, 4), np.uint8), number, (0, 0, 0), NumberOfFrames=2)
    image.SamplesPerPixel, image.PhotometricInterpretation = 3, "RGB"
    image.PlanarConfiguration = planar
    image.PixelData = DRAW.integers(0, 255, 2 * 6 * 4 * 3).astype(np.uint8).tobytes()
    return image


def groups(**attributes: Any) -> Dataset:
    """Give functional groups: a sequence of one item for each keyword."""
    dataset = Dataset()
    for sequence, content in attributes.items():
        item = Dataset()
        for keyword, value in content.items():
            setattr(item, keyword, value)
        setattr(dataset, sequence, [item])
    return dataset


def enhanced(number: int) -> Dataset:
    image = grey(number, NumberOfFrames=3)
    for keyword in ("PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(image, keyword)
    spacing = {"PixelMeasuresSequence": {"PixelSpacing": [0.5, 0.75]}}
    image.SharedFunctionalGroupsSequence = [groups(**spacing)]
    slopes = [{"RescaleSlope": slope, "RescaleIntercept": -slope} for slope in (1, 2, 3)]
    image.PerFrameFunctionalGroupsSequence = [
        groups(PixelValueTransformationSequence=slope) for slope in slopes
    ]
    return image


def images() -> dict[str, Dataset]:
    rle = grey(4, NumberOfFrames=N_FRAMES)
    rle.compress(RLELossless, generate_instance_uid=False)
    fragmented = pydicom.dcmread(encoded_stream(rle))
    parts = list(pydicom.encaps.generate_frames(rle.PixelData, number_of_frames=N_FRAMES))
    fragmented.PixelData = encapsulate(parts, fragments_per_frame=2, has_bot=True)
    fragmented.SOPInstanceUID += ".1"
    fragmented.file_meta.MediaStorageSOPInstanceUID = fragmented.SOPInstanceUID
    broken = grey(6, NumberOfFrames=2)
    broken.file_meta.TransferSyntaxUID = JPEG2000Lossless
    broken.PixelData = encapsulate([b"no image at all!", b"neither is this!"])
    deflated = grey(7, NumberOfFrames=2)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bits = ct_image(np.zeros((6, 4), np.uint8), 8, (0, 0, 0), NumberOfFrames=3)
    bits.BitsAllocated = bits.BitsStored = 1
    bits.HighBit, bits.PixelRepresentation = 0, 0
    bits.PixelData = DRAW.bytes(10)
    return {
        "single": grey(1),
        "multi": grey(2, NumberOfFrames=N_FRAMES),
        "colours": colours(3, 0),
        "planes": colours(9, 1),
        "rle": rle,
        "fragmented": fragmented,
        "broken": broken,
        "deflated": deflated,
        "bits": bits,
        "enhanced": enhanced(10),
    }


def encoded_stream(image: Dataset) -> Any:
    import io

    return io.BytesIO(encoded(image))


@pytest.fixture(scope="module")
def stored() -> dict[str, Dataset]:
    return images()


@pytest.fixture(scope="module")
def archive(
    spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory, stored: dict[str, Dataset]
) -> Archive:
    folder = tmp_path_factory.mktemp("frames")
    for name, image in stored.items():
        (folder / f"{name}.dcm").write_bytes(encoded(image))
    archive = create_archive(folder / "archive", spark, SILENT)
    assert archive.ingest(folder).stored == len(stored)
    return archive


def expected_frames(image: Dataset) -> NDArray[Any]:
    read = pydicom.dcmread(encoded_stream(image))
    pixels = read.pixel_array
    return pixels if "NumberOfFrames" in read else pixels[np.newaxis]


def test_frames__are_those_that_pydicom_decodes(
    archive: Archive, stored: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_frames in (2, 4096):  # runs that cut objects, and such that hold them
        monkeypatch.setattr(frames_module, "RUN_FRAMES", run_frames)
        table = archive.frames(columns=["InstanceNumber", "rows", "ImageType[0]"])
        rows = table.collect()
        of = {name: [r for r in rows if r["sop_instance_uid"] == image.SOPInstanceUID]
              for name, image in stored.items()}  # fmt: skip
        broken = of.pop("broken")
        assert len(rows) == sum(map(len, of.values())) + 2
        for name, found in of.items():
            found.sort(key=lambda row: row["frame_number"])
            expected = expected_frames(stored[name])
            assert [row["frame_number"] for row in found] == list(range(1, len(expected) + 1))
            assert [row["error"] for row in found] == [None] * len(expected), name
            arrays = np.stack([pacspark.frame_array(row) for row in found])
            np.testing.assert_array_equal(arrays, expected, name)
            assert arrays.dtype.byteorder in "<|="
            assert {row["rows"] for row in found} == {6}
            assert {row["InstanceNumber"] for row in found} == {stored[name].InstanceNumber}
        assert {row["error"] is not None and row["pixels"] is None for row in broken} == {True}
        assert {row["frame_number"] for row in broken} == {1, 2}
        with pytest.raises(UsageError, match=r"expected pixels, found none: .*JPEG"):
            pacspark.frame_array(broken[0])
        enhanced = of["enhanced"]
        assert [row["rescale_slope"] for row in enhanced] == [1, 2, 3]
        assert [row["spacing_mm"] for row in enhanced] == [[0.5, 0.75]] * 3
        (single,) = of["single"]
        assert (single["spacing_mm"], single["rescale_slope"]) == ([0.5, 0.25], 2.0)
        values = pacspark.frame_array(single, rescale=True)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected_frames(stored["single"])[0] * 2.0 - 1000)


def test_frames__compute_in_the_task(archive: Archive, stored: dict[str, Dataset]) -> None:
    image = stored["multi"]

    def statistics(frame: pacspark.Frame) -> dict[str, Any]:
        return {
            "mean": frame.values.mean(),
            "corner": frame.pixels[0],
            "number": frame.row["InstanceNumber"] if frame.number == 1 else None,
        }

    found = archive.frames(
        series=image.SeriesInstanceUID,
        where="InstanceNumber = 2 AND `ImageType[0]` IS NULL",
        columns=["InstanceNumber"],
        compute=statistics,
        returns="mean double, corner array<int>, number bigint",
    )
    assert "pixels" not in found.columns
    rows = found.orderBy("frame_number").collect()
    expected = expected_frames(image)
    np.testing.assert_allclose(
        [row["mean"] for row in rows], expected.mean((1, 2)) * 2.0 - 1000, rtol=1e-5
    )
    assert [row["corner"] for row in rows] == expected[:, 0].tolist()
    assert [row["number"] for row in rows] == [2, None, None, None, None]
    by_column = archive.frames(where=attribute("NumberOfFrames") == N_FRAMES)
    assert by_column.count() == 3 * N_FRAMES


def test_frames__refuse_what_contradicts_itself(archive: Archive) -> None:
    for asked, message in (
        ({"compute": len}, "expected compute and returns, or neither"),
        ({"columns": ["pixels"]}, "names that frames do not have, found pixels"),
        ({"series": "1.2*"}, "expected a UID"),
    ):
        with pytest.raises(UsageError, match=message):
            archive.frames(**asked)


def test_runs__can_be_cut_anywhere(archive: Archive) -> None:
    instances = archive.catalog.table("instances", framing.PIXEL_COLUMNS)
    rows = [row for row in instances.to_pylist() if row["frame_kind"] == "native"]
    catalog = Catalog(archive.catalog.storage)
    for row in rows:
        count = max(1, row["frame_count"])
        runs = list(framing.decode_run(catalog, row, 0, count))
        assert sum(run.count for run in runs) == count
        halves = [
            run
            for first in range(0, count, 2)
            for run in framing.decode_run(catalog, row, first, min(2, count - first))
        ]
        whole = np.concatenate([run.pixels for run in runs if run.pixels is not None])
        parts = np.concatenate([run.pixels for run in halves if run.pixels is not None])
        np.testing.assert_array_equal(whole, parts)


def test_runs__tell_of_broken_frames_one_by_one(tmp_path: Path) -> None:
    image = grey(1, NumberOfFrames=3)
    image.compress(RLELossless, generate_instance_uid=False)
    parts = list(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=3))
    image.PixelData = encapsulate([parts[0], b"broken", parts[2]])
    catalog = archive_of(tmp_path, [encoded(image)])
    (row,) = catalog.table("instances", framing.PIXEL_COLUMNS).to_pylist()
    runs = list(framing.decode_run(catalog, row, 0, 3))
    assert [(run.first, run.count, bool(run.error)) for run in runs] == [
        (0, 1, False),
        (1, 1, True),
        (2, 1, False),
    ]
    assert runs[2].pixels is not None
    np.testing.assert_array_equal(runs[2].pixels[0], pixel_array(image, index=2, raw=True))


def test_frame_array__takes_rows_of_pandas(archive: Archive) -> None:
    table = archive.frames(where="InstanceNumber = 1").toPandas()
    array = pacspark.frame_array(table.iloc[0])
    assert array.shape == (6, 4)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_frames__are_found_where_nothing_has_pixels(spark: "SparkSession", tmp_path: Path) -> None:
    archive = create_archive(tmp_path / "empty", spark, SILENT)
    assert archive.frames().count() == 0


@pytest.mark.parametrize(
    "condition",
    [
        "reflect('java.lang.System', 'getProperty', 'user.home') IS NOT NULL",
        "exists(SELECT 1 FROM text.`/etc/passwd`)",
        "IDENTIFIER('reflect')('java.lang.System', 'getenv', 'PATH') IS NOT NULL",
        "'${env:PATH}' LIKE '%bin%'",
        "Modality = ",
        "no_such_column = 1",
        "1 = 1 UNION SELECT 1 FROM runs",
    ],
)
def test_where__asks_of_instances_alone(archive: Archive, condition: str) -> None:
    with pytest.raises(QueryError) as error:
        archive.frames(where=condition)
    assert len(str(error.value).splitlines()) == 1
