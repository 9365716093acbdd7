"""What 16 bits cost: stored line integrals, reconstructed beside the original ones."""

import numpy as np
import pytest

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, ParallelBeamGeometry, VolumeGrid
from pacspark.ct.phantom import SHEPP_LOGAN_UNIT, project, scaled
from pacspark.dicom.scan import encode_scan, scan_from_headers
from tests.dicom.scans import Memory, decoded, described, rows_of


def test_16_bits__cost_less_than_a_ten_thousandth_of_the_peak() -> None:
    """RTK's Shepp-Logan case: measured rms 3.3e-6 and at most 2.7e-5 of the peak."""
    geometry = ConeBeamGeometry(
        source_to_isocenter_mm=600.0,
        source_to_detector_mm=1200.0,
        gantry_angles_rad=np.arange(180) * 2 * np.pi / 180,
        detector=FlatPanel(n_rows=128, n_columns=128, row_spacing_mm=4.0, column_spacing_mm=4.0),
    )
    projections = project(scaled(SHEPP_LOGAN_UNIT, 116.0), geometry)
    encoded = list(encode_scan(described(geometry), Memory(projections[None])))
    scan = scan_from_headers(rows_of(encoded))
    stored = decoded(encoded, scan, "projections")
    grid = VolumeGrid(shape=(128, 128, 128), voxel_mm=(2.0, 2.0, 2.0))
    exact = reconstruct_fdk(projections, geometry, grid)
    difference = reconstruct_fdk(stored, geometry, grid) - exact
    peak = np.abs(exact).max()
    rms = float(np.sqrt(np.mean(difference**2)))
    assert rms < 1e-5 * peak
    assert np.abs(difference).max() < 1e-4 * peak


@pytest.mark.parametrize("beam_counts", [2e5, 1e6])
def test_16_bits__add_little_to_the_noise_of_counts_that_do_not_fit_them(
    beam_counts: float,
) -> None:
    """Measured at 10^6 counts: 0.05 % more noise behind a line integral of 4, 1.1 % behind 7."""
    rng = np.random.default_rng(7)
    attenuation = np.repeat([0.0, 2.0, 4.0, 7.0], 4096)
    expected = beam_counts * np.exp(-attenuation)
    counts = rng.poisson(expected).reshape(1, 1, 4, 4096)
    geometry = ParallelBeamGeometry(np.zeros(1), FlatPanel(4, 4096, 1.0, 1.0))
    encoded = list(encode_scan(described(geometry, kind="counts"), Memory(counts)))
    stored = decoded(encoded, scan_from_headers(rows_of(encoded)), "projections")
    added = (stored - counts[0]).std(axis=2) / np.sqrt(expected.reshape(1, 4, 4096)[..., 0])
    more_noise = np.sqrt(1 + added**2) - 1
    assert more_noise[0, 2] < 0.002
    assert more_noise[0, 3] < 0.02
