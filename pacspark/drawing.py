"""What matplotlib draws on top of a picture: a scale bar of a round length, readable words."""

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALE_BAR_PART: Final = 0.3
"""A scale bar is at most this part of the picture's width."""
TEXT_COLOR: Final = "#222222"


def new_figure(width_inches: float, height_inches: float, dots_per_inch: int) -> "Figure":
    """Make a figure that belongs to nobody.

    Raises
    ------
    MissingDependencyError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "pictures need matplotlib: pip install 'pacspark[pictures]'"
        raise MissingDependencyError(message) from error
    return Figure(figsize=(width_inches, height_inches), dpi=dots_per_inch, facecolor="white")


def round_length_mm(longest_mm: float) -> float:
    """Return the longest of 1, 2, 5, 10, 20, 50 … mm (or parts of one) that is not longer.

    >>> round_length_mm(37.0), round_length_mm(0.05)
    (20.0, 0.05)
    """
    exponent = math.floor(math.log10(longest_mm))
    lengths = [
        step * 10.0**power for power in (exponent - 1, exponent, exponent + 1) for step in (1, 2, 5)
    ]
    return max(length for length in lengths if length <= longest_mm * (1 + 1e-9))


def length_text(length_mm: float, unit: str = "mm") -> str:
    """Write a length with the unit that keeps it readable: µm, mm or m; one in pixels stays so."""
    if unit != "mm":
        return f"{length_mm:.3g} {unit}"
    if length_mm < 0.1:
        return f"{length_mm * 1000:.3g} µm"
    return f"{length_mm:.3g} mm" if length_mm < 1000 else f"{length_mm / 1000:.3g} m"


def draw_scale_bar(
    axes: "Axes", extent_mm: tuple[float, float], unit: str = "mm", fontsize: float = 9
) -> None:
    """Draw a scale bar of a round length into the lower right corner.

    Parameters
    ----------
    axes
        whose picture is `extent_mm` large
    extent_mm
        height and width
    unit
        of lengths, see `length_text`
    fontsize
        of its words
    """
    from matplotlib.patheffects import withStroke

    height_mm, width_mm = extent_mm
    length_mm = round_length_mm(width_mm * SCALE_BAR_PART)
    right = 0.96
    axes.plot(
        [right - length_mm / width_mm, right],
        [0.045, 0.045],
        transform=axes.transAxes,
        color="white",
        linewidth=2.5,
        solid_capstyle="butt",
        path_effects=[withStroke(linewidth=4.5, foreground="black")],
        gid="scale-bar",
    )
    # a flat strip would have its letter over the bar
    lift = 0.06 if height_mm > width_mm / 4 else 0.16
    write(
        axes,
        right - length_mm / width_mm / 2,
        lift,
        length_text(length_mm, unit),
        ha="center",
        va="bottom",
        fontsize=fontsize,
    )


def angle_ticks(degrees: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give some views and their angles: round ones between views, where the angles only grow."""
    from matplotlib.ticker import MaxNLocator

    views = np.arange(len(degrees))
    turns = np.diff(degrees)
    if len(degrees) < 2 or not ((turns > 0).all() or (turns < 0).all()):
        some = np.unique(np.linspace(0, len(degrees) - 1, min(len(degrees), 7)).round().astype(int))
        return some, degrees[some]
    order = slice(None) if turns[0] > 0 else slice(None, None, -1)
    low, high = degrees[order][[0, -1]]
    ticks = MaxNLocator(6, steps=[1, 1.5, 3, 4.5, 6, 9, 10]).tick_values(low, high)
    ticks = ticks[(ticks > low - 1e-6) & (ticks < high + 1e-6)]
    return np.interp(ticks, degrees[order], views[order]), ticks


def write(axes: "Axes", x: float, y: float, text: str, **style: Any) -> None:
    """Write on top of a picture: white with a dark rim is readable on every grey."""
    from matplotlib.patheffects import withStroke

    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        color="white",
        path_effects=[withStroke(linewidth=2.5, foreground="black")],
        **style,
    )
