"""Every public DICOM file at hand goes through, stays valid, and keeps its references."""

import io
import re
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from pacspark.dicom import codecs
from pacspark.dicom.confidentiality import Action, Profile, table
from pacspark.dicom.decode import index_instance
from pacspark.dicom.deidentify import Deidentifier
from pacspark.dicom.deidentify_object import deidentify_object
from pacspark.dicom.pixel_rules import PixelRule, Rectangle
from pacspark.dicom.pseudonyms import DICOM_ROOT, Pseudonyms
from pacspark.errors import DicomDecodeError
from tests.dicom.hostile import Elements, data_set, element, header, part10, text, words
from tests.dicom.test_deidentify import SECRET, deidentified, retaining

ALL_OPTIONS = retaining(
    "device", "institution", "patient-characteristics", "longitudinal-modified", "safe-private",
    clean=("descriptors", "structured-content", "graphics"),
)  # fmt: skip


@pytest.fixture(scope="module")
def objects(shared_data: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((shared_data / "dicom").rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        try:
            index_instance(data)
        except DicomDecodeError:
            continue
        found[str(path.relative_to(shared_data))] = data
    return found


def pixel_bytes(data: bytes) -> bytes:
    frames = index_instance(data).frames
    if frames.kind == "deflated" or frames.pixel_data_offset is None:
        return b""
    length = frames.pixel_data_length
    if frames.kind == "native" and frames.frame_size_bits:
        length = -(-frames.count * frames.frame_size_bits // 8)  # what is beyond is cleared
    return data[frames.pixel_data_offset :][:length]


def test_deidentify__does_take_all_public_objects(objects: dict[str, bytes]) -> None:
    by = Pseudonyms(SECRET)
    for name, data in objects.items():
        made = deidentified(data)
        before, after = index_instance(data), index_instance(made)
        assert after.sop_instance_uid == by.uid(before.sop_instance_uid), name
        assert b"PS3.15" in made, name
        for column in ("patient_birth_date", "study_date", "accession_number"):
            assert not after.row.get(column), name
        patient = str(before.row["patient_id"] or "")
        if len(patient) > 5 and not patient.isdigit():  # digits are in any UID
            assert patient not in after.dicom_json, name
        assert after.row["patient_id"] != before.row["patient_id"] or not patient, name
        if before.transfer_syntax_uid == after.transfer_syntax_uid:
            assert pixel_bytes(made) == pixel_bytes(data), name
            assert before.frames.count == after.frames.count
    assert len(objects) == 217


def marked_texts(dataset: Dataset, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Give the texts of a data set, and whether the table removes or replaces them."""
    for one in dataset:
        rule = table().get(int(one.tag))
        marked = inside or rule is not None or one.tag.is_private
        if one.VR == "SQ":
            # the form of a report stays: concepts, kinds of values, relationships
            whole = marked and one.keyword != "ContentSequence"
            gone = whole and (rule is None or rule.basic(None) is not Action.MAP)
            for item in one.value:
                yield from marked_texts(item, gone)
            continue
        values = one.value if one.VM > 1 else [one.value]
        for value in values or ():
            text_of = str(value).strip()
            own_uid = one.VR == "UI" and not text_of.startswith(DICOM_ROOT)
            if text_of and (own_uid or (len(text_of) > 5 and re.search("[A-Za-z]", text_of))):
                yield text_of, marked


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_deidentify__does_leave_no_text_of_a_marked_attribute_of_any_public_object(
    objects: dict[str, bytes],
) -> None:
    looked_for = 0
    for name, data in objects.items():
        before = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        texts = list(marked_texts(before))
        unmarked = " ".join(found for found, marked in texts if not marked)
        made = deidentified(data)
        head = made[: index_instance(made).frames.pixel_data_offset]
        for found, marked in texts:
            if marked and found not in unmarked:
                looked_for += 1
                assert found.encode("utf-8", "replace") not in head, (name, found)
    assert looked_for > 5000


def uids(dataset: Dataset) -> Iterator[str]:
    for one in dataset.iterall():
        of_a_kind = re.search("Class|CodingScheme|Context|Mapping", one.keyword)
        if one.VR == "UI" and one.value and not of_a_kind:
            yield from [one.value] if isinstance(one.value, str) else one.value


def test_deidentify__does_keep_the_references_of_segmentations_and_reports(
    objects: dict[str, bytes],
) -> None:
    by = Pseudonyms(SECRET)
    derived = 0
    for name, data in objects.items():
        before = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        if before.get("Modality") not in {"SEG", "SR"}:
            continue
        derived += 1
        after = pydicom.dcmread(io.BytesIO(deidentified(data, ALL_OPTIONS)))
        for keyword in ("ReferencedSeriesSequence", "CurrentRequestedProcedureEvidenceSequence"):
            expected = [by.uid(uid) for uid in uids_in(before, keyword)]
            assert list(uids_in(after, keyword)) == expected, name
        references = [uid for uid in uids(before) if by.uid(uid) != uid]
        left = set(uids(after))
        mapped = {by.uid(uid) for uid in references}
        missing = mapped - left
        # what the table removes may refer to something; what refers to images must not be lost
        assert len(missing) <= len(mapped) // 4, name
        assert not left & set(references), name
    assert derived >= 5


def uids_in(dataset: Dataset, keyword: str) -> Iterator[str]:
    for item in dataset.get(keyword) or ():
        yield from uids(item)


def errors_of(program: str, path: Path) -> set[str]:
    told = subprocess.run(
        [program, "-new", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    lines = (told.stdout + told.stderr).splitlines()
    return {re.sub("= <.*?>", "", line) for line in lines if line.startswith("Error")}


def new_errors(program: str, folder: Path, data: bytes, profile: Profile) -> set[str]:
    before, after = folder / "before.dcm", folder / "after.dcm"
    before.write_bytes(data)
    after.write_bytes(deidentified(data, profile))
    return errors_of(program, after) - errors_of(program, before)


def one_of_each_class(objects: dict[str, bytes]) -> dict[str, bytes]:
    classes = {index_instance(data).sop_class_uid: name for name, data in objects.items()}
    return {name: objects[name] for name in classes.values()}


def test_deidentify__does_add_no_error_that_dciodvfy_finds(
    objects: dict[str, bytes], peer: Callable[[str], str], tmp_path: Path
) -> None:
    classes = one_of_each_class(objects)
    assert len(classes) > 10
    for name, data in classes.items():
        assert new_errors(peer("dciodvfy"), tmp_path, data, Profile()) == set(), name


@pytest.mark.slow
@pytest.mark.parametrize("profile", [Profile(), ALL_OPTIONS])
def test_deidentify__does_add_no_error_to_any_public_object(
    objects: dict[str, bytes], peer: Callable[[str], str], tmp_path: Path, profile: Profile
) -> None:
    for name, data in objects.items():
        assert new_errors(peer("dciodvfy"), tmp_path, data, profile) == set(), name


@pytest.mark.slow
def test_blanking__does_add_no_error_that_dciodvfy_finds(
    objects: dict[str, bytes], peer: Callable[[str], str], tmp_path: Path
) -> None:
    for name, data, _ in with_other_pixels(objects):
        assert new_errors(peer("dciodvfy"), tmp_path, data, BLANK) == set(), name


# pixels

BLANK = Profile(
    pixel_rules=(PixelRule({"SOPClassUID": ("*",)}, (Rectangle(0, 0, 5, 5),)),), burned_in="keep"
)
PLAIN = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
NOT_DECODED = {"1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"}


def with_other_pixels(objects: dict[str, bytes]) -> Iterator[tuple[str, bytes, bytes]]:
    """Give those that are compressed or big endian, and what blanking makes of them."""
    for name, data in objects.items():
        index = index_instance(data)
        bits = index.row["bits_allocated"]
        known = index.transfer_syntax_uid not in PLAIN | NOT_DECODED
        if known and bits != 1 and index.frames.kind in {"native", "encapsulated"}:
            yield name, data, deidentified(data, BLANK)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_blanking__does_change_its_rectangle_alone_in_every_transfer_syntax(
    objects: dict[str, bytes],
) -> None:
    codecs.register()
    syntaxes = set()
    for name, data, made in with_other_pixels(objects):
        before, after = pixel_array(io.BytesIO(data)), pixel_array(io.BytesIO(made))
        frames = int(str(index_instance(data).row["number_of_frames"] or 1))
        before = before.reshape(frames, *before.shape[frames > 1 :])
        after = after.reshape(before.shape)
        assert len(np.unique(after[:, :5, :5])) <= 2, name
        outside = np.ones(before.shape, bool)
        outside[:, :5, :5] = False
        np.testing.assert_array_equal(after[outside], before[outside], name)
        syntaxes.add(index_instance(data).transfer_syntax_uid)
    assert len(syntaxes) == 10


# large objects

FRAME_BYTES = 1 << 20
LARGE_FRAMES = 384


class Sink(io.RawIOBase):
    """Counts what is written, and holds nothing of it."""

    size_bytes = 0

    def write(self, data: object) -> int:
        length = memoryview(data).nbytes  # type: ignore[arg-type]
        self.size_bytes += length
        return length


def large_object(file: BinaryIO) -> int:
    elements: Elements = {
        **header(),
        0x00280008: ("IS", text(str(LARGE_FRAMES))),
        0x00280010: ("US", words(1024)),
        0x00280011: ("US", words(512)),
        0x00280100: ("US", words(16)),
    }
    head = part10(data_set(elements) + element(0x7FE00010, "OW", b"", length=0))
    size_bytes = LARGE_FRAMES * FRAME_BYTES
    file.write(head[:-4] + size_bytes.to_bytes(4, "little"))
    file.truncate(len(head) + size_bytes)  # a hole: no byte of it is on the disk
    return len(head) + size_bytes


@pytest.mark.parametrize("blank", [False, True])
def test_deidentify__does_stream_pixels(tmp_path: Path, blank: bool) -> None:
    rule = PixelRule({"Modality": ("CT",)}, (Rectangle(0, 0, 8, 8),))
    profile = Profile(pixel_rules=(rule,) if blank else ())
    with (tmp_path / "large.dcm").open("w+b") as source:
        size_bytes = large_object(source)
        sink = Sink()
        tracemalloc.start()
        by = Deidentifier(profile, Pseudonyms(SECRET))
        deidentify_object(source, sink, by)  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert abs(sink.size_bytes - size_bytes) < 4096
    assert peak < 24 << 20
