"""Scans as DICOM: what is encoded comes back, always the same, and peers accept it."""

import hashlib
import io
import math
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark import __version__
from pacspark.ct.geometry import (
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
)
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.dicom import scan as scan_module
from pacspark.dicom.scan import (
    EncodedInstance,
    encode_scan,
    scan_from_headers,
)
from pacspark.errors import (
    ProjectionDataError,
    ScanDescriptionError,
)
from pacspark.scans.description import read_scan_description
from pacspark.scans.readers import open_frames
from tests.dicom.scans import (
    ONES,
    Memory,
    cone,
    decoded,
    described,
    rows_of,
    tilted,
    wobbling,
)
from tests.scans.scan_folder import write_scan

GEOMETRIES = [
    cone(),
    cone(1, n_rows=1, n_columns=3),
    cone(row_order="bottom_up", offset_v_mm=-1 / 7),
    ParallelBeamGeometry(np.linspace(-1, 2, 9), FlatPanel(2, 5, 1.0, 1.0)),
    wobbling(),
]
TILTED = [tilted(), tilted(cone(row_order="bottom_up", offset_v_mm=1 / 3))]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_encode_scan__gives_the_geometry_back_bit_for_bit(geometry: Geometry) -> None:
    detector = geometry.detector
    shape = (1, geometry.n_angles, detector.n_rows, detector.n_columns)
    values = np.random.default_rng(1).normal(2, 1, shape)
    description = described(geometry, water_mu_per_mm=0.1 / 7, subject={})
    encoded = list(encode_scan(description, Memory(values)))
    scan = scan_from_headers(rows_of(encoded))
    assert scan.geometry == geometry
    assert scan.kind == "line_integrals"
    assert scan.water_mu_per_mm == 0.1 / 7
    step = (values.max() - values.min()) / 65535
    assert np.abs(decoded(encoded, scan, "projections") - values[0]).max() < 0.51 * step + 1e-6


@pytest.mark.parametrize("views", TILTED)
def test_encode_scan__keeps_raw_frames_and_every_bit_of_views(views: ConeBeamViews) -> None:
    counts = np.random.default_rng(1).integers(0, 65535, (1, 7, 4, 6), np.uint16)
    description = described(views, kind="counts", unattenuated_counts=9.0)
    encoded = list(encode_scan(description, Memory(counts)))
    scan = scan_from_headers(rows_of(encoded))
    assert scan.views == views
    assert scan.geometry == description.geometry == Rectification(views).geometry
    np.testing.assert_array_equal(decoded(encoded, scan, "projections"), counts[0])


def test_encode_scan__tells_people_the_upright_angles_and_distances_of_views() -> None:
    image = pydicom.dcmread(io.BytesIO(next(encode_scan(described(tilted(cone())), ONES)).data))
    angles = [
        float(frame.PositionerPositionSequence[0].PositionerPrimaryAngle)
        for frame in image.PerFrameFunctionalGroupsSequence
    ]
    expected = np.degrees(cone().gantry_angles_rad)
    np.testing.assert_allclose(np.mod(angles, 360), expected, atol=1e-9)
    shared = image.SharedFunctionalGroupsSequence[0].XRayGeometrySequence[0]
    assert shared.DistanceSourceToIsocenter == pytest.approx(101.7)
    # along the horizontal ray through the axis, which meets the tilted panel elsewhere
    assert float(shared.DistanceSourceToDetector) == pytest.approx(300.1, abs=0.1)
    assert (image.Rows, image.Columns) == (4, 6)


def test_encode_scan__tells_scans_apart_by_where_their_panels_stood() -> None:
    uids = {
        next(encode_scan(described(geometry), ONES)).series_instance_uid
        for geometry in (cone(), wobbling(), tilted(), tilted(cone()))
    }
    assert len(uids) == 4


