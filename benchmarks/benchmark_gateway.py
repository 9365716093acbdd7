"""The gateway: objects stored and retrieved per second, and how long a query takes.

Run: python -m benchmarks.benchmark_gateway [--objects 400] [--queries 300] [--archive ROOT]
Peers are DCMTK's storescu and getscu, and a pynetdicom client with TCP_NODELAY; the rival is
Orthanc, where ``scripts/peers.sh`` has fetched it, on loopback in the same run, with its durable
storage as it comes. Also in the same run: a pynetdicom server whose handler answers from memory.
With ``--archive``, queries go to an archive of many instances made by ``benchmarks.instances``.
Records one JSON line per case in ``docs/benchmarks/gateway.jsonl``.
"""

import argparse
import os
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import psutil
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from benchmarks.benchmark_ingest import write_slices
from benchmarks.gateways import Server, orthanc, pacspark
from benchmarks.instances import SERIES_PER_STUDY, SLICES_PER_SERIES, made_uid
from benchmarks.results import record
from pacspark.gateway.dimse.services import STUDY_ROOT
from pacspark.tables.catalog import Catalog
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.servers import Orthanc, answers, free_port, wait_until

FIND = f"{STUDY_ROOT}.1"
ASSOCIATIONS = 8
HUNDRED = 100
RETRIEVALS = 7
SETTLED_S = 8.0
"""What was stored is committed by then, so that retrieval is measured alone."""


