"""Mending a data file of `objects` from a replica: the body of the tasks of a repair.

Three ways, the first that gives a file in which every object has its digest:

* the replica has a data file of the same name: it is copied;
* the file is there in its length: what is wrong in it is written over, with the bytes of objects
  that the replica has anywhere;
* else the objects that either has go into a new file, and their rows are to say so.

In the first two the new file is written beside its place, read there, and only then put in place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds

from pacspark.errors import StorageError
from pacspark.tables.catalog import Catalog
from pacspark.tables.datafile import PIECE_BYTES, AddedFile, ObjectFile
from pacspark.tables.findings import Finding
from pacspark.tables.fixity import FileToCheck, check_object_file
from pacspark.tables.forward import ForwardReader
from pacspark.tables.lookup import find_rows
from pacspark.tables.objectscan import RowGroup, read_footer
from pacspark.tables.placing import copy_bytes, draft
from pacspark.tables.reindex import open_stored
from pacspark.tables.replica import Moves
from pacspark.tables.schema import LOCATION_COLUMNS
from pacspark.tables.snapshot import Snapshot
from pacspark.tables.storage import Storage

_DIGEST_CHARS: Final = 64
_PIECE_NUMBER_BYTES: Final = 4
_UIDS_TOLD: Final = 3
_OF_BYTES: Final = frozenset({"damaged", "missing"})
_OF_FILES: Final = frozenset({"file", "footer"})


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of one data file.

    Attributes
    ----------
    file
        its name
    how
        ``copied``, ``patched``, ``moved``, or empty where nothing could be done
    objects
        that have their bytes again
    added, moves
        of ``moved``: the new file, and where its objects lie
    lost
        objects that neither has
    left
        one line for what stays as it is
    """

    file: str
    how: str
    objects: int
    added: AddedFile | None = None
    moves: Moves | None = None
    lost: int = 0
    left: str = ""


def mend_file(storage: Storage, other: Storage, run_id: str, asked: FileToCheck) -> Mended:
    """Mend one data file, or leave it exactly as it is.

    Parameters
    ----------
    storage, other
        the archive and its replica
    run_id
        of the repair
    asked
        the file and all rows that refer to it
    """
    before = check_object_file(storage, asked)
    bad = _wrong(before.findings)
    if not bad:
        return Mended(asked.file, "", 0)
    names = {finding.name for finding in bad if finding.name}
    if _copied(storage, other, run_id, asked):
        return Mended(asked.file, "copied", len(names))
    rows = asked.rows.to_pylist()
    needed = {finding.name for finding in bad if finding.kind in _OF_BYTES}
    lacking = [row for row in rows if row["name"] in needed]
    places = find_objects(other, lacking)
    have = [row for row in lacking if row["sha256"] in places]
    lost = [row for row in lacking if row["sha256"] not in places]
    left = _left(asked.file, other, lost) if lost else ""
    if (have or len(names) > len(lost)) and _patched(storage, other, run_id, asked, places, lost):
        return Mended(asked.file, "patched", len(names) - len(lost), lost=len(lost), left=left)
    if have or any(finding.kind in _OF_FILES for finding in bad):
        good = [row for row in rows if row["name"] not in needed]
        added, moves = _moved(storage, other, asked.file, good, have, places)
        if moves:
            return Mended(asked.file, "moved", len(have), added, moves, len(lost), left)
    left = f"{_left(asked.file, other, lost)}; nothing changed"
    return Mended(asked.file, "", 0, lost=len(lost), left=left)


def _wrong(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.wrong]


def _left(file: str, other: Storage, rows: Sequence[Mapping[str, Any]]) -> str:
    named = ", ".join(row["name"] for row in rows[:_UIDS_TOLD])
    more = f" and {len(rows) - _UIDS_TOLD} more" if len(rows) > _UIDS_TOLD else ""
    what = f"{len(rows)} objects, {named}{more}" if rows else "what no row refers to"
    return f"objects/{file}: {other.root} does not have it whole either: {what}"


def _copied(storage: Storage, other: Storage, run_id: str, asked: FileToCheck) -> bool:
    path = other.path("objects", asked.file)
    with other.errors("look for a data file"):
        info = other.filesystem.get_file_info(path)
    if not info.is_file or info.size != asked.size_bytes:
        return False
    with draft(storage, run_id) as one:
        try:
            with other.errors(f"read objects/{asked.file}"):
                one.write(lambda stream: copy_bytes(other, path, stream))
        except StorageError:
            return False
        if _wrong(check_object_file(storage, asked, one.path).findings):
            return False
        one.place(storage.path("objects", asked.file))
    return True


