"""Many files as one array whose axes have names."""

import glob
import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import ScanDescriptionError
from pacspark.scans.formats import (
    HDF5_SUFFIXES,
    MAX_IMAGE_BYTES,
    NUMPY_SUFFIX,
    PNG_SUFFIX,
    TIFF_SUFFIXES,
    ArrayFile,
    Hdf5File,
    NumpyFile,
    PngFile,
    RawFile,
    TiffFile,
)
from pacspark.scans.toml import TomlTable

AXES = ("energy_bin", "angle", "row", "column")
"""The order in which everybody after this module sees arrays."""
MAX_KEPT_BYTES = 512 << 20
"""An array whose views are scattered over its files is kept in memory up to this size."""

_IMAGE_SUFFIXES = TIFF_SUFFIXES | HDF5_SUFFIXES | {NUMPY_SUFFIX, PNG_SUFFIX}
_RAW_DTYPES = (
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArraySource:
    """Which files hold an array.

    Attributes
    ----------
    key
        Of the description, for messages.
    paths
        In natural order.
    axes
        What the axes of the array are.
    may_lack_angle
        A single flat or dark may come without the axis of angles.
    dataset
        In HDF5 files.
    shape, dtype, offset_bytes
        Of one raw file; no shape for the other formats.
    """

    key: str
    paths: tuple[Path, ...]
    axes: tuple[str, ...]
    may_lack_angle: bool = False
    dataset: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    offset_bytes: int = 0

    def open(self) -> "AxedStack":
        """Open the files; the caller closes.

        Raises
        ------
        ScanDescriptionError
            When a file is not what the description says.
        """
        return AxedStack(self)

    def open_file(self, path: Path) -> ArrayFile:
        """Open one of the files."""
        if self.shape:
            return RawFile(path, self.key, self.shape, self.dtype, self.offset_bytes)
        suffix = path.suffix.lower()
        if suffix in HDF5_SUFFIXES:
            return Hdf5File(path, self.key, self.dataset)
        if suffix == NUMPY_SUFFIX:
            return NumpyFile(path, self.key)
        if suffix == PNG_SUFFIX:
            return PngFile(path, self.key)
        return TiffFile(path, self.key)


class AxedStack:
    """The files of a source as one array; reads blocks of views as ``[angle, row, column]``.

    Files that have all axes are joined along the first one. Files that lack one axis are one item
    of the first axis each. The file that was read last stays open, and no other.

    Parameters
    ----------
    source
        Which files, and what their axes mean.
    """

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        self._opened: tuple[int, ArrayFile] | None = None
        self._kept: NDArray[np.generic] | None = None
        first = self._open(0)
        n_axes, n_files = len(source.axes), len(source.paths)
        # writers put axes of length one in front of what they were given
        n_extra = max(0, len(first.shape) - n_axes)
        if any(length != 1 for length in first.shape[:n_extra]):
            n_extra = 0
        self._extra = (slice(None),) * n_extra
        self._file_shape = first.shape[n_extra:]
        self._file_dtype = first.dtype
        self.dtype: np.dtype[Any] = first.dtype.newbyteorder("=")
        self._axes = source.axes
        if len(self._file_shape) == n_axes - 1 and n_files == 1 and source.may_lack_angle:
            self._axes = tuple(axis for axis in source.axes if axis != "angle")
        self._joined = len(self._file_shape) == len(self._axes)
        if not self._joined and len(self._file_shape) != n_axes - 1:
            found = f"shape {first.shape}"
            raise first.error(f"{n_axes} axes ({', '.join(source.axes)})", found)
        lengths = [self._first_length(number) for number in range(n_files)]
        self._starts = [0, *accumulate(lengths)]
        shape = (self._starts[-1], *self._file_shape[1 if self._joined else 0 :])
        self._lengths = dict(zip(self._axes, shape, strict=True))
        self._require_small_frames()

    def length(self, axis: str) -> int:
        """Return the length of an axis; one where the files have no such axis."""
        return int(self._lengths.get(axis, 1))

    @property
    def is_one_frame(self) -> bool:
        """Whether the whole array is one file that lacks the first axis."""
        return not self._joined and len(self._source.paths) == 1

    def read(self, start: int, stop: int, energy_bin: int = 0) -> NDArray[np.generic]:
        """Return the views ``start..stop`` of an energy bin, ``[angle, row, column]``."""
        chosen = {"angle": slice(start, stop), "energy_bin": slice(energy_bin, energy_bin + 1)}
        box = [chosen.get(axis, slice(0, self.length(axis))) for axis in self._axes]
        if self._is_scattered():
            if self._kept is None:
                self._kept = self._read_box([slice(0, self.length(axis)) for axis in self._axes])
            block = self._kept[tuple(box)]
        else:
            block = self._read_box(box)
        block = block.transpose([self._axes.index(axis) for axis in AXES if axis in self._axes])
        for place, axis in enumerate(AXES):
            if axis not in self._axes:
                block = np.expand_dims(block, place)
        return np.ascontiguousarray(block[0], dtype=self.dtype)

    def close(self) -> None:
        """Close the file that is open, and forget what was read; safe to repeat."""
        self._close_file()
        self._kept = None

    def _open(self, number: int) -> ArrayFile:
        if self._opened is None or self._opened[0] != number:
            self._close_file()
            self._opened = (number, self._source.open_file(self._source.paths[number]))
        return self._opened[1]

    def _close_file(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
        self._opened = None

    def _first_length(self, number: int) -> int:
        """Return how many items of the first axis a file has.

        Files of one item each are looked at when they are read: there may be thousands.
        """
        return self._checked(number).shape[len(self._extra)] if self._joined else 1

    def _checked(self, number: int) -> ArrayFile:
        """Open a file that must be as the first one."""
        file = self._open(number)
        skipped = len(self._extra)
        free = skipped + 1 if self._joined else skipped
        expected = (1,) * skipped + self._file_shape
        same_length = len(file.shape) == len(expected)
        if (
            not same_length
            or file.shape[free:] != expected[free:]
            or file.shape[:skipped] != expected[:skipped]
            or file.dtype != self._file_dtype
        ):
            raise file.error(
                f"{expected} {self._file_dtype} as in {self._source.paths[0].name}",
                f"{file.shape} {file.dtype}",
            )
        return file

    def _read_box(self, box: Sequence[slice]) -> NDArray[np.generic]:
        first, rest = box[0], box[1:]
        parts = []
        at = first.start
        while at < first.stop:
            number = bisect_right(self._starts, at) - 1
            end = min(first.stop, self._starts[number + 1])
            file = self._checked(number)
            if self._joined:
                begin = self._starts[number]
                part = file.read((*self._extra, slice(at - begin, end - begin), *rest))
                parts.append(part.reshape(part.shape[len(self._extra) :]))
            else:
                part = file.read((*self._extra, *rest))
                parts.append(part.reshape(1, *part.shape[len(self._extra) :]))
            at = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _is_scattered(self) -> bool:
        """Say whether blocks of views touch every file again and again, and all fit in memory."""
        n_bytes = math.prod(self._lengths.values()) * self.dtype.itemsize
        leads = set(self._axes[: self._axes.index("angle")]) if "angle" in self._axes else set()
        return bool(leads - {"energy_bin"}) and n_bytes <= MAX_KEPT_BYTES

    def _require_small_frames(self) -> None:
        n_bytes = self.length("row") * self.length("column") * self.dtype.itemsize
        if n_bytes > MAX_IMAGE_BYTES:
            message = (
                f"{self._source.paths[0]}: {self._source.key}: expected frames of at most "
                f"{MAX_IMAGE_BYTES >> 20} MiB, found {self.length('row')} rows of "
                f"{self.length('column')} columns, {n_bytes} bytes"
            )
            raise ScanDescriptionError(message)


def read_array_source(
    table: TomlTable,
    key: str,
    axes: Sequence[str],
    folder: Path,
    *,
    like: ArraySource | None = None,
) -> ArraySource:
    """Read which files a key names.

    Parameters
    ----------
    table
        ``[projections]``.
    key
        ``files``, ``flat`` or ``dark``; ``flat_dataset`` or ``dark_dataset`` alone mean a data set
        of the projections' own HDF5 file.
    axes
        What the array's axes are.
    folder
        Where relative paths begin.
    like
        The projections, for flats and darks.

    Raises
    ------
    ScanDescriptionError
        When there is no such file, or a raw file without shape and type.
    """
    prefix = "" if like is None else f"{key}_"
    if like is not None and key not in table and f"{key}_dataset" in table:
        if not like.dataset:
            raise table.error(key, f"a file for {key}_dataset", "none, and files is no HDF5 file")
        paths = like.paths
    else:
        paths = _expand(table, key, folder)
    suffix = paths[0].suffix.lower()
    other = next((path for path in paths if path.suffix.lower() != suffix), None)
    if other is not None:
        raise table.error(key, f"files of one format, {suffix or 'raw'}", other.name)
    dataset, dtype, offset_bytes = "", "", 0
    shape: tuple[int, ...] = ()
    if suffix in HDF5_SUFFIXES:
        dataset = table.text(f"{prefix}dataset", "/exchange/data" if like is None else None)
    elif suffix not in _IMAGE_SUFFIXES:
        shape = _raw_shape(table, f"{prefix}shape", paths[0], like)
        dtype = _raw_dtype(table)
        offset_bytes = table.count("offset_bytes", 0, smallest=0)
    return ArraySource(
        key=f"{table.name}.{key}",
        paths=paths,
        axes=tuple(axes),
        may_lack_angle=like is not None,
        dataset=dataset,
        shape=shape,
        dtype=dtype,
        offset_bytes=offset_bytes,
    )


def natural_order(path: Path) -> tuple[tuple[int, str], ...]:
    """Return the sort key by which ``frame-10`` comes after ``frame-9``."""
    parts = re.split(r"([0-9]+)", str(path))
    # every second part is a number
    return tuple((int(part) if place % 2 else -1, part) for place, part in enumerate(parts))


def _expand(table: TomlTable, key: str, folder: Path) -> tuple[Path, ...]:
    pattern = table.text(key)
    try:
        path = folder / pattern  # an absolute pattern stays as it is
        if path.is_file():
            return (path,)
        found = _matching(folder, pattern) if glob.has_magic(pattern) else []
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:
        raise table.error(key, "a file name", error) from error
    if is_folder:
        raise table.error(key, "a file or a pattern", f"the folder {pattern}")
    if not found:
        raise table.error(key, f"a file {pattern} in {folder}", "none")
    return tuple(sorted(found, key=natural_order))


def _matching(folder: Path, pattern: str) -> list[Path]:
    """Return the files that a pattern names; the folder's own name is never a pattern."""
    names = glob.glob(pattern, root_dir=folder, recursive=True)
    return [folder / name for name in names if (folder / name).is_file()]


def _raw_shape(table: TomlTable, key: str, path: Path, like: ArraySource | None) -> tuple[int, ...]:
    if key not in table:
        if like is not None and like.shape:
            return (-1, *like.shape[1:])
        raise table.error(
            key, "TIFF, PNG, HDF5 or .npy files, or shape and dtype of raw ones", path.name
        )
    shape = table.counts(key, smallest=-1)
    if any(length < 1 for length in shape[1:]) or shape[0] == 0:
        raise table.error(key, "lengths >= 1 (or -1 first: as many as there are)", shape)
    return tuple(shape)


def _raw_dtype(table: TomlTable) -> str:
    name = table.choice("dtype", _RAW_DTYPES)
    order = table.choice("byte_order", ("little", "big"), "little")
    return np.dtype(name).newbyteorder("<" if order == "little" else ">").str
