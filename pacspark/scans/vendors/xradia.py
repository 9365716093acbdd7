"""Zeiss (Xradia) ``.txrm``: an OLE compound file that holds the frames and what was measured.

What the streams mean is that of CIL's `ZEISSDataReader` and of dxchange (both read 2026-11): angles
in degrees, distances in mm (the sign is a direction), the pixel size in micrometres in the object,
`XrayGeometry` 1 for a cone; rows from below, columns along +u and the source clockwise.
"""

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import MissingDependencyError, ScanDescriptionError
from pacspark.scans.formats import MAX_IMAGE_BYTES
from pacspark.scans.vendors.draft import Draft

MOST_VIEWS = 1 << 17
_DTYPES = {3: "uint8", 5: "<u2", 10: "<f4"}
_SIDES = ("Height", "Width")
_CONE = 1
_PER_STORAGE = 100
"""Frames in each of the storages ImageData1, ImageData2, ..."""
_DUMMY_MM = 1.0


class _Streams:
    """The numbers in an OLE file, each read only if it is as short as it has to be."""

    def __init__(self, ole: Any, draft: Draft) -> None:
        self._ole = ole
        self._draft = draft

    def has(self, name: str) -> bool:
        return bool(self._ole.exists(name))

    def numbers(self, name: str, kind: str, count: int) -> list[Any]:
        """Return the first `count` numbers of a stream, of a kind that `struct` knows."""
        n_bytes = count * struct.calcsize(kind)
        if not self.has(name) or self._ole.get_size(name) < n_bytes:
            found = f"{self._ole.get_size(name)} bytes" if self.has(name) else "none"
            raise self._draft.error(f"{count} numbers in {name}", found)
        numbers = struct.unpack(f"<{count}{kind}", self._ole.openstream(name).read(n_bytes))
        if not all(map(math.isfinite, numbers)):
            raise self._draft.error(f"finite numbers in {name}", "others")
        return list(numbers)

    def number(self, name: str, kind: str, default: Any = None) -> Any:
        if default is not None and not self.has(name):
            return default
        return self.numbers(name, kind, 1)[0]

    def frame(self, name: str, shape: tuple[int, int], dtype: str) -> NDArray[Any]:
        n_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
        if not self.has(name) or self._ole.get_size(name) != n_bytes:
            found = f"{self._ole.get_size(name)} bytes" if self.has(name) else "none"
            raise self._draft.error(f"a frame of {n_bytes} bytes in {name}", found)
        return np.frombuffer(self._ole.openstream(name).read(), dtype).reshape(shape)


@contextmanager
def _opened(path: Path, draft: Draft) -> Iterator[_Streams]:
    try:
        import olefile
    except ImportError as error:
        message = f'{path.name} needs {error.name}: pip install "pacspark[scans]"'
        raise MissingDependencyError(message) from error
    try:
        with olefile.OleFileIO(path) as ole:
            yield _Streams(ole, draft)
    except ScanDescriptionError:
        raise
    except Exception as error:
        # olefile raises what it likes on broken files, and only the file can be mended
        raise draft.error("an OLE file of Zeiss", error or type(error).__name__) from error


def describe_xradia(path: Path, draft: Draft, *, extract: bool) -> None:
    """Describe a scan of a Zeiss (Xradia) microscope.

    Parameters
    ----------
    path
        The ``.txrm`` file.
    draft
        Gets the keys.
    extract
        Also write the frames, which lie inside the file, as ``.npy`` beside the description.
    """
    with _opened(path, draft) as streams:
        _describe(path, streams, draft, extract=extract)


def _describe(path: Path, streams: _Streams, draft: Draft, *, extract: bool) -> None:
    n_views = streams.number("ImageInfo/NoOfImages", "I")
    taken = streams.number("ImageInfo/ImagesTaken", "I", n_views)
    if streams.number("ImageInfo/MosiacMode", "I", 0):
        raise draft.error("a tomography", "a mosaic")
    if not 1 < min(n_views, taken) <= MOST_VIEWS:
        raise draft.error(f"a tomography of 2 to {MOST_VIEWS} frames", min(n_views, taken))
    if taken < n_views:
        draft.check("projections", f"{taken} of {n_views} frames were taken: the scan was ended")
        n_views = taken
    n_rows, n_columns = (streams.number(f"ImageInfo/Image{side}", "I") for side in _SIDES)
    shape = n_rows, n_columns
    code = streams.number("ImageInfo/DataType", "I")
    if code not in _DTYPES:
        raise draft.error(f"one of the data types {sorted(_DTYPES)}", code)
    _require_room(path, draft, n_views, shape, _DTYPES[code])
    _add_frames(path, streams, draft, n_views, shape, _DTYPES[code], extract=extract)
    _add_geometry(streams, draft, n_views)
    angles = _rounded(streams.numbers("ImageInfo/Angles", "f", n_views))
    draft.add("angles.values_deg", angles, "ImageInfo/Angles")


