"""What a viewer waits for over HTTP: study list, series metadata, frames, a whole series.

Run: python -m benchmarks.benchmark_dicomweb [--slices 500] [--archive ROOT]
A series of slices of 512 x 512 is stored, committed, and read over the loopback by clients that do
little else than reading; the server is a process of its own. The rival is Orthanc with its DICOMweb
plugin, where ``scripts/peers.sh`` has fetched it, in the same run. With ``--archive``, queries and
first frames are asked of an archive of many instances made by ``benchmarks.instances``: each time a
series that this process was never asked for. Records one JSON line per case in
``docs/benchmarks/dicomweb.jsonl``.
"""

import argparse
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.benchmark_gateway import storescu
from benchmarks.benchmark_ingest import write_slices
from benchmarks.gateways import STORED, Client, Server, orthanc, pacspark, read_all
from benchmarks.instances import SERIES_PER_STUDY, SLICES_PER_SERIES, made_uid
from benchmarks.results import record
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.servers import Orthanc

CLIENTS = 8
SMALL_SERIES = 100
COMMITTED_S = 8
"""After so long, what was stored is in the tables."""
SERIES = "0020000E"


def told(times: list[float]) -> dict[str, object]:
    """Give median and 99th percentile of some times, and how many they are."""
    ordered = sorted(times)
    return {
        "n": len(times), "p50_ms": round(1e3 * median(times), 2),
        "p99_ms": round(1e3 * ordered[int(0.99 * len(times))], 2),
    }  # fmt: skip


def stored(server: Server, folder: Path, slices: int, uids: bytes = b"2.25.1000") -> None:
    """Store a series of some slices whose UIDs begin with something of nine letters."""
    folder.mkdir()
    write_slices(folder, slices, 512)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"2.25.1000", uids))
    storescu(server.port, folder)
    shutil.rmtree(folder)


def read(name: str, server: Server) -> None:
    """Record what one client waits for, and what eight get at once."""
    client = Client(server.http_port)
    found = sorted(client.json("/series"), key=lambda one: -len(paths_of(client, one)))
    frames, hundred = (paths_of(client, one) for one in found)
    series, small = (path.partition("/instances/")[0] for path in (frames[0], hundred[0]))
    cases = {
        "study list": ["/studies?limit=101&offset=0"] * 50,
        f"metadata of {len(hundred)}": [f"{small}/metadata"] * 9,
        f"metadata of {len(frames)}": [f"{series}/metadata"] * 9,
        "frame": frames[:300],
        "whole series": [series] * 3,
    }
    for case, paths in cases.items():
        accept = STORED if case == "frame" else "*/*"
        times = [client.timed(path, accept) for path in paths]
        record("dicomweb", case=case, server=name, first_ms=round(1e3 * times[0], 2), **told(times))
    for _ in range(3):
        cpu_s = server.cpu_s
        seconds, size_bytes = read_all(server.http_port, frames, CLIENTS)
        cpu_ms = 1e3 * (server.cpu_s - cpu_s) / len(frames)
        record(
            "dicomweb", case="all frames", server=name, clients=CLIENTS, frames=len(frames),
            mb_per_s=round(size_bytes / seconds / 1e6, 1), cpu_ms_per_frame=round(cpu_ms, 2),
        )  # fmt: skip


def paths_of(client: Client, series: dict[str, dict[str, list[str]]]) -> list[str]:
    """Give the paths of the first frames of a series."""
    study, uid = series["0020000D"]["Value"][0], series[SERIES]["Value"][0]
    path = f"/studies/{study}/series/{uid}/instances"
    return [f"{path}/{one['00080018']['Value'][0]}/frames/1" for one in client.json(path)]  # type: ignore[index]


def many(root: Path, repeats: int) -> None:
    """Record what is asked of an archive of many instances."""
    instances = Catalog(open_storage(root)).table("instances", ["size_bytes"]).num_rows
    n_series = instances // SLICES_PER_SERIES
    repeats = min(repeats, n_series // 2)
    all_series = random.Random(2).sample(range(n_series), 2 * repeats)
    with pacspark(root) as server:
        client = Client(server.http_port)
        client.size("/studies?limit=1")

        def by_key(series: int) -> float:
            study = made_uid("study", series // SERIES_PER_STUDY)
            return client.timed(f"/studies?StudyInstanceUID={study}")

        def first_frame(series: int) -> float:
            study = made_uid("study", series // SERIES_PER_STUDY)
            instance = made_uid("instance", series * SLICES_PER_SERIES + 17)
            path = f"/studies/{study}/series/{made_uid('series', series)}/instances/{instance}"
            return client.timed(f"{path}/frames/1", STORED)

        def wildcard(series: int) -> float:
            return client.timed(f"/studies?AccessionNumber=A{series // 400 % 20:06d}*")

        for case, work, some in (
            ("first frame of a series", first_frame, all_series[:repeats]),
            ("study by key", by_key, all_series[:repeats]),
            ("studies by wildcard", wildcard, all_series[:repeats]),
            ("first frame of a series, from the disk", first_frame, all_series[repeats:]),
        ):
            if case.endswith("from the disk"):
                drop_from_memory(root)
            times = [work(series) for series in some]
            record("dicomweb", case=case, server="pacspark", instances=instances,
                   first_ms=round(1e3 * times[0], 2), **told(times))  # fmt: skip


def drop_from_memory(root: Path) -> None:
    """Let the system forget what it holds of an archive's files."""
    for path in root.rglob("*.parquet"):
        with path.open("rb") as file:
            os.fsync(file)  # what is not on the disk yet stays
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--archive", type=Path, default=None)
    given = parser.parse_args()
    if given.archive is not None:
        many(given.archive, given.repeats)
        return
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-", dir=Path.cwd() / "build"))
    try:
        root = work / "archive"
        create_tables(open_storage(root))
        with pacspark(root) as server:
            stored(server, work / "slices", given.slices)
            stored(server, work / "slices", SMALL_SERIES, b"2.25.7000")
            time.sleep(COMMITTED_S)
        with pacspark(root) as server:
            read("pacspark", server)
        if Orthanc.program() is not None:
            with orthanc(work / "orthanc") as rival:
                stored(rival, work / "slices", given.slices)
                stored(rival, work / "slices", SMALL_SERIES, b"2.25.7000")
                read("orthanc", rival)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
