# ruff: noqa: INP001 -- a script
"""Statistics, windowing and thumbnails of every frame of an archive, computed where the pixels are.

Run: python examples/frame_statistics.py ARCHIVE [SERIES_UID]
Prints the ten brightest frames. Functions are called in Spark's tasks with one decoded frame each;
what they return becomes columns, and the pixels never leave the task.
"""

import sys

import numpy as np
from numpy.typing import NDArray

import pacspark

EDGE = 64


def window(values: NDArray[np.float32], center: float, width: float) -> NDArray[np.uint8]:
    """Map values to grey levels, linearly between the ends of a window."""
    grey = (values - (center - width / 2)) * (255 / max(width, 1e-9))
    return np.clip(grey, 0, 255).astype(np.uint8)


def statistics(frame: pacspark.Frame) -> dict[str, float]:
    """Give the mean, and what one pixel in a hundred is above."""
    values = frame.values  # slope and intercept applied; frame.pixels has what is stored
    return {"mean": values.mean(), "p99": np.percentile(values, 99)}


def thumbnail(frame: pacspark.Frame) -> bytes:
    """Give at most EDGE x EDGE grey levels, the window from the 1st to the 99th percentile."""
    step = -(-max(frame.pixels.shape[:2]) // EDGE)
    values = frame.values[::step, ::step]
    low, high = np.percentile(values, [1, 99])
    return window(values, (low + high) / 2, high - low).tobytes()


def main() -> None:
    """Print the brightest frames of an archive, or of a series of it."""
    archive = pacspark.open(sys.argv[1])
    frames = archive.frames(
        series=sys.argv[2] if len(sys.argv) > 2 else None,
        columns=["Modality", "InstanceNumber"],
        compute=statistics,
        returns="mean double, p99 double",
    )
    frames.orderBy("p99", ascending=False).select(
        "Modality", "InstanceNumber", "frame_number", "mean", "p99", "error"
    ).show(10)


if __name__ == "__main__":
    main()
