"""Rectangles in pixels: blank afterwards, and every other pixel as it was."""

import io
import struct
from typing import Any, Literal

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from pacspark.dicom.confidentiality import Profile
from pacspark.dicom.decode import index_instance
from pacspark.dicom.pixel_rules import PixelRule, Rectangle
from pacspark.errors import DeidentificationError
from tests.dicom.hostile import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    Elements,
    data_set,
    element,
    header,
    part10,
    text,
    words,
)
from tests.dicom.test_deidentify import deidentified

ROWS, COLUMNS, FRAMES = 40, 64, 3
BLANK = Rectangle(left=4, top=2, width=10, height=6)
BEYOND = Rectangle(left=58, top=37, width=100, height=100)


def blanking(*rectangles: Rectangle, **match: str) -> Profile:
    rule = PixelRule({key: (value,) for key, value in (match or {"Modality": "CT"}).items()},
                     rectangles)  # fmt: skip
    return Profile(clean=frozenset({"pixel-data"}), pixel_rules=(rule,))


def image(
    pixels: NDArray[Any], syntax: str = EXPLICIT, *, vr: str = "OW", **changes: tuple[str, bytes]
) -> bytes:
    """Frames of (rows, columns) or (rows, columns, samples), or in planes if so changed."""
    order: Literal["<", ">"] = ">" if syntax == BIG_ENDIAN else "<"
    samples = 3 if pixels.ndim == 4 else 1
    elements: Elements = {
        **header(syntax),
        0x00280002: ("US", words(samples, syntax=syntax)),
        0x00280008: ("IS", text(str(len(pixels)))),
        0x00280010: ("US", words(ROWS, syntax=syntax)),
        0x00280011: ("US", words(COLUMNS, syntax=syntax)),
        0x00280100: ("US", words(8 * pixels.dtype.itemsize, syntax=syntax)),
        0x00280101: ("US", words(8 * pixels.dtype.itemsize, syntax=syntax)),
        0x00280102: ("US", words(8 * pixels.dtype.itemsize - 1, syntax=syntax)),
    }
    if samples == 3:
        elements[0x00280004] = ("CS", text("RGB"))
        elements[0x00280006] = ("US", words(0, syntax=syntax))
    for name, change in changes.items():
        elements[int(name[1:], 16)] = change
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    body = data_set(elements, syntax) + element(0x7FE00010, vr, data + bytes(len(data) % 2), syntax)
    return part10(body, syntax)


def noise(dtype: str, *more: int, high: int | None = None) -> NDArray[Any]:
    random = np.random.default_rng(7)
    highest = np.iinfo(dtype).max if high is None else high
    return random.integers(1, highest, (FRAMES, ROWS, COLUMNS, *more)).astype(dtype)


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def blanked(pixels: NDArray[Any], *rectangles: Rectangle) -> NDArray[Any]:
    """The oracle: a loop over all pixels."""
    made = pixels.copy()
    for r in rectangles:
        for y in range(ROWS):
            for x in range(COLUMNS):
                if r.left <= x < r.left + r.width and r.top <= y < r.top + r.height:
                    made[:, y, x] = 0
    return made


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_blanking__does_change_native_pixels_and_no_others(syntax: str, dtype: str) -> None:
    pixels = noise(dtype)
    signed = words(int(dtype == "int16"), syntax=syntax)
    data = image(pixels, syntax, vr="OB" if dtype == "uint8" else "OW", x00280103=("US", signed))
    made = read(deidentified(data, blanking(BLANK, BEYOND)))
    np.testing.assert_array_equal(made.pixel_array, blanked(pixels, BLANK, BEYOND))
    assert made.BurnedInAnnotation == "NO"
    assert made.file_meta.TransferSyntaxUID == syntax
    assert "113101" in [code.CodeValue for code in made.DeidentificationMethodCodeSequence]


def test_blanking__does_know_that_big_endian_words_swap_bytes() -> None:
    pixels = noise("uint8")
    swapped = pixels.reshape(-1, 2)[:, ::-1].reshape(pixels.shape)
    data = image(np.ascontiguousarray(swapped), BIG_ENDIAN)
    np.testing.assert_array_equal(read(data).pixel_array, pixels)
    made = read(deidentified(data, blanking(BLANK)))
    np.testing.assert_array_equal(made.pixel_array, blanked(pixels, BLANK))


def test_blanking__does_know_pixels_and_planes() -> None:
    pixels = noise("uint8", 3)
    made = read(deidentified(image(pixels), blanking(BLANK)))
    np.testing.assert_array_equal(made.pixel_array, blanked(pixels, BLANK))
    planes = np.moveaxis(pixels, 3, 1)
    data = image(np.ascontiguousarray(planes), x00280006=("US", words(1)))
    made = read(deidentified(data, blanking(BLANK)))
    np.testing.assert_array_equal(made.pixel_array, blanked(pixels, BLANK))


def test_blanking__does_use_black_of_ybr() -> None:
    pixels = noise("uint8", 3)
    data = image(pixels, x00280004=("CS", text("YBR_FULL")))
    made = np.frombuffer(read(deidentified(data, blanking(BLANK))).PixelData, "u1")
    inside = made.reshape(pixels.shape)[:, BLANK.top, BLANK.left]
    np.testing.assert_array_equal(inside, [[0, 128, 128]] * FRAMES)


