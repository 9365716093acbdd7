"""How right a reconstruction is: one JSON line per figure, also in
``docs/benchmarks/accuracy.jsonl``; plots in ``docs/images/accuracy-*.png``.

``python -m benchmarks.benchmark_accuracy [PART ...]``

Parts are gates, resolution, disks, water, arithmetic and noise; without, all. ``docs/accuracy.md`` says what each
of them measures. Differences and errors ``of_peak`` are the largest of any voxel, as part of the largest value of what is compared with.
"""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.results import ROOT, record
from pacspark.ct.fdk import reconstruct_fdk
from tests.ct import peers, rtk

IMAGES = ROOT / "docs" / "images"

Volume = NDArray[np.float32]
tell = partial(record, "accuracy")


def digits(value: float, count: int = 3) -> float:
    """Round to what is worth reading."""
    return float(f"{value:.{count}g}")


def of_peak(
    volume: NDArray[Any], reference: NDArray[Any], seen: NDArray[np.bool_] | None = None
) -> float:
    """Give the largest difference (`seen`: there), as part of the reference's largest value."""
    difference = np.abs(volume.astype(np.float64) - reference)
    largest = difference.max() if seen is None else difference[seen].max()
    return digits(float(largest / np.abs(reference).max()), 2)


@contextmanager
def apart() -> Iterator[Executor]:
    """Give a process for itk-rtk: its wrappers crash as a big interpreter ends."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


@contextmanager
def drawing(name: str, width_inch: float, height_inch: float) -> Iterator[Figure]:
    """Give a figure; it is then kept under a name."""
    figure = Figure((width_inch, height_inch), dpi=110, layout="constrained")
    yield figure
    figure.savefig(IMAGES / f"accuracy-{name}.png")


def gates() -> None:
    """RTK's own cases and measures, its own phantom; itk-rtk on the same projections."""
    with apart() as process:
        for name, (_, _, most_error, least_psnr_db) in peers.GATES.items():
            geometry, grid = peers.gate_geometry(name), peers.GATE_GRID
            projections, phantom = process.submit(rtk.shepp_logan, geometry, grid).result()
            seen = peers.field_of_view(geometry, grid)
            ours = reconstruct_fdk(projections, geometry, grid)
            theirs = process.submit(rtk.fdk, projections, geometry, grid).result()
            error, psnr_db = peers.quality(ours, phantom, seen)
            their_error, their_psnr_db = peers.quality(theirs, phantom, seen)
            tell(
                case=f"gate of RTK, {name}",
                mean_absolute_error=digits(error, 4),
                rtk_mean_absolute_error=digits(their_error, 4),
                gate_mean_absolute_error=most_error,
                psnr_db=digits(psnr_db, 4),
                rtk_psnr_db=digits(their_psnr_db, 4),
                gate_psnr_db=least_psnr_db,
                difference_to_rtk_of_peak=of_peak(ours, theirs, seen),
                difference_to_rtk_of_peak_beyond=of_peak(ours, theirs, ~seen),
            )


PARTS: dict[str, Callable[[], None]] = {"gates": gates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts
    if unknown := set(parts) - set(PARTS):
        parser.error(f"expected some of {', '.join(PARTS)}; found {', '.join(sorted(unknown))}")
    for part in parts or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
