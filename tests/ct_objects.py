"""Small CT objects with known voxels, and archives that hold them: no Spark."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.storage import open_storage

STUDY_UID = "1.2.826.0.1.3680043.8.498.1"
SERIES_UID = "1.2.826.0.1.3680043.8.498.1.1"


def ct_image(
    pixels: NDArray[Any],
    number: int,
    position_mm: Sequence[float],
    *,
    series_uid: str = SERIES_UID,
    spacing_mm: Sequence[float] = (0.5, 0.25),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    **more: Any,
) -> Dataset:
    """One CT image; `more` are DICOM keywords, and None takes one away."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = f"{series_uid}.{number}"
    image.StudyInstanceUID = STUDY_UID
    image.SeriesInstanceUID = series_uid
    image.Modality = "CT"
    image.SeriesDescription = "steps"
    image.InstanceNumber = number
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = pixels.dtype.itemsize * 8
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = 1 if pixels.dtype.kind == "i" else 0
    image.PixelSpacing = list(spacing_mm)
    image.SliceThickness = 2
    image.ImagePositionPatient = list(position_mm)
    image.ImageOrientationPatient = list(orientation)
    image.RescaleSlope, image.RescaleIntercept = 2, -1000
    for keyword, value in more.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    image.PixelData = pixels.tobytes() * int(more.get("NumberOfFrames", 1))
    image["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return image


def enhanced_ct(
    frames: Sequence[NDArray[Any]],
    positions_mm: Sequence[Sequence[float]],
    *,
    number: int = 1,
    spacing_mm: Sequence[float] = (0.5, 0.25),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    intercepts: Sequence[float] | None = None,
    times: Sequence[int] | None = None,
) -> Dataset:
    """An enhanced CT image: what all frames have in common is said once, places per frame."""
    image = ct_image(frames[0], number, positions_mm[0])
    for keyword in (
        "PixelSpacing SliceThickness ImagePositionPatient ImageOrientationPatient RescaleSlope "
        "RescaleIntercept"
    ).split():
        delattr(image, keyword)
    image.SOPClassUID = EnhancedCTImageStorage
    image.NumberOfFrames = len(frames)
    image.PixelData = b"".join(frame.tobytes() for frame in frames)
    measures, plane, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(spacing_mm), 2
    plane.ImageOrientationPatient = list(orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = []
    for index, position in enumerate(positions_mm):
        place, values, content, groups = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = list(position)
        values.RescaleSlope, values.RescaleType = 2, "HU"
        values.RescaleIntercept = -1000 if intercepts is None else intercepts[index]
        content.TemporalPositionIndex = 1 if times is None else times[index]
        groups.PlanePositionSequence, groups.FrameContentSequence = [place], [content]
        groups.PixelValueTransformationSequence = [values]
        image.PerFrameFunctionalGroupsSequence.append(groups)
    return image


def encoded(image: Dataset, *, big_endian: bool = False) -> bytes:
    """The image as a Part 10 stream."""
    if big_endian:
        image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        size = image.BitsAllocated // 8
        image.PixelData = np.frombuffer(image.PixelData, f"<u{size}").byteswap().tobytes()
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def archive_of(root: Path, objects: Iterable[bytes]) -> Catalog:
    """An archive of these objects, none of them refused."""
    storage = open_storage(root)
    create_tables(storage)
    intake = Intake(storage, "0" * 32)
    for number, data in enumerate(objects):
        intake.add(f"object {number}", data)
    report = commit_intake(storage, [intake.finish()], "0" * 32)
    assert not report.refused, report.refused
    return Catalog(storage)


def steps(n_z: int = 5, n_y: int = 4, n_x: int = 6) -> NDArray[np.int16]:
    """Voxels that tell their own place: stored value = 100 z + 10 y + x."""
    z, y, x = np.indices((n_z, n_y, n_x))
    return np.asarray(100 * z + 10 * y + x, dtype=np.int16)


def steps_archive(root: Path, *, dz_mm: float = 3.0, **more: Any) -> Catalog:
    """An archive of `steps` as a series, stored in another order than z."""
    images = [
        ct_image(pixels, 10 - z, (-1.0, -2.0, 7.0 + dz_mm * z), **more)
        for z, pixels in enumerate(steps())
    ]
    return archive_of(root, [encoded(image) for image in images])
