"""The log: some files come and some go, as one commit that is a compare-and-set.

Every commit names the version that it has seen, and fails where another writer was faster; then
the change is asked for again, from what is there now. delta-rs puts the log's entry only where
there is none of its number: by a hard link on a disk, a rename on HDFS, a conditional put on S3.
`userMetadata` of each commit holds, as JSON, operation, run, version of pacspark, user, an
identifier by which a commit whose answer was lost is known again, and entries of logs that it is
witness of (`tables.witness`).
"""

import getpass
import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

from deltalake import CommitProperties
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction, Transaction

from pacspark import __version__
from pacspark.errors import CommitConflictError, StorageError
from pacspark.tables import witness
from pacspark.tables.datafile import AddedFile
from pacspark.tables.logentries import checkpoint_path, entry_path, read_entry
from pacspark.tables.schema import CHECKPOINT_INTERVAL
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage

MAX_ATTEMPTS: Final = 100
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit does to the files that a table lists.

    Attributes
    ----------
    added
        finished data files that become visible
    removed
        listed files that no longer count; they stay on the storage for readers of older versions
    data_change
        False where the same rows only lie elsewhere, so that followers of changes can pass it over
    is_barrier
        True for a commit without files, after which all who decided on older versions look again
    """

    added: Sequence[AddedFile] = ()
    removed: Sequence[ActiveFile] = ()
    data_change: bool = True
    is_barrier: bool = False

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.is_barrier)


NOTHING: Final = Change()
BARRIER: Final = Change(is_barrier=True)


@cache
def user_name() -> str:
    """Give the name of the user who runs this process; containers may have none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def compare_and_set(
    snapshot: Snapshot,
    change: Callable[[Snapshot], Change],
    run_id: str,
    operation: str,
    app_transaction: tuple[str, int] | None = None,
    *,
    settled: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Commit what `change` gives for the newest version, as the version after it; durably.

    Whoever wrote the versions that the answer rests on may have died before they were on the disk:
    so all that were seen here are waited for, not only the own one.

    Parameters
    ----------
    snapshot
        of the table
    change
        asked again for each version that turns out to be the newest; nothing is committed where it
        gives nothing
    run_id, operation
        for the history
    app_transaction
        name and number that the commit leaves in the table
    settled
        XXH3 of entries that witnesses told of and that are not to be missed any more, by table and
        version

    Returns
    -------
    int
        a version that shows the change

    Raises
    ------
    CommitConflictError
        where other writers won every attempt
    StorageError
        where the storage fails
    """
    first, storage, name = snapshot.version, snapshot.storage, snapshot.spec.name
    witnessed = witness.pending(storage, name, snapshot.table_id)
    about = {"entries": witnessed, "settled": dict(settled)}
    origin: dict[str, Any] = {"operation": operation, "run_id": run_id}
    origin |= {name: named for name, named in about.items() if named}
    last = _commit_next(snapshot, change, origin, app_transaction)
    with storage.errors(f"commit to {name}"):
        for version in range(first, last + 1):
            storage.make_durable(entry_path(storage, name, version))
            if version % CHECKPOINT_INTERVAL == CHECKPOINT_INTERVAL - 1:
                _make_checkpoint_durable(snapshot, version)
    if last > snapshot.version:
        witness.drop(storage, witnessed)
        witness.add(storage, name, last)
    return last


@dataclass(frozen=True, slots=True)
class Entry:
    """What the log says of one commit.

    Attributes
    ----------
    version
        that it made
    committed_ms
        when, milliseconds since 1970
    operation
        ours, or the one of another engine
    removed
        the files that it took from the list
    """

    version: int
    committed_ms: int
    operation: str | None
    removed: tuple[ActiveFile, ...]


def entries(snapshot: Snapshot) -> Iterator[Entry]:
    """Read the log from the version of a snapshot back, as far as it is kept."""
    storage, name = snapshot.storage, snapshot.spec.name
    for version in range(snapshot.version, -1, -1):
        with storage.errors(f"read the log of {name}"):
            info = storage.filesystem.get_file_info(entry_path(storage, name, version))
            if not info.is_file:
                return
            lines = read_entry(storage, name, version).splitlines()
        actions = [json.loads(line) for line in lines if _is_told(line)]
        about: dict[str, Any] = {}
        for action in actions:
            about |= action.get("commitInfo", {})
        modified_ms = info.mtime_ns // 1_000_000 if info.mtime_ns else 0
        yield Entry(
            version,
            about.get("timestamp") or modified_ms,
            read_origin(about.get("userMetadata")).get("operation", about.get("operation")),
            tuple(
                ActiveFile(unquote(action["remove"]["path"]), action["remove"].get("size") or 0)
                for action in actions
                if "remove" in action
            ),
        )


def _is_told(line: bytes) -> bool:
    """Tell whether a line of the log is read here; most lines add files, with long statistics."""
    return line.startswith((b'{"commitInfo"', b'{"remove"'))


def read_origin(text: str | None) -> dict[str, Any]:
    """Read what pacspark wrote about a commit of its own; nothing for others' commits."""
    try:
        origin = json.loads(text or "{}")
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) else {}


