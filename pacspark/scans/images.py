"""Arrays in files: TIFF, PNG, HDF5, NumPy and raw, opened lazily along one leading axis.

An `ImageStack` knows its shape and type without reading pixels, and reads any range of its first
axis. Formats whose files hold one image each are stacks of files.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import MissingDependencyError, ScanDescriptionError

TIFF_SUFFIXES = {".tif", ".tiff"}
HDF5_SUFFIXES = {".h5", ".hdf5", ".hdf", ".nxs", ".he5"}
RAW_SUFFIXES = {".raw", ".bin", ".dat", ".img"}


class ImageStack(ABC):
    """Arrays of one shape, stacked along axis 0; a context manager that closes its files."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return ``[start:stop]`` of the first axis."""

    def read_all(self) -> NDArray[np.generic]:
        """Return everything."""
        return self.read(0, self.shape[0])

    def close(self) -> None:
        """Close files that are kept open."""


class FileStack(ImageStack):
    """Files that hold one image each (TIFF, PNG); they must agree in shape and type."""

    def __init__(self, paths: Sequence[Path], key: str) -> None:
        self._paths = paths
        self._key = key
        first = _read_image(paths[0], key)
        if first.ndim == 3 and len(paths) == 1:
            self._whole: NDArray[np.generic] | None = first
            self.shape = first.shape
        elif first.ndim == 2:
            self._whole = None
            self.shape = (len(paths), *first.shape)
        else:
            message = f"{paths[0]}: {key}: expected grey images, found shape {first.shape}"
            raise ScanDescriptionError(message)
        self.dtype = first.dtype

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        if self._whole is not None:
            return self._whole[start:stop]
        images = [_read_image(path, self._key) for path in self._paths[start:stop]]
        for path, image in zip(self._paths[start:stop], images, strict=True):
            if image.shape != self.shape[1:] or image.dtype != self.dtype:
                message = (
                    f"{path}: {self._key}: expected {self.shape[1:]} {self.dtype} as in "
                    f"{self._paths[0].name}, found {image.shape} {image.dtype}"
                )
                raise ScanDescriptionError(message)
        return np.stack(images)


class Hdf5Stack(ImageStack):
    """A data set of an HDF5 file."""

    def __init__(self, path: Path, dataset: str, key: str) -> None:
        try:
            import h5py
        except ImportError as error:
            message = 'HDF5 needs h5py: pip install "pacspark[scans]"'
            raise MissingDependencyError(message) from error
        self._where = f"{path}: {key}"
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            message = f"{self._where}: expected an HDF5 file, found {error}"
            raise ScanDescriptionError(message) from error
        found = self._file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            names: list[str] = []
            self._file.visititems(
                lambda name, item: names.append(f"/{name}") if isinstance(item, h5py.Dataset) else None
            )
            self._file.close()
            message = (
                f"{self._where}: expected a data set {dataset}, found {', '.join(names[:8]) or 'none'}"
            )
            raise ScanDescriptionError(message)
        self._dataset = found
        self.shape, self.dtype = found.shape, found.dtype

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        try:
            return np.asarray(self._dataset[start:stop])
        except (OSError, ValueError) as error:
            message = f"{self._where}: expected readable data, found {error}"
            raise ScanDescriptionError(message) from error

    def close(self) -> None:
        self._file.close()


class ArrayStack(ImageStack):
    """A NumPy file, or raw numbers, mapped into memory."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        return np.asarray(self._array[start:stop])


class JoinedStack(ImageStack):
    """Several stacks, one after the other along axis 0."""

    def __init__(self, stacks: Sequence[ImageStack], key: str) -> None:
        self._stacks = stacks
        first = stacks[0]
        for stack in stacks[1:]:
            if stack.shape[1:] != first.shape[1:]:
                message = f"{key}: expected files of shape {first.shape[1:]}, found {stack.shape[1:]}"
                raise ScanDescriptionError(message)
        self.shape = (sum(stack.shape[0] for stack in stacks), *first.shape[1:])
        self.dtype = first.dtype

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        parts, before = [], 0
        for stack in self._stacks:
            first, last = max(start - before, 0), min(stop - before, stack.shape[0])
            if first < last:
                parts.append(stack.read(first, last))
            before += stack.shape[0]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        with ExitStack() as closing:
            for stack in self._stacks:
                closing.callback(stack.close)


def open_npy(path: Path, key: str) -> ArrayStack:
    """Map a ``.npy`` file."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        message = f"{path}: {key}: expected a NumPy array of numbers, found {error}"
        raise ScanDescriptionError(message) from error
    if array.dtype.kind not in "uif" or not array.ndim:
        message = f"{path}: {key}: expected an array of real numbers, found {array.dtype}"
        raise ScanDescriptionError(message)
    return ArrayStack(array)


def open_raw(
    path: Path, key: str, shape: Sequence[int], dtype: np.dtype[Any], offset_bytes: int
) -> ArrayStack:
    """Map a file of bare numbers.

    Parameters
    ----------
    path, key
        The file, and the key that names it.
    shape
        Of the array in the file; a first length of -1 is as many as there are.
    dtype
        Type and byte order.
    offset_bytes
        What to skip at the start.
    """
    size_bytes = path.stat().st_size - offset_bytes
    item_bytes = int(np.prod([int(length) for length in shape[1:]], dtype=object)) * dtype.itemsize
    first = size_bytes // item_bytes if shape[0] == -1 else shape[0]
    if first < 1 or first * item_bytes != size_bytes:
        message = (
            f"{path}: {key}: expected {first * item_bytes + offset_bytes} bytes for shape "
            f"{tuple(shape)} {dtype} after {offset_bytes} bytes, found {size_bytes + offset_bytes}"
        )
        raise ScanDescriptionError(message)
    whole = (first, *shape[1:])
    return ArrayStack(np.memmap(path, dtype, "r", offset_bytes, whole))


def natural_order(path: Path) -> tuple[Any, ...]:
    """Return the sort key by which ``frame-10`` comes after ``frame-9``."""
    parts = re.split(r"([0-9]+)", str(path))
    return tuple((int(part), part) if part.isdigit() else (-1, part) for part in parts)


def _read_image(path: Path, key: str) -> NDArray[np.generic]:
    try:
        if path.suffix.lower() == ".png":
            from PIL import Image

            with Image.open(path) as image:
                return np.asarray(image)
        import tifffile

        return np.asarray(tifffile.imread(path))
    except ImportError as error:
        message = 'images need tifffile and Pillow: pip install "pacspark[scans]"'
        raise MissingDependencyError(message) from error
    except Exception as error:
        # image libraries raise what they like on broken files; the file is what the user can mend
        message = f"{path}: {key}: expected a readable image, found {str(error)[:200]}"
        raise ScanDescriptionError(message) from error
