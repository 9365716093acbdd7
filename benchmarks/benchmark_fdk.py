"""FDK against itk-rtk on the same projections: one JSON line per measurement,
also in ``docs/benchmarks/fdk.jsonl``.

``python -m benchmarks.benchmark_fdk [--size 256] [--views 180] [--threads 2] [--repeats 3]``

The grid's voxels match the detector's pixels at the isocenter. Each figure is the best of the
repeats after one warm-up on little data; ``gups`` is 10^9 voxel updates per second.

``roofline_gups`` is what the first cache would allow if nothing else took time: an update loads
four samples and a sum of four bytes each, and stores the sum; and the cache moves as many bytes per
second as a loop of ``a[i] += b[i]`` on arrays that it holds, in the same run.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numba
import numpy as np

from benchmarks.results import record
from benchmarks.scans import phantom_projections, scan
from pacspark.ct.fdk import SlabReconstruction, reconstruct_fdk
from pacspark.ct.kernels.variants import available_variants
from tests.ct.rtk import best_fdk

BYTES_PER_UPDATE = 24
CACHED = 2048
"""Floats of an array: two of them are half of a first cache of 32 KiB."""


@numba.njit(parallel=True)
def _add_up(n_threads: int, rounds: int) -> float:
    total = 0.0
    for thread in numba.prange(n_threads):
        sums, parts = np.zeros(CACHED, np.float32), np.full(CACHED, thread, np.float32)
        for _ in range(rounds):
            for place in range(CACHED):
                sums[place] += parts[place]
        total += sums[0]
    return total


def cache_bytes_per_second(n_threads: int) -> float:
    """Measure what all threads move between registers and their first caches."""
    rounds = 1_000_000
    numba.set_num_threads(n_threads)
    _add_up(n_threads, 1)
    return n_threads * rounds * CACHED * 12 / best_s(lambda: _add_up(n_threads, rounds), 3)


def best_s(action: Callable[[], object], repeats: int) -> float:
    def once() -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    return min(once() for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="voxels along each axis")
    parser.add_argument("--views", type=int, default=180)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-rival", action="store_true")
    given = parser.parse_args()
    geometry, grid = scan(given.size, given.views)
    projections = phantom_projections(geometry)
    updates = given.size**3 * given.views
    about = {"size": given.size, "views": given.views, "threads": given.threads}

    def report(case: str, seconds: float, **more: object) -> None:
        gups = round(updates / seconds / 1e9, 3)
        record("fdk", case=case, **about, seconds=round(seconds, 3), gups=gups, **more)

    roofline_gups = round(cache_bytes_per_second(given.threads) / BYTES_PER_UPDATE / 1e9, 1)
    for variant in available_variants():
        slab = SlabReconstruction(geometry, grid, None, given.threads, variant)
        band = slice(*slab.row_band)
        slab.add(projections[:1, band])  # compiles, or loads from disk
        filtered = slab.row_filter.filter(projections[:, band], 0, given.threads)
        backproject = partial(slab.backproject, filtered, 0)
        best = best_s(backproject, given.repeats)
        report(f"backprojection, {variant}", best, roofline_gups=roofline_gups)
        del filtered, backproject

    whole = partial(reconstruct_fdk, projections, geometry, grid, n_threads=given.threads)
    ours_s = best_s(whole, given.repeats)
    slab = SlabReconstruction(geometry, grid, None, given.threads)
    filter_s = slab.add(projections[:, slice(*slab.row_band)])["filter"]
    report("reconstruct_fdk", ours_s, filter_part=round(filter_s / ours_s, 3))
    del slab
    if given.without_rival:
        return
    # in a process of its own: its wrappers crash as a big interpreter ends
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        rival = (projections, geometry, grid, given.threads, given.repeats)
        theirs, theirs_s = process.submit(best_fdk, *rival).result()
    report(
        "itk-rtk",
        theirs_s,
        times_ours=round(theirs_s / ours_s, 1),
        largest_difference_of_peak=float(np.abs(whole() - theirs).max() / np.abs(theirs).max()),
    )


if __name__ == "__main__":
    main()
