"""The `runs` table: one row per job that ended, from which its result can be made again."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from pacspark import __version__
from pacspark.ct.geometry import Geometry, VolumeGrid
from pacspark.errors import PacsparkError
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import RUNS
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import append_rows


@contextmanager
def recorded_run(
    storage: Storage,
    run_id: str,
    operation: str,
    input_versions: Mapping[str, int],
    *,
    nameless: bool = False,
    **columns: Any,
) -> Iterator[dict[str, Any]]:
    """Write the row of a job when it ends: done, or failed with the message.

    Parameters
    ----------
    storage
        The archive.
    run_id, operation
        Which job, and what it is.
    input_versions
        From `versions_now`, before the job read anything.
    nameless
        Whether a failure is told by the class of its error alone: messages name what they are of.
    columns
        Other columns of `runs`; what is no text becomes JSON.

    Returns
    -------
    dict
        For the columns that are known only as the job goes on.
    """
    row = columns | {"started_at": datetime.now(UTC), "input_versions": input_versions}
    try:
        yield row
    except BaseException as error:
        # its own error is what the job has to tell, even where this row cannot be written either
        with suppress(PacsparkError):
            message = "" if nameless else str(error)
            message = message or type(error).__name__
            _write(storage, run_id, operation, row | {"outcome": "failed", "message": message})
        raise
    _write(storage, run_id, operation, row)


def versions_now(storage: Storage) -> dict[str, int]:
    """Give the newest versions of the tables that jobs read."""
    return {"instances": Catalog(storage).version("instances")}


def describe_geometry(geometry: Geometry, grid: VolumeGrid | None = None) -> dict[str, Any]:
    """Give all numbers of a scan's geometry, and of the grid of its volume."""
    described = {"scan": {"type": type(geometry).__name__} | asdict(geometry)}
    return described if grid is None else described | {"grid": asdict(grid)}


def recover_run(storage: Storage, run_id: str, operation: str, **columns: Any) -> None:
    """Write the row of a job that was killed between its commit and its row, if it is missing."""
    runs = Snapshot(storage, RUNS.name)
    wanted = (ds.field("run_id") == run_id) & (ds.field("outcome") == "done")
    if runs.read(["run_id"], wanted, runs.files({"run_id": [run_id]})).num_rows:
        return
    row = dict(columns)
    for commit in Catalog(storage).versions("instances").to_pylist():
        if commit["run_id"] == run_id:
            row |= {
                "code_version": commit["pacspark"],
                "finished_at": commit["committed_at"],
                "input_versions": {"instances": commit["version"] - 1},
            }
    _write(storage, run_id, operation, row)


def _write(storage: Storage, run_id: str, operation: str, columns: Mapping[str, Any]) -> None:
    row = {
        "run_id": run_id,
        "operation": operation,
        "code_version": __version__,
        "finished_at": datetime.now(UTC),
        "outcome": "done",
        **columns,
    }
    rows = pa.Table.from_pylist(
        [{name: _cell(value) for name, value in row.items()}], schema=RUNS.arrow_schema
    )
    append_rows(storage, RUNS.name, rows, run_id=run_id, operation=operation)


def _cell(value: Any) -> Any:
    return json.dumps(value, default=_json) if isinstance(value, dict) else value


def _json(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)
