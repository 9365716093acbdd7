"""The sinogram of a stored scan's middle row: range reads of that row, nothing else.

Where panels did not stand upright, of the band of rows that the upright row is resampled from.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.coverage import length_unit, view_radius_mm
from pacspark.ct.geometry import ConeBeamGeometry, Geometry
from pacspark.ct.preprocess import line_integrals
from pacspark.ct.redundancy import Redundancy
from pacspark.ct.views import Rectification
from pacspark.dicom.scan import StoredScan
from pacspark.pictures import Sinogram
from pacspark.tables.catalog import Catalog
from pacspark.tables.scans import LocatedRun, ScanFrames, read_all, read_stored_scan


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
    name = "detector" if scan.views is None else "upright"
    return Sinogram(
        values=values,
        u_mm=scan.geometry.detector.u_mm,
        gantry_angles_rad=scan.geometry.gantry_angles_rad,
        title=f"{name} row {middle_row(scan.geometry)}",
        length_unit=length_unit(scan.geometry),
    )


def middle_row(geometry: Geometry) -> int:
    """Return the detector row that the source's plane meets; of parallel rays, the middle one.

    Of panels that did not stand upright it is that of the upright ones.
    """
    detector = geometry.detector
    if isinstance(geometry, ConeBeamGeometry):
        return int(np.argmin(np.abs(detector.v_mm)))
    return detector.n_rows // 2


def mean_attenuation_per_mm(catalog: Catalog, stored: ScanFrames, energy_bin: int) -> float:
    """Estimate the mean attenuation in the field of view, 1/mm, from the middle row of one view.

    The line integrals of a view sum to what the slice attenuates in all; of a half-fan, which sees
    a part of it twice, by what each counts.
    """
    scan = stored.scan
    view = stored.located(scan.projections, energy_bin)[0]
    integrals = _middle_integrals(catalog, stored, energy_bin, [view.cut(0, 1)])
    if scan.geometry.is_half_fan:
        redundancy = Redundancy(scan.geometry)
        integrals = integrals * (2 * redundancy.weights(slice(1)) / redundancy.arcs_rad[0])
    width_mm = scan.geometry.detector.column_spacing_mm / scan.geometry.magnification
    area_mm2 = math.pi * view_radius_mm(scan.geometry) ** 2
    return float(integrals.sum(dtype=np.float64)) * width_mm / area_mm2


def read_middle_row(
    catalog: Catalog, series_uid: str, energy_bin: int = 0
) -> tuple[StoredScan, NDArray[np.float32]]:
    """Read a scan's headers and the line integrals (n_angles, n_columns) of its middle row."""
    stored = read_stored_scan(catalog, series_uid)
    scan = stored.scan
    scan.require_energy_bin(energy_bin)
    frames = stored.located(scan.projections, energy_bin)
    return scan, _middle_integrals(catalog, stored, energy_bin, frames)


def _middle_integrals(
    catalog: Catalog, stored: ScanFrames, energy_bin: int, frames: Sequence[LocatedRun]
) -> NDArray[np.float32]:
    """Return line integrals ``(n, n_columns)`` of the middle row, upright, run by run."""
    scan = stored.scan
    row = middle_row(scan.geometry)
    rectification = None if scan.views is None else Rectification(scan.views)
    rows = upright = row, row + 1
    if rectification is not None:
        rows = rectification.raw_rows(*upright)
    flats = read_all(catalog, stored.located(scan.flats, energy_bin), rows)
    darks = read_all(catalog, stored.located(scan.darks, energy_bin), rows)
    parts = []
    for those in frames:
        integrals = line_integrals(
            those.read(catalog, rows),
            scan.kind,
            flats=flats,
            darks=darks,
            unattenuated_counts=scan.unattenuated_counts,
        )
        if rectification is not None:
            integrals = rectification.apply(integrals, those.run.angle_start, rows=upright)
        parts.append(integrals[:, 0])
    return np.concatenate(parts)
