"""Fuzzers of both doors: the gateway stays up in bounded memory, and honest peers are served."""

import json
import re
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pacspark.gateway import statuses
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.negotiation import request
from pacspark.gateway.limits import MOST_HALF_OPEN
from pacspark.tables.creating import create_tables
from pacspark.tables.storage import open_storage
from tests.conftest import REPOSITORY
from tests.dicom import hostile
from tests.dicom.fuzz import Seed, generated, mutants
from tests.gateway.http import STORE_TYPE, body_of
from tests.gateway.pdus import Fuzzer
from tests.gateway.served import CT, HonestPeer, Served, stored_by

MEMORY_BYTES = 512 << 20
"""What a gateway of a small archive may have taken at its worst."""
REFUSED = {statuses.CANNOT_UNDERSTAND, statuses.DOES_NOT_MATCH, statuses.DUPLICATE_INSTANCE}
CONFIG = """
[limits]
associations_per_minute = 10000000
[web.limits]
requests_per_minute = 10000000
connections = 100
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A gateway that lets one address begin as many associations as it wants."""
    create_tables(open_storage(tmp_path / "archive"))
    with Served(tmp_path, tmp_path / "archive", CONFIG) as served:
        yield served


def peak_bytes(served: Served) -> int:
    """Give the most memory that a gateway has had."""
    status = Path(f"/proc/{served.processes[0].pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def check(served: Served, honest: HonestPeer, what: str, **more: object) -> None:
    """Hold a gateway to it after an attack, and note how honest peers fared."""
    assert honest.failures == []
    peak = peak_bytes(served)
    told = {"attack": what, **more, "peak_mib": peak >> 20, "honest_ms": honest.percentiles_ms()}
    (REPOSITORY / "build").mkdir(exist_ok=True)
    with (REPOSITORY / "build" / "attacks.jsonl").open("a") as notes:
        notes.write(json.dumps(told) + "\n")
    assert peak < MEMORY_BYTES
    assert "Traceback" not in served.log
    served.terminate()


def said_to(served: Served, stream: bytes) -> None:
    """Say something, and wait until the gateway ends the connection."""
    with socket.create_connection(("127.0.0.1", served.dimse_port), 30) as peer:
        with suppress(OSError):  # it may have ended already
            peer.sendall(stream)
            peer.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while peer.recv(1 << 16):
                pass


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [300, pytest.param(50_000, marks=pytest.mark.slow)])
def test_malformed_pdus__leave_honest_peers_served(served: Served, count: int) -> None:
    streams, taking, broken = Fuzzer(count).streams(count), threading.Lock(), []

    def attack() -> None:
        while True:
            with taking:
                stream = next(streams, None)
            if stream is None:
                return
            try:
                said_to(served, stream)
            except OSError as error:
                broken.append((error, stream))

    attackers = [threading.Thread(target=attack) for _ in range(2)]
    with HonestPeer(served, "1.2.9") as honest:
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()
    assert broken == []
    check(served, honest, "malformed PDUs", count=count)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutants__are_refused_or_shown(served: Served, count: int) -> None:
    """Objects that are nearly sound, and then whatever a viewer asks of those that were stored."""
    seeds = [Seed(data) for data in generated()]
    forms = ("", "/metadata", "/rendered", "/thumbnail", "/frames/1", "/frames/1/rendered")
    stored = 0
    with HonestPeer(served, "1.2.9") as honest, served.client() as client:
        for number, data in enumerate(mutants(seeds, count, seed=count)):
            own = data.replace(b"1.2.3.4\0", f"2.{10_000 + number}\0".encode())
            headers = {"Content-Type": STORE_TYPE}
            answer = client.post("/studies", content=body_of([own]), headers=headers)
            assert answer.status_code in {200, 202, 400, 409}, answer.text
            with suppress(KeyError):
                rows = answer.json()["00081199"]["Value"]
                stored += len(rows)
                for url in (row["00081190"]["Value"][0] for row in rows):
                    for form in forms:
                        assert client.get(url + form).status_code < 500, url + form
        for level in ("studies", "series", "instances"):
            answer = client.get(f"/{level}?includefield=all&limit=10000")
            assert answer.status_code == 200
            assert answer.json()
    assert stored > count // 20
    check(served, honest, "mutants of objects", count=count, stored=stored)


def test_bombs__are_refused_at_both_doors(served: Served) -> None:
    """Deflated data sets that inflate without end, and whatever else is refused as an object."""
    bombs = [
        hostile.zlib_bomb(1 << 30),
        hostile.zlib_bomb(256 << 20, tag=0x00081030, vr="UT"),
        hostile.bomb_of_values(1 << 20, 64),
        *(data for _, data, _ in hostile.refused_objects()),
    ]
    with HonestPeer(served, "1.2.9") as honest, served.client() as client:
        for data in bombs:
            headers = {"Content-Type": STORE_TYPE}
            answer = client.post("/studies", content=body_of([data]), headers=headers)
            assert answer.status_code in {200, 409}, answer.text
            uid, syntax = "1.2.3.4", "1.2.840.10008.1.2.1.99"
            here = Destination("PACSPARK", "127.0.0.1", served.dimse_port)
            association = request(here, "TEST", [(CT, [syntax])], Limits())
            assert stored_by(association, uid, data) in REFUSED | {0}
            association.link.release()
    check(served, honest, "deflate bombs and hostile objects", count=2 * len(bombs))


@pytest.mark.parametrize("count", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_connections__of_many_clients_are_bounded(served: Served, count: int) -> None:
    """They say nothing, half a request, half a body, or one request and no more: to both doors."""
    half_a_body = (
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        b'Content-Type: multipart/related; type="application/dicom"; boundary=x\r\n\r\n--x\r\n'
    )
    to_web = (b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", half_a_body)
    to_dimse = (b"", b"\x01\x00\x00\x00\x10\x00", b"\x01\x00\x00\x00\x10\x00abc")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with ExitStack() as held, HonestPeer(served, "1.2.9") as honest:
        for number in range(count):
            port, said = (
                (served.http_port, to_web[number // 2 % len(to_web)])
                if number % 2
                else (served.dimse_port, to_dimse[number // 2 % len(to_dimse)])
            )
            peer = held.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            with suppress(ConnectionError):
                peer.sendall(said)
        begun = honest.number
        while honest.number < begun + 10 and not honest.failures:
            honest.join(0.05)
        assert served.connections <= 100 + MOST_HALF_OPEN + 10
    check(served, honest, "connections", count=count)
