"""Roots for the tables' tests; the contract suite runs once for each provider."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pacspark.tables.schema import create_tables
from pacspark.tables.storage import Storage, open_storage


def _local(request: pytest.FixtureRequest) -> str:
    tmp_path: Path = request.getfixturevalue("tmp_path")
    return str(tmp_path / "archive")


ROOT_PROVIDERS: Final[dict[str, Callable[[pytest.FixtureRequest], str]]] = {"local": _local}


@pytest.fixture(params=ROOT_PROVIDERS)
def archive_root(request: pytest.FixtureRequest) -> str:
    """A root where nothing is yet."""
    return ROOT_PROVIDERS[request.param](request)


@pytest.fixture
def contract_storage(archive_root: str) -> Storage:
    """An archive without objects, on each kind of root."""
    storage = open_storage(archive_root)
    create_tables(storage)
    return storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An archive without objects on the local disk."""
    storage = open_storage(tmp_path / "archive")
    create_tables(storage)
    return storage
