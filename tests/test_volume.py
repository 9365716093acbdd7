"""A CT series as a volume: every voxel at its place, nothing read that was not asked for."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000Lossless, RLELossless

from pacspark.dicom import codecs
from pacspark.dicom.pixels import native_pixels
from pacspark.errors import DicomDecodeError, SeriesNotFoundError, UsageError
from pacspark.pictures import Window
from pacspark.stack import patient_letters
from pacspark.tables.catalog import Catalog
from pacspark.volume import Volume
from tests.ct_objects import (
    SERIES_UID,
    archive_of,
    ct_image,
    encoded,
    steps,
    steps_archive,
)

SHARED = Path(__file__).parents[2] / "shared" / "data" / "dicom"
HEADS = SHARED / "dcm_qa_ct-philips-S21570-S2010" / "In" / "Philips"
SYNTAXES = SHARED / "cornerstone-transfer-syntaxes" / "testImages"


class CountingCatalog(Catalog):
    """Counts the bytes of pixels that are read."""

    bytes_read = 0

    def read_range(self, row: Mapping[str, Any], start: int, length: int) -> bytes:
        self.bytes_read += length
        return super().read_range(row, start, length)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return steps_archive(tmp_path)


def test_volume__has_every_voxel_at_its_place(catalog: Catalog) -> None:
    volume = Volume(catalog, SERIES_UID)
    expected = steps() * 2.0 - 1000.0
    assert volume.shape == (5, 4, 6)
    assert volume.voxel_mm == (3.0, 0.5, 0.25)
    assert volume.unit == "HU"
    assert volume.notes == ()
    assert volume.z_mm.tolist() == [7.0, 10.0, 13.0, 16.0, 19.0]
    values = volume.to_numpy()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(volume.to_numpy(1, 3), expected[1:3])


def test_affine__gives_the_position_of_a_voxel(catalog: Catalog) -> None:
    affine = Volume(catalog, SERIES_UID).affine_lps_mm
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [-1, -2, 7, 1])
    np.testing.assert_allclose(affine @ [5, 3, 4, 1], [-1 + 5 * 0.25, -2 + 3 * 0.5, 19, 1])


@pytest.mark.parametrize(("axis", "index"), [("z", 2), ("y", 3), ("x", 0), ("z", -1), ("x", -6)])
def test_slice__is_the_plane_of_the_volume(catalog: Catalog, axis: str, index: int) -> None:
    volume = Volume(catalog, SERIES_UID)
    plane = volume.slice(**{axis: index})  # type: ignore[arg-type]
    expected = np.take(volume.to_numpy(), index, axis="zyx".index(axis))
    np.testing.assert_array_equal(plane.to_numpy(), expected)
    spacings = dict(zip("zyx", volume.voxel_mm, strict=True))
    assert plane.pixel_mm == tuple(spacings[other] for other in "zyx" if other != axis)


@pytest.mark.parametrize("index", [2, -1, np.int64(1), slice(1, 3), slice(None, None, -2), [0, 3]])
def test_volume__is_indexed_as_an_array(catalog: Catalog, index: Any) -> None:
    volume = Volume(catalog, SERIES_UID)
    np.testing.assert_array_equal(volume[index], volume.to_numpy()[index])
    np.testing.assert_array_equal(volume[2], volume.slice(2).to_numpy())


def test_volume__is_an_array_to_numpy(catalog: Catalog) -> None:
    volume = Volume(catalog, SERIES_UID)
    assert len(volume) == 5
    np.testing.assert_array_equal(np.asarray(volume), volume.to_numpy())
    assert np.array(volume, np.int16).dtype == np.int16
    with pytest.raises(ValueError, match="expected copy=None or True"):
        np.array(volume, copy=False)
    with pytest.raises(IndexError):
        volume[5]


@pytest.mark.parametrize("z", [1.5, 5, "1"])
def test_slice__tells_which_indices_there_are(catalog: Catalog, z: Any) -> None:
    with pytest.raises(UsageError, match=f"expected z from 0 to 4, found {z}"):
        Volume(catalog, SERIES_UID).slice(z=z)


def test_window__may_be_a_pair(catalog: Catalog) -> None:
    volume = Volume(catalog, SERIES_UID)
    assert volume.slice(3, window=(40, 400)).window == Window(40, 400)
    assert volume.view(window=(40, 400)).to_png()
    for wrong in ("soft", (1, 2, 3), 5):
        with pytest.raises(UsageError, match="expected Window"):
            volume.slice(3, window=wrong)  # type: ignore[arg-type]


def test_slice__reads_only_its_bytes(tmp_path: Path) -> None:
    catalog = CountingCatalog(steps_archive(tmp_path).storage)
    volume = Volume(catalog, SERIES_UID)
    assert catalog.bytes_read == 0
    volume.slice(z=2)
    assert catalog.bytes_read == 4 * 6 * 2
    volume.slice(y=1)
    assert catalog.bytes_read == 4 * 6 * 2 + 5 * 6 * 2


def test_planes__have_the_letters_of_the_patient(catalog: Catalog) -> None:
    volume = Volume(catalog, SERIES_UID)
    axial, coronal, sagittal = volume.slice(z=0), volume.slice(y=0), volume.slice(x=0)
    letters = [(p.left, p.right, p.top, p.bottom) for p in (axial, coronal, sagittal)]
    assert letters == [("R", "L", "A", "P"), ("R", "L", "H", "F"), ("A", "P", "H", "F")]
    assert [p.rows_upwards for p in (axial, coronal, sagittal)] == [False, True, True]
    assert axial.title == "axial, z = 0 (+7 mm)"
    assert coronal.title == "coronal, y = 0 (-2 mm)"
    assert sagittal.title == "sagittal, x = 0 (-1 mm)"


@pytest.mark.parametrize("missed", [1e-14, -1e-14, -0.0])
def test_planes_at_the_origin__are_at_0(tmp_path: Path, missed: float) -> None:
    image = encoded(ct_image(steps()[0], 0, (0, missed, 3)))
    plane = Volume(archive_of(tmp_path, [image]), SERIES_UID).slice(y=0)
    assert plane.title == "coronal, y = 0 (+0 mm)"


def test_planes_of_a_coronal_series__have_theirs(tmp_path: Path) -> None:
    images = [
        ct_image(steps()[0], n, (0, -5.0 * n, 0), orientation=(1, 0, 0, 0, 0, -1)) for n in range(3)
    ]
    volume = Volume(archive_of(tmp_path, map(encoded, images)), SERIES_UID)
    front = volume.slice(z=0)
    assert (front.left, front.right, front.top, front.bottom) == ("R", "L", "H", "F")
    # the normal of such images points to the back
    assert volume.z_mm.tolist() == [-10.0, -5.0, 0.0]
    above = volume.slice(y=0)
    assert (above.top, above.bottom) == ("P", "A")


@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: max(map(abs, v)) > 0.1))
def test_letters__turn_around_with_the_direction(vector: tuple[float, float, float]) -> None:
    direction = np.array(vector)
    assert patient_letters(-direction) == patient_letters(direction)[::-1]


def test_view__shows_three_planes_of_one_scale_and_window(catalog: Catalog) -> None:
    picture = Volume(catalog, SERIES_UID).view(z=1, y=2, x=3)
    images = [image for axes in picture.figure.get_axes() for image in axes.images]
    assert [image.get_array().shape for image in images] == [(4, 6), (5, 6), (5, 4)]  # type: ignore[union-attr]
    assert len({image.get_clim() for image in images}) == 1


def test_volume__shows_itself_in_a_notebook(catalog: Catalog) -> None:
    volume = Volume(catalog, SERIES_UID)
    assert "5 x 4 x 6 voxels" in volume._repr_html_()
    assert "data:image/png;base64,iVBOR" in volume._repr_html_()
    assert volume._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("asked", [{}, {"z": 1, "y": 1}, {"z": 5}, {"x": -7}])
def test_slice__refuses_planes_that_are_not(catalog: Catalog, asked: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="slice: expected"):
        Volume(catalog, SERIES_UID).slice(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (0, 6), (3, 1)])
def test_to_numpy__refuses_slices_that_are_not(catalog: Catalog, start: int, stop: int) -> None:
    with pytest.raises(UsageError, match="0 <= start < stop <= 5"):
        Volume(catalog, SERIES_UID).to_numpy(start, stop)


def test_unknown_series__is_not_found(catalog: Catalog) -> None:
    with pytest.raises(SeriesNotFoundError):
        Volume(catalog, "1.2.3")


def image_at(number: int, position: tuple[float, float, float], **more: Any) -> bytes:
    return encoded(ct_image(steps()[0], number, position, **more))


def test_uneven_slices__are_told(tmp_path: Path) -> None:
    objects = [image_at(n, (0, 0, z)) for n, z in enumerate((0.0, 1.0, 2.0, 5.0))]
    volume = Volume(archive_of(tmp_path, objects), SERIES_UID)
    assert not volume.is_even
    assert volume.notes == ("uneven slices: 1 to 3 mm apart, drawn as 1.667 mm",)
    assert "uneven" in repr(volume)


def test_tilted_slices__are_told(tmp_path: Path) -> None:
    objects = [image_at(n, (0, 2.0 * n, 2.0 * n)) for n in range(4)]
    volume = Volume(archive_of(tmp_path, objects), SERIES_UID)
    assert volume.is_even
    assert volume.notes[0].startswith("tilted by 45.0°")
    np.testing.assert_allclose(volume.affine_lps_mm @ [0, 0, 3, 1], [0, 6, 6, 1])


def test_slices_beside_each_other__are_told(tmp_path: Path) -> None:
    objects = [image_at(n, (1.5 * (n == 1), 0, 2.0 * n)) for n in range(4)]
    volume = Volume(archive_of(tmp_path, objects), SERIES_UID)
    assert not volume.is_even
    assert "1.5 mm beside" in volume.notes[0]


def test_one_slice__is_as_thick_as_it_says(tmp_path: Path) -> None:
    volume = Volume(archive_of(tmp_path / "a", [image_at(1, (0, 0, 3))]), SERIES_UID)
    assert (volume.shape, volume.voxel_mm, volume.notes) == ((1, 4, 6), (2.0, 0.5, 0.25), ())
    unknown = archive_of(tmp_path / "b", [image_at(1, (0, 0, 3), SliceThickness=None)])
    assert Volume(unknown, SERIES_UID).notes == ("one slice of unknown thickness, drawn as 1 mm",)


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([(1, (0, 0, 0), {}), (2, (0, 0, 0), {})], "1 more at the place of another"),
        ([(1, (0, 0, 0), {"ImagePositionPatient": None})], "found None"),
        ([(1, (0, 0, 0), {}), (2, (0, 0, 1), {"spacing_mm": (1, 1)})], "one PixelSpacing"),
        (
            [(1, (0, 0, 0), {}), (2, (0, 0, 1), {"orientation": (0, 1, 0, 1, 0, 0)})],
            "one ImageOrientationPatient",
        ),
        ([(1, (0, 0, 0), {"orientation": (1, 0, 0, 1, 0, 0)})], "perpendicular"),
        ([(1, (0, 0, 0), {"spacing_mm": (0, 1)})], "positive pixel_spacing"),
        ([(1, (0, 0, 0), {"NumberOfFrames": 3})], "3 frames"),
        (
            [(1, (0, 0, 0), {"NumberOfFrames": 3, "Modality": "XA"})],
            "of a scan: give the CT series that `reconstruct` made",
        ),
        ([(1, (0, 0, 0), {"PhotometricInterpretation": "PALETTE COLOR"})], "PALETTE COLOR"),
        (
            [(1, (0, 0, 0), {"RescaleType": "HU"}), (2, (0, 0, 1), {"RescaleType": "US"})],
            "one RescaleType",
        ),
    ],
)
def test_what_is_no_stack__is_refused_with_what_it_is(
    tmp_path: Path,
    objects: list[tuple[int, tuple[float, float, float], dict[str, Any]]],
    found: str,
) -> None:
    catalog = archive_of(tmp_path, [image_at(n, place, **more) for n, place, more in objects])
    with pytest.raises(UsageError, match=found):
        Volume(catalog, SERIES_UID)


def test_images_of_two_sizes__are_refused(tmp_path: Path) -> None:
    other = encoded(ct_image(steps()[0, :, :4], 2, (0, 0, 1)))
    catalog = archive_of(tmp_path, [image_at(1, (0, 0, 0)), other])
    with pytest.raises(UsageError, match=r"one size, found 2; choose a part .* 1 of 4 x 6 from F"):
        Volume(catalog, SERIES_UID)


@pytest.mark.parametrize(
    ("rescale_type", "modality", "unit"),
    [
        (None, "CT", "HU"),
        ("HU", "CT", "HU"),
        ("US", "CT", ""),
        (None, "MR", ""),
        ("ED", "CT", "ED"),
        ("1/m", "CT", "1/mm"),
    ],
)
def test_unit__is_what_the_rescale_says(
    tmp_path: Path, rescale_type: str | None, modality: str, unit: str
) -> None:
    more = {} if rescale_type is None else {"RescaleType": rescale_type}
    catalog = archive_of(tmp_path, [image_at(1, (0, 0, 0), Modality=modality, **more)])
    assert Volume(catalog, SERIES_UID).unit == unit


def test_attenuation__is_in_1_per_m_in_objects_and_in_1_per_mm_in_volumes(tmp_path: Path) -> None:
    per_m = {"RescaleType": "1/m", "RescaleSlope": "0.5", "RescaleIntercept": "-10"}
    image = image_at(1, (0, 0, 0), **per_m, WindowCenter=20, WindowWidth=40)
    volume = Volume(archive_of(tmp_path, [image]), SERIES_UID)
    stored = pixel_array(pydicom.dcmread(io.BytesIO(image)))
    np.testing.assert_allclose(volume.to_numpy()[0], stored * 0.5e-3 - 0.01, rtol=1e-6)
    window = volume.slice(z=0).window
    assert window is not None
    assert (window.center, window.width) == (0.02, 0.04)


def test_window__is_the_series_own(tmp_path: Path) -> None:
    catalog = archive_of(
        tmp_path, [image_at(1, (0, 0, 0), WindowCenter=[40, 300], WindowWidth=[80, 900])]
    )
    window = Volume(catalog, SERIES_UID).slice(z=0).window
    assert window is not None
    assert (window.center, window.width) == (40.0, 80.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize("big_endian", [False, True])
def test_pixels__of_every_native_kind_are_read(
    tmp_path: Path, dtype: type[np.integer[Any]], *, big_endian: bool
) -> None:
    info = np.iinfo(dtype)
    pixels = np.array([[info.min, -1 if info.min else 7], [1, info.max]]).astype(dtype)
    image = ct_image(pixels, 1, (0, 0, 0), RescaleSlope=None, RescaleIntercept=None)
    catalog = archive_of(tmp_path, [encoded(image, big_endian=big_endian and pixels.itemsize > 1)])
    values = Volume(catalog, SERIES_UID).to_numpy()
    np.testing.assert_array_equal(values[0], pixels.astype(np.float32))


@given(
    st.integers(1, 16).flatmap(
        lambda stored: st.tuples(st.just(stored), st.integers(stored - 1, 15))
    ),
    st.booleans(),
    st.integers(0, 2**16 - 1),
)
def test_native_pixels__keep_the_stored_bits_only(
    bits: tuple[int, int],
    signed: bool,
    cell: int,
) -> None:
    stored, high = bits
    row = {
        "bits_allocated": 16,
        "bits_stored": stored,
        "high_bit": high,
        "pixel_representation": int(signed),
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
    }
    expected = cell >> (high + 1 - stored) & ((1 << stored) - 1)
    if signed and expected >> (stored - 1):
        expected -= 1 << stored
    assert native_pixels(cell.to_bytes(2, "little"), row).tolist() == [expected]


def test_lying_bits__are_refused(tmp_path: Path) -> None:
    catalog = archive_of(tmp_path, [image_at(1, (0, 0, 0), BitsStored=12, HighBit=3)])
    with pytest.raises(DicomDecodeError, match="0 < BitsStored <= HighBit"):
        Volume(catalog, SERIES_UID).to_numpy()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_compressed_slices__are_decoded(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    objects = []
    for z, pixels in enumerate(steps(3, 32, 32)):
        image = ct_image(pixels, z, (0, 0, z))
        image.compress(syntax, generate_instance_uid=False)
        objects.append(encoded(image))
    volume = Volume(archive_of(tmp_path, objects), SERIES_UID)
    np.testing.assert_array_equal(volume.to_numpy(), steps(3, 32, 32) * 2.0 - 1000.0)
    np.testing.assert_array_equal(volume.slice(y=5).values, steps(3, 32, 32)[:, 5] * 2.0 - 1000.0)


def test_broken_compressed_pixels__end_in_one_line(tmp_path: Path) -> None:
    image = ct_image(steps(1, 32, 32)[0], 1, (0, 0, 0))
    image.compress(JPEG2000Lossless, generate_instance_uid=False)
    data = encoded(image)
    place = data.index(b"\xff\x4f\xff\x51")
    broken = data[: place + 4] + b"\xff" * 60 + data[place + 64 :]
    volume = Volume(archive_of(tmp_path, [broken]), SERIES_UID)
    with pytest.raises(DicomDecodeError) as caught:
        volume.to_numpy()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not SYNTAXES.exists(), reason="public test images are not beside the checkout")
@pytest.mark.parametrize(
    "path", sorted(SYNTAXES.glob("CTImage.dcm*")), ids=lambda path: path.name[12:40]
)
def test_public_images__are_read_as_pydicom_reads_them(tmp_path: Path, path: Path) -> None:
    data = path.read_bytes()
    image = pydicom.dcmread(io.BytesIO(data))
    volume = Volume(archive_of(tmp_path, [data]), image.SeriesInstanceUID)
    try:
        stored = pixel_array(image, raw=True)
    except NotImplementedError:
        with pytest.raises(DicomDecodeError, match="expected a transfer syntax"):
            volume.to_numpy()
        return
    expected = stored * float(image.RescaleSlope) + float(image.RescaleIntercept)
    np.testing.assert_allclose(volume.to_numpy()[0], expected)


@pytest.mark.skipif(not HEADS.exists(), reason="public test images are not beside the checkout")
def test_a_real_head__lies_as_its_headers_say(tmp_path: Path) -> None:
    paths = sorted(HEADS.rglob("I*"))
    catalog = archive_of(tmp_path, [path.read_bytes() for path in paths])
    images = [pydicom.dcmread(path) for path in paths]
    volume = Volume(catalog, images[0].SeriesInstanceUID)
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    assert volume.shape == (len(images), 512, 512)
    for z in (0, 7, len(images) - 1):
        expected = pixel_array(images[z]) * images[z].RescaleSlope + images[z].RescaleIntercept
        np.testing.assert_array_equal(volume.to_numpy(z, z + 1)[0], expected)
        corner = volume.affine_lps_mm @ [0, 0, z, 1]
        np.testing.assert_allclose(corner[:3], images[z].ImagePositionPatient, atol=0.02)


def test_lossless_jpeg__is_bit_for_bit_the_uncompressed_image(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "cornerstone-transfer-syntaxes" / "testImages"
    codecs.register()
    codecs.register()
    original = pydicom.dcmread(
        folder / "CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm"
    ).pixel_array
    for name in (
        "CTImage.dcm_JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57.dcm",
        "CTImage.dcm_JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm",
    ):
        np.testing.assert_array_equal(pydicom.dcmread(folder / name).pixel_array, original)
