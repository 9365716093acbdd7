"""Whether a gateway grows under load: all its services at once, for ten minutes or so.

Run: python -m benchmarks.benchmark_load [--archive ROOT] [--minutes 10]
The archive is one of ``benchmarks.instances``; without one, one of 10^5 instances is made. Beside
each other one association stores new objects, one asks C-FIND by key, one client asks QIDO-RS, and
two open series as a viewer does: metadata, then frames. Objects that are stored make the archive
larger, some 20 a second; nothing else may. Records one JSON line per minute in
``docs/benchmarks/load.jsonl``: what was answered, and what the gateway holds.
"""

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.gateways import STORED, Client, Server, pacspark
from benchmarks.instances import SERIES_PER_STUDY, SLICES_PER_SERIES, fill_rows, instance, made_uid
from benchmarks.results import record
from pacspark.dicom.decode import data_set_start
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.commands import C_FIND, C_STORE
from pacspark.gateway.dimse.identifiers import write_identifier
from pacspark.gateway.dimse.negotiation import Association, request
from pacspark.gateway.dimse.services import STUDY_ROOT
from pacspark.tables.catalog import Catalog
from pacspark.tables.storage import open_storage

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
FIND = f"{STUDY_ROOT}.1"
MADE_INSTANCES = 100_000
STORED_PER_S = 20
FRAMES_OF_SERIES = 20
VIEWERS = 2
PENDING = {0xFF00, 0xFF01}


class Load:
    """Clients of one gateway, a thread each, and what they counted.

    Parameters
    ----------
    server
        the gateway
    instances
        that its archive has
    """

    def __init__(self, server: Server, instances: int) -> None:
        self._server, self._instances = server, instances
        self._n_series = instances // SLICES_PER_SERIES
        self._ended = threading.Event()
        self.taken: dict[str, list[float]] = {}
        self.errors: list[str] = []
        works = [self._store, self._find, self._query, *[self._view] * VIEWERS]
        self._threads = [
            threading.Thread(target=self._guarded, args=(work, random.Random(seed)))
            for seed, work in enumerate(works)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End all clients; what one of them met is in :attr:`errors`."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _guarded(self, work: Callable[[random.Random], None], draw: random.Random) -> None:
        try:
            work(draw)
        except Exception as error:  # noqa: BLE001 -- told with the figures
            self.errors.append(f"{work.__name__}: {error}")

    def _timed(self, what: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        self.taken.setdefault(what, []).append(time.perf_counter() - began)

    def _associated(self, sop_class: str) -> Association:
        here = Destination("PACSPARK", "127.0.0.1", self._server.port)
        return request(here, "LOAD", [(sop_class, [EXPLICIT])], Limits())

    def _store(self, _draw: random.Random) -> None:
        association = self._associated(CT)
        number = self._instances + SLICES_PER_SERIES
        while not self._ended.wait(1 / STORED_PER_S):
            data = instance(number)
            self._timed("C-STORE", lambda: self._send(association, number, data))  # noqa: B023
            number += 1
        association.link.release()

    def _send(self, association: Association, number: int, data: bytes) -> None:
        command = {
            "AffectedSOPClassUID": CT, "CommandField": C_STORE, "MessageID": 1, "Priority": 0,
            "AffectedSOPInstanceUID": made_uid("instance", number),
        }  # fmt: skip
        association.link.send(command, 1, data[data_set_start(data) :])
        answer = association.link.receive()
        assert answer is not None
        assert answer.command["Status"] == 0, answer.command

    def _find(self, draw: random.Random) -> None:
        association = self._associated(FIND)
        while not self._ended.is_set():
            study = made_uid("study", draw.randrange(self._n_series) // SERIES_PER_STUDY)
            self._timed("C-FIND", lambda: self._ask(association, study))  # noqa: B023
        association.link.release()

    def _ask(self, association: Association, study: str) -> None:
        command = {"AffectedSOPClassUID": FIND, "CommandField": C_FIND, "MessageID": 1,
                   "Priority": 0}  # fmt: skip
        keys = [(0x00080052, "CS", "STUDY"), (0x00100010, "PN", ""), (0x0020000D, "UI", study)]
        association.link.send(command, 1, write_identifier(keys, EXPLICIT))
        found = 0
        while (answer := association.link.receive()) and answer.command["Status"] in PENDING:
            found += 1
        assert found == 1, found

    def _query(self, draw: random.Random) -> None:
        client = Client(self._server.http_port)
        while not self._ended.is_set():
            study = made_uid("study", draw.randrange(self._n_series) // SERIES_PER_STUDY)
            self._timed("QIDO", lambda: client.json(f"/studies?StudyInstanceUID={study}"))  # noqa: B023

    def _view(self, draw: random.Random) -> None:
        client = Client(self._server.http_port)
        while not self._ended.is_set():
            number = draw.randrange(self._n_series)
            study = made_uid("study", number // SERIES_PER_STUDY)
            series = f"/studies/{study}/series/{made_uid('series', number)}"
            self._timed("metadata", lambda: client.size(f"{series}/metadata"))  # noqa: B023
            for place in range(FRAMES_OF_SERIES):
                uid = made_uid("instance", number * SLICES_PER_SERIES + place)
                path = f"{series}/instances/{uid}/frames/1"
                self._timed("frame", lambda: client.size(path, STORED))  # noqa: B023


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, default=None)
    parser.add_argument("--minutes", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd() / "build") as work:
        root = given.archive or Path(work) / "archive"
        if given.archive is None:
            fill_rows(root, range(MADE_INSTANCES))
        under_load(root, given.minutes)


def under_load(root: Path, minutes: int) -> None:
    """Record what a gateway of an archive holds before the load, and after each minute of it."""
    instances = Catalog(open_storage(root)).table("instances", ["size_bytes"]).num_rows
    with pacspark(root) as server:
        load = Load(server, instances)
        held(server, 0, instances, {}, [])
        load.start()
        for minute in range(1, minutes + 1):
            time.sleep(60)
            taken, load.taken = load.taken, {}
            held(server, minute, instances, taken, load.errors)
        load.end()
    assert not load.errors, load.errors


def held(
    server: Server, minute: int, instances: int, taken: dict[str, list[float]], errors: list[str]
) -> None:
    """Record what a gateway holds, and what it answered in the last minute."""
    process = server.process
    record(
        "load", case="minute", minute=minute, instances=instances,
        rss_mb=round(process.memory_info().rss / 1e6), files=process.num_fds(),
        threads=process.num_threads(), threads_of=dict(thread_names(process)), errors=errors,
        answered={what: len(times) for what, times in taken.items()},
        p99_ms={what: round(1e3 * sorted(t)[int(0.99 * len(t))], 1) for what, t in taken.items()},
    )  # fmt: skip


def thread_names(process: psutil.Process) -> Counter[str]:
    """Count the threads of a process by the names that the system has for them."""
    names = (path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/comm"))
    return Counter(name.strip().rstrip("-_ 0123456789") for name in names)


if __name__ == "__main__":
    main()
