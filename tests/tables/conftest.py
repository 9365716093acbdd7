"""Archives for the tables' tests; those of the contract stand on every kind of root."""

from pathlib import Path

import pytest

from pacspark.tables.creating import create_tables
from pacspark.tables.storage import Storage, open_storage


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
