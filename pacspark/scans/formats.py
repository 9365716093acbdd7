"""One array in one file: TIFF, PNG, HDF5, NumPy or raw numbers.

An `ArrayFile` knows its shape and type from the file's header and reads a box of it, so that a scan
never has to fit into memory. The box is cut where the format allows it: HDF5, NumPy, raw and plain
TIFF files read only that box, compressed TIFF files read whole pages, PNG files the whole image.

Whatever a library raises on a broken file becomes a `ScanDescriptionError`, one line with the file
and the key that names it.
"""

import io
import math
import mmap
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import MissingDependencyError, ScanDescriptionError
from pacspark.scans.toml import one_line

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
HDF5_SUFFIXES = frozenset({".h5", ".hdf5", ".hdf", ".nxs", ".he5"})
NUMPY_SUFFIX = ".npy"
PNG_SUFFIX = ".png"
MAX_IMAGE_BYTES = 1 << 30
"""An image that claims to be larger is a lie more often than a picture: 16,384 x 16,384 floats."""

_PNG_HEADER = struct.Struct(">8sI4sIIBB")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GREY = 0
_TIFF_PALETTE = 3

Box = Sequence[slice]


class ArrayFile(ABC):
    """An opened file that holds one array of real numbers.

    Parameters
    ----------
    path
        The file.
    key
        The key of the description that names it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key

    def error(self, expected: str, found: object) -> ScanDescriptionError:
        """Return the one line that tells what is wrong with this file."""
        return ScanDescriptionError(
            f"{self.path}: {self.key}: expected {expected}, found {one_line(found)}"
        )

    @abstractmethod
    def read(self, box: Box) -> NDArray[np.generic]:
        """Return the part of the array that a slice per axis selects."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open; safe to repeat."""

    @contextmanager
    def _speaking(self, expected: str) -> Iterator[None]:
        """Turn whatever a library raises into this file's one line."""
        try:
            yield
        except (ScanDescriptionError, MissingDependencyError):
            raise
        except ImportError as error:
            message = f'{self.path.name} needs {error.name}: pip install "pacspark[scans]"'
            raise MissingDependencyError(message) from error
        except Exception as error:
            # decoders raise what they like on broken files, and only the file can be mended
            raise self.error(expected, error or type(error).__name__) from error

    def _require_numbers(self) -> None:
        if self.dtype.kind not in "uif":
            raise self.error("an array of real numbers", self.dtype)
        if not self.shape or min(self.shape) < 1:
            raise self.error("an array with pixels", f"shape {self.shape}")

    def _require_small_image(self) -> None:
        n_bytes = math.prod(self.shape[-2:]) * self.dtype.itemsize
        if n_bytes > MAX_IMAGE_BYTES:
            raise self.error(f"images of at most {MAX_IMAGE_BYTES >> 20} MiB", f"{n_bytes} bytes")


class MappedFile(ArrayFile):
    """Numbers as they are in memory: a ``.npy`` file, raw numbers, or an uncompressed TIFF."""

    def __init__(self, path: Path, key: str, array: NDArray[np.generic]) -> None:
        super().__init__(path, key)
        self.shape, self.dtype = array.shape, array.dtype
        self._array: NDArray[np.generic] | None = array

    def read(self, box: Box) -> NDArray[np.generic]:
        """Return a copy, so that no mapping outlives the file."""
        if self._array is None:
            raise self.error("an open file", "a closed one")
        values = np.array(self._array[tuple(box)])
        mapping = self._array.base
        if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            # the system keeps the file at hand; as mapped pages it would count as our memory
            mapping.madvise(mmap.MADV_DONTNEED)
        return values

    def close(self) -> None:
        """Let the mapping go."""
        self._array = None


