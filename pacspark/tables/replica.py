"""Bringing objects from one archive to another: the bodies of the tasks of `replicate`.

A data file of `objects` comes over under its own name, byte for byte: written beside its place,
read there, each object's SHA-256 compared with its row, and only then put in place. Where the
source's file is damaged, its good objects come over into a file of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pacspark.errors import StorageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import AddedFile, ObjectFile, ObjectLocation, describe_file
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import FileToCheck, check_object_file
from pacspark.tables.placing import copy_bytes, draft
from pacspark.tables.reindex import open_stored
from pacspark.tables.schema import OBJECTS
from pacspark.tables.storage import Storage

Moves = dict[tuple[int, str], ObjectLocation]
"""Where objects lie now, by first row group and SHA-256 in the file that they were in."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What became of one data file.

    Attributes
    ----------
    file
        its name
    added
        what is to be committed: the file, one of its good objects, or None for neither
    moves
        where good objects lie now; None where they lie as their rows say
    findings
        what is wrong with the source: these objects did not come over
    bytes_copied
        written to the target
    """

    file: str
    added: AddedFile | None
    moves: Moves | None
    findings: tuple[Finding, ...]
    bytes_copied: int


def bring_file(
    source: Storage, target: Storage, run_id: str, asked: FileToCheck, listed: bool
) -> Brought:
    """Bring one data file over, or check the objects asked for in one that is there.

    Parameters
    ----------
    source, target
        from where to where
    run_id
        of the replication
    asked
        the file and the rows that are to come over
    listed
        whether the target's table lists a file of this name
    """
    file = asked.file
    if listed:
        check = check_object_file(target, replace(asked, all_rows=False, xxh3=""))
        if check.findings:  # of the target's own file: `verify` there tells
            return _bring_good(source, target, asked)
        return Brought(file, None, None, (), 0)
    place = target.path("objects", file)
    with target.errors(f"look for objects/{file}"):
        there = target.filesystem.get_file_info(place)
    if there.is_file and there.size == asked.size_bytes and _is_good(target, asked, place):
        return Brought(file, describe_file(target, OBJECTS, file, asked.xxh3), None, (), 0)
    with draft(target, run_id) as one:
        try:
            with source.errors(f"read objects/{file}"):
                one.write(lambda stream: copy_bytes(source, source.path("objects", file), stream))
        except StorageError:
            return _bring_good(source, target, asked)
        if not _is_good(target, asked, one.path):
            return _bring_good(source, target, asked, copied=True)
        one.place(place)
    added = describe_file(target, OBJECTS, file, asked.xxh3)
    return Brought(file, added, None, (), added.size_bytes)


def _is_good(storage: Storage, asked: FileToCheck, path: str) -> bool:
    return not any(finding.wrong for finding in check_object_file(storage, asked, path).findings)


def _bring_good(
    source: Storage, target: Storage, asked: FileToCheck, *, copied: bool = False
) -> Brought:
    """Bring the good objects of a file over into a new one, and tell of the others."""
    check = check_object_file(source, asked)
    if copied and not any(finding.wrong for finding in check.findings):
        message = (
            f"{target.root}: objects/{asked.file}: the copy is not what {source.root} has; look at "
            "the disk and repeat the command"
        )
        raise StorageError(message)
    bad = {finding.name for finding in check.findings if finding.wrong and finding.name}
    rows = [row for row in asked.rows.to_pylist() if row["name"] not in bad]
    added, moves = repack(source, target, asked.file, rows)
    lost = tuple(one for one in check.findings if one.wrong and one.name)
    return Brought(asked.file, added, moves, lost, added.size_bytes if added else 0)


def repack(
    source: Storage, target: Storage, file: str, rows: Sequence[dict[str, Any]]
) -> tuple[AddedFile | None, Moves]:
    """Write some objects of one file into a new file, which is not committed.

    Raises
    ------
    StorageError
        where their bytes are not those of their digests
    """
    moves: Moves = {}
    if not rows:
        return None, moves
    catalog = Catalog(source)
    with ObjectFile(target) as writer:
        for row in rows:
            place = row | {"object_file": file}
            with source.errors(f"read objects/{file}"), open_stored(catalog, place) as stream:
                key = row["object_row_group"], row["sha256"]
                moves[key] = writer.append(stream, sha256=row["sha256"])
        return writer.close(), moves


def moved(rows: pa.Table, moves: dict[str, Moves]) -> pa.Table:
    """Give rows of `instances` or `rejects` the places where their objects lie now."""
    if not moves:
        return rows
    found = []
    for row in rows.to_pylist():
        here = moves.get(row["object_file"] or "", {})
        place = here.get((row["object_row_group"], row["sha256"]))
        found.append(row | place.columns() if place else row)
    return pa.Table.from_pylist(found, schema=rows.schema)
