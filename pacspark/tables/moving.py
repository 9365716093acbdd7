"""Rows follow the bytes that they refer to, from one data file of `objects` to another."""

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from pacspark.errors import CommitConflictError
from pacspark.tables.datafile import AddedFile, describe_file, remove_file
from pacspark.tables.log import NOTHING, Change, compare_and_set
from pacspark.tables.references import refers_to
from pacspark.tables.rewriting import rewrite
from pacspark.tables.schema import OBJECTS
from pacspark.tables.snapshot import ActiveFile, Snapshot
from pacspark.tables.storage import Storage
from pacspark.tables.writer import commit_files

Moves = Mapping[tuple[str, int], tuple[str, int, list[int]]]
"""Old file and row group -> new file, row group, offsets."""
_MOVED: Final = ("object_file", "object_row_group", "object_offsets")


def move_rows(
    storage: Storage, table: str, moves: Moves, run_id: str, operation: str = "compact"
) -> None:
    """Let rows refer to where their bytes are now, in one commit, whatever others do meanwhile.

    Parameters
    ----------
    storage, table
        the archive, and `instances` or `rejects`
    moves
        where objects went; they lie in both places
    run_id, operation
        for the history
    """
    if not moves:
        return
    sources = sorted({file for file, _ in moves})
    moved: dict[str, AddedFile | None] = {}
    last = NOTHING

    def change(now: Snapshot) -> Change:
        nonlocal last
        for file in now.files():
            if file.path not in moved:
                moved[file.path] = _moved(now, file, sources, moves)
        pairs = [(file, moved[file.path]) for file in now.files()]
        last = Change(
            [new for _, new in pairs if new is not None],
            [old for old, new in pairs if new is not None],
        )
        return last

    def discard(committed: Change) -> None:
        kept = {file.path for file in committed.added}
        for new in moved.values():
            if new is not None and new.path not in kept:
                remove_file(storage, table, new.path)

    try:
        compare_and_set(Snapshot(storage, table), change, run_id, operation)
    except CommitConflictError:
        discard(NOTHING)
        raise
    discard(last)


def _moved(
    now: Snapshot, file: ActiveFile, sources: Sequence[str], moves: Moves
) -> AddedFile | None:
    """Write a file anew with its rows moved; None where it has none to move."""
    found = now.read(_MOVED[:2], refers_to(sources), [file])
    keys = zip(found["object_file"].to_pylist(), found["object_row_group"].to_pylist(), strict=True)
    if not any(key in moves for key in keys):
        return None
    return rewrite(now.storage, now.spec, file, lambda rows: _with_moves(rows, moves))


def _with_moves(rows: pa.Table, moves: Moves) -> pa.Table:
    places = rows.select(_MOVED).to_pylist()
    for place in places:
        key = place["object_file"], place["object_row_group"]
        if key in moves:
            place |= dict(zip(_MOVED, moves[key], strict=True))
    fields = [rows.schema.field(name) for name in _MOVED]
    moved = pa.Table.from_pylist(places, schema=pa.schema(fields))
    for name in _MOVED:
        number = rows.schema.get_field_index(name)
        rows = rows.set_column(number, rows.schema.field(number), moved[name])
    return rows


def list_again(storage: Storage, names: Sequence[str], run_id: str, operation: str) -> None:
    """See to it that `objects` lists files of it that rows refer to, where they lie there."""
    listed = {file.path for file in Snapshot(storage, OBJECTS.name).files()}
    again = []
    for name in names:
        if name in listed:
            continue
        with storage.errors(f"look for objects/{name}"):
            there = storage.filesystem.get_file_info(storage.path(OBJECTS.name, name)).is_file
        if there:
            again.append(describe_file(storage, OBJECTS, name))
    if again:
        commit_files(storage, OBJECTS.name, again, run_id=run_id, operation=operation)
