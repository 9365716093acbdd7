"""What a plan predicts beside what its reconstruction takes, at four sizes.

``python -m benchmarks.benchmark_plan [--sizes 128 256 384 640] [--views 360]``

Scans of counts (which are prepared first) and of line integrals (which are not) are planned and
reconstructed by the commands that a user would run, each in a fresh process, in Hounsfield units.
Compared are the seconds from start to end, the seconds that tasks were busy, and the bytes of the
largest task. Results go to ``docs/benchmarks/plan.jsonl``, the table to
``docs/benchmarks/plan.md``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER, record
from benchmarks.scans import as_counts, phantom_projections, scan, write_scan

WATER_MU_PER_MM = 0.02
COLUMNS = ("seconds", "busy seconds", "GiB per task")


def command(*arguments: str) -> tuple[Any, float]:
    """Run a command for machines; give what it prints, and its seconds."""
    start = time.perf_counter()
    output = subprocess.run(
        [sys.executable, "-m", "pacspark", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
    ).stdout
    return json.loads(output.splitlines()[-1]), time.perf_counter() - start


def compare(
    work: Path, kind: str, size: int, views: int
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """Give what is predicted and what is measured, and the seconds by phase."""
    geometry, grid = scan(size, views)
    stack = phantom_projections(geometry)
    folder = work / f"{kind} {size}"
    description = write_scan(folder, as_counts(stack) if kind == "counts" else stack, geometry)
    calibration = f"[calibration]\nwater_mu_per_mm = {WATER_MU_PER_MM}\n"
    description.write_text(description.read_text() + calibration)
    del stack
    root = str(folder / "archive")
    command("init", root)
    imported, _ = command("import-scan", root, str(description))
    asked = (
        root, imported["series_instance_uid"], "--size", *[str(size)] * 3,
        "--voxel-mm", str(grid.voxel_mm[0]),
    )  # fmt: skip
    plan, _ = command("plan", *asked)
    (report,), seconds = command("reconstruct", *asked)
    busy = sum(spent for phase, spent in report["seconds"].items() if "tasks: " in phase)
    shutil.rmtree(folder)
    found = {
        "seconds": (plan["wall_seconds"], seconds),
        "busy seconds": (3600 * plan["busy_core_hours"], busy),
        "GiB per task": (plan["bytes_per_task"] / 2**30, report["peak_task_bytes"] / 2**30),
    }
    return found, report["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 384, 640])
    parser.add_argument("--views", type=int, default=360)
    given = parser.parse_args()
    about = f"Scans of {given.views} views; predicted / measured, and their ratio; written by "
    lines = [
        about + "`python -m benchmarks.benchmark_plan`.",
        "",
        "| scan | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    try:
        for kind in ("line integrals", "counts"):
            for size in given.sizes:
                found, phases = compare(work, kind, size, given.views)
                cells = [f"{p:.2f} / {m:.2f} = {p / m:.2f}" for p, m in found.values()]
                lines.append(f"| {kind}, {size}^3 | " + " | ".join(cells) + " |")
                record(
                    "plan",
                    kind=kind,
                    size=size,
                    views=given.views,
                    phases=phases,
                    **{
                        name: {"predicted": round(p, 2), "measured": round(m, 2)}
                        for name, (p, m) in found.items()
                    },
                )
    finally:
        shutil.rmtree(work)
    text = "\n".join(lines) + "\n"
    (FOLDER / "plan.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
