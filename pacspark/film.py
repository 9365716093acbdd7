"""Film sheets of a series: a grid of slices with window, places, scale bars and who it is of.

A sheet is as large as a film of 14 x 17 inches and black, as films are. Slices are read, drawn and
forgotten sheet by sheet.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark import __version__
from pacspark.drawing import draw_scale_bar, new_figure, write
from pacspark.errors import UsageError
from pacspark.pictures import Picture, Window
from pacspark.progress import SILENT, Progress
from pacspark.tables.catalog import Catalog
from pacspark.volume import Volume
from pacspark.wholes import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET_INCHES: Final = (14.0, 17.0)
HEAD_INCHES, FOOT_INCHES, EDGE_INCHES, GAP_INCHES = 0.75, 0.4, 0.3, 0.08
DOTS_PER_INCH: Final = 110
PRINTED_DOTS_PER_INCH: Final = 200
MOST_TILES: Final = 12
"""Rows, and columns, of a sheet."""
LARGEST_TILE_PIXELS: Final = 1024
PAPER, INK, FAINT = "black", "#f2f2f2", "#a8a8a8"
PATIENT_COLUMNS: Final = (
    *("patient_name", "patient_id", "patient_birth_date", "patient_sex", "study_date"),
    *("study_description", "modality", "institution_name", "series_number"),
)
PATIENT_LETTERS: Final = 48
"""Of a name or a description, so that it stays on the sheet."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How slices lie on sheets.

    Attributes
    ----------
    n_rows, n_columns
        of a sheet
    every
        1 prints all slices, 2 every second one
    """

    n_rows: int = 5
    n_columns: int = 4
    every: int = 1

    def __post_init__(self) -> None:
        for name, value, most in (
            ("rows", self.n_rows, MOST_TILES),
            ("columns", self.n_columns, MOST_TILES),
            ("every", self.every, None),
        ):
            if value < 1 or (most is not None and value > most):
                expected = "a number from 1 on" if most is None else f"from 1 to {most}"
                message = f"film: expected {expected} as {name}, found {value}"
                raise UsageError(message)

    def sheets(self, n_slices: int) -> list[range]:
        """Give the slices of each sheet."""
        chosen = range(0, n_slices, self.every)
        held = self.n_rows * self.n_columns
        return [chosen[start : start + held] for start in range(0, len(chosen), held)]


def film_path(path: str | Path) -> Path:
    """Return where a film goes; refuse what is no name for one."""
    target = Path(path)
    if target.suffix.lower() not in {".pdf", ".png"} or target.is_dir():
        message = f"film: expected a file's name that ends in .pdf or .png, found {str(path)!r}"
        raise UsageError(message)
    return target


def print_film(
    catalog: Catalog,
    volume: Volume,
    path: Path,
    layout: Layout,
    window: Window | None = None,
    *,
    with_patient: bool = True,
    progress: Progress = SILENT,
) -> list[Path]:
    """Draw a series onto sheets: the pages of a PDF, or a PNG each.

    Parameters
    ----------
    catalog
        where the names of patient and study are
    volume
        the series
    path
        ends in .pdf or .png; of several PNGs, their numbers come before the ending
    layout
        of the sheets
    window
        None: the series' own, else chosen from the values of the first sheet
    with_patient
        whether to print name, birth date and such
    progress
        told of slices

    Returns
    -------
    list[Path]
        the files
    """
    film_path(path)
    n_sheets = len(layout.sheets(len(volume)))
    sheets = draw_sheets(
        catalog, volume, layout, window, with_patient=with_patient, progress=progress
    )
    if path.suffix.lower() == ".pdf":
        with _pdf(path) as pages:
            for sheet in sheets:
                pages.savefig(sheet.figure, facecolor=PAPER)
        return [path]
    paths = []
    for number, sheet in enumerate(sheets, 1):
        numbered = path.with_stem(f"{path.stem}-{number}") if n_sheets > 1 else path
        with whole_file(numbered, replace=True) as temporary:
            temporary.write_bytes(sheet.to_png())
        paths.append(numbered)
    return paths


def draw_sheets(
    catalog: Catalog,
    volume: Volume,
    layout: Layout,
    window: Window | None = None,
    *,
    with_patient: bool = True,
    progress: Progress = SILENT,
) -> Iterator[Picture]:
    """Draw all sheets of a series, one after the other; see :func:`print_film`."""
    sheets = layout.sheets(len(volume))
    lines = _head(catalog, volume, with_patient=with_patient)
    shown = window or volume.window or _window_of(volume, sheets[0])
    with progress.stage("print", sum(map(len, sheets)), "slices") as stage:
        for number, slices in enumerate(sheets):
            yield draw_sheet(volume, layout, number, shown, lines)
            stage.advance(len(slices))


def grey_of(sheet: Picture, dots_per_inch: int = PRINTED_DOTS_PER_INCH) -> NDArray[np.uint8]:
    """Return a sheet as pixels for a printer, ``(n_rows, n_columns)``, 0 is black."""
    from PIL import Image

    drawn = io.BytesIO()
    sheet.figure.savefig(drawn, format="png", dpi=dots_per_inch, facecolor=PAPER)
    with Image.open(drawn) as image:
        return np.asarray(image.convert("L"))


def draw_sheet(
    volume: Volume, layout: Layout, number: int, window: Window, head: Sequence[tuple[str, str]]
) -> Picture:
    """Draw one sheet.

    Parameters
    ----------
    volume
        the series
    layout
        of the sheets
    number
        which one, from 0
    window
        of all slices
    head
        lines above the slices: what stands on the left, what on the right
    """
    sheets = layout.sheets(len(volume))
    width, height = SHEET_INCHES
    figure = new_figure(width, height, DOTS_PER_INCH)
    figure.set_facecolor(PAPER)
    for line, (left, right) in enumerate(head):
        up = 1 - (EDGE_INCHES + 0.1 + 0.22 * line) / height
        style: dict[str, Any] = {"va": "center", "fontsize": 12 if line == 0 else 10}
        color = INK if line == 0 else FAINT
        figure.text(EDGE_INCHES / width, up, left, color=color, ha="left", **style)
        figure.text(1 - EDGE_INCHES / width, up, right, color=color, ha="right", **style)
    across = (width - 2 * EDGE_INCHES + GAP_INCHES) / layout.n_columns
    down = (height - HEAD_INCHES - FOOT_INCHES - 2 * EDGE_INCHES + GAP_INCHES) / layout.n_rows
    for place, z in enumerate(sheets[number]):
        row, column = divmod(place, layout.n_columns)
        box = (
            (EDGE_INCHES + column * across) / width,
            1 - (EDGE_INCHES + HEAD_INCHES + (row + 1) * down - GAP_INCHES) / height,
            (across - GAP_INCHES) / width,
            (down - GAP_INCHES) / height,
        )
        _draw_tile(figure, box, volume, z, window)
    _draw_foot(figure, volume, window, f"sheet {number + 1} of {len(sheets)}")
    return Picture(figure)


def _draw_tile(
    figure: "Figure", box: tuple[float, float, float, float], volume: Volume, z: int, window: Window
) -> None:
    plane = volume.slice(z)
    height_mm, width_mm = plane.extent_mm
    axes = figure.add_axes(box, facecolor=PAPER)
    axes.imshow(
        _reduced(plane.values),
        cmap="gray",
        vmin=window.lower,
        vmax=window.upper,
        extent=(0.0, width_mm, height_mm, 0.0),
        aspect="equal",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color="#3c3c3c", linewidth=0.8)
    small = 8.0 if box[2] > 0.15 else 6.0
    for x, y, text, horizontal, vertical in (
        (0.02, 0.98, f"{z + 1}/{len(volume)}", "left", "top"),
        (0.98, 0.98, f"{volume.z_mm[z]:+.1f} {volume.length_unit}", "right", "top"),
        (0.02, 0.5, plane.left, "left", "center"),
        (0.5, 0.98, plane.top, "center", "top"),
    ):
        if text:
            write(axes, x, y, text, ha=horizontal, va=vertical, fontsize=small)
    draw_scale_bar(axes, plane.extent_mm, volume.length_unit, fontsize=small)


def _reduced(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average pixels that no film can show: a sheet holds many slices."""
    step = math.ceil(max(values.shape) / LARGEST_TILE_PIXELS)
    if step == 1:
        return values
    padded = np.pad(values, [(0, -n % step) for n in values.shape], mode="edge")
    n_rows, n_columns = (n // step for n in padded.shape)
    means: NDArray[np.float32] = padded.reshape(n_rows, step, n_columns, step).mean((1, 3))
    return means


def _draw_foot(figure: "Figure", volume: Volume, window: Window, page: str) -> None:
    width, height = SHEET_INCHES
    dz, dy, dx = volume.voxel_mm
    voxels = f"voxels {dx:.3g} x {dy:.3g} x {dz:.3g} {volume.length_unit}"
    up = EDGE_INCHES / height
    style: dict[str, Any] = {"color": FAINT, "va": "center", "fontsize": 9}
    left = "; ".join([window.text(volume.unit), voxels, *volume.notes])
    figure.text(EDGE_INCHES / width, up, left, ha="left", **style)
    right = f"pacspark {__version__}, not for diagnosis; {page}"
    figure.text(1 - EDGE_INCHES / width, up, right, ha="right", **style)


def _head(catalog: Catalog, volume: Volume, *, with_patient: bool) -> list[tuple[str, str]]:
    row = catalog.instance(volume.images[0]["sop_instance_uid"], PATIENT_COLUMNS)
    patient, born = "", ""
    if with_patient:
        name = str(row["patient_name"] or "").partition("=")[0].replace("^", " ").strip()
        patient = "  ".join(filter(None, [_short(name), _short(row["patient_id"])]))
        born = "  ".join(filter(None, [_date(row["patient_birth_date"]), row["patient_sex"] or ""]))
    series = " ".join(filter(None, [_short(row["modality"]), _short(volume.description)]))
    study = "  ".join(filter(None, [_date(row["study_date"]), _short(row["study_description"])]))
    institution = _short(row["institution_name"]) if with_patient else ""
    return [(patient, series), (born, study), (institution, f"series {volume.series_uid}")]


def _short(text: Any) -> str:
    # what others wrote is drawn as it is, without matplotlib's formulas
    plain = "".join(letter if letter.isprintable() else " " for letter in str(text or ""))
    shown = plain if len(plain) <= PATIENT_LETTERS else f"{plain[: PATIENT_LETTERS - 1]}…"
    return shown.replace("$", r"\$")


def _date(text: str | None) -> str:
    digits = text or ""
    whole = len(digits) == 8 and digits.isascii() and digits.isdigit()
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if whole else _short(text)


def _window_of(volume: Volume, slices: Sequence[int]) -> Window:
    step = max(1, len(slices) // 5)
    return Window.of(np.concatenate([volume[z][::4, ::4].ravel() for z in slices[::step]]))


@contextmanager
def _pdf(path: Path) -> Iterator[Any]:
    new_figure(1, 1, 10)  # says what to install, where matplotlib is missing
    from matplotlib.backends.backend_pdf import PdfPages

    about: Mapping[str, Any] = {"Creator": f"pacspark {__version__}", "CreationDate": None}
    with whole_file(path, replace=True) as temporary, PdfPages(temporary, metadata=about) as pages:
        yield pages