def no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def bare() -> Iterator[int]:
    """Run a pynetdicom server that answers queries from memory: with one match, or with 100."""
    answer = Dataset()
    answer.QueryRetrieveLevel, answer.StudyInstanceUID = "STUDY", "1.2.3"
    answer.PatientName, answer.StudyDate = "Doe^Jane", "20260101"

    def matches(query: Dataset) -> int:
        return HUNDRED if "*" in query.get("AccessionNumber", "") else 1

    entity = AE("BARE")
    entity.add_supported_context(FIND)
    handlers = [
        (evt.EVT_C_FIND, lambda event: iter([(0xFF00, answer)] * matches(event.identifier))),
        (evt.EVT_CONN_OPEN, no_delay),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    assert server.socket is not None
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


@contextmanager
def sink() -> Iterator[Server]:
    """Run DCMTK's storescp, which keeps nothing: what the senders take of the time is left."""
    port = free_port()
    process = subprocess.Popen(
        ["/usr/bin/storescp", "--ignore", "--fork", str(port)],
        env=os.environ | {"TCP_NODELAY": "1"},
    )
    try:
        wait_until(lambda: answers(port), "storescp", [process])
        yield Server(port, 0, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


def storescu(port: int, folder: Path) -> None:
    subprocess.run(
        ["/usr/bin/storescu", "+sd", "-nh", "127.0.0.1", str(port), str(folder)],
        check=True,
        env=os.environ | {"TCP_NODELAY": "1"},
    )


def split(folder: Path, parts: int) -> list[Path]:
    """Share the files of a folder out into several."""
    made = [folder.parent / f"{folder.name}-{n}" for n in range(parts)]
    for n, path in enumerate(sorted(folder.iterdir())):
        made[n % parts].mkdir(exist_ok=True)
        path.rename(made[n % parts] / path.name)
    return made


def all_at_once(port: int, folders: list[Path]) -> None:
    threads = [threading.Thread(target=storescu, args=(port, folder)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def stored(name: str, server: Server, work: Path, objects: int) -> None:
    """Record how fast objects are stored, over one association and over eight."""
    for case, associations in (("store", 1), ("store_8", ASSOCIATIONS)):
        folder = work / f"{name.rsplit(maxsplit=1)[-1]}-{case}"
        folder.mkdir()
        size_bytes = write_slices(folder, objects, 512)
        for path in folder.iterdir():  # other UIDs than those of the first case
            if associations > 1:
                path.write_bytes(path.read_bytes().replace(b"2.25.1000", b"2.25.7000"))
        folders = split(folder, associations)
        started, cpu_s = time.perf_counter(), server.cpu_s
        all_at_once(server.port, folders)
        seconds, cpu_s = time.perf_counter() - started, server.cpu_s - cpu_s
        record(
            "gateway", case=case, server=name, objects=objects, bytes=size_bytes,
            seconds=round(seconds, 2), instances_per_s=round(objects / seconds, 1),
            server_cpu_ms_per_object=round(1000 * cpu_s / objects, 2),
        )  # fmt: skip
        for one in folders:
            shutil.rmtree(one)


def got(servers: Mapping[str, Server], work: Path, objects: int) -> None:
    """Record how fast the series that was stored first comes back, by turns from each server."""
    time.sleep(SETTLED_S)
    taken: dict[str, list[float]] = {name: [] for name in servers}
    count = 0
    for _, (name, server) in product(range(RETRIEVALS), servers.items()):
        folder = work / "got"
        folder.mkdir()
        started = time.perf_counter()
        subprocess.run(
            ["/usr/bin/getscu", "-S", "+B", "-od", str(folder), "127.0.0.1", str(server.port),
             "-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID=2.25.{10**20}",
             "-k", f"SeriesInstanceUID=2.25.{10**25}"],
            check=True, env=os.environ | {"TCP_NODELAY": "1"},
        )  # fmt: skip
        taken[name].append(time.perf_counter() - started)
        count = sum(1 for _ in folder.iterdir())
        assert count == min(objects, 500)
        shutil.rmtree(folder)
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        record(
            "gateway", case="get_series", server=name, objects=count, n=RETRIEVALS,
            median_s=round(median, 2), least_s=round(min(seconds), 2),
            most_s=round(max(seconds), 2), instances_per_s=round(count / median, 1),
        )  # fmt: skip


def asked(
    server: str,
    port: int,
    keys: Callable[[], dict[str, str]],
    queries: int,
    *,
    case: str = "find_by_key",
    matches: int = 1,
    **more: object,
) -> None:
    """Record how long queries take a client, over one association."""
    entity = AE("BENCH")
    entity.add_requested_context(FIND)
    entity.dimse_timeout = 5

    def associate() -> Any:
        return entity.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_CONN_OPEN, no_delay)])

    association = associate()
    taken, lost = [], 0
    for _ in range(queries + 10):
        query = Dataset()
        for keyword, value in keys().items():
            setattr(query, keyword, value)
        started = time.perf_counter()
        answers = [answer for _, answer in association.send_c_find(query, FIND)]
        taken.append(time.perf_counter() - started)
        # pynetdicom's own reactor takes an answer away from its caller now and then
        if len(answers) != matches + 1:
            lost += 1
            taken.pop()
        if not association.is_established:
            association = associate()
    association.release()
    assert lost <= 0.05 * queries, lost
    taken = sorted(taken[10:])
    record(
        "gateway", case=case, server=server, queries=queries, matches=matches,
        p50_ms=round(1000 * statistics.median(taken), 2),
        p99_ms=round(1000 * taken[int(0.99 * len(taken))], 2), lost_by_client=lost, **more,
    )  # fmt: skip


def first_study() -> dict[str, str]:
    return {
        "QueryRetrieveLevel": "STUDY", "StudyInstanceUID": f"2.25.{10**20}", "PatientName": "",
        "StudyDate": "", "PatientID": "",
    }  # fmt: skip


def wildcard(number: int) -> dict[str, str]:
    """Ask for a hundred studies of `benchmarks.instances`."""
    return {
        "QueryRetrieveLevel": "STUDY", "AccessionNumber": f"A{number:06d}*",
        "StudyInstanceUID": "", "PatientName": "", "StudyDate": "",
    }  # fmt: skip


def many(root: Path, queries: int) -> None:
    """Record start, memory and queries of an archive of many instances."""
    instances = Catalog(open_storage(root)).table("instances", ["size_bytes"]).num_rows
    draw = random.Random(1)
    per_study = SLICES_PER_SERIES * SERIES_PER_STUDY

    def study() -> dict[str, str]:
        number = draw.randrange(instances // per_study)
        return {
            "QueryRetrieveLevel": "STUDY", "StudyInstanceUID": made_uid("study", number),
            "PatientName": "", "StudyDate": "", "NumberOfStudyRelatedInstances": "",
        }  # fmt: skip

    with pacspark(root) as server:
        record(
            "gateway", case="start", server="pacspark", instances=instances,
            seconds=round(server.start_s, 2), rss_mb=round(server.process.memory_info().rss / 1e6),
            cpu_s=round(server.cpu_s, 2),
        )  # fmt: skip
        asked("pacspark", server.port, study, queries, instances=instances)
        hundreds = max(instances // per_study // HUNDRED, 1)
        asked(
            "pacspark", server.port, lambda: wildcard(draw.randrange(hundreds)), queries // 5,
            case="find_by_wildcard", matches=min(instances // per_study, HUNDRED),
            instances=instances,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=400)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--archive", type=Path, default=None)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="pacspark-bench-", dir=Path.cwd() / "build"))
    try:
        if given.archive is not None:
            many(given.archive, given.queries)
            return
        root = work / "archive"
        create_tables(open_storage(root))
        with ExitStack() as stack:
            servers = {"pacspark": stack.enter_context(pacspark(root))}
            if Orthanc.program() is not None:
                servers["orthanc"] = stack.enter_context(orthanc(work / "orthanc"))
            for name, server in servers.items():
                stored(name, server, work, given.objects)
            got(servers, work, given.objects)
            for name, server in servers.items():
                asked(name, server.port, first_study, given.queries)
        with sink() as server:
            stored("a storescp that keeps nothing", server, work, given.objects)
        with bare() as port:
            asked("a bare pynetdicom handler", port, first_study, given.queries)
            asked(
                "a bare pynetdicom handler", port, lambda: wildcard(0), given.queries // 5,
                case="find_by_wildcard", matches=HUNDRED,
            )  # fmt: skip
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
