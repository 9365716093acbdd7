"""Pictures: right proportions, right way up, a scale bar that tells the truth."""

import builtins
import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image

from pacspark.drawing import length_text, round_length_mm
from pacspark.errors import MissingDependencyError, UsageError
from pacspark.pictures import (
    Candidate,
    ImagePlane,
    Picture,
    Sinogram,
    Window,
    draw_candidates,
    draw_panels,
)


def image_axes(picture: Picture) -> list[Axes]:
    """The axes that hold a picture, without those of the colour bars."""
    return [axes for axes in picture.figure.get_axes() if axes.images]


def pixels(picture: Picture) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(picture.to_png())).convert("L"))


def grey_at(picture: Picture, axes: Axes, x_part: float, y_part: float) -> int:
    """The grey at a place of a drawn panel; (0, 0) is its lower left corner."""
    drawn = pixels(picture)
    box = axes.get_position()
    row = round((1 - box.y0 - box.height * y_part) * drawn.shape[0])
    column = round((box.x0 + box.width * x_part) * drawn.shape[1])
    return int(drawn[row, column])


@given(st.floats(1e-6, 1e6))
def test_round_length__is_one_two_or_five_and_the_longest_that_fits(longest_mm: float) -> None:
    length_mm = round_length_mm(longest_mm)
    digit = length_mm / 10.0 ** np.floor(np.log10(length_mm) + 1e-9)
    assert min(abs(digit - step) for step in (1, 2, 5)) < 1e-6
    assert longest_mm / 2.5 * (1 - 1e-6) <= length_mm <= longest_mm * (1 + 1e-6)


@pytest.mark.parametrize(
    ("length_mm", "text"),
    [(0.05, "50 µm"), (0.5, "0.5 mm"), (20.0, "20 mm"), (500.0, "500 mm"), (2000.0, "2 m")],
)
def test_length_text__keeps_a_readable_unit(length_mm: float, text: str) -> None:
    assert length_text(length_mm) == text


def test_scale_bar__is_as_long_as_it_says() -> None:
    plane = ImagePlane(np.zeros((40, 100)), (0.5, 0.25), "HU")
    (axes,) = image_axes(plane.picture())
    (bar,) = axes.lines
    in_axes = np.asarray(bar.get_xdata(), dtype=np.float64)
    width_mm = (in_axes[1] - in_axes[0]) * plane.extent_mm[1]
    assert width_mm == pytest.approx(5.0)
    assert "5 mm" in [text.get_text() for text in axes.texts]


def test_plane__keeps_the_proportions_of_anisotropic_voxels() -> None:
    plane = ImagePlane(np.zeros((10, 40)), (3.0, 0.5), "HU")
    picture = plane.picture()
    (axes,) = image_axes(picture)
    across, up = picture.figure.get_size_inches()
    box = axes.get_position()
    drawn_aspect = box.height * up / (box.width * across)
    assert drawn_aspect == pytest.approx(30 / 20)


@pytest.mark.parametrize("rows_upwards", [False, True])
def test_plane__draws_rows_downwards_or_upwards(*, rows_upwards: bool) -> None:
    values = np.zeros((20, 20))
    values[:10] = 1.0  # the first rows are bright
    plane = ImagePlane(values, (1.0, 1.0), rows_upwards=rows_upwards)
    picture = plane.picture()
    (axes,) = image_axes(picture)
    top, bottom = (grey_at(picture, axes, 0.25, part) for part in (0.8, 0.25))
    assert (top < 10 and bottom > 245) if rows_upwards else (top > 245 and bottom < 10)


def test_plane__has_its_letters_at_their_edges() -> None:
    plane = ImagePlane(np.zeros((9, 9)), (1, 1), left="R", right="L", top="A", bottom="P")
    (axes,) = image_axes(plane.picture())
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["R"][0] < 0.1 < 0.9 < places["L"][0]
    assert places["P"][1] < 0.1 < 0.9 < places["A"][1]


def test_planes_of_a_line__share_one_scale() -> None:
    planes = [ImagePlane(np.zeros((50, 40)), (1, 1)), ImagePlane(np.zeros((10, 40)), (2, 1))]
    picture = draw_panels([planes])
    across, up = picture.figure.get_size_inches()
    boxes = [axes.get_position() for axes in image_axes(picture)]
    assert boxes[0].width * across == pytest.approx(boxes[1].width * across)
    assert boxes[0].height * up / 50 == pytest.approx(boxes[1].height * up / 20)


def test_sinogram__has_u_to_the_right_and_views_downwards() -> None:
    values = np.zeros((8, 16))
    values[0, :8] = 1.0  # the first view sees something at negative u
    for u_mm, shown in ((np.arange(16) - 7.5, values), (7.5 - np.arange(16), values[:, ::-1])):
        picture = Sinogram(shown, u_mm, np.linspace(0, np.pi, 8)).picture()
        (axes,) = image_axes(picture)
        assert axes.get_xlim() == (-8.0, 8.0)
        assert grey_at(picture, axes, 0.2, 0.95) > 245
        assert grey_at(picture, axes, 0.8, 0.95) < 10
        assert grey_at(picture, axes, 0.2, 0.1) < 10
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert (labels[0], labels[-1]) == ("0°", "180°")


