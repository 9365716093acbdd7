"""Numbers that a scanner can have."""

import math
from numbers import Integral, Real

from pacspark.errors import GeometryError


def require_count(name: str, value: object) -> int:
    """Return a number of things as an int.

    Raises
    ------
    GeometryError
        When it is not a whole number >= 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        message = f"{name}: expected a whole number >= 1, found {value!r}"
        raise GeometryError(message)
    return int(value)


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