def test_encode_scan__gives_upright_scans_the_identity_that_they_always_had() -> None:
    first = next(encode_scan(described(cone()), ONES))
    assert first.series_instance_uid == "2.25.193950656759635567684049850029822628346"
    digest = hashlib.sha256(first.data).hexdigest()
    assert digest == "e465061d28d479bfc3d55255dbc58c4e93655a68c12cfbab23464aefa1417f67"


def test_encode_scan__keeps_views_of_long_scans_within_their_elements() -> None:
    angles = np.arange(5000) * 2 * math.pi / 5000
    geometry = replace(cone(1, n_rows=1, n_columns=2), gantry_angles_rad=angles)
    views = ConeBeamViews.of_circle(geometry, about_v_rad=0.01)
    encoded = list(encode_scan(described(views), Memory(np.ones((1, 5000, 1, 2)))))
    assert len(encoded) == 3
    assert scan_from_headers(rows_of(encoded)).views == views


@settings(max_examples=40, deadline=None)
@given(angles=st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=1, max_size=9))
def test_encode_scan__keeps_every_bit_of_angles(angles: list[float]) -> None:
    geometry = replace(cone(), gantry_angles_rad=np.array(angles))
    encoded = list(encode_scan(described(geometry), Memory(np.ones((1, len(angles), 4, 6)))))
    assert scan_from_headers(rows_of(encoded)).geometry == geometry


