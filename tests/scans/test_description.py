"""SCAN.toml: what it says is what the geometry is, and what it must not say ends in one line."""

import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacspark.ct.geometry import ConeBeamGeometry, ParallelBeamGeometry
from pacspark.errors import ScanDescriptionError
from pacspark.scans.description import read_scan_description
from tests.scans.scan_folder import CONE, frames, with_values, write_scan, write_toml


def refusal(path: Path) -> str:
    """Return what is said about a description that cannot be followed."""
    with pytest.raises(ScanDescriptionError) as caught:
        read_scan_description(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert message.startswith(str(path))
    return message.removeprefix(f"{path}: ")


def test_description__does_hold_the_whole_of_a_cone_beam_scan(tmp_path: Path) -> None:
    path = write_scan(
        tmp_path,
        {
            "geometry.row_spacing_mm": 0.25,
            "geometry.detector_offset_u_mm": -0.27,
            "geometry.detector_offset_v_mm": 1.5,
            "geometry.row_order": "bottom_up",
            "angles.start_deg": 10.0,
            "angles.count": 6,
            "energy_bins.edges_kev": [20, 45],
            "calibration.water_mu_per_mm": 0.0206,
            "subject.PatientID": "WALNUT-1",
            "subject.PatientWeight": 0.01,
        },
    )

    description = read_scan_description(path)

    assert description.path == path
    assert description.kind == "line_integrals"
    assert description.beam == "cone"
    assert description.energy_bin_edges_kev == (20.0, 45.0)
    assert description.n_energy_bins == 1
    assert description.water_mu_per_mm == 0.0206
    assert description.unattenuated_counts is None
    assert description.scale == 1.0
    assert description.subject == {"PatientID": "WALNUT-1", "PatientWeight": 0.01}
    geometry = description.geometry
    assert isinstance(geometry, ConeBeamGeometry)
    assert geometry.source_to_isocenter_mm == 110.0
    assert geometry.source_to_detector_mm == 300.0
    np.testing.assert_array_equal(
        geometry.gantry_angles_rad, np.radians([10.0, 70.0, 130.0, 190.0, 250.0, 310.0])
    )
    detector = geometry.detector
    assert (detector.n_rows, detector.n_columns) == (4, 5)
    assert (detector.row_spacing_mm, detector.column_spacing_mm) == (0.25, 0.5)
    assert (detector.offset_u_mm, detector.offset_v_mm) == (-0.27, 1.5)
    assert detector.row_order == "bottom_up"


def test_description__does_fill_in_what_is_left_out(tmp_path: Path) -> None:
    description = read_scan_description(write_scan(tmp_path, {"format_version": None}))

    detector = description.geometry.detector
    assert detector.row_spacing_mm == detector.column_spacing_mm == 0.5
    assert (detector.offset_u_mm, detector.offset_v_mm) == (0.0, 0.0)
    assert detector.row_order == "top_down"
    assert description.geometry.gantry_angles_rad[0] == 0.0
    assert description.energy_bin_edges_kev == ()
    assert description.water_mu_per_mm is None
    assert dict(description.subject) == {}


def test_description__does_survive_pickling(tmp_path: Path) -> None:
    description = read_scan_description(write_scan(tmp_path, {"subject.PatientID": "P"}))

    assert pickle.loads(pickle.dumps(description)) == description


def test_description__does_read_the_scan_of_a_folder(tmp_path: Path) -> None:
    path = write_scan(tmp_path)

    assert read_scan_description(tmp_path) == read_scan_description(path)
    assert read_scan_description(str(path)).path == path


def test_clockwise__does_negate_the_angles(tmp_path: Path) -> None:
    there = read_scan_description(write_scan(tmp_path)).geometry.gantry_angles_rad
    back = read_scan_description(write_scan(tmp_path, {"geometry.rotation": "clockwise"}))

    np.testing.assert_array_equal(back.geometry.gantry_angles_rad, -there)


@pytest.mark.parametrize("axis_column", [0.0, 1.25, 2.0, 4.0])
def test_rotation_axis_column__does_put_that_column_on_the_axis(
    tmp_path: Path, axis_column: float
) -> None:
    path = write_scan(tmp_path, {"geometry.rotation_axis_column": axis_column})

    u_mm = read_scan_description(path).geometry.detector.u_mm

    assert np.interp(axis_column, np.arange(5), u_mm) == pytest.approx(0.0, abs=1e-12)


def test_parallel_beam__does_count_in_pixels_without_a_pixel_size(tmp_path: Path) -> None:
    path = write_scan(
        tmp_path,
        {
            "geometry.beam": "parallel",
            "geometry.column_spacing_mm": None,
            "geometry.source_to_isocenter_mm": None,
            "geometry.source_to_detector_mm": None,
        },
    )

    description = read_scan_description(path)

    assert isinstance(description.geometry, ParallelBeamGeometry)
    assert description.beam == "parallel"
    assert description.geometry.detector.column_spacing_mm == 1.0
    assert description.geometry.detector.row_spacing_mm == 1.0


ANGLES_DEG = [0.0, 60.5, 120.0, 181.0, 240.0, 359.0]


def test_angles__does_take_a_list(tmp_path: Path) -> None:
    path = write_scan(tmp_path, {"angles": {"values_deg": ANGLES_DEG}})

    angles_rad = read_scan_description(path).geometry.gantry_angles_rad

    np.testing.assert_array_equal(angles_rad, np.radians(ANGLES_DEG))


@pytest.mark.parametrize(
    "text",
    [
        "0\n60.5\n120\n181\n240\n359\n",
        "0,60.5,120\r\n181,240,359",
        "# degrees\n0 60.5\t120 # first half\n\n181 2.4e2 359",
    ],
)
def test_angles__does_take_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "angles.txt").write_bytes(text.encode())
    path = write_scan(tmp_path, {"angles": {"file": "angles.txt"}})

    angles_rad = read_scan_description(path).geometry.gantry_angles_rad

    np.testing.assert_array_equal(angles_rad, np.radians(ANGLES_DEG))


