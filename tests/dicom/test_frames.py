"""Places of frames against what pydicom cuts out of the same bytes."""

import io
import struct
from collections.abc import Sequence

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import generate_frames

from pacspark.dicom.decode import index_instance
from pacspark.dicom.frames import FrameIndex
from tests.dicom.hostile import (
    DEFLATED,
    EXPLICIT,
    JPEG_BASELINE,
    RLE,
    ct_object,
    element,
    encapsulated,
    text,
    words,
)

END = b"\xff\xd9"


def frames_of(data: bytes, index: FrameIndex) -> list[bytes]:
    return [
        b"".join(data[offset : offset + length] for offset, length in index.ranges(frame))
        for frame in range(index.count)
    ]


def starts_of(frames: Sequence[Sequence[bytes]]) -> list[int]:
    starts, position = [], 0
    for fragments in frames:
        starts.append(position)
        position += sum(8 + len(fragment) for fragment in fragments)
    return starts


@st.composite
def fragmented_frames(draw: st.DrawFn) -> list[list[bytes]]:
    fragment = st.binary(max_size=9).map(lambda data: data + bytes(len(data) % 2))
    return draw(st.lists(st.lists(fragment, min_size=1, max_size=3), min_size=1, max_size=6))


@settings(deadline=None)
@given(fragmented_frames(), st.sampled_from(["basic", "extended"]))
def test_frame_index__does_follow_offset_tables(frames: list[list[bytes]], table: str) -> None:
    data = encapsulated(
        [fragment for frame in frames for fragment in frame],
        frames=len(frames),
        **{f"{table}_offset_table": starts_of(frames)},  # type: ignore[arg-type]
    )
    index = index_instance(data).frames
    assert index.kind == "encapsulated"
    assert frames_of(data, index) == [b"".join(fragments) for fragments in frames]
    assert bool(index.fragments_of_frame) == any(len(fragments) > 1 for fragments in frames)


@settings(deadline=None)
@given(fragmented_frames())
def test_frame_index__does_find_frames_by_their_end_marks(frames: list[list[bytes]]) -> None:
    marked = [
        [fragment.replace(b"\xff", b"\xfe") for fragment in fragments[:-1]] + [b"\x01\x02" + END]
        for fragments in frames
    ]
    data = encapsulated([f for fragments in marked for f in fragments], frames=len(marked))
    index = index_instance(data).frames
    expected = [b"".join(fragments) for fragments in marked]
    assert frames_of(data, index) == expected
    pixel_data = pydicom.dcmread(io.BytesIO(data)).PixelData
    assert list(generate_frames(pixel_data, number_of_frames=len(marked))) == expected


@pytest.mark.parametrize(
    "table", [[0, 11], [4, 10], [10, 0], [0, 0], [0, 4294967295], [0], [0, 10, 20]]
)
def test_frame_index__does_not_believe_an_offset_table_that_lies(table: list[int]) -> None:
    data = encapsulated([b"ab", b"cd"], frames=2, basic_offset_table=table)
    assert frames_of(data, index_instance(data).frames) == [b"ab", b"cd"]


def test_frame_index__does_say_when_frames_cannot_be_told() -> None:
    three = encapsulated([b"ab", b"cd", b"ef"], frames=2)
    too_few = encapsulated([b"ab"], frames=2)
    none = encapsulated([], frames=1)
    video = encapsulated([b"ab", b"cd"], frames=2, syntax="1.2.840.10008.1.2.4.102")
    for data in (three, too_few, none, video):
        index = index_instance(data).frames
        assert (index.kind, index.count) == ("encapsulated", 0)
        with pytest.raises(IndexError, match="frame 0: the index has 0 frames"):
            index.ranges(0)


def test_frame_index__does_join_all_fragments_of_a_single_frame() -> None:
    data = encapsulated([b"ab", b"cd", b"ef"], frames=1, syntax=RLE)
    index = index_instance(data).frames
    assert frames_of(data, index) == [b"abcdef"]
    assert index.pixel_data_offset is not None
    assert index.pixel_data_length is not None
    end = index.pixel_data_offset + index.pixel_data_length
    assert data[end : end + 4] == b"\xfe\xff\xdd\xe0"
    assert len(data) == end + 8


