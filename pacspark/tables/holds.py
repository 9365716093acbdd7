"""Legal holds: studies that nobody may delete until the hold is released."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pacspark.errors import HeldError, NotInArchiveError, UsageError
from pacspark.tables.audit import record
from pacspark.tables.datafile import AddedFile, DataFile, remove_file
from pacspark.tables.log import BARRIER, Change, compare_and_set, user_name
from pacspark.tables.schema import HOLDS, INSTANCES
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage

_STUDY = "study_instance_uid"


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold that was set or released.

    Attributes
    ----------
    study_instance_uid, held, reason
        the study, whether it is on hold now, and why
    instances
        that the archive has of the study
    """

    study_instance_uid: str
    held: bool
    reason: str
    instances: int


def held_studies(holds: Snapshot, studies: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Give the rows of the holds that some studies are under, by study."""
    wanted = sorted(set(studies))
    rows = holds.read(
        HOLDS.arrow_schema.names,
        ds.field(_STUDY).isin(pa.array(wanted, pa.string())),
        holds.files({_STUDY: wanted}),
    )
    last = {row[_STUDY]: row for row in rows.sort_by("occurred_at").to_pylist()}
    return {study: row for study, row in last.items() if row["action"] == "hold"}


def require_free(holds: Snapshot, studies: Iterable[str]) -> None:
    """Check that no study is on hold.

    Raises
    ------
    HeldError
        where one is
    """
    for study, row in held_studies(holds, studies).items():
        why = f": {row['reason']}" if row["reason"] else ""
        message = (
            f"{holds.storage.root}: study {study} is on legal hold since "
            f"{row['occurred_at']:%Y-%m-%d} by {row['actor']}{why}; nothing of it is deleted before"
            f" `pacspark hold {holds.storage.root} --study {study} --release`"
        )
        raise HeldError(message)


def without_foreign_releases(rows: pa.Table, source: Snapshot, target: Snapshot) -> pa.Table:
    """Leave out of a source's rows releases where a replica has a hold of its own.

    Parameters
    ----------
    rows
        that are to come over
    source, target
        the holds of both
    """
    released = pc.unique(rows.filter(pc.equal(rows["action"], "release"))[_STUDY])
    if not len(released):
        return rows
    names = [_STUDY, "action", "occurred_at", "run_id"]
    where = ds.field(_STUDY).isin(released)
    known = source.read(["run_id"], where)["run_id"].combine_chunks()
    own = target.read(names, where & ~ds.field("run_id").isin(known)).sort_by("occurred_at")
    last = {row[_STUDY]: row["action"] for row in own.to_pylist()}
    kept = pa.array([study for study, action in last.items() if action == "hold"], pa.string())
    foreign = pc.and_(pc.equal(rows["action"], "release"), pc.is_in(rows[_STUDY], kept))
    return rows.filter(pc.invert(foreign))


def set_hold(storage: Storage, study: str, *, release: bool = False, reason: str = "") -> Hold:
    """Set a legal hold on a study, or release it; the last row of a study counts.

    Parameters
    ----------
    storage
        the archive
    study
        its Study Instance UID
    release, reason
        whether the hold ends, and why this is done

    Raises
    ------
    NotInArchiveError
        where the archive has nothing of the study that a hold could keep
    UsageError
        where a hold is to be released that there is not
    """
    run_id, action = uuid.uuid4().hex, "release" if release else "hold"
    if not release and not _count(storage, study):
        raise _nothing(storage, study)
    made: list[AddedFile] = []

    def change(now: Snapshot) -> Change:
        for earlier in made:
            remove_file(storage, HOLDS.name, earlier.path)
        made.clear()
        before = now.read(["occurred_at"], ds.field(_STUDY) == study, now.files({_STUDY: [study]}))
        if release and study not in held_studies(now, [study]):
            message = f"{storage.root}: expected a study on hold, found none on {study}"
            raise UsageError(message)
        row = {
            # after all others of the study, whatever the clocks of their machines said
            "occurred_at": _after(pc.max(before["occurred_at"]).as_py()),
            _STUDY: study,
            "action": action,
            "actor": user_name(),
            "reason": reason,
            "run_id": run_id,
        }
        with DataFile(storage, HOLDS) as file:
            file.append(pa.Table.from_pylist([row], schema=HOLDS.arrow_schema))
        made.append(file.close())
        return Change(made)

    compare_and_set(Snapshot(storage, HOLDS.name), change, run_id, action)
    if not release:
        # a delete that has looked at the holds before this one fails to commit, and looks again
        compare_and_set(Snapshot(storage, INSTANCES.name), lambda _: BARRIER, run_id, action)
    record(storage, action, "study", study, "done", {"reason": reason}, run_id)
    # a delete that was on its way may have been faster
    instances = _count(storage, study)
    if not release and not instances:
        raise _nothing(storage, study)
    return Hold(study, not release, reason, instances)


def _after(last: datetime | None) -> datetime:
    now = datetime.now(UTC)
    return now if last is None else max(now, last + timedelta(microseconds=1))


def _count(storage: Storage, study: str) -> int:
    now = Snapshot(storage, INSTANCES.name)
    rows = now.read([_STUDY], ds.field(_STUDY) == study, now.files({_STUDY: [study]}))
    return int(rows.num_rows)


def _nothing(storage: Storage, study: str) -> NotInArchiveError:
    message = (
        f"{storage.root}: no study {study} to hold; `pacspark undelete {storage.root} --study "
        f"{study}` brings a deleted one back"
    )
    return NotInArchiveError(message)
