"""Stored scans: found by the headers of a series, read by ranges, decoded to float32."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.dicom.scan import FrameRun, StoredScan, decode_frames, scan_from_headers
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import FRAME_COLUMNS, LOCATION_COLUMNS, frame_index

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
