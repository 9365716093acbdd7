"""Stored scans: found by the headers of a series, read by ranges, decoded to float32."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.preprocess import Kind, line_integrals
from pacspark.dicom.scan import FrameRun, StoredScan, decode_frames, scan_from_headers
from pacspark.errors import ProjectionDataError
from pacspark.tables.catalog import Catalog
from pacspark.tables.projections import Lap, no_lap
from pacspark.tables.schema import FRAME_COLUMNS, LOCATION_COLUMNS, frame_index

DECODED_BYTES: Final = 4 << 20
"""Frames are decoded about this many bytes of float32 at a time."""
READERS: Final = 8
"""Many small reads wait more than they work."""

_HEADER_COLUMNS: Final = (
    "sop_instance_uid",
    "series_instance_uid",
    "modality",
    "transfer_syntax_uid",
    "dicom_json",
)
_PLACE_COLUMNS: Final = (*LOCATION_COLUMNS, *FRAME_COLUMNS)


@dataclass(frozen=True, slots=True)
class StoredFrames:
    """Bytes of frames, as they are stored, and what tells how to decode them."""

    pixels: bytes
    run: FrameRun

    def decode(self) -> NDArray[np.float32]:
        """Return ``(run.count, run.n_rows, run.n_columns)``."""
        return decode_frames(self.pixels, self.run)


@dataclass(frozen=True, slots=True)
class LocatedRun:
    """Consecutive frames of one instance: all that a task needs to read them.

    Attributes
    ----------
    run
        Which frames.
    place
        Of the instance's row, where its bytes are, and its frames in them.
    """

    run: FrameRun
    place: Mapping[str, Any]

    @property
    def angle_start(self) -> int:
        """Index in the scan of the first frame."""
        return self.run.angle_start

    @property
    def angle_stop(self) -> int:
        """Index in the scan after the last frame."""
        return self.run.angle_start + self.run.count

    @property
    def row_start(self) -> int:
        """0: frames are whole."""
        return 0

    @property
    def row_stop(self) -> int:
        """All rows that there are."""
        return self.run.n_rows

    def cut(self, start: int, stop: int) -> "LocatedRun":
        """Return frames ``start..stop`` of the run."""
        return LocatedRun(self.run.cut(start, stop), self.place)

    def read(self, catalog: Catalog, rows: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Read the frames, or a band of rows ``(start, stop)`` of each, and decode them.

        Returns
        -------
        numpy.ndarray
            ``(run.count, run.n_rows, run.n_columns)``; of a band, as many rows as it has.
        """
        return self.read_stored(catalog, rows).decode()

    def read_stored(self, catalog: Catalog, rows: tuple[int, int] | None = None) -> StoredFrames:
        """Read what `read` decodes."""
        run = self.run
        # native frames follow each other: `scan_from_headers` takes no others
        ((first_byte, frame_bytes),) = frame_index(self.place).ranges(run.frame_start)
        start, stop = rows or (0, run.n_rows)
        if stop - start == run.n_rows:
            pixels = catalog.read_range(self.place, first_byte, run.count * frame_bytes)
            return StoredFrames(pixels, run)
        row_bytes = frame_bytes // run.n_rows
        first_row = first_byte + start * row_bytes
        starts = [first_row + frame * frame_bytes for frame in range(run.count)]
        with ThreadPoolExecutor(READERS) as readers:
            bands = readers.map(
                lambda place: catalog.read_range(self.place, place, (stop - start) * row_bytes),
                starts,
            )
            return StoredFrames(b"".join(bands), replace(run, n_rows=stop - start))


class FrameReader:
    """Reads blocks of angles, cut to bands of rows, from frames as they are stored.

    Parameters
    ----------
    catalog
        Of the archive.
    frames
        At least those that will be asked for.
    kind
        ``line_integrals`` or ``transmission``: what is known of each pixel by itself.
    """

    def __init__(self, catalog: Catalog, frames: Sequence[LocatedRun], kind: Kind) -> None:
        self._catalog = catalog
        self._frames = frames
        self._kind = kind

    def read(
        self, angle_start: int, angle_stop: int, row_start: int, row_stop: int, lap: Lap = no_lap
    ) -> NDArray[np.float32]:
        """Return line integrals ``(angle_stop - angle_start, row_stop - row_start, n_columns)``.

        Parameters
        ----------
        angle_start, angle_stop, row_start, row_stop
            Which of them.
        lap
            Told when ``read`` and ``decode`` have ended, each time.

        Raises
        ------
        ProjectionDataError
            When the frames do not cover the angles.
        """
        n_columns = self._frames[0].run.n_columns if self._frames else 0
        shape = (angle_stop - angle_start, row_stop - row_start, n_columns)
        block = np.empty(shape, np.float32)
        at_once = max(1, DECODED_BYTES // max(1, 4 * shape[1] * n_columns))
        filled = 0
        for those in self._frames:
            begin, end = max(angle_start, those.angle_start), min(angle_stop, those.angle_stop)
            for first in range(begin, end, at_once):
                last = min(end, first + at_once)
                part = those.cut(first - those.angle_start, last - those.angle_start)
                stored = part.read_stored(self._catalog, (row_start, row_stop))
                lap("read")
                block[first - angle_start : last - angle_start] = line_integrals(
                    stored.decode(), self._kind
                )
                filled += last - first
                lap("decode")
        if filled != shape[0]:
            message = (
                f"projections: expected frames of the angles {angle_start}..{angle_stop}, found "
                f"{filled} of {shape[0]}"
            )
            raise ProjectionDataError(message)
        return block


def read_all(
    catalog: Catalog, frames: Sequence[LocatedRun], rows: tuple[int, int] | None = None
) -> NDArray[np.float32] | None:
    """Read runs of frames, or a band of each frame, one after the other; None of none."""
    parts = [those.read(catalog, rows) for those in frames]
    return np.concatenate(parts) if parts else None


@dataclass(frozen=True, slots=True)
class ScanFrames:
    """A stored scan and the places of its frames.

    Attributes
    ----------
    scan
        Its geometry, and which instance holds which frames.
    places
        By SOP Instance UID, where an instance's bytes are, and its frames in them.
    """

    scan: StoredScan
    places: Mapping[str, Mapping[str, Any]]

    def located(self, runs: Iterable[FrameRun], energy_bin: int) -> tuple[LocatedRun, ...]:
        """Return the runs of an energy bin with what it takes to read them."""
        return tuple(
            LocatedRun(run, self.places[run.sop_instance_uid])
            for run in runs
            if run.energy_bin == energy_bin
        )


def read_stored_scan(catalog: Catalog, series_uid: str) -> ScanFrames:
    """Read the headers of a projection series.

    Raises
    ------
    SeriesNotFoundError
        When the archive holds no such series, or no projections in it.
    ProjectionDataError
        When instances are missing or contradict each other.
    """
    rows = catalog.instances_of(series_uid, (*_HEADER_COLUMNS, *_PLACE_COLUMNS)).to_pylist()
    places = {row["sop_instance_uid"]: {name: row[name] for name in _PLACE_COLUMNS} for row in rows}
    return ScanFrames(scan_from_headers(rows), places)
