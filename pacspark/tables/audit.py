"""The `audit` table: who did what, when, and how it ended."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pacspark.tables.log import user_name
from pacspark.tables.schema import AUDIT
from pacspark.tables.storage import Storage
from pacspark.tables.writer import append_rows


def record(
    storage: Storage,
    action: str,
    level: str,
    uid: str,
    outcome: str,
    detail: Mapping[str, Any],
    run_id: str,
) -> None:
    """Write one row about what the user of this process did.

    Parameters
    ----------
    storage
        the archive
    action, level, uid, outcome, run_id
        as the columns of those names
    detail
        more, written as JSON
    """
    row = {
        "occurred_at": datetime.now(UTC),
        "actor": user_name(),
        "action": action,
        "level": level,
        "uid": uid,
        "outcome": outcome,
        "detail": json.dumps(dict(detail), default=str),
        "run_id": run_id,
    }
    rows = pa.Table.from_pylist([row], schema=AUDIT.arrow_schema)
    append_rows(storage, AUDIT.name, rows, run_id=run_id, operation=action)
