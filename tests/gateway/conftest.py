"""Archives and gateways in this process, on loopback and free ports."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from pacspark.gateway.config import GatewayConfig, Limits
from pacspark.gateway.server import Gateway
from pacspark.gateway.storing import Store
from pacspark.tables.creating import create_tables
from pacspark.tables.landing import Landing
from pacspark.tables.storage import Storage, open_storage
from tests.gateway.http import client_of, stow
from tests.gateway.web_objects import NAMED, ct

LIMITS = Limits(commit_s=3600, follow_s=0.05, reserve_bytes=1 << 20)
"""The tables get nothing unless a test flushes."""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An archive without objects."""
    storage = open_storage(tmp_path / "archive")
    create_tables(storage)
    return storage


@pytest.fixture
def store(storage: Storage, tmp_path: Path) -> Iterator[Store]:
    """The archive as a gateway holds it, without doors."""
    with Store(storage, Landing(tmp_path / "landing"), LIMITS) as store:
        yield store


@pytest.fixture
def start_gateway(storage: Storage) -> Iterator[Callable[..., Gateway]]:
    """Start gateways, one after the other or beside each other; all end with the test."""
    with ExitStack() as stack:

        def start(**told: Any) -> Gateway:
            config = replace(GatewayConfig(dimse_port=0, http_port=0, limits=LIMITS), **told)
            return stack.enter_context(Gateway(storage, config))

        yield start


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway as it comes."""
    return start_gateway()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority and two certificates of it, for the gateway and for a caller."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["/usr/bin/openssl", *arguments], check=True, capture_output=True, cwd=folder
        )

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA")
    for name in ("gateway", "caller"):
        openssl(
            *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1",
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-out", f"{name}.pem", "-copy_extensions", "copy",
        )  # fmt: skip
    return folder


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with client_of(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Three instances that nobody changes: two in the tables, one in the landing."""
    storage = open_storage(tmp_path_factory.mktemp("web") / "archive")
    create_tables(storage)
    config = GatewayConfig(dimse_port=0, http_port=0, limits=LIMITS)
    with Gateway(storage, config) as gateway, client_of(gateway) as client:
        assert stow(client, ct(1, **NAMED), ct(2, **NAMED)).status_code == 200
        gateway.store.flush()
        assert stow(client, ct(3, **NAMED)).status_code == 200
        yield client
