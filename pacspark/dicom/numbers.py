"""Numbers as DICOM writes them."""

import math

from pacspark.errors import GeometryError


def decimal_string(value: float) -> str:
    """Return a number as a DICOM decimal string, at most 16 characters, as near as that allows."""
    if not math.isfinite(value):
        message = f"decimal string: expected a finite number, found {value}"
        raise GeometryError(message)
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return "0"