def _require_room(
    path: Path, draft: Draft, n_views: int, shape: tuple[int, int], dtype: str
) -> None:
    frame_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
    if not 0 < frame_bytes <= MAX_IMAGE_BYTES or n_views * frame_bytes > path.stat().st_size:
        found = f"{n_views} of {shape[0]} x {shape[1]} in {path.stat().st_size} bytes"
        raise draft.error("frames that the file has room for", found)


def _rounded(values: list[float]) -> list[float]:
    """Return single-precision numbers as people would write them."""
    return [float(str(np.float32(value))) for value in values]


def _add_frames(
    path: Path,
    streams: _Streams,
    draft: Draft,
    n_views: int,
    shape: tuple[int, int],
    dtype: str,
    *,
    extract: bool,
) -> None:
    def write_frames(beside: Path) -> None:
        with _opened(path, draft) as source:
            stack = np.lib.format.open_memmap(beside, "w+", dtype, (n_views, *shape))
            for view in range(n_views):
                name = f"ImageData{view // _PER_STORAGE + 1}/Image{view + 1}"
                stack[view] = source.frame(name, shape, dtype)
            stack.flush()

    def write_flat(beside: Path) -> None:
        with _opened(path, draft) as source:
            np.save(beside, source.frame("ReferenceData/Image", shape, flat_dtype))

    flat_dtype = _DTYPES.get(streams.number("ReferenceData/DataType", "I", 10), "<f4")
    has_flat = streams.has("ReferenceData/Image")
    size = f"{n_views} x {shape[0]} x {shape[1]} (views, rows, columns)"
    if extract:
        name = draft.beside("frames.npy", write_frames)
        draft.add("projections.files", name, f"{size}, from ImageData in {path.name}")
    else:
        draft.fill_in("projections.files", f"{size} inside {path.name}: --extract writes them")
    why = "as cameras count; a file whose frames were divided by the reference says so nowhere"
    draft.add("projections.kind", "counts", why, check=True)
    if not has_flat:
        draft.fill_in("projections.unattenuated_counts", "the file has no ReferenceData")
    elif extract:
        name = draft.beside("flat.npy", write_flat)
        draft.add("projections.flat", name, f"ReferenceData in {path.name}")
    else:
        draft.fill_in("projections.flat", f"inside {path.name}: --extract writes it")


def _add_geometry(streams: _Streams, draft: Draft, n_views: int) -> None:
    is_cone = streams.number("ImageInfo/XrayGeometry", "I", _CONE) == _CONE
    pixel_mm = _rounded(streams.numbers("ImageInfo/PixelSize", "f", 1))[0] / 1000
    if is_cone:
        to_source, to_detector = (
            _distance(streams, draft, f"ImageInfo/{name}RADistance", n_views)
            for name in ("Sto", "Dto")
        )
        if to_source == to_detector == _DUMMY_MM or to_source <= 0:
            found = f"{to_source:g} and {to_detector:g}, which stand for none"
            raise draft.error("distances in StoRADistance and DtoRADistance", found)
        both = to_source + to_detector
        pixel_mm *= both / to_source
        draft.add("geometry.beam", "cone", "XrayGeometry is 1, or missing")
        draft.add("geometry.source_to_isocenter_mm", to_source, "StoRADistance")
        draft.add("geometry.source_to_detector_mm", both, "StoRADistance + DtoRADistance")
    else:
        draft.add("geometry.beam", "parallel", "XrayGeometry is not 1")
    why = "PixelSize (micrometres, in the object)" + (", magnified" if is_cone else "")
    draft.add("geometry.column_spacing_mm", float(f"{pixel_mm:.9g}"), why)
    _add_shifts(streams, draft, n_views, pixel_mm, is_cone=is_cone)
    draft.add("geometry.row_order", "bottom_up", "as CIL's reader has it", check=True)
    draft.add("geometry.rotation", "clockwise", "it goes with row_order", check=True)


def _distance(streams: _Streams, draft: Draft, name: str, n_views: int) -> float:
    distances = sorted({abs(mm) for mm in _rounded(streams.numbers(name, "f", n_views))})
    if len(distances) > 1:
        draft.check("geometry", f"{name} varies from {distances[0]:g} to {distances[-1]:g}")
    return distances[0]


def _add_shifts(
    streams: _Streams, draft: Draft, n_views: int, pixel_mm: float, *, is_cone: bool
) -> None:
    """Add by how many pixels each frame has to be moved."""
    names = [f"Alignment/{axis}-Shifts" for axis in "XY"]
    if not all(map(streams.has, names)):
        return
    shifts_mm = pixel_mm * np.array([streams.numbers(name, "f", n_views) for name in names]).T
    if not shifts_mm.any():
        return
    if not is_cone:
        draft.check("geometry", "Alignment/X-Shifts and Y-Shifts are not used of parallel rays")
        return
    name = draft.beside("shifts.txt", lambda beside: np.savetxt(beside, shifts_mm, "%.9g"))
    draft.add("geometry.detector_shifts_file", name, "Alignment/X-Shifts and Y-Shifts", check=True)
