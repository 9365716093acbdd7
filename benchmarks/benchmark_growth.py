"""Ingest as the archive grows: what an object costs where 10^4 to 10^6 are stored already.

Run: python -m benchmarks.benchmark_growth [--largest 1000000]
At each size a task's work is done in this process for 2,048 new tiny objects (read from memory,
index, hash, look up, write, commit) and for the same ones again. UIDs are in no order, so every
file of the table may hold each of them. CPU seconds count: other work on the machine does not show
in them; the median of five batches is taken. Records one JSON line per size in
``docs/benchmarks/growth.jsonl`` and draws ``docs/images/ingest-growth.png``.
"""

import argparse
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.instances import fill_rows, instance, made_uid
from benchmarks.results import ROOT, record
from pacspark.tables.catalog import Catalog
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.storage import Storage, open_storage

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
OBJECTS = 2048
REPEATS = 5


def take_in(storage: Storage, objects: list[bytes]) -> tuple[float, dict[str, int]]:
    """Do the work of a task and of its commit; give CPU seconds and what became of the objects."""
    started = time.process_time()
    with Intake(storage, uuid.uuid4().hex) as intake:
        for number, data in enumerate(objects):
            intake.add(f"{number}", data)
        result = intake.finish()
    report = commit_intake(storage, [result], intake.run_id)
    return time.process_time() - started, report.counts


def draw(rows: list[dict[str, float]]) -> None:
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    sizes = [row["stored"] for row in rows]
    for case, label in (("new", "new objects"), ("again", "known objects")):
        each = [row[f"{case}_cpu_us"] for row in rows]
        axes.plot(sizes, each, marker="o", label=label)
    looked_up = [row["look_up_cpu_us"] for row in rows]
    axes.plot(sizes, looked_up, marker="o", label="of that, looking a UID up")
    axes.set(xscale="log", ylim=(0, None), xlabel="instances in the archive")
    axes.set_ylabel("CPU time per object, microseconds")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(ROOT / "docs" / "images" / "ingest-growth.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    largest = parser.parse_args().largest
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    rows = []
    try:
        storage, filled, fresh = open_storage(work / "archive"), 0, 10**8
        for size in (size for size in SIZES if size <= largest):
            fill_rows(work / "archive", range(filled, size))
            filled = size
            catalog = Catalog(storage)
            opened = time.process_time()
            catalog.known([made_uid("unknown", -1)])
            opened = time.process_time() - opened
            looked_up = time.process_time()
            for at in range(0, OBJECTS, 256):
                catalog.known([made_uid("unknown", n) for n in range(at, at + 256)])
            looked_up = time.process_time() - looked_up
            new_s: list[float] = []
            again_s: list[float] = []
            for _ in range(REPEATS):
                objects = [instance(fresh + n) for n in range(OBJECTS)]
                fresh += OBJECTS
                for outcome, seconds in (("stored", new_s), ("duplicate", again_s)):
                    cpu_s, counts = take_in(storage, objects)
                    assert counts[outcome] == OBJECTS
                    seconds.append(cpu_s)
            rows.append(
                {
                    "stored": size,
                    "new_cpu_us": round(median(new_s) / OBJECTS * 1e6),
                    "again_cpu_us": round(median(again_s) / OBJECTS * 1e6),
                    "look_up_cpu_us": round(looked_up / OBJECTS * 1e6, 1),
                    "first_look_up_cpu_s": round(opened, 3),
                    "files": len(catalog.files_of("instances")),
                }
            )
            record("growth", **rows[-1])
        if largest == SIZES[-1]:
            draw(rows)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