@pytest.mark.parametrize(
    ("syntax", "dtype", "samples"),
    [
        (RLELossless, "uint16", 1),
        (RLELossless, "uint8", 3),
        (JPEGLSLossless, "uint16", 1),
        (JPEG2000Lossless, "uint16", 1),
    ],
)
def test_blanking__does_decode_what_is_compressed(syntax: str, dtype: str, samples: int) -> None:
    pixels = noise(dtype) if samples == 1 else noise(dtype, samples)
    packed = read(image(pixels))
    packed.compress(syntax, encapsulate_ext=True)
    buffer = io.BytesIO()
    packed.save_as(buffer)
    assert index_instance(buffer.getvalue()).frames.kind == "encapsulated"
    made = read(deidentified(buffer.getvalue(), blanking(BLANK)))
    np.testing.assert_array_equal(made.pixel_array, blanked(pixels, BLANK))
    assert made.file_meta.TransferSyntaxUID == EXPLICIT
    assert "ExtendedOffsetTable" not in made
    # without a rule, compressed bytes go through as they are
    untouched = read(deidentified(buffer.getvalue()))
    assert untouched.PixelData == packed.PixelData
    assert untouched.ExtendedOffsetTable == packed.ExtendedOffsetTable


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_blanking__does_undo_subsampling(syntax: str) -> None:
    grey = np.full((1, ROWS, COLUMNS), 200, "uint8")
    cells = np.full((1, ROWS, COLUMNS // 2, 4), 128, "uint8")
    cells[..., :2] = grey.reshape(1, ROWS, COLUMNS // 2, 2)
    flat = cells.reshape(1, ROWS, COLUMNS * 2)
    data = image(
        flat,
        syntax,
        x00280002=("US", words(3)),
        x00280004=("CS", text("YBR_FULL_422")),
        x00280006=("US", words(0)),
    )
    made = read(deidentified(data, blanking(BLANK)))
    assert made.PhotometricInterpretation == "RGB"
    assert made.file_meta.TransferSyntaxUID == EXPLICIT
    assert made.ImagePositionPatient == [-1.5, 2, 30]
    expected = blanked(np.repeat(grey[..., None], 3, axis=3), BLANK)
    np.testing.assert_array_equal(made.pixel_array, expected[0])


def test_blanking__does_clear_overlays_that_hide_in_pixels() -> None:
    pixels = noise("uint16", high=0x0FFF)
    overlay = (np.arange(pixels.size).reshape(pixels.shape) % 2).astype("uint16") << 15
    data = image(
        pixels | overlay,
        x00280101=("US", words(12)),
        x00280102=("US", words(11)),
        x60000010=("US", words(ROWS)),
        x60000100=("US", words(16)),
        x60000102=("US", words(15)),
    )
    made = read(deidentified(data))
    assert not [one for one in made if one.tag.group == 0x6000]
    np.testing.assert_array_equal(made.pixel_array, pixels)


def test_blanking__does_follow_the_rule_that_matches() -> None:
    burned = image(noise("uint8"), x00280301=("CS", text("YES")))
    for other in ({"Modality": "US"}, {"Rows": "512"}, {"Manufacturer": "ACME*"}):
        with pytest.raises(DeidentificationError, match="BurnedInAnnotation"):
            deidentified(burned, blanking(BLANK, **other))
    made = read(deidentified(burned, blanking(BLANK, Modality="c?", Rows="40")))
    assert made.BurnedInAnnotation == "NO"
    named = image(noise("uint8"), x00080070=("LO", text("ACME [US]")))
    made = read(deidentified(named, blanking(BLANK, Manufacturer="acme [us]")))
    assert made.BurnedInAnnotation == "NO"  # brackets are brackets
    looked_at = read(deidentified(burned, blanking()))
    assert looked_at.BurnedInAnnotation == "NO"
    assert looked_at.PixelData == read(burned).PixelData
    kept = read(deidentified(burned, Profile(burned_in="keep")))
    assert kept.BurnedInAnnotation == "YES"
    assert "113101" not in [code.CodeValue for code in kept.DeidentificationMethodCodeSequence]


def test_blanking__does_refuse_pixels_that_it_cannot_blank() -> None:
    bits = part10(
        data_set(
            {
                **header(),
                0x00280010: ("US", words(8)),
                0x00280011: ("US", words(8)),
                0x00280100: ("US", words(1)),
                0x7FE00010: ("OW", bytes(8)),
            }
        )
    )
    wide = {0x00280100: ("US", words(32)), 0x7FE00008: ("OF", struct.pack("<6f", *range(6)))}
    floats = part10(data_set(header() | wide))
    for data in (bits, floats):
        index_instance(data)
        with pytest.raises(DeidentificationError):
            deidentified(data, blanking(BLANK))
        deidentified(data)


def test_blanking__does_not_copy_what_belongs_to_no_frame() -> None:
    body = data_set(header()) + element(0x7FE00010, "OW", bytes(range(12)) + b"Doe^Jane")
    made = deidentified(part10(body))
    assert b"Doe" not in made
    assert read(made).PixelData == bytes(range(12)) + bytes(8)


def test_blanking__does_not_speak_of_pixels_that_are_not_there() -> None:
    made = read(deidentified(part10(data_set(header())), blanking(BLANK)))
    assert "BurnedInAnnotation" not in made
    assert "113101" not in [code.CodeValue for code in made.DeidentificationMethodCodeSequence]