class NumpyFile(MappedFile):
    """A ``.npy`` file."""

    def __init__(self, path: Path, key: str) -> None:
        ArrayFile.__init__(self, path, key)
        with self._speaking("a NumPy array of numbers"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        super().__init__(path, key, array)
        self._require_numbers()


class RawFile(MappedFile):
    """Bare numbers.

    Parameters
    ----------
    path, key
        The file, and the key that names it.
    shape
        Of the array; a first length of -1 is as many as there are.
    dtype
        Type and byte order.
    offset_bytes
        What to skip at the start.
    """

    def __init__(
        self, path: Path, key: str, shape: Sequence[int], dtype: str, offset_bytes: int
    ) -> None:
        ArrayFile.__init__(self, path, key)
        number = np.dtype(dtype)
        with self._speaking("a readable file"):
            size_bytes = path.stat().st_size - offset_bytes
        item_bytes = math.prod(shape[1:]) * number.itemsize
        first = max(1, size_bytes // item_bytes) if shape[0] == -1 else shape[0]
        if first * item_bytes != size_bytes:
            whole_bytes = first * item_bytes + offset_bytes
            expected = f"{whole_bytes} bytes for shape {tuple(shape)} of {number.name}"
            raise self.error(expected, f"{size_bytes + offset_bytes}")
        with self._speaking("a readable file"):
            array = np.memmap(path, number, "r", offset_bytes, (first, *shape[1:]))
        super().__init__(path, key, array)


class TiffFile(ArrayFile):
    """A TIFF file: one image, or many pages of one shape."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(path, key)
        with self._speaking("a TIFF file"):
            import tifffile

            # OME metadata can point to other files: only the pages of this one count
            self._file = tifffile.TiffFile(path, is_ome=False)
        try:
            with self._speaking("a TIFF file"):
                series = list(self._file.series)
                self._require_alike(series)
                self.shape, self.dtype = tuple(series[0].shape), np.dtype(series[0].dtype)
                self._require_whole()
                self._pages = [page for one in series for page in one.pages]
                self._offset_bytes: int | None = None
                if len(series) > 1:
                    self.shape = (len(series), *self.shape)
                elif series[0].keyframe.is_memmappable:
                    # one run of plain numbers, perhaps behind a single header, as ImageJ writes
                    self._offset_bytes = series[0].dataoffset
                self._file_dtype = self.dtype.newbyteorder(self._file.byteorder)
            self._require_numbers()
            self._require_small_image()
            self._require_grey(series[0])
        except BaseException:
            self._file.close()
            raise

    def read(self, box: Box) -> NDArray[np.generic]:
        """Read the numbers themselves, or decode the pages that the box touches."""
        with self._speaking("a readable TIFF file"):
            if self._offset_bytes is not None:
                mapped = np.memmap(self.path, self._file_dtype, "r", self._offset_bytes, self.shape)
                return np.array(mapped[tuple(box)])
            leading = self.shape[:-2]
            if len(self._pages) != math.prod(leading):
                raise self.error(f"{math.prod(leading)} pages", len(self._pages))
            numbers = np.arange(math.prod(leading)).reshape(leading)[tuple(box[:-2])]
            pages = []
            for number in numbers.ravel():
                found = self._pages[int(number)]
                if found is not None:
                    self._require_stored(found)
                page = np.empty(0) if found is None else found.asarray()
                if page.shape != self.shape[-2:]:
                    raise self.error(f"pages of shape {self.shape[-2:]}", page.shape)
                pages.append(page[tuple(box[-2:])])
            return np.stack(pages).reshape(*numbers.shape, *pages[0].shape)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _require_whole(self) -> None:
        """Refuse a file that was cut: the page that is last in it must not point to another.

        tifffile reads such a file as one of fewer pages.
        """
        pages, layout, file = self._file.pages, self._file.tiff, self._file.filehandle
        file.seek(pages[len(pages) - 1].offset)
        (n_tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
        file.seek(n_tags * layout.tagsize, io.SEEK_CUR)
        (next_page,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
        if next_page:
            found = f"{file.size} bytes (is it cut?)"
            raise self.error(f"a page {len(pages) + 1} at byte {next_page}", found)

    def _require_stored(self, page: Any) -> None:
        """Refuse a page with parts that were never written, or cut off: they read as zeros."""
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if any(not length for _, length in parts):
            raise self.error("pages that are written whole", f"gaps in page {page.index + 1}")
        end, size = max(offset + length for offset, length in parts), self._file.filehandle.size
        if end > size:
            expected = f"pixels of page {page.index + 1} up to byte {end}"
            raise self.error(expected, f"{size} bytes (is it cut?)")

    def _require_alike(self, series: list[Any]) -> None:
        """Refuse pages of several shapes: nobody can know which of them are the frames."""
        kinds = {(one.shape, str(one.dtype)) for one in series}
        if len(kinds) != 1:
            shapes = ", ".join(f"{shape} {dtype}" for shape, dtype in sorted(kinds)) or "none"
            raise self.error("pages of one shape", shapes)

    def _require_grey(self, series: Any) -> None:
        palette = int(series.keyframe.photometric) == _TIFF_PALETTE
        if palette or not series.axes.endswith("YX"):
            found = "a palette" if palette else f"shape {self.shape} with axes {series.axes}"
            raise self.error("grey images", found)


class PngFile(ArrayFile):
    """A grey image of 8 or 16 bits, ``[row, column]``."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(path, key)
        with self._speaking("a PNG image"), path.open("rb") as file:
            head = file.read(_PNG_HEADER.size)
        if len(head) < _PNG_HEADER.size:
            raise self.error("a PNG image", f"{len(head)} bytes")
        signature, _, chunk, width, height, depth, color = _PNG_HEADER.unpack(head)
        if signature != _PNG_SIGNATURE or chunk != b"IHDR":
            raise self.error("a PNG image", f"a file that starts with {head[:8]!r}")
        if color != _PNG_GREY or depth not in {8, 16}:
            raise self.error(
                "a grey PNG image of 8 or 16 bits", f"colour type {color} of {depth} bits"
            )
        self.shape = (height, width)
        self.dtype = np.dtype("uint8" if depth == 8 else "uint16")
        self._require_numbers()
        self._require_small_image()

    def read(self, box: Box) -> NDArray[np.generic]:
        """Decode the image, and cut the box out of it."""
        with self._speaking("a readable PNG image"):
            import imagecodecs

            image: NDArray[np.generic] = imagecodecs.png_decode(self.path.read_bytes())
        if image.shape != self.shape or image.dtype != self.dtype:
            raise self.error(f"{self.shape} {self.dtype}", f"{image.shape} {image.dtype}")
        return image[tuple(box)]

    def close(self) -> None:
        """Nothing stays open."""


class Hdf5File(ArrayFile):
    """A data set of an HDF5 file.

    Parameters
    ----------
    path, key
        The file, and the key that names it.
    dataset
        Its name in the file.
    """

    def __init__(self, path: Path, key: str, dataset: str) -> None:
        super().__init__(path, key)
        with self._speaking("an HDF5 file"):
            import h5py

            self._file = h5py.File(path, "r")
        try:
            with self._speaking(f"a readable data set {dataset}"):
                self._dataset = found = self._found(dataset)
                # a data set may have no shape at all
                self.shape, self.dtype = tuple(found.shape or ()), found.dtype
            self._require_numbers()
            with self._speaking(f"a readable data set {dataset}"):
                self._require_written(found)
        except BaseException:
            self._file.close()
            raise

    def read(self, box: Box) -> NDArray[np.generic]:
        """Read the box."""
        with self._speaking("readable data"):
            return np.asarray(self._dataset[tuple(box)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _found(self, dataset: str) -> Any:
        import h5py

        found = self._file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise self.error(f"a data set {dataset}", ", ".join(self._dataset_names()) or "none")
        return found

    def _require_written(self, dataset: Any) -> None:
        """Refuse what HDF5 reads as its fill value because nobody wrote it, or it went missing."""
        if dataset.external:
            names = ", ".join(str(name) for name, *_ in dataset.external)
            expected = f"data inside the HDF5 file (name raw files with shape and dtype), {names}"
            raise self.error(expected, f"{dataset.name} in external files")
        if dataset.is_virtual:
            self._require_sources(dataset)
            return
        if dataset.chunks:
            expected = math.prod(
                -(-length // chunk)
                for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)
            )
            written = dataset.id.get_num_chunks()
            if written < expected:
                found = (
                    f"{written} of {expected} chunks of {dataset.name} ({dataset.file.filename})"
                )
                raise self.error("data that were written whole", found)
        elif not dataset.id.get_storage_size():
            found = f"none of {dataset.name} ({dataset.file.filename})"
            raise self.error("data that were written whole", found)

    def _require_sources(self, dataset: Any) -> None:
        """Refuse a virtual data set unless its parts are there and cover it."""
        import h5py

        covered = 0
        for part in dataset.virtual_sources():
            with self._speaking(f"the source {part.dset_name} in {part.file_name}"):
                n_used = self._size(dataset, part.vspace)
                with h5py.File(self._source_path(dataset, part.file_name), "r") as file:
                    source = file[part.dset_name]
                    if part.src_space.get_select_type() == h5py.h5s.SEL_ALL:
                        missing = source.size != n_used
                    else:
                        _, last = part.src_space.get_select_bounds()
                        missing = any(np.greater_equal(last, source.shape))
                    if missing:
                        expected = f"{n_used} numbers from {part.dset_name} in {part.file_name}"
                        raise self.error(expected, f"shape {source.shape} there")
                    self._require_written(source)
            covered += n_used
        if covered != dataset.size:
            found = f"parts for {covered} of the {dataset.size} numbers of {dataset.name}"
            raise self.error("a virtual data set of which every number has one source", found)

    def _size(self, dataset: Any, selection: Any) -> int:
        try:
            return int(selection.get_select_npoints())
        except (RuntimeError, ValueError) as error:  # only an unlimited selection has no size
            found = f"growing ones in {dataset.name}; copy it into one data set"
            raise self.error("a virtual data set of parts that have a size", found) from error

    @staticmethod
    def _source_path(dataset: Any, name: str) -> Path:
        """Return where HDF5 looks for a source: by its path, else beside the file."""
        here = Path(dataset.file.filename)
        if name == ".":
            return here
        given = here.parent / name  # an absolute name stays as it is
        return given if given.exists() else here.parent / given.name

    def _dataset_names(self, most: int = 8) -> list[str]:
        """Return the names of the first data sets of the file, for the message."""
        import h5py

        names: list[str] = []

        def collect(name: str, item: object) -> bool | None:
            if isinstance(item, h5py.Dataset):
                names.append(f"/{name}")
            return True if len(names) == most else None  # h5py stops at anything but None

        self._file.visititems(collect)
        return names
