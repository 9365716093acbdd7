"""The sinogram of a stored scan's middle row: range reads of that row, nothing else."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, Geometry
from pacspark.ct.preprocess import line_integrals
from pacspark.dicom.scan import FrameRun, StoredScan, decode_frames, scan_from_headers
from pacspark.errors import UsageError
from pacspark.pictures import Sinogram
from pacspark.tables.catalog import Catalog

STORED_BYTES: Final = 2
READERS: Final = 8
"""Many small reads wait more than they work."""


def middle_row_sinogram(catalog: Catalog, series_uid: str, energy_bin: int = 0) -> Sinogram:
    """Read the sinogram of a stored scan's middle row; see `middle_row`.

    Raises
    ------
    SeriesNotFoundError
        When the archive holds no such series, or no projections in it.
    UsageError
        When the scan has no such energy bin.
    """
    scan, values = read_middle_row(catalog, series_uid, energy_bin)
    return Sinogram(
        values=values,
        u_mm=scan.geometry.detector.u_mm,
        gantry_angles_rad=scan.geometry.gantry_angles_rad,
        title=f"detector row {middle_row(scan.geometry)}",
    )


def middle_row(geometry: Geometry) -> int:
    """Return the detector row that the source's plane meets; of parallel rays, the middle one."""
    detector = geometry.detector
    if isinstance(geometry, ConeBeamGeometry):
        return int(np.argmin(np.abs(detector.v_mm)))
    return detector.n_rows // 2


def read_middle_row(
    catalog: Catalog, series_uid: str, energy_bin: int = 0
) -> tuple[StoredScan, NDArray[np.float32]]:
    """Read a scan's headers and the line integrals (n_angles, n_columns) of its middle row."""
    instances = catalog.instances_of(series_uid).to_pylist()
    scan = scan_from_headers(instances)
    rows = {row["sop_instance_uid"]: row for row in instances}
    if not 0 <= energy_bin < scan.n_energy_bins:
        message = f"energy bin: expected 0 to {scan.n_energy_bins - 1}, found {energy_bin}"
        raise UsageError(message)
    detector_row = middle_row(scan.geometry)

    def read(runs: Iterable[FrameRun]) -> NDArray[np.float32] | None:
        own = [run for run in runs if run.energy_bin == energy_bin]
        parts = [_read_row(catalog, rows[run.sop_instance_uid], run, detector_row) for run in own]
        return np.concatenate(parts) if parts else None

    values = read(scan.projections)
    assert values is not None  # noqa: S101 -- scan_from_headers has seen every view
    integrals = line_integrals(
        values,
        scan.kind,
        flats=read(scan.flats),
        darks=read(scan.darks),
        unattenuated_counts=scan.unattenuated_counts,
    )
    return scan, integrals[:, 0]


def _read_row(
    catalog: Catalog, row: dict[str, Any], run: FrameRun, detector_row: int
) -> NDArray[np.float32]:
    """Read one detector row of each frame of a run: (n, 1, n_columns)."""
    row_bytes = STORED_BYTES * run.n_columns
    frame_bytes = row_bytes * run.n_rows
    first_byte = row["pixel_data_offset"] + run.frame_start * frame_bytes
    one_row = replace(run, n_rows=1)
    if run.n_rows == 1:
        return decode_frames(catalog.read_range(row, first_byte, run.count * row_bytes), one_row)
    starts = [
        first_byte + frame * frame_bytes + detector_row * row_bytes for frame in range(run.count)
    ]
    with ThreadPoolExecutor(READERS) as readers:
        parts = readers.map(lambda start: catalog.read_range(row, start, row_bytes), starts)
        return decode_frames(b"".join(parts), one_row)
