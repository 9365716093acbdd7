"""Verify and replicate: MB per second, beside `openssl dgst -sha256` of the same bytes as files.

Run: python -m benchmarks.benchmark_verify [--bytes 1000000000]
Records one JSON line per case in ``docs/benchmarks/verify.jsonl``: objects of 10 KB, of 0.5 MB and
of 64 MB, in this process on one core, and through Spark local[2]. The rivals hash the data files
whole, one process for all files of a case, from the disk as verify does: their memory of the files
is dropped first.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.results import record
from pacspark.archive import Archive, open_archive
from pacspark.progress import SILENT
from pacspark.tables.creating import create_tables
from pacspark.tables.datafile import ObjectFile
from pacspark.tables.schema import INSTANCES
from pacspark.tables.storage import open_storage
from pacspark.tables.writer import commit_files, commit_instances

FILE_BYTES = 256 << 20
CASES = {"10 KB": 10_000, "0.5 MB": 526_000, "64 MB": 64_000_000}
RIVALS = {
    "openssl": ["openssl", "dgst", "-sha256"],
    "sha256sum": ["sha256sum"],
}


def fill(root: Path, object_bytes: int, size_bytes: int) -> int:
    """Store objects of one size; return how many."""
    storage = open_storage(root)
    create_tables(storage)
    rng = np.random.default_rng(1)
    data = rng.bytes(object_bytes)
    count = max(1, size_bytes // object_bytes)
    number = 0
    while number < count:
        rows = []
        with ObjectFile(storage) as file:
            while number < count and file.size_bytes < FILE_BYTES:
                place = file.append(number.to_bytes(8, "little") + data[8:])
                rows.append(
                    dict.fromkeys(INSTANCES.arrow_schema.names)
                    | {
                        "sop_instance_uid": f"2.25.{number}",
                        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
                        "study_instance_uid": "2.25.1",
                        "series_instance_uid": "2.25.2",
                        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                        "dicom_json": "{}",
                        "source": "benchmark",
                        "run_id": "0",
                    }
                    | place.columns()
                )
                number += 1
        commit_files(storage, "objects", [file.close()], run_id="0", operation="benchmark")
        table = pa.Table.from_pylist(rows, schema=INSTANCES.arrow_schema)
        commit_instances(storage, table, run_id="0", operation="benchmark")
    return count


def forget(root: Path) -> None:
    """Let the system forget what it remembers of the data files."""
    for path in root.glob("objects/*.parquet"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def checked(archive: Archive) -> None:
    report = archive.verify()
    assert report.clean, report.findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    try:
        archive = None
        for case, object_bytes in CASES.items():
            root = work / str(object_bytes)
            count = fill(root, object_bytes, arguments.bytes)
            files = [str(path) for path in sorted(root.glob("objects/*.parquet"))]
            stored = sum(Path(path).stat().st_size for path in files)
            figures: dict[str, float] = {}
            for name, command in RIVALS.items():
                if shutil.which(command[0]):
                    forget(root)
                    figures[name] = seconds(
                        lambda: subprocess.run(
                            [*command, *files],  # noqa: B023
                            check=True,
                            stdout=subprocess.DEVNULL,
                        )
                    )
            alone = open_archive(root, progress=SILENT)
            alone._run = lambda tasks, work: [work(task) for task in tasks]  # type: ignore[method-assign] # noqa: SLF001
            figures["verify, one core"] = seconds(lambda: checked(alone))  # noqa: B023
            if archive is None:
                spark = open_archive(root, progress=SILENT).spark
            archive = open_archive(root, spark, progress=SILENT)
            checked(archive)  # workers are warm
            figures["verify, Spark local[2]"] = seconds(lambda: checked(archive))  # noqa: B023
            other = root / "other"
            figures["replicate, Spark local[2]"] = seconds(lambda: archive.replicate(other))  # noqa: B023
            for way, took in figures.items():
                record(
                    "verify",
                    case=case,
                    way=way,
                    objects=count,
                    bytes=stored,
                    seconds=round(took, 2),
                    mb_per_s=round(stored / took / 1e6, 1),
                    of_openssl=round(figures.get("openssl", 0) / took, 2),
                )
            shutil.rmtree(root)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
