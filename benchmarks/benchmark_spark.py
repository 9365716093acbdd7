"""Where the time goes from a scan in the archive to a CT series in it, through Spark.

``python -m benchmarks.benchmark_spark [--size 512] [--views 512] [--repeats 2]``

The same scan is reconstructed from arrays by `reconstruct_fdk` on as many threads as Spark has
cores, and through Spark out of tables into tables, in Hounsfield units: of stored line integrals,
which need no preparation, and of counts, whose line integrals are made first and found by the next
reconstruction. The session has run a small job before: what its start takes is told apart. Results
go to ``docs/benchmarks/spark.jsonl``, the table of phases to ``docs/benchmarks/spark.md``.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import FOLDER, record
from benchmarks.scans import (
    UNATTENUATED_COUNTS,
    as_counts,
    phantom_projections,
    scan,
    write_scan,
)
from pacspark.archive import Archive, create_archive
from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import ConeBeamGeometry, VolumeGrid
from pacspark.ct.preprocess import line_integrals
from pacspark.progress import SILENT
from pacspark.spark.reconstruct import ReconstructionReport
from pacspark.spark.session import local_session

WATERS = count(200)
"""Reconstructions that differ in a digit of water's attenuation are not found, but made."""
CORES = 2
MASTER = f"local[{CORES}]"


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def made(
    archive: Archive, series_uid: str, grid: VolumeGrid, repeats: int
) -> tuple[float, ReconstructionReport]:
    """Give the best of some reconstructions, and its report."""

    def once() -> tuple[float, ReconstructionReport]:
        start = time.perf_counter()
        (report,) = archive.reconstruct_series(
            series_uid, grid, water_mu_per_mm=next(WATERS) * 1e-4
        )
        return time.perf_counter() - start, report

    return min((once() for _ in range(repeats)), key=lambda result: result[0])


def phases(seconds: Mapping[str, float], whole_s: float) -> dict[str, float]:
    """Give what each phase takes on the clock, as if tasks kept all cores busy; then the rest."""
    table = {
        name.replace(" tasks:", ":"): spent / CORES
        for name, spent in seconds.items()
        if " tasks: " in name
    }
    table["commit"] = seconds["commit"]
    table["Spark, look-ups, waiting"] = whole_s - sum(table.values())
    return table


def write_table(path: Path, about: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    found = list(dict.fromkeys(name for column in columns.values() for name in column))
    names = [name for name in found if name.startswith("prepare")]
    names += [name for name in found if name.startswith("slab")]
    names += [name for name in found if name not in names]
    lines = [
        about,
        "",
        "| seconds on the clock | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in names:
        cells = [f"{column[name]:.2f}" if name in column else "" for column in columns.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    return text


def from_arrays(
    projections: NDArray[np.float32],
    counts: NDArray[np.uint16],
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    repeats: int,
) -> tuple[float, float]:
    """Give the best seconds on arrays of line integrals, and of counts."""

    def of_line_integrals() -> None:
        reconstruct_fdk(projections, geometry, grid, n_threads=CORES)

    def of_counts() -> None:
        integrals = line_integrals(counts, "counts", unattenuated_counts=UNATTENUATED_COUNTS)
        reconstruct_fdk(integrals, geometry, grid, n_threads=CORES)

    compiling = VolumeGrid((16, 16, 16), (1.0, 1.0, 1.0))
    reconstruct_fdk(projections, geometry, compiling, n_threads=CORES)
    best_s, best_counts_s = (
        min(timed(action) for _ in range(repeats)) for action in (of_line_integrals, of_counts)
    )
    return best_s, best_counts_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="voxels along each axis")
    parser.add_argument("--views", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    about = {"size": given.size, "views": given.views, "tasks_at_once": CORES}
    geometry, grid = scan(given.size, given.views)
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    try:
        projections = phantom_projections(geometry)
        counts = as_counts(projections)
        local_s, local_counts_s = from_arrays(projections, counts, geometry, grid, given.repeats)
        record("spark", case="arrays, line integrals", **about, seconds=round(local_s, 2))
        record("spark", case="arrays, counts", **about, seconds=round(local_counts_s, 2))

        session_s = timed(lambda: local_session(MASTER))
        record("spark", case="session", seconds=round(session_s, 2))
        archive = create_archive(work / "archive", local_session(MASTER), progress=SILENT)
        small, small_grid = scan(32, 16)
        uids = {
            name: archive.import_scan(
                write_scan(work / name, stack, its_geometry, patient_id=name)
            ).series_instance_uid
            for name, stack, its_geometry in (
                ("small", phantom_projections(small), small),
                ("line integrals", projections, geometry),
                ("counts", counts, geometry),
            )
        }
        del projections, counts
        first_s, _ = made(archive, uids["small"], small_grid, 1)
        record("spark", case="first small job", seconds=round(first_s, 2))

        columns = {}
        for case, name, repeats, rival_s in (
            ("line integrals", "line integrals", given.repeats, local_s),
            ("counts, first time", "counts", 1, local_counts_s),
            ("counts, again", "counts", given.repeats, local_s),  # the logarithms are taken
        ):
            seconds, report = made(archive, uids[name], grid, repeats)
            columns[case] = phases(report.seconds, seconds)
            record(
                "spark",
                case=case,
                **about,
                seconds=round(seconds, 2),
                times_arrays=round(seconds / rival_s, 2),
                peak_task_gib=round(report.peak_task_bytes / 2**30, 2),
                predicted_task_gib=round(report.predicted_task_bytes / 2**30, 2),
                phases={key: round(value, 2) for key, value in columns[case].items()},
            )
            columns[case] |= {
                "all": seconds,
                "`reconstruct_fdk` on arrays": rival_s,
                "ratio": seconds / rival_s,
            }
        title = (
            f"{given.size}^3 voxels, {given.views} views of {geometry.detector.n_rows} x "
            f"{geometry.detector.n_columns} pixels, `{MASTER}`; written by "
            "`python -m benchmarks.benchmark_spark`."
        )
        print(write_table(FOLDER / "spark.md", title, columns), end="")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