@pytest.mark.parametrize("selection", [{"first": 2, "count": 6}, {"first": 2}, {"count": 6}])
def test_angles__does_select_from_a_longer_list(tmp_path: Path, selection: dict[str, int]) -> None:
    before = [-90.0] * selection.get("first", 0)
    after = [400.0] * 3 if "count" in selection else []
    path = write_scan(
        tmp_path, {"angles": {"values_deg": [*before, *ANGLES_DEG, *after], **selection}}
    )

    angles_rad = read_scan_description(path).geometry.gantry_angles_rad

    np.testing.assert_array_equal(angles_rad, np.radians(ANGLES_DEG))


HUGE = 10**400
COUNTS: dict[str, Any] = {"projections.kind": "counts"}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"format_version": 2}, "format_version: expected 1, found 2"),
    ({"format_version": True}, "format_version: .*found True"),
    ({"format": 1}, "format: expected one of the keys .*format_version.*found an unknown key"),
    ({"projections": 3}, r"projections: expected a table \[projections\], found 3"),
    ({"projections": None}, r"projections: expected a table \[projections\]"),
    ({"geometry": None}, r"geometry: expected a table \[geometry\]"),
    ({"angles": None}, r"angles: expected a table \[angles\]"),
    ({"projections.files": None}, "projections.files: expected a text, found nothing"),
    ({"projections.files": 3}, "projections.files: expected a text, found 3"),
    ({"projections.files": ""}, "projections.files: expected a text"),
    ({"projections.files": "no.npy"}, "projections.files: expected a file no.npy in .*none"),
    ({"projections.files": "f/*.tif"}, r"projections.files: expected a file f/\*.tif in .*none"),
    ({"projections.files": "."}, r"projections.files: .*found the folder \."),
    ({"projections.files": "a\0b"}, "projections.files: "),
    ({"projections.files": "a\0*"}, "projections.files: "),
    ({"projections.files": "x" * 5000}, "projections.files: "),
    ({"projections.files": "SCAN.toml"}, "projections.shape: .*shape and dtype.*SCAN.toml"),
    ({"projections.kind": "photons"}, "projections.kind: expected one of counts, .*'photons'"),
    ({"projections.kind": None}, "projections.kind: .*found nothing"),
    ({"projections.kind": ["counts"]}, "projections.kind: "),
    ({"projections.kind": "counts"}, "projections.flat: .*unattenuated_counts.*found neither"),
    ({"projections.axes": "angle"}, "projections.axes: expected a list of texts"),
    ({"projections.axes": ["angle", "row"]}, "projections.axes: expected angle and column"),
    ({"projections.axes": ["angle", "angle", "column"]}, "projections.axes: .*each once"),
    ({"projections.axes": ["angle", "row", "column", "time"]}, "projections.axes: "),
    (COUNTS | {"projections.flat": "f.npy"}, "projections.flat: expected a file f.npy"),
    (COUNTS | {"projections.dark_dataset": "/d"}, "projections.dark: .*dark_dataset.*no HDF5"),
    ({"projections.scale": 0}, "projections.scale: expected a number > 0, found 0"),
    (COUNTS | {"projections.unattenuated_counts": -1}, "projections.una.*: .*> 0, found -1"),
    (COUNTS | {"projections.unattenuated_counts": "x"}, "projections.una.*: .*'x'"),
    ({"projections.file": "x"}, "projections.file: .*found an unknown key"),
    ({"geometry.beam": "fan"}, "geometry.beam: .*a fan is a cone with one detector row.*'fan'"),
    ({"geometry.beam": "helix"}, "geometry.beam: expected one of cone, parallel, found 'helix'"),
    ({"angles": {"step_degrees": 60}}, "angles.step_degrees: .*; did you mean step_deg?"),
    ({"geometry": {"Beam": "cone"}}, "geometry.Beam: .*unknown key; did you mean beam?"),
    ({"geometrie.beam": "cone"}, "geometrie: .*unknown key; did you mean geometry?"),
    ({"geometry.source_to_isocenter_mm": None}, "geometry.source_to_isocenter_mm: .*nothing"),
    ({"geometry.source_to_isocenter_mm": -1.0}, "geometry.source_to_isocenter_mm: .*> 0"),
    ({"geometry.source_to_detector_mm": True}, "geometry.source_to_detector_mm: .*True"),
    ({"geometry.source_to_detector_mm": "300 mm"}, "geometry.source_to_detector_mm: .*'300 mm'"),
    ({"geometry.source_to_detector_mm": HUGE}, "geometry.source_to_detector_mm: .*a number"),
    ({"geometry.column_spacing_mm": None}, "geometry.column_spacing_mm: .*nothing"),
    ({"geometry.row_spacing_mm": 0}, "geometry.row_spacing_mm: .*> 0, found 0"),
    ({"geometry.detector_offset_u_mm": [1]}, "geometry.detector_offset_u_mm: "),
    ({"geometry.rotation": "left"}, "geometry.rotation: .*counterclockwise, clockwise.*'left'"),
    ({"geometry.row_order": "up"}, "geometry.row_order: .*top_down, bottom_up"),
    ({"geometry.source_to_object_mm": 3}, "geometry.source_to_object_mm: .*an unknown key"),
    ({"angles.step_deg": None}, "angles: expected a table"),
    ({"angles.count": 7}, "angles.count: expected 6 angles, as many .*found 7"),
    ({"angles.count": 10**15}, "angles.count: expected 6 angles"),
    ({"angles.count": HUGE}, "angles.count: expected 6 angles"),
    ({"angles.count": 6.0}, "angles.count: expected a whole number >= 1, found 6.0"),
    ({"angles": {"values_deg": []}}, "angles.values_deg: expected a list of numbers"),
    ({"angles": {"values_deg": [0, "a"]}}, r"angles.values_deg\[1\]: expected a number, found 'a'"),
    ({"angles": {"values_deg": [0.0, 1.0]}}, "angles.values_deg: expected 6 angles.*found 2"),
    ({"angles": {"values_deg": ANGLES_DEG, "first": 9}}, "angles.count: "),
    ({"angles.step_deg": 0}, "angles.step_deg: .*several directions, found all 6 at 0 degrees"),
    ({"angles.step_deg": -720}, "angles.step_deg: .*several directions, found all 6 at 0 degrees"),
    ({"angles": {"values_deg": [-1e308, 1e308, 0, 1, 2, 3]}}, "angles.values_deg: .* of inf deg"),
    ({"angles.step_deg": 1e308}, "angles.step_deg: expected angles within .*, found .* inf"),
    (
        {"angles.step_deg": 1234},
        "angles.step_deg: expected angles within 5760 degrees, 16 turns, found a span of 6170 deg",
    ),
    ({"angles.step_deg": 1.0472}, "angles.step_deg: expected degrees, .* looks like radians"),
    (
        {"angles": {"values_deg": [0, 1, 2, 3, 4, 6.2832]}},
        "angles.values_deg: expected degrees, found 6 views within 6.2832, which looks like radi",
    ),
    ({"angles": {"values_deg": [30] * 6}}, "angles.values_deg: .*found all 6 at 30 degrees"),
    (
        {"angles": {"values_deg": [0, 60, 120, 60, 240, 300]}},
        "angles.values_deg: expected every angle once, found 60 degrees 2 times",
    ),
    ({"geometry.source_to_detector_mm": 100}, "geometry.source_to_detector_mm: .*swapped"),
    ({"geometry.source_to_isocenter_mm": 1e-300}, "geometry.source_to_isocenter_mm: .* mm, found"),
    ({"geometry.source_to_detector_mm": 1e308}, "geometry.source_to_detector_mm: .*to 1e.07 mm"),
    ({"geometry.column_spacing_mm": 5e-324}, "geometry.column_spacing_mm: .*1e-06 to"),
    ({"geometry.row_spacing_mm": 1e-9}, "geometry.row_spacing_mm: .*1e-06 to .*found 1e-09"),
    ({"geometry.detector_offset_v_mm": 1e5}, "geometry.detector_offset_v_mm: .*to either side"),
    ({"geometry.row_spacing_mm": -0.5}, "geometry.row_spacing_mm: .*> 0, found -0.5"),
    ({"angles": {"values_deg": ANGLES_DEG, "first": -1}}, "angles.first: "),
    ({"angles": {"file": "no.txt"}}, "angles.file: expected a text file of numbers"),
    ({"angles": {"file": "."}}, "angles.file: expected a text file of numbers"),
    ({"angles": {"file": "a\0b"}}, "angles.file: expected a text file of numbers"),
    ({"angles": {"file": "stack.npy"}}, "angles.file: "),
    ({"energy_bins.edges_kev": [20, 45, 60]}, "energy_bins.edges_kev: expected 2 rising edges"),
    ({"energy_bins.edges_kev": [45, 20]}, "energy_bins.edges_kev: expected 2 rising edges"),
    ({"energy_bins.edges_kev": [-1, 20]}, "energy_bins.edges_kev: expected 2 rising edges"),
    ({"energy_bins.edges": [20, 45]}, "energy_bins.edges: .*an unknown key"),
    ({"calibration.water_mu_per_mm": 0}, "calibration.water_mu_per_mm: .*> 0"),
    ({"calibration.water": 1}, "calibration.water: .*an unknown key"),
    ({"subject.PatientID": ["a"]}, "subject.PatientID: expected a text or a number"),
    ({"subject.PatientWeight": True}, "subject.PatientWeight: expected a text or a number"),
    ({'geometry."a\\u001b\\u0000"': 1}, r"geometry\.a\\x1b\\x00: .*an unknown key"),
    ({"geometry.beam": "a\x1b\0"}, r"geometry\.beam: .*found 'a\\x1b\\x00'"),
    ({"subject": "me"}, r"subject: expected a table \[subject\]"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_description__does_name_the_key_that_is_wrong(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert re.match(message, refusal(write_scan(tmp_path, changes)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "projections",
        "[projections",
        "a = 1\na = 2",
        "a = " + "[" * 20_000,
        "a." * 2_000 + "b = 1",
        "format_version = " + "9" * 5000,
        "[[projections]]\nfiles = 'a'",
        "[geometry]\nsource_to_isocenter_mm = nan",
        "\ufeff[projections]",
    ],
)
def test_description__does_refuse_what_is_no_scan(tmp_path: Path, text: str) -> None:
    path = tmp_path / "SCAN.toml"
    path.write_text(text, encoding="utf-8")

    assert "expected" in refusal(path)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "+nan"])
