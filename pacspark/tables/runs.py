"""The `runs` table: one row per job that ended, from which its result can be made again."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pacspark import __version__
from pacspark.tables.schema import RUNS
from pacspark.tables.storage import Storage
from pacspark.tables.writer import append_rows


def record_run(
    storage: Storage,
    run_id: str,
    operation: str,
    started_at: datetime,
    metrics: Mapping[str, Any],
    **columns: str,
) -> None:
    """Write the row of a job that is done.

    Parameters
    ----------
    storage
        The archive.
    run_id, operation
        Which job, and what it was.
    started_at
        When it began, UTC.
    metrics
        Counts, bytes and seconds.
    columns
        Other columns of `runs`.
    """
    row = {
        "run_id": run_id,
        "operation": operation,
        "code_version": __version__,
        "started_at": started_at,
        "finished_at": datetime.now(UTC),
        "outcome": "done",
        "metrics": json.dumps(metrics, default=str),
        **columns,
    }
    rows = pa.Table.from_pylist([row], schema=RUNS.arrow_schema)
    append_rows(storage, RUNS.name, rows, run_id=run_id, operation=operation)
