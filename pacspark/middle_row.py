"""The sinogram of a stored scan's middle row: range reads of that row, nothing else."""

import math

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.coverage import length_unit, view_radius_mm
from pacspark.ct.geometry import ConeBeamGeometry, Geometry
from pacspark.ct.preprocess import line_integrals
from pacspark.ct.redundancy import Redundancy
from pacspark.dicom.scan import StoredScan
from pacspark.pictures import Sinogram
from pacspark.tables.catalog import Catalog
from pacspark.tables.scans import ScanFrames, read_all, read_stored_scan


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
        length_unit=length_unit(scan.geometry),
    )


def middle_row(geometry: Geometry) -> int:
    """Return the detector row that the source's plane meets; of parallel rays, the middle one."""
    detector = geometry.detector
    if isinstance(geometry, ConeBeamGeometry):
        return int(np.argmin(np.abs(detector.v_mm)))
    return detector.n_rows // 2


def mean_attenuation_per_mm(catalog: Catalog, stored: ScanFrames, energy_bin: int) -> float:
    """Estimate the mean attenuation in the field of view, 1/mm, from the middle row of one view.

    The line integrals of a view sum to what the slice attenuates in all; of a half-fan, which sees
    a part of it twice, by what each counts.
    """
    scan, row = stored.scan, middle_row(stored.scan.geometry)
    view = stored.located(scan.projections, energy_bin)[0]
    integrals = line_integrals(
        view.cut(0, 1).read(catalog, row),
        scan.kind,
        flats=read_all(catalog, stored.located(scan.flats, energy_bin), row),
        darks=read_all(catalog, stored.located(scan.darks, energy_bin), row),
        unattenuated_counts=scan.unattenuated_counts,
    )
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
    values, flats, darks = (
        read_all(catalog, stored.located(runs, energy_bin), middle_row(scan.geometry))
        for runs in (scan.projections, scan.flats, scan.darks)
    )
    assert values is not None  # noqa: S101 -- scan_from_headers has seen every view
    integrals = line_integrals(
        values,
        scan.kind,
        flats=flats,
        darks=darks,
        unattenuated_counts=scan.unattenuated_counts,
    )
    return scan, integrals[:, 0]
