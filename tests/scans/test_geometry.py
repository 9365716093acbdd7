"""Panels that do not stand upright, and sources off their circle, as SCAN.toml says them."""

import math
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.errors import ScanDescriptionError
from pacspark.scans.description import read_scan_description
from tests.scans.scan_folder import write_scan

SHIFTS = np.random.default_rng(0).uniform(-0.4, 0.4, (6, 2))
MATRICES: dict[str, Any] = {
    "geometry.projection_matrices": "matrices.npy",
    "geometry.source_to_isocenter_mm": None,
    "geometry.source_to_detector_mm": None,
    "angles": None,
}


def upright(folder: Path) -> ConeBeamGeometry:
    geometry = read_scan_description(write_scan(folder)).geometry
    assert isinstance(geometry, ConeBeamGeometry)
    return geometry


def refusal(path: Path) -> str:
    with pytest.raises(ScanDescriptionError) as caught:
        read_scan_description(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message.removeprefix(f"{path}: ")


def write_matrices(folder: Path, changes: dict[str, Any] | None = None) -> NDArray[np.float64]:
    matrices = ConeBeamViews.of_circle(upright(folder), about_v_rad=0.1).matrices()
    np.save(folder / "matrices.npy", matrices)
    write_scan(folder, MATRICES | (changes or {}))
    return matrices


def test_geometry__takes_a_panel_that_is_turned_and_shifted(tmp_path: Path) -> None:
    meant = upright(tmp_path)
    np.savetxt(tmp_path / "shifts.txt", SHIFTS, header="u v", delimiter=", ", fmt="%.17g")
    path = write_scan(
        tmp_path,
        {
            "geometry.detector_in_plane_deg": 2.0,
            "geometry.detector_about_u_deg": -3.0,
            "geometry.detector_about_v_deg": 4.5,
            "geometry.detector_shifts_file": "shifts.txt",
        },
    )
    description = read_scan_description(path)
    expected = ConeBeamViews.of_circle(
        meant,
        in_plane_rad=math.radians(2),
        about_u_rad=math.radians(-3),
        about_v_rad=math.radians(4.5),
        shifts_mm=SHIFTS,
    )
    assert description.views == expected
    assert description.geometry == Rectification(expected).geometry
    assert (description.detector.n_rows, description.detector.n_columns) == (4, 5)
    assert description.geometry.detector.n_columns > 5
    assert pickle.loads(pickle.dumps(description)) == description


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("detector_in_plane_deg", "in_plane_rad"),
        ("detector_about_u_deg", "about_u_rad"),
        ("detector_about_v_deg", "about_v_rad"),
    ],
)
def test_geometry__takes_each_turn_alone(tmp_path: Path, key: str, name: str) -> None:
    meant = upright(tmp_path)
    views = read_scan_description(write_scan(tmp_path, {f"geometry.{key}": 1.5})).views
    turned: dict[str, Any] = {name: math.radians(1.5)}
    assert views == ConeBeamViews.of_circle(meant, **turned)
    level = read_scan_description(write_scan(tmp_path, {f"geometry.{key}": 0.0}))
    assert (level.geometry, level.views) == (meant, None)


def test_geometry__takes_a_source_off_its_circle(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "source.txt", SHIFTS, fmt="%.17g")
    path = write_scan(tmp_path, {"geometry.source_shifts_file": "source.txt"})
    description = read_scan_description(path)
    assert isinstance(description.geometry, ConeBeamGeometry)
    np.testing.assert_array_equal(description.geometry.source_shifts_mm, SHIFTS)
    assert description.views is None  # upright: nothing to resample


def test_clockwise__does_not_turn_the_tilts_round(tmp_path: Path) -> None:
    changes = {"geometry.rotation": "clockwise", "geometry.detector_about_v_deg": 3.0}
    views = read_scan_description(write_scan(tmp_path, changes)).views
    assert views is not None
    meant = upright(tmp_path)
    back = ConeBeamGeometry(110.0, 300.0, -meant.gantry_angles_rad, meant.detector)
    assert views == ConeBeamViews.of_circle(back, about_v_rad=math.radians(3))


