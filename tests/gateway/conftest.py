"""Archives and gateways in this process, on loopback and free ports."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacspark.gateway.config import GatewayConfig, Limits
from pacspark.gateway.server import Gateway
from pacspark.gateway.storing import Store
from pacspark.tables.landing import Landing
from pacspark.tables.schema import create_tables
from pacspark.tables.storage import Storage, open_storage

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
