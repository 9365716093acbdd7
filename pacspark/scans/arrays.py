"""Which files hold an array, and what its axes mean."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import ScanDescriptionError
from pacspark.scans.images import (
    HDF5_SUFFIXES,
    RAW_SUFFIXES,
    TIFF_SUFFIXES,
    FileStack,
    Hdf5Stack,
    ImageStack,
    JoinedStack,
    natural_order,
    open_npy,
    open_raw,
)
from pacspark.scans.toml import TomlTable

AXES = ("energy_bin", "angle", "row", "column")
"""The order in which everybody after this module sees arrays."""


@dataclass(frozen=True, slots=True)
class ArraySource:
    """An array in files.

    Attributes
    ----------
    key
        Of the description, for messages.
    paths
        In natural order.
    axes
        What the axes of the array in the files are.
    dataset
        In HDF5 files.
    shape, dtype, offset_bytes
        Of one raw file; no shape for the other formats.
    """

    key: str
    paths: tuple[Path, ...]
    axes: tuple[str, ...]
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
        first = self.paths[0]
        suffix = first.suffix.lower()
        if suffix in HDF5_SUFFIXES:
            stacks: list[ImageStack] = [
                Hdf5Stack(path, self.dataset, self.key) for path in self.paths
            ]
        elif suffix == ".npy":
            stacks = [open_npy(path, self.key) for path in self.paths]
        elif self.shape:
            dtype = np.dtype(self.dtype)
            stacks = [
                open_raw(path, self.key, self.shape, dtype, self.offset_bytes)
                for path in self.paths
            ]
        else:
            stacks = [FileStack(self.paths, self.key)]
        stack = stacks[0] if len(stacks) == 1 else JoinedStack(stacks, self.key)
        return AxedStack(stack, self.axes, f"{first}: {self.key}")


class AxedStack:
    """A stack whose axes have names; reads blocks of views as ``[angle, row, column]``.

    Views are read a range at a time where they are the first axis, or where the file is mapped into
    memory; an HDF5 file of another order is read whole.
    """

    def __init__(self, stack: ImageStack, axes: Sequence[str], where: str) -> None:
        self._stack = stack
        self._axes = tuple(axes)
        shape = stack.shape
        self._single = len(shape) == len(axes) + 1 and shape[0] == 1
        if self._single:
            shape = shape[1:]
        if len(shape) != len(axes):
            message = (
                f"{where}: expected {len(axes)} axes ({', '.join(axes)}), found shape {stack.shape}"
            )
            raise ScanDescriptionError(message)
        self._lengths = dict(zip(axes, shape, strict=True))
        self._whole: NDArray[np.generic] | None = None
        self.dtype = stack.dtype

    def length(self, axis: str) -> int:
        """Return the length of an axis; one where the files have no such axis."""
        return int(self._lengths.get(axis, 1))

    def read(self, start: int, stop: int, energy_bin: int = 0) -> NDArray[np.generic]:
        """Return the views ``start..stop`` of an energy bin, ``[angle, row, column]``."""
        if self._axes[0] == "angle" and not self._single:
            block, first = self._stack.read(start, stop), 0
        else:
            if self._whole is None:
                whole = self._stack.read_all()
                self._whole = whole[0] if self._single else whole
            block, first = self._whole, start
        order = [self._axes.index(axis) for axis in AXES if axis in self._axes]
        block = block.transpose(order)
        for place, axis in enumerate(AXES):
            if axis not in self._axes:
                block = np.expand_dims(block, place)
        return block[energy_bin, first : first + stop - start]

    def close(self) -> None:
        """Close the files."""
        self._stack.close()


def read_array_source(
    table: TomlTable, key: str, axes: Sequence[str], folder: Path, *, like: ArraySource | None = None
) -> ArraySource:
    """Read which files a key names.

    Parameters
    ----------
    table
        ``[projections]``.
    key
        ``files``, ``flat`` or ``dark``; ``flat_dataset`` or ``dark_dataset`` alone mean a data set of
        the projections' own HDF5 file.
    axes
        What the array's axes are.
    folder
        Where relative paths begin.
    like
        The projections, for flats and darks.
    """
    prefix = "" if like is None else f"{key}_"
    if like is not None and key not in table and f"{key}_dataset" in table:
        paths = like.paths
    else:
        paths = _expand(table, key, folder)
    suffix = paths[0].suffix.lower()
    dataset, shape, dtype, offset_bytes = "", (), "", 0
    if suffix in HDF5_SUFFIXES:
        dataset = table.text(f"{prefix}dataset", "/exchange/data" if like is None else None)
    elif suffix in RAW_SUFFIXES:
        shape_key = f"{prefix}shape" if f"{prefix}shape" in table or like is None else ""
        if shape_key:
            shape = tuple(int(length) for length in table.numbers(shape_key))
            if any(length < 1 for length in shape[1:]) or (shape[0] < 1 and shape[0] != -1):
                raise table.error(shape_key, "lengths >= 1 (-1 first: as many as there are)", shape)
        elif like is not None:
            shape = (-1, *like.shape[1:])
        dtype = _raw_dtype(table)
        offset_bytes = table.count("offset_bytes", 0, smallest=0)
    elif suffix not in TIFF_SUFFIXES | {".png", ".npy"}:
        raise table.error(
            key, "TIFF, PNG, HDF5, .npy or raw (.raw, .bin, .dat, .img) files", paths[0].name
        )
    return ArraySource(
        f"{table.name}.{key}", paths, tuple(axes), dataset, shape, dtype, offset_bytes
    )


def _expand(table: TomlTable, key: str, folder: Path) -> tuple[Path, ...]:
    pattern = table.text(key)
    full = os.path.join(folder, pattern)  # an absolute pattern stays as it is
    if glob.has_magic(pattern) and not Path(full).is_file():
        found = [Path(name) for name in glob.glob(full, recursive=True) if Path(name).is_file()]
        if not found:
            raise table.error(key, f"files that match {pattern}", "none")
        return tuple(sorted(found, key=natural_order))
    if not Path(full).is_file():
        raise table.error(key, "a file", f"no {pattern} in {folder}")
    return (Path(full),)


def _raw_dtype(table: TomlTable) -> str:
    names = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")
    name = table.choice("dtype", names)
    order = table.choice("byte_order", ("little", "big"), "little")
    return str(np.dtype(name).newbyteorder("<" if order == "little" else ">").str)
