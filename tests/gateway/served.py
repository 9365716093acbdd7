"""A gateway as a process of its own, which tests kill and measure, and peers that load it."""

import json
import random
import statistics
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import numpy as np
import psutil

from pacspark.dicom.decode import data_set_start
from pacspark.errors import AssociationEndedError, DicomDecodeError, ProtocolError
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.commands import C_ECHO, C_FIND, C_STORE
from pacspark.gateway.dimse.identifiers import read_identifier, write_identifier
from pacspark.gateway.dimse.negotiation import Association, request
from pacspark.gateway.dimse.services import STUDY_ROOT, VERIFICATION
from tests.ct_objects import SERIES_UID, STUDY_UID, ct_image, encoded
from tests.gateway.http import STORE_TYPE, body_of
from tests.servers import Servers, wait_until

CT = "1.2.840.10008.5.1.4.1.1.2"
LITTLE = "1.2.840.10008.1.2.1"
FIND = f"{STUDY_ROOT}.1"
PENDING = 0xFF00
LIMITS = Limits()


def object_of(uid: str) -> bytes:
    """Make the object that has a UID; the same each time, of 1 to 80 KB."""
    draw = random.Random(uid)
    edge = draw.choice([4, 50, 200])
    pixels = np.frombuffer(draw.randbytes(edge * edge * 2), np.int16).reshape(edge, edge)
    return encoded(ct_image(pixels, 1, (0.0, 0.0, 0.0), SOPInstanceUID=uid))


