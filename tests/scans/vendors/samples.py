"""A body without any symmetry, and what a scanner's frames of it become."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import VolumeGrid
from pacspark.ct.phantom import Ellipsoid, voxelize
from pacspark.ct.preprocess import line_integrals
from pacspark.scans.description import read_scan_description
from pacspark.scans.readers import open_frames

Place = tuple[float, float, float]

BALLS: list[tuple[Place, float]] = [((9, 5, 6), 4.5), ((-3, 8, -5), 3.5), ((-7, -6, 6), 2.5)]
"""Centres x, y, z and radii, in mm."""
WHITE = 50_000.0
GRID = VolumeGrid((36, 48, 48), (0.8, 0.8, 0.8))
N_ROWS, N_COLUMNS, PIXEL_MM = 60, 72, 0.9
TO_AXIS_MM, TO_DETECTOR_MM = 80.0, 140.0


def same(x: float, y: float, z: float) -> Place:
    """Leave a place where it is."""
    return (x, y, z)


def body(turned: Callable[[float, float, float], Place] = same) -> tuple[Ellipsoid, ...]:
    """Give the body, turned for scanners with axes of their own."""
    matrix = np.array([turned(1, 0, 0), turned(0, 1, 0), turned(0, 0, 1)])
    assert round(np.linalg.det(matrix), 9) == 1.0
    return tuple(Ellipsoid(0.05, (size,) * 3, turned(*center)) for center, size in BALLS)


def counts(projections: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Give what a detector of 16 bits counts."""
    return np.round(WHITE * np.exp(-projections)).astype(np.uint16)


def write_tiffs(folder: Path, name: str, frames: NDArray[np.uint16]) -> None:
    """Write frames under a name that has their number in it."""
    folder.mkdir(exist_ok=True)
    for number, frame in enumerate(frames):
        tifffile.imwrite(folder / name.format(number), frame)


def reconstructed(scan: Path) -> NDArray[np.float32]:
    """Give the volume of a description."""
    description = read_scan_description(scan)
    with open_frames(description) as frames:
        prepared = line_integrals(
            frames.read(0, frames.n_angles),
            description.kind,
            flats=frames.flats(),
            unattenuated_counts=description.unattenuated_counts,
        )
    return reconstruct_fdk(prepared, description.geometry, GRID)


def require_body(volume: NDArray[np.float32], expected: tuple[Ellipsoid, ...]) -> None:
    """Require the body at its place and no mirror image of it."""
    body_there = voxelize(expected, GRID)

    def likeness(other: NDArray[np.float32]) -> float:
        return float(np.corrcoef(volume.ravel(), other.ravel())[0, 1])

    assert likeness(body_there) > 0.9
    for axis in range(3):
        assert likeness(np.flip(body_there, axis)) < 0.5
        for step in (-1, 1):
            assert likeness(np.roll(body_there, step, axis)) < likeness(body_there)
