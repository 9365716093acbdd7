"""Export in every format: MB/s, memory, and what `cp` and pydicom's file-set need for the same.

Run: python -m benchmarks.benchmark_export [--slices 200] [--directory 2000]
Each export is a process of its own, so that its peak memory is its own; seconds are those of the
export alone, without the start of Python, and `cpu_seconds` what it worked meanwhile on all cores.
`cp` copies the same files and waits for them to be on the disk, as the export does. The file-set of
``--directory`` objects is made by both libraries of the same small objects. One JSON line per case
goes to ``docs/benchmarks/export.jsonl``.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import record
from pacspark.tables.creating import create_tables
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.storage import open_storage
from tests.ct_objects import SERIES_UID, ct_image, encoded

EXPORT = """
import json, resource, sys, time
from pathlib import Path
from pacspark.export import export
from pacspark.tables.catalog import Catalog
from pacspark.tables.storage import open_storage
root, out, uid, file_format, dicomdir = sys.argv[1:]
catalog = Catalog(open_storage(root))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started, cpu = time.perf_counter(), time.process_time()
export(catalog, Path(out), "series", uid, file_format, dicomdir=dicomdir == "True")
print(json.dumps({
    "seconds": round(time.perf_counter() - started, 3),
    "cpu_seconds": round(time.process_time() - cpu, 3),
    "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    "start_mb": round(before / 1000),
}))
"""
FILE_SET = """
import json, resource, sys, time
from pathlib import Path
from pydicom.fileset import FileSet
folder, out = sys.argv[1:]
started, cpu = time.perf_counter(), time.process_time()
files = FileSet()
for path in sorted(Path(folder).rglob("*.dcm")):
    files.add(path)
files.write(out)
print(json.dumps({
    "seconds": round(time.perf_counter() - started, 3),
    "cpu_seconds": round(time.process_time() - cpu, 3),
    "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
}))
"""


def objects(n_slices: int, size: int) -> Iterator[bytes]:
    """Slices of smooth shapes with noise, which compress as images do."""
    noise = np.random.default_rng(1)
    y, x = np.indices((size, size)) / size - 0.5
    for z in range(n_slices):
        body = 1024.0 * (np.hypot(y, x) < 0.4) + 60 * np.sin(12 * x + z / 9)
        pixels = (body + noise.normal(0, 12, body.shape)).astype(np.int16)
        image = ct_image(
            pixels, z, (0, 0, z), RescaleSlope=1, RescaleIntercept=-1024, StudyDate="20260101",
            StudyTime="120000", StudyID="1", SeriesNumber=1, PatientID="P", PatientName="P",
            BitsStored=12, HighBit=11, PixelRepresentation=0,
        )  # fmt: skip
        yield encoded(image)


def archive(root: Path, n_slices: int, size: int) -> None:
    storage = open_storage(root)
    create_tables(storage)
    intake = Intake(storage, "0" * 32)
    for number, data in enumerate(objects(n_slices, size)):
        intake.add(str(number), data)
    commit_intake(storage, [intake.finish()], "0" * 32)


def run(script: str, *words: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def copy(source: Path, target: Path) -> float:
    started = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--directory", type=int, default=2000)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    try:
        root = work / "archive"
        archive(root, arguments.slices, arguments.size)
        voxels_mb = arguments.slices * arguments.size**2 * 2 / 1e6
        for file_format in ("dicom", "nifti", "zarr", "tiff", "parquet"):
            out = work / file_format
            figures = run(EXPORT, root, out, SERIES_UID, file_format, False)
            more = {}
            if file_format == "dicom":
                more = {"cp_seconds": round(copy(out, work / "copy"), 3)}
                shutil.rmtree(work / "copy")
            record(
                "export",
                format=file_format,
                slices=arguments.slices,
                size=arguments.size,
                mb_per_s=round(voxels_mb / figures["seconds"], 1),
                part_of_voxel_bytes=round(bytes_below(out) / 1e6 / voxels_mb, 3),
                **figures,
                **more,
            )
            shutil.rmtree(out)
        small = work / "small"
        archive(small, arguments.directory, 16)
        ours = run(EXPORT, small, work / "ours", SERIES_UID, "dicom", True)
        run(EXPORT, small, work / "flat", SERIES_UID, "dicom", False)
        theirs = run(FILE_SET, work / "flat", work / "theirs")
        record(
            "export",
            format="dicomdir",
            objects=arguments.directory,
            **ours,
            **{f"pydicom_{name}": value for name, value in theirs.items()},
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
