"""What many commits cost, and what compaction gives back.

Run: python -m benchmarks.benchmark_keeping [--commits 10000] [--merged 400] [--rows 250]
Records JSON lines in ``docs/benchmarks/keeping.jsonl``:

``open``: seconds to open a table after so many commits of one file each, on a local disk: with the
checkpoints that whoever commits writes, and without any, for comparison; to list the files that can
hold one UID; and for one more commit. Entries are copies of a real one with bounds of their own.
``compact``: so many ingests of so many instances each, before and after compaction: files, the
seconds of finding 50 UIDs and a series for a fresh process, seconds and most memory of compaction.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from deltalake import DeltaTable

from benchmarks.instances import instance, made_uid
from benchmarks.memory import MemoryWatch
from benchmarks.results import record
from pacspark.tables.creating import create_tables
from pacspark.tables.intake import Intake, commit_intake
from pacspark.tables.schema import CHECKPOINT_INTERVAL
from pacspark.tables.storage import Storage, open_storage

OPEN = """
import json, sys, time
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import open_storage
storage = open_storage(sys.argv[1])
began = time.perf_counter()
snapshot = Snapshot(storage, "instances")
opened = time.perf_counter()
found = len(snapshot.files({"sop_instance_uid": [sys.argv[2]]}))
done = time.perf_counter()
print(json.dumps({"version": snapshot.version, "open_s": opened - began, "files_s": done - opened}))
"""
FIND = """
import json, sys, time
from pacspark.tables.catalog import Catalog
from pacspark.tables.storage import open_storage
began = time.perf_counter()
catalog = Catalog(open_storage(sys.argv[1]))
found = len(catalog.known(sys.argv[3:]))
known = time.perf_counter()
rows = catalog.instances_of(sys.argv[2], ["sop_instance_uid"]).num_rows
done = time.perf_counter()
print(json.dumps({"found": found, "known_s": known - began, "rows": rows, "series_s": done - known,
                  "files": len(catalog.files_of("instances"))}))
"""


def ask(code: str, *words: str) -> dict[str, float]:
    """Ask a fresh process."""
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in json.loads(done.stdout).items()
    }


def take_in(storage: Storage, numbers: range) -> None:
    """Store instances in one commit."""
    run_id = uuid.uuid4().hex
    with Intake(storage, run_id) as intake:
        for number in numbers:
            intake.add(f"instance:{number}", instance(number, 4))
        taken = intake.finish()
    commit_intake(storage, [taken], run_id)


def copy_entries(storage: Storage, commits: int) -> str:
    """Write entries of the log beside the one that is there; give one of their UIDs."""
    log = Path(storage.path("instances", "_delta_log"))
    about, add = ((log / f"{1:020}.json").read_text()).splitlines()[:2]
    action = json.loads(add)
    first = action["add"]["path"]
    statistics = json.loads(action["add"]["stats"])
    draw = random.Random(1)
    for version in range(2, commits + 1):
        uids = sorted(made_uid("copied", draw.randrange(10**9)) for _ in range(2))
        for bound, uid in zip(("minValues", "maxValues"), uids, strict=True):
            for name in ("sop_instance_uid", "series_instance_uid", "study_instance_uid"):
                statistics[bound][name] = uid
            statistics[bound]["sha256"] = f"{draw.getrandbits(256):064x}"
        action["add"]["path"] = f"part-{uuid.UUID(int=draw.getrandbits(128)).hex}.parquet"
        (log.parent / action["add"]["path"]).hardlink_to(log.parent / first)
        action["add"]["stats"] = json.dumps(statistics)
        (log / f"{version:020}.json").write_text(f"{about}\n{json.dumps(action)}\n")
    return uids[0]


def measure_open(folder: Path, commits: int) -> None:
    storage = open_storage(folder / "log")
    create_tables(storage)
    take_in(storage, range(10))
    uid = copy_entries(storage, commits)
    without = ask(OPEN, storage.root, uid)
    record("keeping", case="open", commits=commits, checkpoint="none", **without)
    delta = DeltaTable(storage.table_uri("instances"))
    delta.load_as_version(commits - commits % CHECKPOINT_INTERVAL - 1)
    delta.create_checkpoint()
    figures = ask(OPEN, storage.root, uid)
    began = time.perf_counter()
    take_in(storage, range(1000, 1010))
    figures["ingest_of_10_s"] = round(time.perf_counter() - began, 3)
    every = f"every {CHECKPOINT_INTERVAL}"
    record("keeping", case="open", commits=commits, checkpoint=every, **figures)


def measure_compact(folder: Path, commits: int, rows: int) -> None:
    storage = open_storage(folder / "small")
    create_tables(storage)
    for number in range(commits):
        take_in(storage, range(number * rows, (number + 1) * rows))
    total = commits * rows
    uids = [made_uid("instance", number) for number in range(0, total, total // 50)]
    asked = storage.root, made_uid("series", 7), *uids
    before = ask(FIND, *asked)
    command = [sys.executable, "-m", "pacspark", "compact", storage.root, "--json"]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--min-age-hours", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        watch = MemoryWatch(process.pid)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
        peak_bytes = watch.stop()
    seconds = time.perf_counter() - began
    figures = {"commits": commits, "instances": total}
    record("keeping", case="compact", state="before", **figures, **before)
    record(
        "keeping",
        case="compact",
        state="after",
        **figures,
        **ask(FIND, *asked),
        compact_s=round(report["seconds"], 2),
        process_s=round(seconds, 2),
        peak_mib=round(peak_bytes / 2**20),
        moved=report["moved_objects"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--merged", type=int, default=400)
    parser.add_argument("--rows", type=int, default=250)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pacspark-bench-") as folder:
        measure_open(Path(folder), given.commits)
        measure_compact(Path(folder), given.merged, given.rows)


if __name__ == "__main__":
    main()