def test_encode_scan__keeps_whole_counts_as_they_are_with_flats_and_darks() -> None:
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 65535, (1, 7, 4, 6), np.uint16)
    source = Memory(counts.astype(np.float32), counts[:, :3] // 2 + 9, counts[:, :2] // 100)
    encoded = list(encode_scan(described(cone(), kind="counts"), source))
    scan = scan_from_headers(rows_of(encoded))
    assert scan.kind == "counts"
    np.testing.assert_array_equal(decoded(encoded, scan, "projections"), counts[0])
    np.testing.assert_array_equal(decoded(encoded, scan, "flats"), source.flats())
    np.testing.assert_array_equal(decoded(encoded, scan, "darks"), source.darks())


def test_encode_scan__is_a_function_of_its_input() -> None:
    source = Memory(np.random.default_rng(3).normal(0, 1, (1, 7, 4, 6)))
    first, again = (list(encode_scan(described(cone()), source)) for _ in range(2))
    assert first == again
    other = list(encode_scan(described(cone(), subject={"PatientID": "T-2"}), source))
    assert {one.sop_instance_uid for one in first}.isdisjoint(one.sop_instance_uid for one in other)


def test_encode_scan__splits_long_scans_and_energy_bins(
    monkeypatch: pytest.MonkeyPatch, peer: Callable[[str], str], tmp_path: Path
) -> None:
    monkeypatch.setattr(scan_module, "INSTANCE_BYTES", 3 * 2 * 4 * 6)
    values = np.random.default_rng(4).normal(3, 1, (2, 7, 4, 6))
    description = described(cone(), energy_bin_edges_kev=(20.0, 45.0, 80.0))
    encoded = list(encode_scan(description, Memory(values)))
    assert len(encoded) == 6  # 3 + 3 + 1 views, twice
    scan = scan_from_headers(rows_of(encoded[::-1]))
    assert scan.n_energy_bins == 2
    assert scan.energy_bin_edges_kev == (20.0, 45.0, 80.0)
    assert [(run.energy_bin, run.angle_start, run.count) for run in scan.projections] == [
        (0, 0, 3), (0, 3, 3), (0, 6, 1), (1, 0, 3), (1, 3, 3), (1, 6, 1),
    ]  # fmt: skip
    require_valid(peer, tmp_path, encoded)
    with pytest.raises(ProjectionDataError, match="energy bin 1, found none for 3 of them"):
        scan_from_headers(rows_of(encoded[:4] + encoded[5:]))


@pytest.mark.parametrize("geometry", [*GEOMETRIES, *TILTED])
@pytest.mark.parametrize("kind", ["counts", "transmission", "line_integrals"])
def test_encode_scan__makes_objects_that_dciodvfy_accepts(
    geometry: Geometry | ConeBeamViews, kind: str, peer: Callable[[str], str], tmp_path: Path
) -> None:
    detector = geometry.detector
    shape = (1, geometry.n_angles, detector.n_rows, detector.n_columns)
    counts = np.random.default_rng(5).integers(1, 999, shape)
    source = Memory(counts, counts[:, :1], counts[:, :1]) if kind == "counts" else Memory(counts)
    subjects: list[dict[str, Any]] = [
        {},
        {"PatientID": "P", "PatientName": "Name", "StudyDate": "20260101", "KVP": "90",
         "SeriesDescription": "Größe", "BodyPartExamined": "HEAD"},
    ]  # fmt: skip
    for subject in subjects:
        encoded = list(encode_scan(described(geometry, kind=kind, subject=subject), source))
        require_valid(peer, tmp_path, encoded)


def require_valid(peer: Callable[[str], str], folder: Path, encoded: list[EncodedInstance]) -> None:
    """Hold every object against dciodvfy, and all of them together against dcentvfy."""
    files = []
    for number, one in enumerate(encoded):
        files.append(folder / f"{number}.dcm")
        files[-1].write_bytes(one.data)
        told = subprocess.run(
            [peer("dciodvfy"), str(files[-1])], capture_output=True, text=True, check=False
        )
        assert "Error" not in told.stdout + told.stderr, told.stderr
        assert "EnhancedXAImage" in told.stdout + told.stderr
    told = subprocess.run(
        [peer("dcentvfy"), *map(str, files)], capture_output=True, text=True, check=False
    )
    assert "Error" not in told.stdout + told.stderr, told.stderr


@pytest.mark.parametrize(
    ("subject", "found"),
    [
        ({"Nonsense": "1"}, "none of PS3.6"),
        ({"PatientId": "P"}, "none of PS3.6; did you mean PatientID?"),
        ({"Rows": 7}, "one that the scan itself sets"),
        ({"PixelData": "x"}, "one that the scan itself sets"),
        ({"SOPInstanceUID": "1.2.3"}, "one that the scan itself sets"),
        ({"StudyDate": "1 May"}, "'1 May'"),
        ({"StudyInstanceUID": "../../etc"}, "'../../etc'"),
        ({"PatientID": "x" * 65}, "'xxxx"),
        ({"PatientID": "a\0b"}, r"PatientID: .* without control characters, found 'a\\x00b'"),
        ({"PatientName": "\x1b]0;x\x07"}, r"without control characters, found '\\x1b\]0;x\\x07'"),
        ({"StudyDescription": "a\nb"}, r"without control characters, found 'a\\nb'"),
        ({"PatientComments": "a\x9bb"}, r"without control characters, found 'a\\x9bb'"),
        ({"Patient\x1b[31mID": "P"}, r"Patient\\x1b\[31mID: "),
    ],
)
def test_encode_scan__refuses_keywords_that_are_not_the_subjects(
    subject: dict[str, Any], found: str
) -> None:
    description = described(cone(), subject=subject)
    with pytest.raises(ScanDescriptionError, match=rf"subject\..*?{found}"):
        list(encode_scan(description, Memory(np.ones((1, 7, 4, 6)))))


def test_encode_scan__takes_lines_in_texts_that_may_have_them() -> None:
    description = described(cone(), subject={"PatientComments": "one\r\n\ttwo"})
    (encoded,) = encode_scan(description, Memory(np.ones((1, 7, 4, 6))))
    assert pydicom.dcmread(io.BytesIO(encoded.data)).PatientComments == "one\r\n\ttwo"


def test_encode_scan__names_a_value_that_is_not_finite_before_anything_is_encoded() -> None:
    values = np.ones((1, 7, 4, 6))
    values[0, 5, 2, 3] = np.nan
    with pytest.raises(ProjectionDataError, match=r"expected finite values, found nan .*5, 2, 3"):
        next(encode_scan(described(cone()), Memory(values)))


@pytest.mark.parametrize("value", [1e300, -1e300, 3e38, np.inf])
def test_encode_scan__refuses_values_that_float32_does_not_hold(value: float) -> None:
    values = np.ones((1, 7, 4, 6))
    values[0, 6, 0, 5] = value
    with pytest.raises(ProjectionDataError, match=r"expected finite values.*6, 0, 5"):
        next(encode_scan(described(cone()), Memory(values)))


def test_encode_scan__refuses_one_hot_pixel_that_would_round_all_others_away() -> None:
    values = np.linspace(0, 3, 40 * 4 * 6).reshape(1, 40, 4, 6)
    values[0, 2, 3, 4] = 1e6
    with pytest.raises(ProjectionDataError, match=r"1e\+06 in .* row, column \(2, 3, 4\)"):
        next(encode_scan(described(cone(40)), Memory(values)))


@pytest.mark.parametrize("flat", [None, np.full((1, 1, 4, 6), 60_000), np.full((1, 1, 4, 6), 0.5)])
def test_encode_scan__refuses_a_hot_pixel_among_counts(flat: NDArray[Any] | None) -> None:
    counts = np.arange(7 * 4 * 6).reshape(1, 7, 4, 6)
    counts[0, 6, 3, 4] = 1 << 40
    with pytest.raises(ProjectionDataError, match=r"row, column \(6, 3, 4\)"):
        next(encode_scan(described(cone(), kind="counts"), Memory(counts, flat)))


def test_encode_scan__scales_counts_whose_flats_are_means() -> None:
    counts = np.arange(7 * 4 * 6).reshape(1, 7, 4, 6)
    source = Memory(counts, np.full((1, 1, 4, 6), 1000.5))
    encoded = list(encode_scan(described(cone(), kind="counts"), source))
    scan = scan_from_headers(rows_of(encoded))
    np.testing.assert_allclose(decoded(encoded, scan, "flats"), 1000.5, atol=0.01)
    np.testing.assert_allclose(decoded(encoded, scan, "projections"), counts[0], atol=0.01)


def test_encode_scan__refuses_a_subject_before_it_reads_a_frame() -> None:
    class Unread(Memory):
        def read(self, angle_start: int, angle_stop: int, energy_bin: int = 0) -> NDArray[Any]:
            raise AssertionError

    with pytest.raises(ScanDescriptionError, match=r"subject\.Nonsense"):
        next(
            encode_scan(described(cone(), subject={"Nonsense": "1"}), Unread(np.ones((1, 7, 4, 6))))
        )


def test_encode_scan__never_gives_other_bytes_the_same_uid() -> None:
    """What is in the objects is in the UIDs: dates of the subject, types of pixels."""
    wide = np.full((1, 7, 4, 6), -1, np.int16)
    wide[..., 0] = 0
    alike = (
        (described(cone()), wide),
        (described(cone()), wide.view(np.uint16)),
        (described(cone(), subject={"PatientID": "T-1", "StudyDate": "20270102"}), wide),
        (described(cone(), water_mu_per_mm=0.02), wide),
        (described(cone(row_order="bottom_up")), wide),
    )
    encoded = [next(encode_scan(description, Memory(values))) for description, values in alike]
    assert len({one.data for one in encoded}) == len(alike)
    assert len({one.sop_instance_uid for one in encoded}) == len(alike)


def test_encode_scan__gives_copied_files_the_same_bytes(tmp_path: Path) -> None:
    encoded = []
    for name, time in (("measured", 1_500_000_000), ("copied", 1_600_000_000)):
        (tmp_path / name).mkdir()
        path = write_scan(tmp_path / name, {"subject.PatientID": "P"})
        for file in (tmp_path / name).iterdir():
            os.utime(file, (time, time))
        description = read_scan_description(path)
        with open_frames(description) as frames:
            encoded.append(list(encode_scan(description, frames)))

    assert encoded[0] == encoded[1]
    image = pydicom.dcmread(io.BytesIO(encoded[0][0].data))
    assert (image.StudyDate, image.ContentDate) == ("", "19000101")


def test_encode_scan__takes_every_keyword_of_the_subject_or_refuses_it() -> None:
    plain = pydicom.dcmread(io.BytesIO(next(encode_scan(described(cone()), ONES)).data))
    values = {"DA": "20200102", "TM": "030405", "DT": "20200102", "DS": "7", "IS": "7",
              "UI": "1.2.3", "AS": "012Y"}  # fmt: skip
    kept = []
    for element in plain:
        if element.tag.is_private:
            continue
        value = values.get(element.VR, "OTHER")
        description = described(cone(), subject={element.keyword: value})
        try:
            data = next(encode_scan(description, ONES)).data
        except ScanDescriptionError as error:
            assert f"subject.{element.keyword}: expected" in str(error)  # noqa: PT017
            continue
        assert str(pydicom.dcmread(io.BytesIO(data))[element.keyword].value) == value
        kept.append(element.keyword)
    assert {"PatientID", "StudyDate", "StudyInstanceUID", "KVP", "RadiationMode"} <= set(kept)


def test_encode_scan__gives_the_same_bytes_after_an_upgrade() -> None:
    assert __version__.encode() not in next(encode_scan(described(cone()), ONES)).data


@pytest.mark.parametrize("value", [0.0, -7.25, 1e-40, 3.5e37])
def test_encode_scan__keeps_a_scan_of_one_value(value: float) -> None:
    encoded = list(encode_scan(described(cone()), Memory(np.full((1, 7, 4, 6), value))))
    scan = scan_from_headers(rows_of(encoded))
    np.testing.assert_array_equal(decoded(encoded, scan, "projections"), np.float32(value))


def test_encode_scan__rounds_values_that_happen_to_span_16_bits() -> None:
    values = np.linspace(0, 65535, 7 * 4 * 6).reshape(1, 7, 4, 6)
    encoded = list(encode_scan(described(cone()), Memory(values)))
    stored = decoded(encoded, scan_from_headers(rows_of(encoded)), "projections")
    np.testing.assert_array_equal(stored, np.rint(values[0]))


@pytest.mark.parametrize(
    ("kind", "relationship", "sign"),
    [("counts", "LIN", 1), ("transmission", "LIN", 1), ("line_integrals", "OTHER", -1)],
)
def test_encode_scan__says_how_pixels_follow_the_intensity(
    kind: str, relationship: str, sign: int
) -> None:
    """PS3.3 C.8.19.6.4: -1 where higher pixels are less intensity; LOG would need a table."""
    data = next(encode_scan(described(cone(), kind=kind), ONES)).data
    shared = pydicom.dcmread(io.BytesIO(data)).SharedFunctionalGroupsSequence[0]
    properties = shared.FramePixelDataPropertiesSequence[0]
    assert properties.PixelIntensityRelationship == relationship
    assert properties.PixelIntensityRelationshipSign == sign


def test_encode_scan__tells_people_the_angle_in_degrees_within_a_half_turn() -> None:
    geometry = replace(cone(), gantry_angles_rad=np.radians([-190.0, 0.0, 90.0, 350.0, 725.0]))
    source = Memory(np.ones((1, 5, 4, 6)))
    image = pydicom.dcmread(io.BytesIO(next(encode_scan(described(geometry), source)).data))
    angles = [
        float(frame.PositionerPositionSequence[0].PositionerPrimaryAngle)
        for frame in image.PerFrameFunctionalGroupsSequence
    ]
    np.testing.assert_allclose(angles, [170, 0, 90, -10, 5], atol=1e-9)
