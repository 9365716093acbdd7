"""Pictures of slices and sinograms: a scale bar in millimetres, the window in its unit.

A slice is drawn as its array lies: columns to the right, rows downwards, or upwards where
`ImagePlane.rows_upwards` says so; letters at the edges name the directions. A sinogram has the
detector's u to the right and the views downwards. Nothing here touches pyplot or other global
state, so pictures can be drawn in any thread and without a display.
"""

import io
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.drawing import TEXT_COLOR, angle_ticks, draw_scale_bar, new_figure, write
from pacspark.errors import StorageError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

PANEL_INCHES: Final = 4.6
LONGEST_PANEL_INCHES: Final = 12.0
TITLE_INCHES: Final = 0.4
LEFT_INCHES, RIGHT_INCHES, TOP_INCHES, BOTTOM_INCHES = 0.75, 0.95, 0.4, 0.55
"""Room for words around a panel."""
DOTS_PER_INCH: Final = 120
CANDIDATE_DOTS_PER_INCH: Final = 90
CANDIDATE_LETTERS_PER_INCH: Final = 9
"""Of a title; wide ones fit too."""
AUTOMATIC_WINDOW_PERCENT: Final = (0.5, 99.8)
BEST_COLOR: Final = "#1b9e77"
STATED_COLOR: Final = "#d95f02"


@dataclass(frozen=True, slots=True)
class Window:
    """The values that a picture shows, from black to white (PS3.3 C.11.2.1.2).

    Attributes
    ----------
    center, width
        level and width, in the unit of the picture; the width is positive
    """

    center: float
    width: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.center) and math.isfinite(self.width) and self.width > 0):
            message = (
                "window: expected a finite center and a positive width, "
                f"found {self.center} and {self.width}"
            )
            raise UsageError(message)

    @classmethod
    def given(cls, window: "Window | tuple[float, float] | None") -> "Window | None":
        """Take a window, or its center and width as a pair."""
        if window is None or isinstance(window, Window):
            return window
        try:
            center, width = (float(number) for number in window)
        except (TypeError, ValueError):
            message = f"window: expected Window(center, width) or a pair of them, found {window!r}"
            raise UsageError(message) from None
        return cls(center, width)

    @property
    def lower(self) -> float:
        """What is black."""
        return self.center - self.width / 2

    @property
    def upper(self) -> float:
        """What is white."""
        return self.center + self.width / 2

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Window":
        """Choose a window: nearly all of the finite values; a constant picture is mid-grey."""
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            return cls(0.0, 1.0)
        lower, upper = (float(value) for value in np.percentile(finite, AUTOMATIC_WINDOW_PERCENT))
        if upper <= lower:
            # few bright pixels on a constant ground are the picture, if there are any
            lower, upper = float(finite.min()), float(finite.max())
        if upper <= lower:
            return cls(lower, max(1.0, abs(lower)))
        return cls((lower + upper) / 2, upper - lower)

    def text(self, unit: str) -> str:
        """Say the window in words, for a person."""
        return f"level {self.center:.4g}, width {self.width:.4g} {unit}".rstrip()


def picture_path(path: str | Path) -> Path:
    """Return where a picture goes; refuse what is no name for one."""
    target = Path(path)
    if target.suffix.lower() not in {"", ".png"}:
        message = f"picture: expected a name that ends in .png, found {target.name!r}"
        raise UsageError(message)
    if target.is_dir():
        message = f"picture: expected a file's name, found the folder {target}"
        raise UsageError(message)
    return target


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A drawn picture.

    Attributes
    ----------
    figure
        the drawing, for whoever wants to add to it
    """

    figure: "Figure"

    def to_png(self) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        from PIL import Image

        drawn, packed = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", facecolor=self.figure.get_facecolor())
        # greys and a few colours: a palette is a third of the bytes, in notebooks too
        with Image.open(drawn) as image:
            image.convert("RGB").quantize(256).save(packed, "png", optimize=True)
        return packed.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the picture as a PNG; folders on the way are made."""
        target = picture_path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.to_png())
        except OSError as error:
            message = f"{target}: cannot write: {error.strerror or error}"
            raise StorageError(message) from error
        return target

    def show(self) -> None:
        """Show the picture: inside a notebook, else in the desktop's image viewer.

        Raises
        ------
        UsageError
            When there is neither.
        """
        if _in_notebook():
            from IPython.display import display

            display(self)  # type: ignore[no-untyped-call]
            return
        from PIL import Image, ImageShow

        if not ImageShow.show(Image.open(io.BytesIO(self.to_png()))):
            message = "show: expected a notebook or an image viewer, found neither; use save(path)"
            raise UsageError(message)

    def _repr_png_(self) -> bytes:
        return self.to_png()


