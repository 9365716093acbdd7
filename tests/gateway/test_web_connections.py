"""Connections of the web door: TLS, and those who keep it waiting."""

import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from pacspark.gateway.config import Tls
from pacspark.gateway.limits import MOST_HALF_OPEN
from pacspark.gateway.searching import Match
from pacspark.gateway.server import Gateway
from pacspark.gateway.web import query
from pacspark.gateway.web_config import WebConfig, WebLimits
from tests.ct_objects import STUDY_UID, ct_image, encoded
from tests.gateway.http import BOUNDARY, STORE_TYPE, client_of, stow, values
from tests.servers import wait_until

PIXELS = np.arange(24, dtype=np.int16).reshape(4, 6)
STUDY = f"/dicom-web/studies/{STUDY_UID}"
HALF_A_HANDSHAKE = b"\x16\x03\x01\x02\x00\x01"


def tls_of(certificates: Path) -> Tls:
    return Tls(certificates / "gateway.pem", certificates / "gateway.key")


def test_connection__that_says_nothing_is_closed(start_gateway: Callable[..., Gateway]) -> None:
    limits = WebLimits(first_request_s=0.2)
    gateway = start_gateway(web=WebConfig(limits=limits))
    assert gateway.web is not None
    for said in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
        with socket.create_connection(("127.0.0.1", gateway.web.port), timeout=20) as silent:
            silent.sendall(said)
            assert silent.recv(1000) == b""
    with client_of(gateway) as client:
        assert client.get("/healthz").status_code == 200


def test_body__that_stops_is_given_up(start_gateway: Callable[..., Gateway]) -> None:
    limits = WebLimits(idle_s=0.2)
    gateway = start_gateway(web=WebConfig(limits=limits))
    assert gateway.web is not None
    head = (
        "POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        f"Content-Type: {STORE_TYPE}\r\n\r\n--{BOUNDARY}\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.web.port), timeout=20) as slow:
        slow.sendall(head.encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 400")


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells it on Linux alone")
@pytest.mark.parametrize("is_tls", [False, True])
def test_answer__that_is_not_taken_is_given_up(
    is_tls: bool, start_gateway: Callable[..., Gateway], certificates: Path
) -> None:
    web = WebConfig(limits=WebLimits(idle_s=0.5))
    gateway = start_gateway(web=web, tls=tls_of(certificates) if is_tls else None)
    assert gateway.web is not None
    pixels = np.zeros((4096, 4096), np.int16)  # more than the system holds for both ends
    gateway.store.store(encoded(ct_image(pixels, 1, (0.0, 0.0, 0.0))), "x")
    connection = socket.create_connection(("127.0.0.1", gateway.web.port), timeout=20)
    if is_tls:
        context = ssl.create_default_context(cafile=certificates / "ca.pem")
        connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
    with connection:
        connection.sendall(f"GET {STUDY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        here, peer = (connection.getpeername()[1], connection.getsockname()[1])
        wait_until(lambda: (here, peer) not in open_connections(), "the end", [])


def open_connections() -> set[tuple[int, int]]:
    """Give the ports of this end and of the other of the connections of this process."""
    return {
        (one.laddr.port, one.raddr.port)
        for one in psutil.Process().net_connections("tcp")
        if one.raddr
    }


def test_connection__that_is_one_too_many_is_told_to_come_again(
    start_gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the others waits for its client: both wait for the gateway."""
    gateway = start_gateway(web=WebConfig(limits=WebLimits(connections=2)))
    begun, may_end = threading.Semaphore(0), threading.Event()

    def held(*_: object) -> list[Match]:
        begun.release()
        assert may_end.wait(60)
        return []

    monkeypatch.setattr(query, "search", held)

    def ask() -> int:
        with client_of(gateway) as client:
            return client.get("/dicom-web/studies").status_code

    with ThreadPoolExecutor(2) as clients:
        asked = [clients.submit(ask) for _ in range(2)]
        try:
            assert begun.acquire(timeout=60)
            assert begun.acquire(timeout=60)
            with client_of(gateway) as third:
                answer = third.get("/healthz")
        finally:
            may_end.set()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert [one.result() for one in asked] == [204, 204]


def test_tls__is_for_http_too(start_gateway: Callable[..., Gateway], certificates: Path) -> None:
    gateway = start_gateway(tls=tls_of(certificates))
    assert gateway.web is not None
    assert f"https://127.0.0.1:{gateway.web.port}/" in gateway.describe()
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    base = f"https://127.0.0.1:{gateway.web.port}"
    with httpx.Client(base_url=base, verify=context, trust_env=False) as client:
        assert stow(client, encoded(ct_image(PIXELS, 1, (0.0, 0.0, 0.0)))).status_code == 200
        (row,) = client.get("/dicom-web/studies").json()
        assert values(row, "00081190") == [f"{base}{STUDY}"]
    with client_of(gateway) as plain, pytest.raises(httpx.HTTPError):
        plain.get("/healthz")


def test_handshake__that_stops_is_given_up(
    start_gateway: Callable[..., Gateway], certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pacspark.gateway")
    limits = WebLimits(first_request_s=0.2)
    gateway = start_gateway(tls=tls_of(certificates), web=WebConfig(limits=limits))
    assert gateway.web is not None
    for said in (b"", HALF_A_HANDSHAKE):
        with socket.create_connection(("127.0.0.1", gateway.web.port), timeout=20) as silent:
            silent.sendall(said)
            assert silent.recv(1000) == b""  # the event loop's own patience is a minute
    assert caplog.text.count("127.0.0.1: HTTPS: no TLS was agreed on: ") == 2


def test_handshakes__that_stop_are_few_and_keep_nobody_out(
    start_gateway: Callable[..., Gateway], certificates: Path
) -> None:
    limits = WebLimits(first_request_s=600)
    gateway = start_gateway(tls=tls_of(certificates), web=WebConfig(limits=limits))
    assert gateway.web is not None
    address = ("127.0.0.1", gateway.web.port)
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(address, timeout=20))
            for _ in range(MOST_HALF_OPEN + 5)
        ]
        for one in silent[:5]:
            assert one.recv(1000) == b""
        base = f"https://127.0.0.1:{address[1]}"
        with httpx.Client(base_url=base, verify=context, trust_env=False) as client:
            assert client.get("/healthz").status_code == 200
            for one in silent[6:]:  # the oldest has made room for this client
                one.close()
            for _ in range(2 * MOST_HALF_OPEN):  # connections that have begun are not counted
                assert httpx.get(f"{base}/healthz", verify=context, trust_env=False).is_success
            assert client.get("/healthz").status_code == 200
