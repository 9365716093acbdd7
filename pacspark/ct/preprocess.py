"""From counts to line integrals; plain functions on one block of projections.

``line integral = -log((counts - dark) / (flat - dark))`` with the mean of the flats and of the
darks. What the logarithm has no answer for is handled in the open:

* a pixel whose mean flat is not above its mean dark is *dead*: its line integral is interpolated
  along the row from its live neighbours; a detector that is mostly dead is an error, and so is one
  that the beam has mostly saturated;
* counts at or below the dark level, which a strong absorber and noise make, count as half a count;
  where the flat is less than two, the values are no counts but parts of the beam already, and count
  as the smallest transmission.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import ProjectionDataError

Kind = Literal["counts", "transmission", "line_integrals"]
KINDS: tuple[Kind, ...] = ("counts", "transmission", "line_integrals")

MAX_DEAD_PART = 0.5
"""More dead pixels than this part of a detector are a wrong flat, not a bad detector."""
SMALLEST_COUNT = 0.5
"""What counts at or below the dark level stand for."""
SMALLEST_TRANSMISSION = 1e-6
"""What a transmission at or below zero stands for: a line integral of 13.8."""
SMALLEST_COUNTED_FLAT = 2.0
"""Flats below this are no counts: they have been divided by something."""


def line_integrals(
    values: NDArray[Any],
    kind: Kind,
    *,
    flats: NDArray[Any] | None = None,
    darks: NDArray[Any] | None = None,
    unattenuated_counts: float | None = None,
) -> NDArray[np.float32]:
    """Return line integrals, float32, of one block of projections.

    Parameters
    ----------
    values
        ``(n, n_rows, n_columns)``, of whole frames or of the same band of rows as the flats.
    kind
        ``counts``, ``transmission`` (counts over unattenuated counts) or ``line_integrals``.
    flats, darks
        ``(m, n_rows, n_columns)`` frames without object, and without beam; for counts.
    unattenuated_counts
        The flat where there are no `flats`.

    Raises
    ------
    ProjectionDataError
        When shapes differ, the flat is dead, saturated or missing, or `kind` is none of the three.

    Examples
    --------
    >>> import numpy as np
    >>> counts, flats = np.array([[[50, 100]]]), np.array([[[100, 100]]])
    >>> abs(line_integrals(counts, "counts", flats=flats)).round(3)
    array([[[0.693, 0.   ]]], dtype=float32)
    """
    if values.ndim != 3:
        message = f"values: expected shape (n, n_rows, n_columns), found {values.shape}"
        raise ProjectionDataError(message)
    if kind == "line_integrals":
        return np.asarray(values, np.float32)
    if kind == "transmission":
        return _negative_log(np.asarray(values, np.float32), np.float32(SMALLEST_TRANSMISSION))
    if kind != "counts":
        message = f"kind: expected one of {', '.join(KINDS)}, found {kind!r}"
        raise ProjectionDataError(message)
    beam, dark = unattenuated_beam(values.shape[1:], flats, darks, unattenuated_counts)
    dead = ~(beam > 0)
    beam[dead] = 1.0
    smallest = np.where(beam < SMALLEST_COUNTED_FLAT, SMALLEST_TRANSMISSION * beam, SMALLEST_COUNT)
    lit = np.asarray(values, np.float32) - dark.astype(np.float32)
    np.maximum(lit, smallest.astype(np.float32), out=lit)
    lit /= beam.astype(np.float32)
    integrals = _negative_log(lit, np.float32(0))
    _repair(integrals, dead)
    return integrals


def unattenuated_beam(
    frame_shape: tuple[int, ...],
    flats: NDArray[Any] | None,
    darks: NDArray[Any] | None,
    unattenuated_counts: float | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the beam without object above the dark level, and the dark level, of each pixel.

    Raises
    ------
    ProjectionDataError
        When shapes differ, or the beam is dead, saturated or missing.
    """
    dark = np.zeros(frame_shape) if darks is None else _mean("dark", darks, frame_shape)
    if flats is not None:
        name = "flat"
        beam = _mean(name, flats, frame_shape) - dark
        _require_few(name, "saturated pixels", _saturated(flats))
    elif unattenuated_counts is not None and 0 < unattenuated_counts < np.inf:
        name = "unattenuated_counts"
        beam = unattenuated_counts - dark
    else:
        message = (
            "counts: expected flats or unattenuated_counts > 0, found "
            f"{'neither' if unattenuated_counts is None else unattenuated_counts}"
        )
        raise ProjectionDataError(message)
    _require_few(name, "pixels that are not above the dark level", ~(beam > 0))
    return beam, dark


def _saturated(flats: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels are at the top of their whole-number range in every frame."""
    if not np.issubdtype(flats.dtype, np.integer):
        return np.zeros(flats.shape[1:], np.bool_)
    saturated: NDArray[np.bool_] = (flats == np.iinfo(flats.dtype).max).all(axis=0)
    return saturated


def _require_few(name: str, what: str, wrong: NDArray[np.bool_]) -> None:
    if wrong.mean() <= MAX_DEAD_PART:
        return
    row, column = (int(places[0]) for places in np.nonzero(wrong))
    message = (
        f"{name}: expected the beam without object, found {int(wrong.sum())} of {wrong.size} "
        f"{what}, the first at row {row}, column {column}"
    )
    raise ProjectionDataError(message)


def _mean(name: str, frames: NDArray[Any], frame_shape: tuple[int, ...]) -> NDArray[np.float64]:
    if frames.ndim != 3 or frames.shape[1:] != frame_shape or not len(frames):
        message = f"{name}: expected frames of shape {frame_shape}, found {frames.shape}"
        raise ProjectionDataError(message)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told below
        mean: NDArray[np.float64] = frames.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        row, column = (int(places[0]) for places in np.nonzero(~np.isfinite(mean)))
        message = f"{name}: expected finite counts, found {mean[row, column]} at {row}, {column}"
        raise ProjectionDataError(message)
    return mean


def _negative_log(transmission: NDArray[np.float32], smallest: np.float32) -> NDArray[np.float32]:
    integrals = np.maximum(transmission, smallest)
    np.log(integrals, out=integrals)
    np.negative(integrals, out=integrals)
    return integrals


def _repair(integrals: NDArray[np.float32], dead: NDArray[np.bool_]) -> None:
    """Fill dead pixels along their rows; a row that is wholly dead takes its nearest live row."""
    columns = np.arange(dead.shape[1])
    dead_rows = dead.all(axis=1)
    for row in np.flatnonzero(dead.any(axis=1) & ~dead_rows):
        live = columns[~dead[row]]
        missing = columns[dead[row]]
        after = np.clip(np.searchsorted(live, missing), 0, live.size - 1)
        before = np.maximum(after - 1, 0)
        left, right = live[before], live[after]
        span = np.maximum(right - left, 1)
        part = np.clip((missing - left) / span, 0, 1).astype(np.float32)
        integrals[:, row, missing] = (1 - part) * integrals[:, row, left] + part * integrals[
            :, row, right
        ]
    live_rows = np.flatnonzero(~dead_rows)  # whole by now
    for row in np.flatnonzero(dead_rows):
        integrals[:, row] = integrals[:, live_rows[np.abs(live_rows - row).argmin()]]
