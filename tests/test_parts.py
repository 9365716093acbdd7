"""Enhanced multi-frame images as volumes, and series that hold several."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from pacspark.errors import DicomDecodeError, UsageError
from pacspark.parts import read_parts
from pacspark.volume import Volume
from tests.ct_objects import SERIES_UID, archive_of, ct_image, encoded, enhanced_ct, steps
from tests.test_volume import CountingCatalog

SHUFFLED = [3, 0, 4, 1, 2]
OBLIQUE = (0.8, 0.6, 0, -0.6, 0.8, 0)


def shuffled_ct(**more: Any) -> pydicom.Dataset:
    """`steps` as one enhanced object, whose frames are in another order than z."""
    return enhanced_ct(
        [steps(5, 32, 32)[z] for z in SHUFFLED], [(-1, -2, 7 + 3 * z) for z in SHUFFLED], **more
    )


def test_enhanced_ct__is_a_volume(tmp_path: Path) -> None:
    catalog = CountingCatalog(archive_of(tmp_path, [encoded(shuffled_ct())]).storage)
    volume = Volume(catalog, SERIES_UID)
    assert volume.shape == (5, 32, 32)
    assert volume.voxel_mm == (3.0, 0.5, 0.25)
    assert (volume.unit, volume.notes) == ("HU", ())
    assert volume.voxel_type == np.float32
    np.testing.assert_array_equal(volume.to_numpy(), steps(5, 32, 32) * 2.0 - 1000)
    np.testing.assert_allclose(volume.affine_lps_mm @ [5, 3, 4, 1], [0.25, -0.5, 19, 1])
    catalog.bytes_read = 0
    volume.slice(z=2)
    assert catalog.bytes_read == 32 * 32 * 2  # of the object, one frame


def test_frames__have_their_own_rescale_and_orientation(tmp_path: Path) -> None:
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    image = enhanced_ct(
        list(steps()),
        [(z * 2.0 * normal).tolist() for z in range(5)],
        orientation=OBLIQUE,
        intercepts=[10 * z for z in range(5)],
    )
    volume = Volume(archive_of(tmp_path, [encoded(image)]), SERIES_UID)
    expected = steps() * 2.0 + 10 * np.arange(5)[:, None, None]
    np.testing.assert_array_equal(volume.to_numpy(), expected)
    np.testing.assert_allclose(volume.affine_lps_mm[:3, 0], 0.25 * np.array(OBLIQUE[:3]))


@pytest.mark.parametrize(
    "syntax", [JPEG2000Lossless, RLELossless, DeflatedExplicitVRLittleEndian], ids=lambda s: s.name
)
def test_compressed_frames__are_decoded_one_by_one(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    image = shuffled_ct()
    if syntax.is_encapsulated:
        image.compress(syntax, generate_instance_uid=False)
    else:
        image.file_meta.TransferSyntaxUID = syntax
    catalog = CountingCatalog(archive_of(tmp_path, [encoded(image)]).storage)
    volume = Volume(catalog, SERIES_UID)
    np.testing.assert_array_equal(volume.to_numpy(), steps(5, 32, 32) * 2.0 - 1000)
    catalog.bytes_read = 0
    volume.slice(z=1)
    size = catalog.instance(f"{SERIES_UID}.1")["size_bytes"]
    assert (catalog.bytes_read < size / 2) == syntax.is_encapsulated


def test_time_points__are_parts(tmp_path: Path) -> None:
    frames = [steps()[z] + 1000 * t for z in range(5) for t in range(3)]
    positions = [(0, 0, 2.0 * z) for z in range(5) for _ in range(3)]
    image = enhanced_ct(frames, positions, times=[3 - t for _ in range(5) for t in range(3)])
    catalog = archive_of(tmp_path, [encoded(image)])
    with pytest.raises(UsageError, match=r"10 more at the place of another; choose a part .* of 0"):
        Volume(catalog, SERIES_UID)
    assert [part.name for part in read_parts(catalog, SERIES_UID)] == [
        f"temporal_position_index {n}" for n in (1, 2, 3)
    ]
    for part, t in ((0, 2), (1, 1), (2, 0)):
        values = Volume(catalog, SERIES_UID, part).to_numpy()
        np.testing.assert_array_equal(values, (steps() + 1000 * t) * 2.0 - 1000)
    for part in (3, -1):
        with pytest.raises(UsageError, match=f"part that is there, found {part}"):
            Volume(catalog, SERIES_UID, part)


def test_single_images__are_told_apart_too(tmp_path: Path) -> None:
    echoes = [
        ct_image(steps()[z] + 500 * e, 2 * z + e, (0, 0, z), EchoTime=[30.0, 5.5][e], Modality="MR")
        for z in range(3)
        for e in range(2)
    ]
    catalog = archive_of(tmp_path / "echoes", map(encoded, echoes))
    parts = read_parts(catalog, SERIES_UID)
    assert [part.name for part in parts] == ["echo_time 5.5", "echo_time 30"]
    np.testing.assert_array_equal(
        Volume(catalog, SERIES_UID, 0).to_numpy(), (steps()[:3] + 500) * 2.0 - 1000
    )


def test_images_that_nothing_tells_apart__are_taken_by_their_numbers(tmp_path: Path) -> None:
    images = [
        ct_image(steps()[z] + 500 * t, 10 * t + z, (0, 0, z)) for t in (1, 0) for z in range(3)
    ]
    catalog = archive_of(tmp_path, map(encoded, images))
    np.testing.assert_array_equal(
        Volume(catalog, SERIES_UID, 1).to_numpy(), (steps()[:3] + 500) * 2.0 - 1000
    )


def test_a_localizer__is_a_part_of_its_own(tmp_path: Path) -> None:
    images = [ct_image(steps()[z], z, (0, 0, z)) for z in range(3)]
    images.append(ct_image(steps()[0], 9, (0, 0, 0), orientation=(1, 0, 0, 0, 0, -1)))
    catalog = archive_of(tmp_path, map(encoded, images))
    with pytest.raises(UsageError, match=r"one ImageOrientationPatient, found 2; choose .* A to P"):
        Volume(catalog, SERIES_UID)
    assert [Volume(catalog, SERIES_UID, n).shape[0] for n in (0, 1)] == [3, 1]


def test_an_extra_image_at_a_place__is_refused(tmp_path: Path) -> None:
    images = [ct_image(steps()[z], n, (0, 0, z)) for n, z in enumerate((0, 1, 2, 1))]
    with pytest.raises(UsageError, match="1 more at the place of another"):
        Volume(archive_of(tmp_path, map(encoded, images)), SERIES_UID)


def test_groups_for_other_frames__are_one_line(tmp_path: Path) -> None:
    image = shuffled_ct()
    del image.PerFrameFunctionalGroupsSequence[-1]
    with pytest.raises(DicomDecodeError, match="expected 5 items as NumberOfFrames says, found 4"):
        Volume(archive_of(tmp_path, [encoded(image)]), SERIES_UID)


@pytest.mark.parametrize(
    ("bits", "signed", "slope", "intercept", "expected"),
    [
        (12, 0, 1, -1024, np.int16),
        (16, 1, 1, 0, np.int16),
        (16, 0, 1, 0, np.uint16),
        (16, 0, 1, -1024, np.float32),
        (12, 0, 0.5, 0, np.float32),
        (12, 0, 10, 0, np.uint16),
        (8, 0, -1, 0, np.int16),
    ],
)
def test_whole_numbers__stay_so_where_they_fit(
    tmp_path: Path, bits: int, signed: int, slope: float, intercept: float, expected: Any
) -> None:
    image = ct_image(
        steps()[0],
        1,
        (0, 0, 0),
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=signed,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
    )
    volume = Volume(archive_of(tmp_path, [encoded(image)]), SERIES_UID)
    assert volume.voxel_type == expected
    rows = volume.rows(0, 1, 3)
    assert rows.dtype == expected
    stored = steps()[0, 1:3].astype(np.int32)
    np.testing.assert_array_equal(rows, stored * slope + intercept)


def stored_objects(folder: Path, pattern: str) -> tuple[list[Path], str]:
    paths = sorted(folder.glob(pattern))
    return paths, pydicom.dcmread(paths[0], stop_before_pixels=True).SeriesInstanceUID


def frame_values(image: pydicom.Dataset, frame: int) -> np.ndarray[Any, Any]:
    shared = image.SharedFunctionalGroupsSequence[0]
    groups = image.PerFrameFunctionalGroupsSequence[frame]
    transform = next(
        item.PixelValueTransformationSequence[0]
        for item in (groups, shared)
        if "PixelValueTransformationSequence" in item
    )
    slope, intercept = float(transform.RescaleSlope), float(transform.RescaleIntercept)
    return np.asarray(pixel_array(image, index=frame, raw=True) * slope + intercept)


@pytest.mark.parametrize(
    "name",
    [
        "pydicom-data/data_store/data/eCT_Supplemental.dcm",
        "dcmqi/data/segmentations/23x38x3/multiframe/mf.dcm",
        "dcmqi/data/segmentations/24x38x3/multiframe/mf.dcm",
    ],
)
def test_public_enhanced_images__lie_as_their_frames_say(
    tmp_path: Path, shared_data: Path, name: str
) -> None:
    path = shared_data / "dicom" / name
    image = pydicom.dcmread(path)
    volume = Volume(archive_of(tmp_path, [path.read_bytes()]), image.SeriesInstanceUID)
    assert volume.shape == (image.NumberOfFrames, image.Rows, image.Columns)
    places = [
        np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        for groups in image.PerFrameFunctionalGroupsSequence
    ]
    order = np.argsort([place @ volume.axes_lps[2] for place in places])
    for z, frame in enumerate(order):
        np.testing.assert_allclose(volume[z], frame_values(image, frame), rtol=1e-6)
        np.testing.assert_allclose(
            volume.affine_lps_mm @ [0, 0, z, 1], [*places[frame], 1], atol=1e-3
        )


def test_public_time_series__has_its_four_volumes(tmp_path: Path, shared_data: Path) -> None:
    paths, series_uid = stored_objects(shared_data / "dicom" / "dcm_qa_enh", "In/Siemens/XA10/*")
    catalog = archive_of(tmp_path, [path.read_bytes() for path in paths])
    assert len(read_parts(catalog, series_uid)) == 4
    for part, path in enumerate(paths):
        volume = Volume(catalog, series_uid, part)
        image = pydicom.dcmread(path)
        np.testing.assert_allclose(volume[5], frame_values(image, 5), rtol=1e-6)


def test_public_float_map__is_read_as_floats(tmp_path: Path, shared_data: Path) -> None:
    for name in ("parametric_map_float.dcm", "parametric_map_double_float.dcm"):
        path = shared_data / "dicom" / "pydicom-data" / "data_store" / "data" / name
        image = pydicom.dcmread(path)
        catalog = archive_of(tmp_path / name, [path.read_bytes()])
        volume = Volume(catalog, image.SeriesInstanceUID)
        np.testing.assert_allclose(volume[0], image.pixel_array.astype(np.float32))