@pytest.mark.parametrize("key", ["source_to_isocenter_mm", "column_spacing_mm", "step_deg"])
def test_description__does_refuse_numbers_that_are_none(
    tmp_path: Path, number: str, key: str
) -> None:
    path = write_scan(tmp_path)
    text = re.sub(rf"^{key} = .*$", f"{key} = {number}", path.read_text(), flags=re.MULTILINE)
    path.write_text(text)

    table = "angles" if key == "step_deg" else "geometry"
    assert refusal(path).startswith(f"{table}.{key}: expected a number, found ")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", bytes(range(256)), b"a" * (17 << 20)])
def test_description__does_refuse_bytes_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "SCAN.toml"
    path.write_bytes(content)

    assert "expected TOML" in refusal(path)


def test_description__does_say_that_it_is_missing(tmp_path: Path) -> None:
    said = refusal(tmp_path / "none.toml")

    assert said == "expected a scan description, found no such file"


@pytest.mark.parametrize("word", ["nan", "inf", "60deg", "1e999", "0x10", "\x00"])
def test_angle_file__does_refuse_what_is_no_angle(tmp_path: Path, word: str) -> None:
    (tmp_path / "angles.txt").write_text(f"0 60\n120 {word}\n240 300")
    path = write_scan(tmp_path, {"angles": {"file": "angles.txt"}})

    message = refusal(path)

    assert message.startswith("angles.file: expected numbers, found")
    assert "line 2 of angles.txt" in message