def _in_notebook() -> bool:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Drawable(ABC):
    """What has a picture."""

    __slots__ = ()

    @abstractmethod
    def picture(self) -> Picture:
        """Draw it."""

    def show(self) -> None:
        """Draw it and show the picture."""
        self.picture().show()

    def save(self, path: str | Path) -> Path:
        """Draw it into a PNG."""
        return self.picture().save(path)

    def _repr_png_(self) -> bytes:
        return self.picture().to_png()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ImagePlane(Drawable):
    """One plane of a volume with what is needed to draw it.

    Attributes
    ----------
    values
        (n_rows, n_columns), in `unit`
    pixel_mm
        distance of rows and of columns
    unit
        of the values: ``HU``, ``1/mm``
    length_unit
        of what is called mm: ``mm``, or ``pixels``
    title
        above the picture
    left, right, top, bottom
        what lies beyond each edge of the picture: letters of the patient (L, R, A, P, H, F) or axes
        (+x)
    rows_upwards
        whether row 0 is drawn at the bottom
    window
        None: chosen from the values
    """

    values: NDArray[Any]
    pixel_mm: tuple[float, float]
    unit: str = ""
    length_unit: str = "mm"
    title: str = ""
    left: str = ""
    right: str = ""
    top: str = ""
    bottom: str = ""
    rows_upwards: bool = False
    window: Window | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.size == 0:
            message = f"plane: expected values (n_rows, n_columns), found {self.values.shape}"
            raise UsageError(message)
        if not all(math.isfinite(edge) and edge > 0 for edge in self.pixel_mm):
            message = f"plane: expected positive pixel_mm, found {self.pixel_mm}"
            raise UsageError(message)

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        return f"ImagePlane({self.title!r}, {rows} x {columns} pixels, unit {self.unit!r})"

    @property
    def extent_mm(self) -> tuple[float, float]:
        """Height and width."""
        rows, columns = self.values.shape
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]

    def to_numpy(self) -> NDArray[Any]:
        """Return the values (n_rows, n_columns)."""
        return self.values

    def picture(self) -> Picture:
        """Draw the plane."""
        return draw_panels([[self]])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sinogram(Drawable):
    """The line integrals of one detector row.

    Attributes
    ----------
    values
        (n_angles, n_columns)
    u_mm
        (n_columns,), position of each column on the detector; ascending or descending
    gantry_angles_rad
        (n_angles,)
    title
        above the picture
    length_unit
        of `u_mm`: ``mm``, or ``pixels``
    """

    values: NDArray[Any]
    u_mm: NDArray[Any]
    gantry_angles_rad: NDArray[Any]
    title: str = ""
    length_unit: str = "mm"

    def __post_init__(self) -> None:
        expected = (len(self.gantry_angles_rad), len(self.u_mm))
        if self.values.shape != expected or self.values.size == 0:
            message = (
                f"sinogram: expected values (n_angles, n_columns) {expected}, "
                f"found {self.values.shape}"
            )
            raise UsageError(message)

    def __repr__(self) -> str:
        n_angles, n_columns = self.values.shape
        return f"Sinogram({self.title!r}, {n_angles} views x {n_columns} columns)"

    def picture(self) -> Picture:
        """Draw the sinogram."""
        return draw_panels([[self]])


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One picture of a grid of candidates: the plane, a line under it, and its frame."""

    plane: ImagePlane
    caption: str
    best: bool = False
    stated: bool = False


def draw_panels(rows: Sequence[Sequence[ImagePlane | Sinogram]], title: str = "") -> Picture:
    """Draw planes and sinograms side by side: each inner sequence is one line of the sheet.

    The planes of one line share one scale, so that orthogonal views of a volume have their right
    proportions to each other.

    Parameters
    ----------
    rows
        the lines of the sheet, none of them empty
    title
        above all of them
    """
    if not rows or not all(rows):
        message = "picture: expected at least one panel in each line, found none"
        raise UsageError(message)
    sizes = [_sizes_inches(line) for line in rows]
    heights = [max(height for height, _ in line) + TOP_INCHES + BOTTOM_INCHES for line in sizes]
    width = max(sum(width + LEFT_INCHES + RIGHT_INCHES for _, width in line) for line in sizes)
    height = sum(heights) + (TITLE_INCHES if title else 0.0)
    figure = new_figure(width, height, DOTS_PER_INCH)
    if title:
        figure.suptitle(title, fontsize=13, color=TEXT_COLOR, y=1 - 0.2 / height, va="center")
    bottom = sum(heights)
    for line, line_sizes, line_height in zip(rows, sizes, heights, strict=True):
        bottom -= line_height
        across = sum(panel_width + LEFT_INCHES + RIGHT_INCHES for _, panel_width in line_sizes)
        left = (width - across) / 2
        for panel, (panel_height, panel_width) in zip(line, line_sizes, strict=True):
            spare = line_height - TOP_INCHES - BOTTOM_INCHES - panel_height
            box = (
                left + LEFT_INCHES,
                bottom + BOTTOM_INCHES + spare / 2,
                panel_width,
                panel_height,
            )
            _draw_panel(figure, panel, box)
            left += panel_width + LEFT_INCHES + RIGHT_INCHES
    return Picture(figure)


def draw_candidates(candidates: Sequence[Sequence[Candidate]], title: str = "") -> Picture:
    """Draw a grid of candidates in one common window; the best and the stated one are framed."""
    planes = [candidate.plane for line in candidates for candidate in line]
    if not planes:
        message = "picture: expected candidates, found none"
        raise UsageError(message)
    window = Window.of(np.concatenate([plane.values.ravel() for plane in planes]))
    columns = max(len(line) for line in candidates)
    width = 2.3 * columns
    # letters are about half as wide as high; what matplotlib wraps by itself is not made room for
    title = textwrap.fill(title, int(width * CANDIDATE_LETTERS_PER_INCH), break_long_words=False)
    height = 2.6 * len(candidates) + 0.4 + 0.2 * (title.count("\n") + 1)
    figure = new_figure(width, height, CANDIDATE_DOTS_PER_INCH)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=12, color=TEXT_COLOR)
    grid = figure.subplots(len(candidates), columns, squeeze=False)
    for axes_line, line in zip(grid, candidates, strict=True):
        for axes in axes_line[len(line) :]:
            axes.set_axis_off()
        for axes, candidate in zip(axes_line, line, strict=False):
            plane = candidate.plane
            _draw_values(axes, plane, window)
            draw_scale_bar(axes, plane.extent_mm, plane.length_unit, fontsize=7)
            _frame(axes, candidate)
            axes.set_xlabel(candidate.caption, fontsize=9, color=TEXT_COLOR)
    figure.supxlabel(window.text(planes[0].unit), fontsize=8, color=TEXT_COLOR)
    return Picture(figure)


def _sizes_inches(line: Sequence[ImagePlane | Sinogram]) -> list[tuple[float, float]]:
    """Give height and width of each panel of a line; its planes have one scale."""
    planes = [panel for panel in line if isinstance(panel, ImagePlane)]
    inches_per_mm = min(
        (
            min(PANEL_INCHES / plane.extent_mm[0], LONGEST_PANEL_INCHES / plane.extent_mm[1])
            for plane in planes
        ),
        default=1.0,
    )
    return [
        (panel.extent_mm[0] * inches_per_mm, panel.extent_mm[1] * inches_per_mm)
        if isinstance(panel, ImagePlane)
        else (PANEL_INCHES, PANEL_INCHES * 0.9)
        for panel in line
    ]


def _draw_panel(
    figure: "Figure", panel: ImagePlane | Sinogram, box: tuple[float, float, float, float]
) -> None:
    """Draw a panel into a box (left, bottom, width, height) in inches, its colour bar beside it."""
    left, bottom, width, height = box
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    if isinstance(panel, Sinogram):
        image, unit = _draw_sinogram(axes, panel), "line integral"
    else:
        image, unit = _draw_plane(axes, panel), panel.unit
    bar_axes = figure.add_axes(
        (
            (left + width + 0.1) / across,
            (bottom + height / 8) / up,
            0.12 / across,
            height * 0.75 / up,
        )
    )
    bar = figure.colorbar(image, cax=bar_axes)
    bar_axes.tick_params(labelsize=8, colors=TEXT_COLOR)
    bar.set_label(unit, fontsize=9, color=TEXT_COLOR)


def _draw_values(axes: "Axes", plane: ImagePlane, window: Window) -> "AxesImage":
    height_mm, width_mm = plane.extent_mm
    vertical = (0.0, height_mm) if plane.rows_upwards else (height_mm, 0.0)
    image = axes.imshow(
        plane.values,
        cmap="gray",
        vmin=window.lower,
        vmax=window.upper,
        origin="lower" if plane.rows_upwards else "upper",
        extent=(0.0, width_mm, *vertical),
        aspect="equal",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    return image


def _draw_plane(axes: "Axes", plane: ImagePlane) -> "AxesImage":
    window = plane.window or Window.of(plane.values)
    image = _draw_values(axes, plane, window)
    axes.set_title(plane.title, fontsize=11, color=TEXT_COLOR)
    draw_scale_bar(axes, plane.extent_mm, plane.length_unit)
    for x, y, letter, horizontal, vertical in (
        (0.015, 0.5, plane.left, "left", "center"),
        (0.985, 0.5, plane.right, "right", "center"),
        (0.5, 0.985, plane.top, "center", "top"),
        (0.5, 0.015, plane.bottom, "center", "bottom"),
    ):
        if letter:
            write(axes, x, y, letter, ha=horizontal, va=vertical, fontsize=10)
    axes.set_xlabel(window.text(plane.unit), fontsize=8.5, color=TEXT_COLOR)
    return image


def _draw_sinogram(axes: "Axes", sinogram: Sinogram) -> "AxesImage":
    window = Window.of(sinogram.values)
    u_mm = np.asarray(sinogram.u_mm, dtype=np.float64)
    half = abs(u_mm[-1] - u_mm[0]) / max(1, len(u_mm) - 1) / 2 or 0.5
    values = sinogram.values if u_mm[-1] >= u_mm[0] else sinogram.values[:, ::-1]
    n_angles = len(sinogram.gantry_angles_rad)
    image = axes.imshow(
        values,
        cmap="gray",
        vmin=window.lower,
        vmax=window.upper,
        extent=(u_mm.min() - half, u_mm.max() + half, n_angles - 0.5, -0.5),
        aspect="auto",
    )
    degrees = np.rad2deg(np.asarray(sinogram.gantry_angles_rad, dtype=np.float64))
    views, shown = angle_ticks(degrees)
    axes.set_yticks(views, [f"{angle:.4g}°" for angle in shown], fontsize=8)
    axes.tick_params(labelsize=8, colors=TEXT_COLOR)
    axes.set_xlabel(f"u on the detector, {sinogram.length_unit}", fontsize=9, color=TEXT_COLOR)
    axes.set_ylabel("gantry angle", fontsize=9, color=TEXT_COLOR)
    axes.set_title(sinogram.title, fontsize=11, color=TEXT_COLOR)
    return image


def _frame(axes: "Axes", candidate: Candidate) -> None:
    if not (candidate.best or candidate.stated):
        return
    color = BEST_COLOR if candidate.best else STATED_COLOR
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=3.5)
    names = [
        name for name, holds in (("best", candidate.best), ("stated", candidate.stated)) if holds
    ]
    axes.set_title(" = ".join(names), fontsize=10, color=color, fontweight="bold")