@pytest.mark.parametrize(
    ("degrees", "labels", "views"),
    [
        (np.arange(0, 360, 3), [0, 60, 120, 180, 240, 300], [0, 20, 40, 60, 80, 100]),
        (-np.arange(0, 181, 60), [-180, -150, -120, -90, -60, -30, 0], np.arange(3, -0.1, -0.5)),
        (np.array([0, 180, 90]), [0, 180, 90], [0, 1, 2]),
        (np.array([7.0]), [7], [0]),
    ],
)
def test_sinogram__has_round_angles_at_their_views(
    degrees: np.ndarray[Any, Any], labels: list[int], views: Any
) -> None:
    sinogram = Sinogram(np.zeros((len(degrees), 4)), np.arange(4), np.deg2rad(degrees))
    (axes,) = image_axes(sinogram.picture())
    shown = [
        float(label.get_text().rstrip("°").replace("\u2212", "-"))
        for label in axes.get_yticklabels()
    ]
    assert shown == labels
    np.testing.assert_allclose(axes.get_yticks(), views, atol=1e-6)


def test_short_lines__stand_in_the_middle_of_the_sheet() -> None:
    plane = ImagePlane(np.zeros((9, 9)), (1, 1))
    boxes = [axes.get_position() for axes in image_axes(draw_panels([[plane], [plane, plane]]))]
    assert boxes[0].x0 == pytest.approx((boxes[1].x0 + boxes[2].x0) / 2)


def test_window__spans_the_values_without_their_outliers() -> None:
    values = np.linspace(0.0, 1.0, 10_001)
    values[0], values[-1] = -1e6, 1e6
    window = Window.of(values)
    assert window.lower == pytest.approx(0.005, abs=1e-3)
    assert window.upper == pytest.approx(0.998, abs=1e-3)
    assert Window(40, 400).text("HU") == "level 40, width 400 HU"


@pytest.mark.parametrize(
    "values", [np.zeros((4, 4)), np.full((4, 4), -1000.0), np.full((4, 4), np.nan)]
)
def test_plane__draws_constant_and_empty_values(values: np.ndarray[Any, Any]) -> None:
    assert ImagePlane(values, (1, 1)).picture().to_png().startswith(b"\x89PNG")


@pytest.mark.parametrize(("center", "width"), [(0, 0), (0, -1), (np.nan, 1), (0, np.inf)])
def test_window__refuses_what_shows_nothing(center: float, width: float) -> None:
    with pytest.raises(UsageError, match="window: expected"):
        Window(center, width)


@pytest.mark.parametrize(
    ("shape", "pixel_mm"),
    [((4,), (1, 1)), ((0, 4), (1, 1)), ((4, 4), (0, 1)), ((4, 4), (1, np.nan))],
)
def test_plane__refuses_what_has_no_picture(
    shape: tuple[int, ...], pixel_mm: tuple[float, float]
) -> None:
    with pytest.raises(UsageError, match="plane: expected"):
        ImagePlane(np.zeros(shape), pixel_mm)


def test_sinogram__refuses_other_numbers_of_angles_and_columns() -> None:
    with pytest.raises(UsageError, match=r"\(3, 4\), found \(4, 3\)"):
        Sinogram(np.zeros((4, 3)), np.arange(4.0), np.arange(3.0))


def test_candidates__frame_the_best_and_the_stated() -> None:
    plane = ImagePlane(np.eye(8), (1, 1))
    line = [
        Candidate(plane, "a"),
        Candidate(plane, "b", best=True),
        Candidate(plane, "c", stated=True),
    ]
    picture = draw_candidates([line, [Candidate(plane, "d", best=True, stated=True)]], "title")
    titles = [axes.get_title() for axes in image_axes(picture)]
    assert titles == ["", "best", "stated", "best = stated"]
    assert picture.to_png().startswith(b"\x89PNG")


@pytest.mark.parametrize("nothing", [[], [[]]])
def test_drawing_nothing__is_refused(nothing: list[list[Any]]) -> None:
    with pytest.raises(UsageError):
        draw_panels(nothing)
    with pytest.raises(UsageError):
        draw_candidates(nothing)


def test_save__writes_a_png_and_refuses_other_formats(tmp_path: Path) -> None:
    plane = ImagePlane(np.eye(8), (1, 1), "HU", "a plane")
    saved = plane.save(tmp_path / "made" / "a.png")
    assert saved.read_bytes() == plane._repr_png_()
    with pytest.raises(UsageError, match=r"ends in \.png, found 'a\.jpg'"):
        plane.save(tmp_path / "a.jpg")


def test_pictures__are_the_same_from_any_thread() -> None:
    plane = ImagePlane(np.arange(64.0).reshape(8, 8), (1, 1), "HU")
    drawn: list[bytes] = []
    threads = [threading.Thread(target=lambda: drawn.append(plane._repr_png_())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [plane._repr_png_()] * 4


def test_picture__names_the_line_that_installs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_matplotlib(
        name: str,
        in_globals: Mapping[str, object] | None = None,
        in_locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, in_globals, in_locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pacspark\[pictures\]'"):
        ImagePlane(np.eye(8), (1, 1)).picture()


def test_show__without_notebook_or_viewer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def viewer(image: Any) -> bool:
        shown.append(image)
        return False

    monkeypatch.setattr("PIL.ImageShow.show", viewer)
    with pytest.raises(UsageError, match="use save"):
        ImagePlane(np.eye(8), (1, 1)).show()
    assert shown[0].size[0] > 100
