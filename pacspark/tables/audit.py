"""The `audit` table: who did what, when, and how it ended."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.tables.catalog import Catalog
from pacspark.tables.log import user_name
from pacspark.tables.schema import AUDIT
from pacspark.tables.snapshot import Snapshot
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


def accesses(
    catalog: Catalog,
    *,
    patient_id: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    most: int | None = None,
) -> pa.Table:
    """Read who did what, the latest first.

    Parameters
    ----------
    catalog
        of the archive
    patient_id
        what was done to this patient: to the studies, series and instances that the archive has of
        them in the version of the catalog
    actor, action
        an AE title or a user, and what was done, as they are written
    since
        not before; UTC where it names no zone
    most
        rows

    Returns
    -------
    pyarrow.Table
        rows of `audit`
    """
    where = pc.scalar(True)
    for column, value in (("actor", actor), ("action", action)):
        if value is not None:
            where &= ds.field(column) == value
    if since is not None:
        moment = since if since.tzinfo else since.replace(tzinfo=UTC)
        where &= ds.field("occurred_at") >= moment
    if patient_id is not None:
        columns = ["study_instance_uid", "series_instance_uid", "sop_instance_uid"]
        instances = Snapshot(catalog.storage, "instances", catalog.as_of)
        found = instances.read(columns, ds.field("patient_id") == patient_id)
        uids = [found[name].combine_chunks() for name in columns]
        where &= ds.field("uid").isin(pa.concat_arrays([*uids, pa.array([patient_id])]))
    rows = Snapshot(catalog.storage, AUDIT.name).read(AUDIT.arrow_schema.names, where)
    return rows.sort_by([("occurred_at", "descending")]).slice(0, most)
