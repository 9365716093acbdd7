"""Every public DICOM file at hand, against pydicom's own reading of it."""

import json
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import get_expected_length

from pacspark.dicom.attributes import PROMOTED, Attribute
from pacspark.dicom.decode import InstanceIndex, index_instance
from pacspark.errors import DicomDecodeError
from tests.dicom.hostile import BIG_ENDIAN

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
PYDICOM_DATA = Path(pydicom.__file__).parent / "data"

# no study or SOP instance, or bytes that end early: DICOM, but nothing that can be archived
REFUSED_DICOM = {
    "DICOMDIR",
    "StudyInstanceUID: expected a UID, found none",
    "SOPInstanceUID: expected a UID",
    "SOPClassUID: expected a UID, found none",
    "truncated",
    "expected DICOM (PS3.10), found 01 00 01 00 ff ff ff ff",  # pydicom's meta_missing_tsyntax.dcm
}


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def expected_column(attribute: Attribute, data_set: pydicom.Dataset) -> object:
    value = data_set.get(attribute.keyword)
    if value is None or value == "" or value == []:
        return None
    values = list(value) if isinstance(value, pydicom.multival.MultiValue | list) else [value]
    if attribute.kind == "string":
        texts = [str(one).strip(" \0") for one in values]
        return texts if attribute.multiple else "\\".join(texts)
    try:
        numbers = [int(one) if attribute.kind == "int64" else float(one) for one in values]
    except ValueError:
        return None
    return numbers if attribute.multiple else numbers[0]


def check_frames(data: bytes, index: InstanceIndex, data_set: pydicom.Dataset) -> int:
    if index.frames.kind not in {"native", "encapsulated"}:
        return 0
    count = index.row["number_of_frames"] or 1
    assert isinstance(count, int)
    if "NumberOfFrames" in data_set:
        data_set.NumberOfFrames = count  # one of pydicom's files has "1A" there
    found = [
        b"".join(data[offset : offset + length] for offset, length in index.frames.ranges(frame))
        for frame in range(index.frames.count)
    ]
    if index.frames.kind == "encapsulated":
        expected = list(generate_frames(data_set.PixelData, number_of_frames=count))
        assert found == expected
        return count
    keywords = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    pixels = next(data_set[keyword].value for keyword in keywords if keyword in data_set)
    assert isinstance(pixels, bytes)
    bits = index.frames.frame_size_bits
    if index.frames.count == 0:
        assert get_expected_length(data_set) > len(pixels)
        return 0
    assert index.frames.count == count
    assert bits is not None
    if bits % 8 == 0:
        size = bits // 8
        assert found == [pixels[i * size : (i + 1) * size] for i in range(count)]
    if "PixelData" in data_set:
        assert -(-bits * count // 8) == get_expected_length(data_set)
    return count


def compare_json(document: dict[str, Any], peer: dict[str, Any], little_endian: bool) -> int:
    """Return how many attributes have the same VR and the same values in both."""
    compared = 0
    # pydicom leaves out what it calls invalid
    for tag in document.keys() & peer.keys() - {"00080005"}:
        one, other = document[tag], peer[tag]
        assert one["vr"] == other["vr"], tag
        if one["vr"] == "SQ":
            for ours, theirs in zip(one.get("Value", []), other.get("Value", []), strict=True):
                compared += compare_json(ours, theirs, little_endian)
        elif "BulkDataURI" not in one:
            # pydicom leaves big endian words as they are, Annex F does not
            if little_endian or "InlineBinary" not in one:
                assert one.get("InlineBinary") == other.get("InlineBinary"), tag
            assert plain(one) == plain(other), tag
        compared += 1
    return compared


def plain(element: dict[str, Any]) -> list[object]:
    values: list[object] = []
    for value in element.get("Value", []):
        if isinstance(value, dict):
            groups = {key: text.strip(" \0") for key, text in value.items() if text.strip(" \0")}
            values.append(groups or None)
        elif isinstance(value, str) and element["vr"] not in {"IS", "DS"}:
            values.append(value.strip(" \0") or None)
        else:
            values.append(value if value is None else float(value))
    return values if any(value is not None for value in values) else []


def check_file(path: Path) -> tuple[bool, int]:
    """Return whether the file was indexed, and how many frames were compared."""
    data = path.read_bytes()
    try:
        index = index_instance(data)
    except DicomDecodeError as error:
        message = str(error)
        assert "\n" not in message
        if data[128:132] == b"DICM":
            assert any(reason in message for reason in REFUSED_DICOM), (path, message)
        return False, 0
    with path.open("rb") as file:
        assert index_instance(file) == index
    data_set = pydicom.dcmread(path, force=True)
    assert index.sop_instance_uid == data_set.SOPInstanceUID
    for attribute in PROMOTED:
        if attribute.keyword == "TransferSyntaxUID":
            continue
        expected = expected_column(attribute, data_set)
        assert index.row[attribute.column] == expected, (path, attribute.keyword)
    document = json.loads(index.dicom_json)
    tags = {f"{element.tag:08X}" for element in data_set if element.tag.element != 0}
    assert set(document) == tags, path
    peer = data_set.to_json_dict(
        bulk_data_threshold=1 << 40, bulk_data_element_handler=str, suppress_invalid_tags=True
    )
    assert compare_json(document, peer, index.transfer_syntax_uid != BIG_ENDIAN) > 5, path
    return True, check_frames(data, index, data_set)


def check_folder(folder: Path) -> tuple[int, int, int]:
    outcomes = [check_file(path) for path in files_of(folder)]
    indexed = sum(stored for stored, _ in outcomes)
    return indexed, len(outcomes) - indexed, sum(frames for _, frames in outcomes)


# pydicom warns about some of these files; the code under test may not
PEER_WARNINGS = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@PEER_WARNINGS
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no shared public data beside the checkout")
def test_index_instance__does_agree_with_pydicom_on_public_data() -> None:
    indexed, refused, frames = check_folder(SHARED_DATA)
    assert (indexed, refused) == (217, 37)
    assert frames > 500


@PEER_WARNINGS
@pytest.mark.parametrize("folder", ["test_files", "charset_files"])
def test_index_instance__does_agree_with_pydicom_on_its_own_files(
    folder: str,
) -> None:
    indexed, _, _ = check_folder(PYDICOM_DATA / folder)
    assert indexed > 10
