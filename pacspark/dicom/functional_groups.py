"""Attributes of each frame of an enhanced multi-frame image (PS3.3 C.7.6.16), out of DICOM JSON.

An enhanced object says once, in its shared functional groups, what all frames have in common, and
per frame what tells them apart. `frame_attributes` lays both over each other and gives each frame
the columns that a single-frame image of its own would have.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydicom.datadict import tag_for_keyword

from pacspark.dicom.attributes import column_name
from pacspark.errors import DicomDecodeError


def _tag(keyword: str) -> str:
    return f"{tag_for_keyword(keyword):08X}"


_SHARED: Final = _tag("SharedFunctionalGroupsSequence")
_PER_FRAME: Final = _tag("PerFrameFunctionalGroupsSequence")

_NUMBERS: Final[Mapping[str, Sequence[str]]] = {
    "PlanePositionSequence": ["ImagePositionPatient"],
    "PlaneOrientationSequence": ["ImageOrientationPatient"],
    "PixelMeasuresSequence": ["PixelSpacing", "SliceThickness", "SpacingBetweenSlices"],
    "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept"],
    "FrameVOILUTSequence": ["WindowCenter", "WindowWidth"],
    "FrameContentSequence": ["TemporalPositionIndex"],
    "MREchoSequence": ["EffectiveEchoTime"],
    "MRDiffusionSequence": ["DiffusionBValue"],
}  # fmt: skip
_TEXTS: Final[Mapping[str, Sequence[str]]] = {
    "PixelValueTransformationSequence": ["RescaleType"],
    "FrameContentSequence": ["StackID"],
    "CTImageFrameTypeSequence": ["FrameType"],
    "MRImageFrameTypeSequence": ["FrameType"],
    "PETFrameTypeSequence": ["FrameType"],
}
_LISTS: Final = frozenset(
    "ImagePositionPatient ImageOrientationPatient PixelSpacing WindowCenter WindowWidth "
    "FrameType".split()
)


def frame_attributes(dicom_json: str, frame_count: int) -> list[dict[str, Any]]:
    """Give the columns of each frame that its functional groups say.

    Parameters
    ----------
    dicom_json
        the data set (PS3.18 Annex F)
    frame_count
        NumberOfFrames

    Returns
    -------
    list
        one dictionary per frame, with what has a value; empty where
        the object has no per-frame functional groups

    Raises
    ------
    DicomDecodeError
        where there are groups for another number of frames
    """
    data = json.loads(dicom_json)
    frames = _items(data, _PER_FRAME)
    if not frames:
        return []
    if len(frames) != frame_count:
        message = (
            f"PerFrameFunctionalGroupsSequence: expected {frame_count} items as NumberOfFrames "
            f"says, found {len(frames)}"
        )
        raise DicomDecodeError(message)
    shared: dict[str, Any] = {}
    for item in _items(data, _SHARED)[:1]:
        shared = _attributes(item)
    return [shared | _attributes(frame) for frame in frames]


def _attributes(groups: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for table, read in ((_NUMBERS, _numbers), (_TEXTS, _texts)):
        for sequence, keywords in table.items():
            items = _items(groups, _tag(sequence))
            for keyword in keywords if items else ():
                values = read(items[0], _tag(keyword))
                if values:
                    found[column_name(keyword)] = values if keyword in _LISTS else values[0]
    return found


def _items(data: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    return [item for item in _values(data, tag) if isinstance(item, dict)]


def _values(data: Mapping[str, Any], tag: str) -> list[Any]:
    element = data.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _numbers(data: Mapping[str, Any], tag: str) -> list[float]:
    try:
        values = [float(value) for value in _values(data, tag)]
    except (TypeError, ValueError):
        return []
    return values if all(map(math.isfinite, values)) else []


def _texts(data: Mapping[str, Any], tag: str) -> list[str]:
    return [value for value in _values(data, tag) if isinstance(value, str)]