def make_checkpoint(snapshot: Snapshot) -> None:
    """Sum the log up to a version, if that is not done, and drop entries older than they are kept.

    Raises
    ------
    StorageError
        where the storage fails
    """
    storage, name = snapshot.storage, snapshot.spec.name
    with storage.errors(f"write a checkpoint of {name}"):
        path = storage.path(name, "_delta_log", "_last_checkpoint")
        if storage.filesystem.get_file_info(path).is_file:
            with storage.filesystem.open_input_stream(path) as stream:
                if json.loads(stream.read()).get("version") == snapshot.version:
                    return
        storage.patiently(snapshot.delta.create_checkpoint)
        _make_checkpoint_durable(snapshot, snapshot.version)
        snapshot.delta.cleanup_metadata()


def _make_checkpoint_durable(snapshot: Snapshot, version: int) -> None:
    """Wait for a checkpoint, if there is one: a torn one would hide the table."""
    storage, name = snapshot.storage, snapshot.spec.name
    if storage.kind != "local":
        return
    last = storage.path(name, "_delta_log", "_last_checkpoint")
    for path in (checkpoint_path(storage, name, version), last):
        if storage.filesystem.get_file_info(path).is_file:
            storage.make_durable(path)


def _commit_next(
    snapshot: Snapshot,
    change: Callable[[Snapshot], Change],
    about: dict[str, Any],
    app_transaction: tuple[str, int] | None,
) -> int:
    storage, name = snapshot.storage, snapshot.spec.name
    for attempt in range(MAX_ATTEMPTS):
        wanted = change(snapshot)
        if not wanted:
            return snapshot.version
        _require_files(storage, name, wanted.added)
        origin = about | {
            "pacspark": __version__,
            "user": user_name(),
            "commit": uuid.uuid4().hex,
        }
        try:
            # one that arrived all the same is found as a conflict with itself
            storage.patiently(partial(_commit, snapshot, wanted, origin, app_transaction))
        except CommitFailedError:
            if _arrived(snapshot, origin):
                return snapshot.version + 1
            # jitter, so that writers which failed together do not fail together again
            ceiling_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt, 16))
            time.sleep(random.uniform(0, ceiling_s))  # noqa: S311
            snapshot.refresh()
        except (DeltaError, OSError):
            # whether the commit arrived is unknown: look, and never remove its files
            with suppress(StorageError):
                if _arrived(snapshot, origin):
                    return snapshot.version + 1
            with storage.errors(f"commit to {name}"):
                raise
        else:
            return snapshot.version + 1
    message = (
        f"{storage.root}: {name}: other writers were faster {MAX_ATTEMPTS} times in a row; repeat "
        "the command when there are fewer"
    )
    raise CommitConflictError(message)


def _require_files(storage: Storage, table: str, added: Sequence[AddedFile]) -> None:
    """Check that what a commit lists is there: a compaction told to wait for nobody takes it."""
    paths = [storage.path(table, file.path) for file in added]
    with storage.errors(f"commit to {table}"):
        infos = storage.filesystem.get_file_info(paths) if paths else []
    gone = [info.base_name for info in infos if not info.is_file]
    if gone:
        message = (
            f"{storage.root}: {table}/{gone[0]}: expected the file that this job wrote, found that "
            "it was deleted meanwhile, as by `compact --min-age-hours 0`; repeat the command"
        )
        raise StorageError(message)


def _commit(
    snapshot: Snapshot,
    change: Change,
    origin: dict[str, Any],
    app_transaction: tuple[str, int] | None,
) -> None:
    removed_ms = time.time_ns() // 1_000_000
    snapshot.delta.create_write_transaction(
        [
            *(
                AddAction(
                    file.path,
                    file.size_bytes,
                    {},
                    file.modified_ms,
                    change.data_change,
                    file.statistics,
                )
                for file in change.added
            ),
            *(
                RemoveAction(file.path, change.data_change, removed_ms, file.size_bytes, {})
                for file in change.removed
            ),
        ],
        "append",
        snapshot.delta.schema(),
        commit_properties=CommitProperties(
            # `userName` is where Spark's DESCRIBE HISTORY looks
            custom_metadata={"userMetadata": json.dumps(origin), "userName": origin["user"]},
            max_commit_retries=0,
            app_transactions=None if app_transaction is None else [Transaction(*app_transaction)],
        ),
    )


def _arrived(snapshot: Snapshot, origin: dict[str, Any]) -> bool:
    """Tell whether a commit is the entry after a version: its answer alone may have been lost."""
    storage, name, version = snapshot.storage, snapshot.spec.name, snapshot.version + 1
    with storage.errors(f"read the log of {name}"):
        if not storage.filesystem.get_file_info(entry_path(storage, name, version)).is_file:
            return False
        return origin["commit"].encode() in read_entry(storage, name, version)
