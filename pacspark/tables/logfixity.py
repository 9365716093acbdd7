"""Whether the logs are as they were written: no entry lost, none changed, none in another's place.

Entries tell of entries, of their own table and of others (`tables.witness`). All that are left are
read; the tables need not open for that.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from xxhash import xxh3_128_hexdigest

from pacspark.errors import StorageError
from pacspark.tables import witness
from pacspark.tables.findings import Finding
from pacspark.tables.log import read_origin
from pacspark.tables.logentries import entry_path, logged_versions, read_entry
from pacspark.tables.schema import LOG_RETENTION, TABLES
from pacspark.tables.storage import Storage

_ENTRY: Final = re.compile(r"(\d{20})\.json")
_READERS: Final = 8
_MOST_LOST: Final = 100
_MOST_NOTED: Final = 1024

Name = tuple[str, int]
"""Of an entry: table and version."""


@dataclass(slots=True)
class LogCheck:
    """What the logs of an archive are like.

    Attributes
    ----------
    findings
        entries that are lost or not as they were written
    witnessed
        the XXH3 that entries told of had; several where one took the place of another
    found
        the XXH3 that entries have
    committed_ms
        when entries were made, by themselves, milliseconds since 1970
    summed
        the newest version of each table that a checkpoint sums up to; -1 for none
    unread
        entries that are no JSON
    """

    findings: list[Finding] = field(default_factory=list)
    witnessed: dict[Name, set[str]] = field(default_factory=dict)
    found: dict[Name, str] = field(default_factory=dict)
    committed_ms: dict[Name, int] = field(default_factory=dict)
    summed: dict[str, int] = field(default_factory=dict)
    unread: set[Name] = field(default_factory=set)

    def note_others(self, storage: Storage) -> None:
        """Let the next commit of this process be witness of the entries that have none."""
        others = [name for name in self.found if name not in self.witnessed]
        others.sort(key=lambda name: self.committed_ms.get(name, 0))
        for table, version in others[-_MOST_NOTED:]:
            witness.add(storage, table, version, self.found[table, version])


def check_logs(storage: Storage) -> LogCheck:
    """Read the entries of all logs, and compare each with what others tell of it.

    Raises
    ------
    StorageError
        where the storage does not answer
    """
    check = LogCheck()
    claims: list[tuple[Name, Name, str]] = []
    claimed: dict[Name, set[str]] = {}
    settled: set[tuple[Name, str]] = set()
    for table in TABLES:
        versions = sorted(logged_versions(storage, table)[0])
        with ThreadPoolExecutor(_READERS) as readers:
            for entry in readers.map(partial(_read, storage, table), versions):
                if entry is None:
                    continue  # cleaned up meanwhile
                check.found[table, entry.version] = entry.xxh3
                check.committed_ms[table, entry.version] = entry.committed_ms
                if entry.trouble:
                    check.unread.add((table, entry.version))
                    check.findings.append(_finding(table, entry.version, entry.trouble))
                named = _named(entry.origin.get("entries"))
                claims += [((table, entry.version), name, xxh3) for name, xxh3 in named]
                settled |= set(_named(entry.origin.get("settled")))
    claims = [claim for claim in claims if claim[1:] not in settled]
    for _, name, xxh3 in claims:
        claimed.setdefault(name, set()).add(xxh3)
    # what changed is no witness: its own words may be what changed
    changed = {
        name for name in claimed.keys() & check.found if check.found[name] not in claimed[name]
    }
    for teller, name, xxh3 in claims:
        if teller not in changed:
            check.witnessed.setdefault(name, set()).add(xxh3)
    for table in TABLES:
        # listed after all was read: what an entry tells of was there before it
        check.findings += _compare(storage, check, table, *logged_versions(storage, table))
    return check


def require_sound_logs(storage: Storage, since_ms: int) -> None:
    """Check that what the logs list is all that there is; else nothing may be deleted by them.

    Parameters
    ----------
    storage
        the archive
    since_ms
        what an older commit did, and a checkpoint has summed up, does not matter

    Raises
    ------
    StorageError
        where entries are lost or changed
    """
    check = check_logs(storage)
    last: dict[str, int] = {}
    for (table, version), committed_ms in check.committed_ms.items():
        if committed_ms < since_ms and version <= check.summed[table]:
            last[table] = max(version, last.get(table, -1))
    named = ((one, _entry_of(one)) for one in check.findings)
    findings = [one for one, name in named if name and name[1] > last.get(name[0], -1)]
    if findings:
        message = (
            f"{storage.root}: {findings[0].line}; files that it lists would be deleted, so nothing "
            f"is: `pacspark verify {storage.root} --repair-from REPLICA` mends it"
        )
        raise StorageError(message)


@dataclass(frozen=True, slots=True)
class Entry:
    """What matters here of one entry; ``trouble`` is empty where it can be read."""

    version: int
    xxh3: str
    origin: Mapping[str, Any]
    committed_ms: int = 0
    trouble: str = ""


def _read(storage: Storage, table: str, version: int) -> Entry | None:
    with storage.errors(f"read the log of {table}"):
        try:
            data = read_entry(storage, table, version)
        except (OSError, RuntimeError):
            if _is_there(storage, table, version):
                raise
            return None
    return parse_entry(version, data)


def parse_entry(version: int, data: bytes) -> Entry:
    """Read what an entry tells of entries, and whether it can be read at all."""
    xxh3 = xxh3_128_hexdigest(data)
    about: dict[str, Any] = {}
    try:
        for line in data.splitlines():
            action = json.loads(line)
            about |= action.get("commitInfo", {})
    except (ValueError, AttributeError, TypeError) as error:
        trouble = f"expected lines of JSON, found {error!s:.100}"
        return Entry(version, xxh3, {}, trouble=trouble)
    committed_ms = about.get("timestamp")
    known_ms = committed_ms if isinstance(committed_ms, int) else 0
    return Entry(version, xxh3, read_origin(about.get("userMetadata")), known_ms)


def _named(told: object) -> Iterator[tuple[Name, str]]:
    """Read names of entries and their XXH3; what is none of these is passed over."""
    for name, xxh3 in told.items() if isinstance(told, dict) else ():
        table, _, version = str(name).partition("/")
        if table in TABLES and version.isdecimal() and isinstance(xxh3, str):
            yield from (((table, int(version)), one) for one in xxh3.split())


def _compare(
    storage: Storage, check: LogCheck, table: str, entries: set[int], checkpoints: set[int]
) -> Iterator[Finding]:
    oldest, summed = min(entries, default=0), max(checkpoints, default=-1)
    check.summed[table] = summed
    # entries before the oldest one left may have been cleaned up: a checkpoint holds what they said
    first = oldest if summed >= oldest - 1 else 0
    # and those before one that is due, in any order
    due_ms = int((time.time() - LOG_RETENTION.total_seconds()) * 1000)
    dates = ((version, check.committed_ms.get((table, version), 0)) for version in entries)
    due = (version for version, when_ms in dates if version <= summed and 0 < when_ms < due_ms)
    first = max(first, max(due, default=0))
    told = {
        version: xxh3s
        for (of, version), xxh3s in check.witnessed.items()
        if of == table and version >= first
    }
    newest = max([*entries, *told], default=0)
    absent = (version for version in range(first, newest + 1) if version not in entries)
    # a listing beside a writer is no snapshot: it may lack one and have the next
    lost = (one for one in absent if not _is_there(storage, table, one))
    for version, _ in zip(lost, range(_MOST_LOST), strict=False):
        yield _finding(table, version, f"expected the entry of version {version}, found none")
    for version in sorted(told.keys() & entries):
        found = check.found.get((table, version))
        other = told[version] - {found}
        if found is not None and other and (table, version) not in check.unread:
            message = (
                f"expected the entry of version {version} as it was written, of XXH3 {min(other)}, "
                f"found {found}: it changed, or took the place of one that was lost"
            )
            yield _finding(table, version, message)


def _is_there(storage: Storage, table: str, version: int) -> bool:
    with storage.errors(f"look for an entry of {table}"):
        found: bool = storage.filesystem.get_file_info(entry_path(storage, table, version)).is_file
    return found


def _finding(table: str, version: int, message: str) -> Finding:
    return Finding("log", table, f"_delta_log/{version:020}.json", "", "", message)


def _entry_of(finding: Finding) -> Name | None:
    found = _ENTRY.search(finding.file) if finding.kind == "log" else None
    return None if found is None else (finding.table, int(found[1]))


def entries_named(findings: Iterable[Finding]) -> list[Name]:
    """Give the entries that findings are about."""
    return list(dict.fromkeys(name for one in findings if (name := _entry_of(one))))
