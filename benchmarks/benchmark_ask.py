"""How long questions take as an archive grows: without Spark, with Spark, and DuckDB beside it.

Run: python -m benchmarks.benchmark_ask [--sizes 10000 100000 1000000] [--folder DIR]
Archives have the rows of `benchmarks.instances` and no bytes; with --folder they stay there.
Records a JSON line per size in ``docs/benchmarks/ask.jsonl`` and draws ``docs/images/asking.png``:

* a fresh process: imports, opening the archive, the first question ("cold": files of this machine's
  page cache, nothing in the memory of the process), then the median of ten more ("warm");
* SQL that counts by an attribute of the JSON, in a session with local[2], which has worked before;
* the same by DuckDB with two threads over the same files.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

import pacspark
from benchmarks.instances import fill_rows
from benchmarks.results import ROOT, record
from pacspark.progress import SILENT
from pacspark.spark.session import local_session

PICTURE = ROOT / "docs" / "images" / "asking.png"
PATIENT = "P0000007"
TAG = "00180060"
QUESTIONS = """
import json, sys, time
began = time.perf_counter()
import pacspark
from pacspark.progress import SILENT
import pacspark.archive
imported = time.perf_counter()
archive = pacspark.open(sys.argv[1], progress=SILENT)
opened = time.perf_counter()
seconds = []
for _ in range(11):
    start = time.perf_counter()
    found = archive.find(level="study", PatientID=sys.argv[2])
    seconds.append(time.perf_counter() - start)
counts = found["NumberOfStudyRelatedInstances"].tolist()
series = archive.find(level="series", PatientID=sys.argv[2])["SeriesInstanceUID"][0]
start = time.perf_counter()
archive.catalog.instances_of(series, ["sop_instance_uid"])
print(json.dumps({"import_s": imported - began, "open_s": opened - imported,
    "find_cold_s": seconds[0], "find_warm_s": sorted(seconds[1:])[5], "counts": counts,
    "series_warm_s": time.perf_counter() - start}))
"""


def in_fresh_process(root: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", QUESTIONS, root, PATIENT], capture_output=True, text=True, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert sum(told.pop("counts")) == 800, "two studies of four series of 100"
    return {name: round(seconds, 4) for name, seconds in told.items()}


def timed(work: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    start = time.perf_counter()
    found = work()
    return round(time.perf_counter() - start, 3), found


def counted(archive: pacspark.Archive, instances: int) -> dict[str, float]:
    """Count by an attribute in the JSON, twice each; the answers have to be alike.

    KVP is a column; asked for as a text, it comes out of the JSON, as what is no column does.
    """
    files = [f"{archive.root}/instances/{path}" for path in archive.catalog.files_of("instances")]
    connection = duckdb.connect(config={"threads": 2})
    rival = (
        f"SELECT json_extract_string(dicom_json, '$.\"{TAG}\".Value[0]') AS k, count(*) AS n "
        "FROM read_parquet(?) GROUP BY ALL"
    )
    query = "SELECT `KVP::string` AS k, count(*) AS n FROM instances GROUP BY ALL"
    spark_s, duckdb_s = [], []
    for _ in range(2):
        seconds, found = timed(lambda: archive.sql(query).collect())
        spark_s.append(seconds)
        seconds, rows = timed(lambda: connection.execute(rival, [files]).fetchall())
        duckdb_s.append(seconds)
    assert sorted(tuple(row) for row in found) == sorted(rows)
    assert sum(n for _, n in rows) == instances
    by_column = "SELECT KVP, count(*) FROM instances GROUP BY 1"
    column_s, _ = timed(lambda: archive.sql(by_column).collect())
    return {
        "sql_json_s": min(spark_s),
        "sql_column_s": column_s,
        "duckdb_json_s": min(duckdb_s),
        "sql_json_of_duckdb": round(min(spark_s) / min(duckdb_s), 2),
    }


def draw(lines: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (
        ("find_warm_s", "find by patient, warm"),
        ("find_cold_s", "find by patient, first of a process"),
        ("open_s", "open the archive"),
        ("sql_column_s", "SQL, count by a column"),
        ("sql_json_s", "SQL, count by any attribute"),
        ("duckdb_json_s", "the same, DuckDB"),
    ):
        axes.loglog(
            [line["instances"] for line in lines], [line[name] for line in lines], "o-", label=label
        )
    axes.set_xlabel("instances")
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="pacspark-bench-"))
    lines = []
    try:
        session = local_session("local[2]", "benchmark")
        for size in given.sizes:
            root = folder / str(size)
            if not root.exists():
                fill_rows(root, range(size))
            archive = pacspark.open(root, session, progress=SILENT)
            instances = archive.catalog.table("instances", ["sop_instance_uid"]).num_rows
            lines.append({"instances": instances, **in_fresh_process(str(root))})
            lines[-1] |= counted(archive, instances)
            record("ask", **lines[-1])
        session.stop()
    finally:
        if given.folder is None:
            shutil.rmtree(folder)
    if len(lines) > 1:
        draw(lines)


if __name__ == "__main__":
    main()
