"""Numbers that a scanner can have."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import GeometryError, PacsparkError

SHORTEST_MM: Final = 1e-6
LONGEST_MM: Final = 1e7
"""From the resolution of an X-ray microscope to ten kilometres of beam; what is beyond is a slip of
the unit or of the keyboard, and its squares and quotients would not be numbers."""
LARGEST_MAGNIFICATION: Final = 1e6
MOST_ALONG_AXIS: Final = 1 << 20
"""Of voxels, and of pixels: more would not be planned in reasonable time or memory."""
MOST_VOXELS: Final = 1 << 54
"""A whole body at 5 micrometres."""


def require_count(
    name: str,
    value: object,
    most: int | None = None,
    error: type[PacsparkError] = GeometryError,
) -> int:
    """Return a number of things as an int.

    Raises
    ------
    PacsparkError
        `error`, when it is not a whole number >= 1, or more than can be.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        message = f"{name}: expected a whole number >= 1, found {value!r}"
        raise error(message)
    count = int(value)
    if most is not None and count > most:
        message = f"{name}: expected at most {most}, found {count!r:.80}"
        raise error(message)
    return count


def require_numbers(name: str, values: object) -> NDArray[np.float64]:
    """Return real numbers as an array of its own.

    Raises
    ------
    GeometryError
        When they are something else.
    """
    try:
        given = np.asarray(values)
        if given.dtype.kind == "c":
            message = f"{name}: expected real numbers, found {given.dtype}"
            raise GeometryError(message)
        return np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"{name}: expected numbers, found {error}"
        raise GeometryError(message) from error


def require_finite(name: str, value: object) -> float:
    """Return a number as a float.

    Raises
    ------
    GeometryError
        When it is not finite.
    """
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:  # a whole number with hundreds of digits
        number = math.inf
    if isinstance(value, bool) or not math.isfinite(number):
        message = f"{name}: expected a finite number, found {value!r:.80}"
        raise GeometryError(message)
    return number


def require_positive(name: str, value: object) -> float:
    """Return a length as a float.

    Raises
    ------
    GeometryError
        When it is not a finite number > 0.
    """
    number = require_finite(name, value)
    if number <= 0:
        message = f"{name}: expected a number > 0, found {value!r}"
        raise GeometryError(message)
    return number


def require_length(name: str, value: object, shortest_mm: float = SHORTEST_MM) -> float:
    """Return a length in mm as a float.

    Raises
    ------
    GeometryError
        When it is not a number > 0, or no scanner can be so small or so large.
    """
    length = require_positive(name, value)
    if not shortest_mm <= length <= LONGEST_MM:
        message = f"{name}: expected {shortest_mm:g} to {LONGEST_MM:g} mm, found {length!r}"
        raise GeometryError(message)
    return length


def require_place(name: str, value: object, furthest_mm: float = LONGEST_MM) -> float:
    """Return a position along an axis in mm as a float.

    Raises
    ------
    GeometryError
        When it is not finite, or further than can be from 0.
    """
    place = require_finite(name, value)
    if abs(place) > furthest_mm:
        message = f"{name}: expected at most {furthest_mm:g} mm to either side, found {place!r}"
        raise GeometryError(message)
    return place


def require_voxel_edge(name: str, value: object) -> float:
    """Return the edge of a voxel in mm, which magnification makes smaller than any pixel."""
    return require_length(name, value, SHORTEST_MM / LARGEST_MAGNIFICATION)


def require_voxels(name: str, shape: Sequence[int]) -> None:
    """Check that a grid of so many voxels can be planned.

    Raises
    ------
    GeometryError
        When it has too many along an axis, or in all.
    """
    if max(shape) > MOST_ALONG_AXIS or math.prod(shape) > MOST_VOXELS:
        message = (
            f"{name}: expected at most {MOST_ALONG_AXIS} voxels along an axis and {MOST_VOXELS} in "
            f"all, found {' x '.join(map(str, shape)):.80}; make fewer or larger voxels"
        )
        raise GeometryError(message)


def require_shifts(shifts: NDArray[np.float64], n_angles: int) -> NDArray[np.float64]:
    """Return the shifts of the source as an array of its own, read-only.

    Raises
    ------
    GeometryError
        When they are not two finite numbers for each view.
    """
    checked = require_numbers("source_shifts_mm", shifts)
    if checked.shape != (n_angles, 2) or not np.isfinite(checked).all():
        message = (
            f"source_shifts_mm: expected ({n_angles}, 2) finite numbers, found shape "
            f"{checked.shape}"
        )
        raise GeometryError(message)
    checked.flags.writeable = False
    return checked
