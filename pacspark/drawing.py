"""What matplotlib draws on top of a picture: a scale bar of a round length, readable words."""

import math
from typing import TYPE_CHECKING, Any, Final

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
    return Figure(figsize=(width_inches, height_inches), dpi=dots_per_inch)


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