@pytest.mark.parametrize("form", ["cube", "flat", "text"])
def test_projection_matrices__say_where_everything_was(tmp_path: Path, form: str) -> None:
    matrices = write_matrices(tmp_path)
    if form == "flat":
        np.save(tmp_path / "matrices.npy", matrices.reshape(6, 12))
    if form == "text":
        np.savetxt(tmp_path / "matrices.txt", matrices.reshape(-1, 4), fmt="%.17g")
        write_scan(tmp_path, MATRICES | {"geometry.projection_matrices": "matrices.txt"})
    description = read_scan_description(tmp_path)
    assert description.views is not None
    panel = upright(tmp_path).detector
    assert description.views == ConeBeamViews.from_matrices(matrices, panel)
    assert isinstance(description.geometry, ConeBeamGeometry)
    assert description.geometry.source_to_isocenter_mm == pytest.approx(110.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"angles": {"step_deg": 60}}, "angles: expected none beside geometry.projection_matr"),
        ({"geometry.rotation": "clockwise"}, "geometry.rotation: expected it only with no proj"),
        ({"geometry.rotation_axis_column": 2.0}, "geometry.rotation_axis_column: expected it only"),
        ({"geometry.detector_offset_u_mm": 0.0}, "geometry.detector_offset_u_mm: expected it only"),
        ({"geometry.detector_offset_v_mm": 0.0}, "geometry.detector_offset_v_mm: expected it only"),
        ({"geometry.source_to_isocenter_mm": 9}, "geometry.source_to_isocenter_mm: expected it on"),
        ({"geometry.detector_about_u_deg": 1.0}, "geometry.detector_about_u_deg: expected it only"),
        ({"geometry.source_shifts_file": "x"}, "geometry.source_shifts_file: expected it only wi"),
        ({"geometry.beam": "parallel"}, "geometry.projection_matrices: expected it only with bea"),
        ({"geometry.row_spacing_mm": 0.7}, "geometry.projection_matrices["),
        ({"geometry.column_spacing_mm": 1e9}, "geometry.column_spacing_mm: expected 1e-06 to 1e"),
        ({"geometry.projection_matrices": "none.npy"}, "geometry.projection_matrices: expected a"),
        ({"geometry.projection_matrices": "."}, "geometry.projection_matrices: expected a text f"),
    ],
)
def test_projection_matrices__refuse_what_says_the_same(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    write_matrices(tmp_path, changes)
    assert refusal(tmp_path / "SCAN.toml").startswith(says)


@pytest.mark.parametrize(
    ("matrices", "says"),
    [
        (np.ones((5, 3, 4)), "expected 12 numbers for each of 6 views, .* found shape"),
        (np.ones((6, 4, 3)), "expected 12 numbers for each of 6 views, .* found shape"),
        (np.ones((6, 3, 4), bool), "expected an array of real numbers, found bool"),
        (np.ones((6, 3, 4), complex), "expected an array of real numbers, found complex"),
        (np.full((6, 3, 4), np.nan), "expected finite numbers, found NaN"),
        (np.zeros((6, 3, 4)), "expected one of a source and a panel, found none"),
        (np.array([{}] * 72).reshape(6, 3, 4), "expected a NumPy array of numbers"),
    ],
)
def test_projection_matrices__that_are_none_are_refused(
    tmp_path: Path, matrices: NDArray[Any], says: str
) -> None:
    write_matrices(tmp_path)
    np.save(tmp_path / "matrices.npy", matrices)
    with pytest.raises(ScanDescriptionError, match=rf"geometry.projection_matrices.*{says}"):
        read_scan_description(tmp_path)


def test_projection_matrices__are_not_waited_for_in_a_pipe(tmp_path: Path) -> None:
    write_matrices(tmp_path)
    (tmp_path / "matrices.npy").unlink()
    os.mkfifo(tmp_path / "matrices.npy")
    assert "found no regular file" in refusal(tmp_path / "SCAN.toml")


@pytest.mark.parametrize("key", ["detector_shifts_file", "source_shifts_file"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 2\n" * 5, "expected 2 numbers for each of 6 views, .* found 10 numbers"),
        ("1 2 3\n" * 6, "expected 2 numbers for each of 6 views, .* found 18 numbers"),
        ("1 2\n" * 5 + "1 inf", "expected numbers, found 'inf' in line 6 of shifts.txt"),
        ("1 2\n" * 5 + "1 \x1b[2J", r"expected numbers, found '\\+x1b"),
        ("# none", "expected numbers, found none in shifts.txt"),
        ("1e8 0\n" * 6, r"expected shifts within \+-1e\+07 mm, found 1e\+08"),
    ],
)
def test_shift_files__that_are_none_are_refused(
    tmp_path: Path, key: str, text: str, says: str
) -> None:
    (tmp_path / "shifts.txt").write_text(text)
    message = refusal(write_scan(tmp_path, {f"geometry.{key}": "shifts.txt"}))
    assert re.match(f"geometry.{key}: {says}", message)


@pytest.mark.parametrize(
    ("changes", "text", "says"),
    [
        ({"detector_about_u_deg": 75.0}, "", "detector_about_u_deg: views["),
        ({"detector_about_v_deg": 1e300}, "", "detector_about_v_deg: expected a turn within 360"),
        ({"detector_in_plane_deg": -361}, "", "detector_in_plane_deg: expected a turn within 360"),
        ({"detector_about_v_deg": 80}, "", "detector_about_v_deg: views"),
        ({"detector_in_plane_deg": "2"}, "", "detector_in_plane_deg: expected a number, found '2"),
        ({"detector_shifts_file": "s"}, "0 90\n" + "0 0\n" * 5, "detector_shifts_file: views: ex"),
        ({"source_shifts_file": "s"}, "-110 0\n" * 6, "source_shifts_file: expected sources off"),
        ({"beam": "parallel", "detector_about_u_deg": 1.0, "source_to_isocenter_mm": None,
          "source_to_detector_mm": None}, "", 'detector_about_u_deg: expected it only with beam ='),
    ],
)  # fmt: skip
def test_geometry__refuses_what_no_scanner_is(
    tmp_path: Path, changes: dict[str, Any], text: str, says: str
) -> None:
    (tmp_path / "s").write_text(text)
    path = write_scan(tmp_path, {f"geometry.{key}": value for key, value in changes.items()})
    assert refusal(path).startswith(f"geometry.{says}")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(numbers=st.lists(st.floats(allow_nan=True), min_size=72, max_size=72))
def test_projection_matrices__of_any_numbers_end_in_one_line(
    tmp_path: Path, numbers: list[float]
) -> None:
    write_scan(tmp_path, MATRICES)
    np.save(tmp_path / "matrices.npy", np.array(numbers).reshape(6, 12))
    try:
        read_scan_description(tmp_path)
    except ScanDescriptionError as error:
        assert "geometry.projection_matrices" in str(error)  # noqa: PT017


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    turns=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    shifts=st.lists(st.floats(-1e9, 1e9), min_size=12, max_size=12),
    key=st.sampled_from(["detector_shifts_file", "source_shifts_file"]),
)
def test_geometry__of_any_numbers_ends_in_one_line(
    tmp_path: Path, turns: list[float], shifts: list[float], key: str
) -> None:
    (tmp_path / "shifts.txt").write_text(" ".join(map(repr, shifts)))
    names = ("detector_in_plane_deg", "detector_about_u_deg", "detector_about_v_deg")
    changes = {f"geometry.{name}": turn for name, turn in zip(names, turns, strict=True)}
    path = write_scan(tmp_path, changes | {f"geometry.{key}": "shifts.txt"})
    try:
        read_scan_description(path)
    except ScanDescriptionError as error:
        assert ": geometry." in str(error)  # noqa: PT017
