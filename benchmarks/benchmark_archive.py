"""A scan from files to a CT series in the archive: seconds and memory of the whole, JVM included.

Run: python -m benchmarks.benchmark_archive [--size 256] [--views 360]
Runs the two commands that a user would (`import-scan`, `reconstruct`) as fresh processes, samples
the resident memory of the process tree (shared pages counted once: PSS), and records
one JSON line in ``docs/benchmarks/archive.jsonl``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import MemoryWatch
from benchmarks.results import record
from benchmarks.scans import phantom_projections, scan, write_scan


def run(*arguments: str) -> tuple[str, float, int]:
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pacspark", *arguments], stdout=subprocess.PIPE, text=True
    )
    watch = MemoryWatch(process.pid)
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)
    return output.strip(), time.perf_counter() - started, watch.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--views", type=int, default=360)
    arguments = parser.parse_args()
    size, views = arguments.size, arguments.views
    geometry, grid = scan(size, views)
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    try:
        path = write_scan(work, phantom_projections(geometry), geometry)
        root = str(work / "archive")
        run("init", root)
        imported, import_s, import_bytes = run("import-scan", root, str(path))
        series_uid = imported.split()[-1]
        output, reconstruct_s, reconstruct_bytes = run(
            "reconstruct", root, series_uid, "--size", *[str(size)] * 3,
            "--voxel-mm", str(grid.voxel_mm[0]), "--json",
        )  # fmt: skip
        report = json.loads(output.splitlines()[-1])[0]
        record(
            "archive",
            size=size,
            views=views,
            import_s=round(import_s, 1),
            reconstruct_s=round(reconstruct_s, 1),
            total_s=round(import_s + reconstruct_s, 1),
            peak_gib=round(max(import_bytes, reconstruct_bytes) / 2**30, 2),
            seconds=report["seconds"],
            peak_task_gib=round(report["peak_task_bytes"] / 2**30, 2),
            predicted_task_gib=round(report["predicted_task_bytes"] / 2**30, 2),
        )
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