@pytest.mark.parametrize("n_frames", [1, 3, 7])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("samples", [1, 3])
def test_frame_index__does_cut_native_frames(n_frames: int, bits: int, samples: int) -> None:
    n_rows, n_columns = 5, 3
    size = n_rows * n_columns * samples * bits // 8
    pixels = np.random.default_rng(1).bytes(size * n_frames)
    data = ct_object(
        x00280002=("US", words(samples)),
        x00280008=("IS", text(str(n_frames))),
        x00280010=("US", words(n_rows)),
        x00280011=("US", words(n_columns)),
        x00280100=("US", words(bits)),
        x7FE00010=("OW", pixels + bytes(len(pixels) % 2)),
    )
    index = index_instance(data).frames
    expected = [pixels[i * size : (i + 1) * size] for i in range(n_frames)]
    assert frames_of(data, index) == expected
    assert all(index.first_bit(frame) == 0 for frame in range(n_frames))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_frame_index__does_cut_frames_of_single_bits(
    n_frames: int, n_rows: int, n_columns: int
) -> None:
    bits = np.random.default_rng(n_rows * 81 + n_columns * 9 + n_frames).integers(
        0, 2, n_frames * n_rows * n_columns, dtype=np.uint8
    )
    packed = np.packbits(bits, bitorder="little").tobytes()
    data = ct_object(
        x00280008=("IS", text(str(n_frames))),
        x00280010=("US", words(n_rows)),
        x00280011=("US", words(n_columns)),
        x00280100=("US", words(1)),
        x7FE00010=("OB", packed + bytes(len(packed) % 2)),
    )
    index = index_instance(data).frames
    size = n_rows * n_columns
    for frame, pieces in enumerate(frames_of(data, index)):
        unpacked = np.unpackbits(np.frombuffer(pieces, np.uint8), bitorder="little")
        start = index.first_bit(frame)
        expected = bits[frame * size : (frame + 1) * size]
        assert np.array_equal(unpacked[start : start + size], expected)


def test_frame_index__does_know_subsampled_chroma() -> None:
    data = ct_object(
        x00280002=("US", words(3)),
        x00280004=("CS", text("YBR_FULL_422")),
        x00280008=("IS", text("2")),
        x00280010=("US", words(2)),
        x00280011=("US", words(4)),
        x00280100=("US", words(8)),
        x7FE00010=("OB", bytes(range(32))),
    )
    index = index_instance(data).frames
    assert frames_of(data, index) == [bytes(range(16)), bytes(range(16, 32))]


@pytest.mark.parametrize(("tag", "vr", "size"), [(0x7FE00008, "OF", 4), (0x7FE00009, "OD", 8)])
def test_frame_index__does_cut_float_frames(tag: int, vr: str, size: int) -> None:
    pixels = bytes(range(6 * size))
    changes: dict[str, tuple[str, bytes] | None] = {f"x{tag:08X}": (vr, pixels)}
    data = ct_object(EXPLICIT, **changes, x7FE00010=None, x00280100=None)
    assert frames_of(data, index_instance(data).frames) == [pixels]


@pytest.mark.parametrize(
    "change",
    [
        {"x00280010": None},
        {"x00280100": ("US", words(0))},
    ],
)
def test_frame_index__does_keep_an_object_that_does_not_tell_the_size_of_a_frame(
    change: dict[str, tuple[str, bytes] | None],
) -> None:
    index = index_instance(ct_object(EXPLICIT, **change)).frames
    assert (index.kind, index.count, index.frame_size_bits) == ("native", 0, None)
    assert index.pixel_data_offset is not None


def test_frame_index__does_not_cut_compressed_bytes_of_defined_length() -> None:
    data = ct_object().replace(
        element(0x00020010, "UI", b"1.2.840.10008.1.2.1\0"),
        element(0x00020010, "UI", JPEG_BASELINE.encode()),
    )
    index = index_instance(data)
    assert index.transfer_syntax_uid == JPEG_BASELINE
    assert (index.frames.kind, index.frames.count) == ("native", 0)


def test_frame_index__does_have_no_place_for_deflated_frames() -> None:
    assert index_instance(ct_object(DEFLATED)).frames == FrameIndex("deflated")


def test_frame_index__does_survive_many_fragments() -> None:
    fragments = [struct.pack("<I", i) for i in range(50_000)]
    data = encapsulated(fragments, frames=50_000)
    index = index_instance(data).frames
    assert index.count == 50_000
    ((offset, length),) = index.ranges(49_999)
    assert data[offset : offset + length] == fragments[-1]