class Served(Servers):
    """``pacspark serve`` of an archive, with a landing and a log of its own.

    Parameters
    ----------
    folder
        where landing, configuration and log are
    root
        the archive
    config
        more lines of TOML
    name
        of landing, configuration and log
    """

    def __init__(self, folder: Path, root: Path, config: str = "", name: str = "gateway") -> None:
        super().__init__(folder)
        self.root, self.name = root, name
        self.landing = folder / f"{name}-landing"
        (folder / f"{name}.toml").write_text(f'landing = "{self.landing}"\n{config}')
        self.dimse_port = self.http_port = 0

    def start(self) -> None:
        """Start, and wait until it says where it listens."""
        command = [
            sys.executable, "-m", "pacspark", "serve", str(self.root), "--json",
            "--config", str(self.folder / f"{self.name}.toml"),
            "--dimse-port", "0", "--http-port", "0",
        ]  # fmt: skip
        self.begin(self.name, command, {})
        told: list[dict[str, Any]] = []

        def says() -> bool:
            for line in self.log.splitlines():
                with suppress(ValueError):
                    value = json.loads(line)
                    if isinstance(value, dict):
                        told.append(value)
            return bool(told)

        wait_until(says, f"{self.name}: {self.log[-2000:]}", self.processes)
        self.dimse_port, self.http_port = told[0]["dimse_port"], told[0]["http_port"]

    @property
    def log(self) -> str:
        """What it has said since it was started."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    @property
    def url(self) -> str:
        """Where its DICOMweb is."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    @property
    def connections(self) -> int:
        """The number of connections that it holds."""
        found = psutil.Process(self.processes[0].pid).net_connections("tcp")
        return sum(one.status == psutil.CONN_ESTABLISHED for one in found)

    def kill(self) -> None:
        """End it as a power cut would."""
        process = self.processes.pop()
        process.kill()
        process.wait(30)

    def terminate(self) -> None:
        """Let it end by itself."""
        process = self.processes.pop()
        process.terminate()
        assert process.wait(60) == 0, self.log[-2000:]

    def associated(self, *classes: str) -> Association:
        """Begin an association."""
        here = Destination("PACSPARK", "127.0.0.1", self.dimse_port)
        return request(here, "TEST", [(uid, [LITTLE]) for uid in classes], LIMITS)

    def client(self) -> httpx.Client:
        """Give an HTTP client."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, verify=False)

    def found(self, uids: Iterable[str]) -> list[str]:
        """Ask by C-FIND for instances; give what is answered."""
        association = self.associated(FIND)
        found = []
        for uid in uids:
            found += [answer["00080018"]["Value"][0] for answer in _find(association, uid)]
        association.link.release()
        return found

    def queried(self, uids: list[str]) -> list[str]:
        """Ask by QIDO-RS for instances; give what is answered."""
        found = []
        with self.client() as client:
            for start in range(0, len(uids), 50):
                asked = {"SOPInstanceUID": ",".join(uids[start : start + 50]), "limit": "1000"}
                answer = client.get("/instances", params=asked)
                assert answer.status_code in {200, 204}, answer.text
                rows = answer.json() if answer.status_code == 200 else []
                found += [row["00080018"]["Value"][0] for row in rows]
        return found


def _find(association: Association, uid: str) -> list[dict[str, Any]]:
    keys = [(0x00080018, "UI", uid), (0x00080052, "CS", "IMAGE"), (0x0020000D, "UI", STUDY_UID),
            (0x0020000E, "UI", SERIES_UID)]  # fmt: skip
    command = {"AffectedSOPClassUID": FIND, "CommandField": C_FIND, "MessageID": 1, "Priority": 0}
    association.link.send(command, _context(association, FIND), write_identifier(keys, LITTLE))
    found = []
    while (answer := association.link.receive()) is not None:
        if answer.command["Status"] not in {PENDING, PENDING + 1}:
            assert answer.command["Status"] == 0, answer.command
            break
        found.append(read_identifier(answer.identifier(), LITTLE, 8))
    return found


def _context(association: Association, abstract: str) -> int:
    contexts = association.contexts.values()
    return next(one.context_id for one in contexts if one.abstract_syntax == abstract)


def data_set_of(data: bytes) -> bytes:
    """Give an object without its file meta information, or what is no object as it is."""
    try:
        return data[data_set_start(data) :]
    except DicomDecodeError:
        return data


def stored_by(association: Association, uid: str, data: bytes) -> int | None:
    """Store one object by C-STORE; give its status, or None where the peer went."""
    command = {
        "AffectedSOPClassUID": CT, "CommandField": C_STORE, "MessageID": 1,
        "Priority": 0, "AffectedSOPInstanceUID": uid,
    }  # fmt: skip
    association.link.send(command, _context(association, CT), data_set_of(data))
    answer = association.link.receive()
    return None if answer is None else int(answer.command["Status"])


class Sender(threading.Thread):
    """Stores objects one after another until it is stopped or the gateway goes.

    Attributes
    ----------
    begun, acknowledged
        UIDs of what was sent, and of what the gateway has answered with a success
    refused
        statuses that were no success
    """

    def __init__(
        self, served: Served, prefix: str, told: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__()
        self.served, self.prefix, self.told = served, prefix, told
        self.begun: list[str] = []
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self.stopped = threading.Event()

    def take(self, uids: Iterable[str]) -> None:
        """Note what has been acknowledged."""
        for uid in uids:
            self.acknowledged.append(uid)
            self.told()

    def uids(self) -> Iterable[str]:
        """Give UIDs for what is sent, until there is no more."""
        number = 0
        while not self.stopped.is_set():
            number += 1
            uid = f"{self.prefix}.{number}"
            self.begun.append(uid)
            yield uid


class DimseSender(Sender):
    """By C-STORE."""

    def run(self) -> None:
        """Send."""
        with suppress(AssociationEndedError, ProtocolError):
            association = self.served.associated(CT)
            for uid in self.uids():
                status = stored_by(association, uid, object_of(uid))
                if status is None:
                    return
                if status == 0:
                    self.take([uid])
                else:
                    self.refused.append(status)
            association.link.release()


class WebSender(Sender):
    """By STOW-RS, a few objects in each request."""

    def __init__(
        self, served: Served, prefix: str, told: Callable[[], object] = lambda: None, parts: int = 3
    ) -> None:
        super().__init__(served, prefix, told)
        self.parts = parts

    def run(self) -> None:
        """Send."""
        with suppress(httpx.TransportError), self.served.client() as client:
            batch: list[str] = []
            for uid in self.uids():
                batch.append(uid)
                if len(batch) < self.parts:
                    continue
                body = body_of(object_of(one) for one in batch)
                answer = client.post("/studies", content=body, headers={"Content-Type": STORE_TYPE})
                told = answer.json()
                for row in told.get("00081199", {}).get("Value", ()):
                    self.take(row["00081155"]["Value"])
                if answer.status_code != 200:
                    self.refused.append(answer.status_code)
                batch = []


class HonestPeer(threading.Thread):
    """Does what honest peers do, over and over, each time on a connection of its own.

    Attributes
    ----------
    seconds
        that each took, by what was done
    failures
        what went wrong, in words
    """

    def __init__(self, served: Served, prefix: str, *, stores: bool = True) -> None:
        super().__init__()
        self.served, self.prefix, self.stores = served, prefix, stores
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self.stopped = threading.Event()
        self.number = 0

    def __enter__(self) -> "HonestPeer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.join(120)

    def run(self) -> None:
        """Work until stopped."""
        while not self.stopped.is_set():
            for name in ("echo", "store", "find", "qido", "wado"):
                if name == "store" and not self.stores and self.number:
                    continue
                began = perf_counter()
                try:
                    getattr(self, name)()
                except (AssertionError, AssociationEndedError, ProtocolError, OSError,
                        httpx.HTTPError) as error:  # fmt: skip
                    self.failures.append(f"{name}: {error!r}")
                else:
                    self.seconds[name].append(perf_counter() - began)
                self.stopped.wait(0.002)

    def echo(self) -> None:
        """C-ECHO on an association of its own."""
        association = self.served.associated(VERIFICATION)
        command = {"AffectedSOPClassUID": VERIFICATION, "CommandField": C_ECHO, "MessageID": 1}
        association.link.send(command, 1)
        answer = association.link.receive()
        assert answer is not None
        assert answer.command["Status"] == 0
        association.link.release()

    def store(self) -> None:
        """C-STORE of a new object."""
        self.number += 1
        uid = f"{self.prefix}.{self.number}"
        association = self.served.associated(CT)
        assert stored_by(association, uid, object_of(uid)) == 0
        association.link.release()

    def find(self) -> None:
        """C-FIND of the object that was stored last."""
        uid = f"{self.prefix}.{self.number}"
        assert self.served.found([uid]) == [uid]

    def qido(self) -> None:
        """QIDO-RS of the same."""
        uid = f"{self.prefix}.{self.number}"
        assert self.served.queried([uid]) == [uid]

    def wado(self) -> None:
        """WADO-RS of the same: its bytes."""
        uid = f"{self.prefix}.{self.number}"
        path = f"/studies/{STUDY_UID}/series/{SERIES_UID}/instances/{uid}"
        with self.served.client() as client:
            answer = client.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert answer.status_code == 200, answer.text[:200]
        assert data_set_of(answer.content) == data_set_of(object_of(uid))

    def percentiles_ms(self) -> dict[str, tuple[int, float, float]]:
        """Give, for each thing that was done, how often, the median and the 99th percentile."""
        told = {}
        for name, taken in self.seconds.items():
            cuts = statistics.quantiles(taken, n=100) if len(taken) > 1 else taken * 99
            told[name] = (len(taken), round(cuts[49] * 1e3, 1), round(cuts[98] * 1e3, 1))
        return told