def test_angles__does_take_whole_turns_and_few_views(tmp_path: Path) -> None:
    turns = [0.0, 120.0, 240.0, 360.0, 480.0, 600.0]
    path = write_scan(tmp_path, {"angles": {"values_deg": turns}})
    assert read_scan_description(path).geometry.n_angles == 6

    np.save(tmp_path / "stack.npy", frames(n_angles=2)[0])
    path = write_toml(tmp_path, with_values({"angles": {"step_deg": 5}}))
    assert read_scan_description(path).geometry.n_angles == 2


def test_angles__does_refuse_a_single_view(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", frames(n_angles=1)[0])
    path = write_toml(tmp_path, with_values({}))

    expected = "angles.step_deg: expected views from several directions, found one view"
    assert refusal(path) == expected


def test_axes__does_ask_for_their_names_where_an_array_has_two(tmp_path: Path) -> None:
    sinogram = np.arange(60.0).reshape(6, 10)
    np.save(tmp_path / "stack.npy", sinogram)

    message = refusal(write_toml(tmp_path, with_values({})))

    assert message.startswith("projections.axes: expected their names for an array of two")
    named = {"projections.axes": ["angle", "column"]}
    description = read_scan_description(write_toml(tmp_path, with_values(named)))
    assert description.geometry.n_angles == 6


@pytest.mark.parametrize(("step_deg", "n_lines"), [(60, 0), (10, 1)])
def test_description__does_warn_in_one_line_of_views_that_leave_out_rays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step_deg: float, n_lines: int
) -> None:
    path = write_scan(tmp_path, {"angles.step_deg": step_deg})

    assert read_scan_description(path).geometry.n_angles == 6
    assert len(caplog.messages) == n_lines
    for line in caplog.messages:
        assert line.startswith(f"{path}: can be stored, but not reconstructed: gantry_angles_rad: ")
        assert line.endswith("found views over 50.0 degrees")


