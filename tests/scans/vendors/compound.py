"""Writes OLE compound files ([MS-CFB], version 3), which olefile only reads."""

import struct
from collections.abc import Mapping
from pathlib import Path

SECTOR, SMALL_SECTOR, SMALL_STREAM = 512, 64, 4096
END, FREE, FAT = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD
ROOT, STORAGE, STREAM = 5, 1, 2


def padded(data: bytes, size: int) -> bytes:
    return data + bytes(-len(data) % size)


def chain(start: int, count: int) -> list[int]:
    """Give what a run of sectors has in the table of sectors."""
    return [*range(start + 1, start + count), END] if count else []


def write_compound(path: Path, streams: Mapping[str, bytes]) -> None:
    """Write streams, named ``storage/stream`` or ``stream``."""
    names = [""]  # of entries of the directory: the root, then storages, then streams
    names += sorted({name.split("/")[0] for name in streams if "/" in name})
    names += sorted(streams)
    small_table: list[int] = []
    small = body = b""
    table: list[int] = []
    starts = {}
    for name, data in streams.items():
        if len(data) < SMALL_STREAM:
            starts[name] = len(small_table)
            small_table += chain(len(small_table), -(-len(data) // SMALL_SECTOR))
            small += padded(data, SMALL_SECTOR)
        else:
            starts[name] = len(table)
            table += chain(len(table), -(-len(data) // SECTOR))
            body += padded(data, SECTOR)
    placed = {}
    entries = directory(names, streams, starts, len(table), len(small))
    for what, data in (
        ("small", small),
        ("small table", struct.pack(f"<{len(small_table)}I", *small_table)),
        ("directory", entries),
    ):
        placed[what] = len(table) if data else END
        table += chain(len(table), -(-len(data) // SECTOR))
        body += padded(data, SECTOR)
    n_tables = 1
    while n_tables * SECTOR // 4 < len(table) + n_tables:
        n_tables += 1
    tables = list(range(len(table), len(table) + n_tables))
    table += [FAT] * n_tables
    table += [FREE] * (n_tables * SECTOR // 4 - len(table))
    n_small_tables = -(-4 * len(small_table) // SECTOR)
    header = struct.pack(
        "<8s16s5H6x9I", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", 0x3E, 3, 0xFFFE, 9, 6,
        0, n_tables, placed["directory"], 0, SMALL_STREAM, placed["small table"], n_small_tables,
        END, 0,
    )  # fmt: skip
    header += struct.pack("<109I", *tables, *[FREE] * (109 - n_tables))
    path.write_bytes(header + body + struct.pack(f"<{len(table)}I", *table))


def directory(
    names: list[str],
    streams: Mapping[str, bytes],
    starts: Mapping[str, int],
    small_start: int,
    n_small_bytes: int,
) -> bytes:
    """Give the entries: siblings hang on each other's right."""
    n_storages = len(names) - 1 - len(streams)

    def children(number: int) -> list[int]:
        below = f"{names[number]}/" if number else ""
        return [
            at
            for at, name in enumerate(names)
            if at and name.startswith(below) and "/" not in name[len(below) :]
            and (at > n_storages or not number)
        ]  # fmt: skip

    right: dict[int, int] = {}
    child: dict[int, int] = {}
    for number in range(n_storages + 1):
        family = children(number)
        child[number] = family[0] if family else FREE
        right |= dict(zip(family, [*family[1:], FREE], strict=True))
    entries = b""
    for number, name in enumerate(names):
        title = (name.split("/")[-1] if number else "Root Entry").encode("utf-16-le") + b"\0\0"
        kind = ROOT if not number else STORAGE if number <= n_storages else STREAM
        start, size = 0, 0
        if kind == STREAM:
            start, size = starts[name], len(streams[name])
        elif kind == ROOT:
            start, size = (small_start, n_small_bytes) if n_small_bytes else (END, 0)
        entries += struct.pack(
            "<64sHBBIII16sI8s8sIQ", title, len(title), kind, 1, FREE, right.get(number, FREE),
            child.get(number, FREE), b"", 0, b"", b"", start, size,
        )  # fmt: skip
    return entries
