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

    def read(
        self, catalog: Catalog, detector_row: int | None = None, n_rows: int = 1
    ) -> NDArray[np.float32]:
        """Read the frames, or some rows of each from `detector_row` on.

        Returns
        -------
        numpy.ndarray
            ``(run.count, run.n_rows, run.n_columns)``; of some rows, ``(run.count, n_rows, ...)``.
        """
        run = self.run
        # native frames follow each other: `scan_from_headers` takes no others
        ((first_byte, frame_bytes),) = frame_index(self.place).ranges(run.frame_start)
        if detector_row is None or n_rows == run.n_rows:
            pixels = catalog.read_range(self.place, first_byte, run.count * frame_bytes)
            return decode_frames(pixels, run)
        row_bytes = frame_bytes // run.n_rows
        first_row = first_byte + detector_row * row_bytes
        starts = [first_row + frame * frame_bytes for frame in range(run.count)]
        with ThreadPoolExecutor(READERS) as readers:
            rows = readers.map(
                lambda start: catalog.read_range(self.place, start, n_rows * row_bytes), starts
            )
            return decode_frames(b"".join(rows), replace(run, n_rows=n_rows))


def read_all(
    catalog: Catalog,
    frames: Sequence[LocatedRun],
    detector_row: int | None = None,
    n_rows: int = 1,
) -> NDArray[np.float32] | None:
    """Read runs of frames, or some rows of each frame, one after the other; None of none."""
    parts = [those.read(catalog, detector_row, n_rows) for those in frames]
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