FLAT = COUNTS | {"projections.flat": "flat.npy"}
UNATTENUATED = COUNTS | {"projections.unattenuated_counts": 900}
PARALLEL = {
    "geometry.beam": "parallel",
    "geometry.source_to_isocenter_mm": None,
    "geometry.source_to_detector_mm": None,
}
WITH_AXIS = {"geometry.rotation_axis_column": 2}
LISTED = {"angles": {"values_deg": ANGLES_DEG}}
FROM_FILE = {"angles": {"file": "angles.txt"}}


@pytest.mark.parametrize(
    ("scan", "key", "value"),
    [
        ({}, "projections.dataset", "/exchange/data"),
        ({}, "projections.shape", [6, 4, 5]),
        ({}, "projections.dtype", "uint16"),
        ({}, "projections.byte_order", "big"),
        ({}, "projections.offset_bytes", 8),
        ({}, "projections.flat", "flat.npy"),
        ({}, "projections.dark", "flat.npy"),
        ({}, "projections.flat_dataset", "/d"),
        ({}, "projections.dark_dataset", "/d"),
        ({}, "projections.flat_shape", [4, 5]),
        ({}, "projections.dark_shape", [4, 5]),
        ({}, "projections.unattenuated_counts", 900),
        ({"projections.kind": "transmission"}, "projections.flat", "flat.npy"),
        ({"projections.kind": "transmission"}, "projections.dark", "flat.npy"),
        ({"projections.kind": "transmission"}, "projections.unattenuated_counts", 900),
        (FLAT, "projections.unattenuated_counts", 900),
        (FLAT, "projections.flat_dataset", "/d"),
        (FLAT, "projections.flat_shape", [4, 5]),
        (UNATTENUATED, "projections.dark_shape", [4, 5]),
        (UNATTENUATED, "projections.scale", 2.0),
        (WITH_AXIS, "geometry.detector_offset_u_mm", 0.0),
        (PARALLEL, "geometry.source_to_isocenter_mm", 1e6),
        (PARALLEL, "geometry.source_to_detector_mm", 1e6),
        ({}, "angles.first", 1),
        (LISTED, "angles.step_deg", 60),
        (LISTED, "angles.start_deg", 0),
        (FROM_FILE, "angles.step_deg", 60),
        (FROM_FILE, "angles.start_deg", 0),
        (FROM_FILE, "angles.values_deg", ANGLES_DEG),
    ],
)
def test_description__does_refuse_keys_that_it_would_ignore(
    tmp_path: Path, scan: dict[str, Any], key: str, value: Any
) -> None:
    np.save(tmp_path / "flat.npy", np.full((4, 5), 900, "u2"))
    (tmp_path / "angles.txt").write_text(" ".join(map(str, ANGLES_DEG)))
    assert read_scan_description(write_scan(tmp_path, scan)).geometry.n_angles == 6

    # some changes replace a whole table, so the key is set in what they made
    path = write_toml(tmp_path, with_values({key: value}, with_values(scan)))

    assert re.match(rf"{key}: expected it only with .*, found ", refusal(path))


TOML_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3),
    max_leaves=4,
)
KEYS = sorted(
    {f"{table}.{key}" for table, keys in CONE.items() if isinstance(keys, dict) for key in keys}
    | {
        "format_version", "projections", "angles", "geometry", "subject", "energy_bins",
        "projections.axes", "projections.flat", "projections.dark", "projections.dataset",
        "projections.scale", "projections.shape", "projections.dtype", "angles.count",
        "angles.file", "angles.values_deg", "energy_bins.edges_kev", "subject.PatientID",
        "geometry.rotation_axis_column", "geometry.detector_offset_v_mm",
    }
)  # fmt: skip


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(key=st.sampled_from(KEYS), value=TOML_VALUES)
def test_description__does_take_any_value_or_end_in_one_line(
    tmp_path: Path, key: str, value: Any
) -> None:
    path = write_scan(tmp_path)
    write_toml(tmp_path, with_values({key: value}))

    try:
        description = read_scan_description(path)
    except ScanDescriptionError as error:
        said = str(error)
    else:
        said = ""
        assert description.geometry.n_angles == 6
        assert math.isfinite(description.geometry.detector.offset_u_mm)
    assert not said or said.startswith(str(tmp_path))
    assert "\n" not in said
