"""A gateway in a process of its own, and a client of HTTP as light as can be, for benchmarks."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.servers import Orthanc

STORED = "multipart/related; type=application/octet-stream; transfer-syntax=*"
"""What OHIF takes frames as."""
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Server:
    """A server that runs: its ports, its process, and the seconds until it listened."""

    port: int
    http_port: int
    process: psutil.Process
    start_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        """What the process has worked so far."""
        return float(sum(self.process.cpu_times()[:2]))


@contextmanager
def pacspark(root: Path) -> Iterator[Server]:
    """Serve an archive; its landing and its log are beside it."""
    started = time.perf_counter()
    with (root.parent / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pacspark", "serve", str(root), "--dimse-port", "0",
             "--http-port", "0", "--json", "--landing", str(root.parent / "landing")],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        start_s = time.perf_counter() - started
        yield Server(told["dimse_port"], told["http_port"], psutil.Process(process.pid), start_s)
    finally:
        process.terminate()
        process.wait(120)


@contextmanager
def orthanc(folder: Path) -> Iterator[Server]:
    """Run Orthanc as it comes, with its DICOMweb plugin."""
    folder.mkdir()
    with Orthanc(folder) as rival:
        yield Server(rival.port, rival.http_port, psutil.Process(rival.processes[0].pid))


class Client:
    """One connection that is kept open, below ``/dicom-web``."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(_READ_BYTES)

    def size(self, path: str, accept: str = "*/*") -> int:
        """Ask, read the whole answer, and give its bytes."""
        answer = self._ask(path, accept)
        total = 0
        while got := answer.readinto(self._buffer):
            total += got
        return total

    def json(self, path: str) -> list[dict[str, Any]]:
        """Ask for DICOM JSON; 204 is none."""
        data = self._ask(path, "application/dicom+json").read()
        found: list[dict[str, Any]] = json.loads(data) if data else []
        return found

    def _ask(self, path: str, accept: str) -> http.client.HTTPResponse:
        self._connection.request("GET", f"/dicom-web{path}", headers={"Accept": accept})
        answer = self._connection.getresponse()
        assert answer.status in {200, 204}, (path, answer.status, answer.read()[:200])
        return answer

    def timed(self, path: str, accept: str = "*/*") -> float:
        """Ask, and give the seconds that it took."""
        began = time.perf_counter()
        assert self.size(path, accept)
        return time.perf_counter() - began


def read_all(port: int, paths: Sequence[str], clients: int) -> tuple[float, int]:
    """Read frames over some connections at once; give seconds and bytes."""
    connections = [Client(port) for _ in range(clients)]

    def read(number: int) -> int:
        return sum(connections[number].size(path, STORED) for path in paths[number::clients])

    with ThreadPoolExecutor(clients) as readers:
        began = time.perf_counter()
        total = sum(readers.map(read, range(clients)))
        return time.perf_counter() - began, total