def find_objects(other: Storage, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Find where another archive has the bytes of some objects, by their digests.

    Those that it has under the same SOP Instance UID are found without reading its table.
    """
    wanted = {row["sha256"] for row in rows}
    catalog, instances = Catalog(other), Snapshot(other, "instances")
    uids = [row["name"] for row in rows if row["table"] == "instances"]
    named = find_rows(other, instances.files({"sop_instance_uid": uids}), uids, LOCATION_COLUMNS)
    found: dict[str, Mapping[str, Any]] = {
        row["sha256"]: row for row in named.to_pylist() if row["sha256"] in wanted
    }
    for table in ("rejects", "instances"):
        missing = pa.array(wanted - set(found), pa.string())
        if len(missing):
            where = ds.field("sha256").isin(missing) & ds.field("object_file").is_valid()
            for row in Snapshot(other, table).read(LOCATION_COLUMNS, where).to_pylist():
                found.setdefault(row["sha256"], row)
    return {sha256: row for sha256, row in found.items() if _is_whole(catalog, row)}


def _is_whole(catalog: Catalog, row: Mapping[str, Any]) -> bool:
    try:
        for _ in catalog.stream_object(row):
            pass
    except StorageError:
        return False
    return True


# what is wrong is written over


@dataclass(frozen=True, slots=True)
class _Patch:
    start: int
    stop: int
    read: Callable[[], bytes]


def _patched(
    storage: Storage,
    other: Storage,
    run_id: str,
    asked: FileToCheck,
    places: Mapping[str, Mapping[str, Any]],
    lost: Sequence[Mapping[str, Any]],
) -> bool:
    """Write over what is wrong; a file in which only lost objects are wrong afterwards is good."""
    path = storage.path("objects", asked.file)
    with storage.errors("look for a data file"):
        info = storage.filesystem.get_file_info(path)
    if not info.is_file or info.size != asked.size_bytes:
        return False
    with ForwardReader(storage, path) as reader, draft(storage, run_id) as one:
        try:
            groups = read_footer(reader, info.size)
            patches = list(_patches(Catalog(other), asked, groups, places))
            with storage.errors(f"read objects/{asked.file}"):
                one.write(lambda stream: _write_patched(reader, info.size, patches, stream))
        except (OSError, IndexError):
            return False
        # a file that lacks lost objects has another seal
        checked = replace(asked, xxh3="") if lost else asked
        wrong = _wrong(check_object_file(storage, checked, one.path).findings)
        if {finding.name for finding in wrong} - {row["name"] for row in lost}:
            return False
        one.place(path)
    return True


def _patches(
    catalog: Catalog,
    asked: FileToCheck,
    groups: Sequence[RowGroup],
    places: Mapping[str, Mapping[str, Any]],
) -> Iterator[_Patch]:
    """Give the right values of all small columns, and the bytes of the objects to mend."""
    found = []
    for row in asked.rows.to_pylist():
        place = places.get(row["sha256"])
        for number, start in enumerate(row["object_offsets"]):
            group = groups[row["object_row_group"] + number]
            digest = partial(bytes, row["sha256"].encode())
            found.append(_Patch(group.digest_end - _DIGEST_CHARS, group.digest_end, digest))
            piece = partial(bytes, number.to_bytes(_PIECE_NUMBER_BYTES, "little"))
            found.append(_Patch(group.piece_end - _PIECE_NUMBER_BYTES, group.piece_end, piece))
            if place is not None:
                length = min(PIECE_BYTES, row["size_bytes"] - number * PIECE_BYTES)
                content = partial(catalog.read_range, place, number * PIECE_BYTES, length)
                found.append(_Patch(start, start + length, content))
    # two rows may have one object
    seen: dict[int, _Patch] = {patch.start: patch for patch in reversed(found)}
    yield from (seen[start] for start in sorted(seen))


def _write_patched(
    reader: ForwardReader, size_bytes: int, patches: Sequence[_Patch], stream: Any
) -> None:
    patches = [*patches, _Patch(size_bytes, size_bytes, bytes)]
    starts = [0, *(patch.stop for patch in patches)]
    kept = list(zip(starts, (patch.start for patch in patches), strict=False))
    reader.plan(place for place in kept if place[0] < place[1])
    for (start, stop), patch in zip(kept, patches, strict=True):
        for view in reader.views(start, stop):
            stream.write(view)
        stream.write(patch.read())


# what is left of a file, and what the replica has, in a new one


def _moved(
    storage: Storage,
    other: Storage,
    file: str,
    good: Sequence[Mapping[str, Any]],
    have: Sequence[Mapping[str, Any]],
    places: Mapping[str, Mapping[str, Any]],
) -> tuple[AddedFile | None, Moves]:
    moves: Moves = {}
    here, there = Catalog(storage), Catalog(other)
    sources: list[tuple[Catalog, Mapping[str, Any], Mapping[str, Any]]] = [
        (here, {**row, "object_file": file}, row) for row in good
    ]
    sources += [(there, places[row["sha256"]], row) for row in have]
    if not sources:
        return None, moves
    with ObjectFile(storage) as writer:
        for catalog, place, row in sorted(sources, key=lambda one: one[2]["object_row_group"]):
            key = row["object_row_group"], row["sha256"]
            if key not in moves:
                with open_stored(catalog, place) as stream:
                    moves[key] = writer.append(stream, sha256=row["sha256"])
        return writer.close(), moves
