"""Resolution and noise of the central slice, measured and in theory.

The edge of a cylinder, beside the axis, is averaged all round into an oversampled edge-spread
function, as in Richard et al., Towards task-based assessment of CT performance, Med. Phys. 39,
2012; the transform of its derivative is the modulation transfer function (MTF).

In theory, with frequencies ``f`` in cycles per column, columns as wide as their shadow at the axis:

* a pixel averages over its width: ``sinc(f)``; here of five rays each, ``sinc(f) / sinc(f / 5)``;
* rows are convolved with a sampled kernel, so the filter's response repeats with every column:
  ``r(f) w(r(f))`` with the window w and ``r`` the distance of f from the nearest whole number.
  Backprojection wants ``|f|``; the ratio ``r(f) / f`` is one up to the Nyquist frequency 1/2;
* linear interpolation between columns is a convolution with a triangle: ``sinc(f)**2``.

Their product is the MTF (Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988,
chapter 3, on sampled projections). What sampling folds to other frequencies has a phase that turns
with the place of the edge between columns; all round a cylinder whose axis is so far from the
scanner's that the first such term averages to a zero of the Bessel function J0, it cancels.

Poisson noise, of variance s in each line integral, is filtered and backprojected as they are. In
the middle of N views round a circle, with columns a mm apart at the axis, the variance is
``pi**2 s / (N a**2)`` times the integral over the frequencies of a period of
``(r w(r))**2 (2 + cos 2 pi r) / 3``; its last factor is linear interpolation, averaged over places
between columns (Parseval; chapter 5 there).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.fdk import reconstruct_fdk
from pacspark.ct.filtering import FDKOptions
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.ct.phantom import Ellipsoid, project
from tests.oracles import windows

Values = NDArray[np.float64]

COLUMN_MM = 0.5
"""Of a column's shadow at the axis."""
RAYS = 5
"""Of each pixel, side by side; their mean is what it measures."""
RADIUS_COLUMNS = 60
REACH_COLUMNS = 12.0
"""To either side of the edge."""
BIN_COLUMNS = 0.1
BESIDE_MM = (16 - 1 / 4) / 2 * COLUMN_MM
"""J0(2 pi BESIDE_MM / COLUMN_MM) is zero, nearly."""
WATER_PER_MM = 0.02
FREQUENCIES = np.linspace(0, 1, 201)
"""Cycles per column."""
NOISE_RADIUS_MM = 25.0
UNATTENUATED_COUNTS = 2e5
NOISE_SCANS = 24


@dataclass(frozen=True)
class Edge:
    """Projections of a cylinder, and the slice around it."""

    projections: NDArray[np.float32]
    geometry: ConeBeamGeometry
    grid: VolumeGrid
    cylinder: Ellipsoid


def edge_scan() -> Edge:
    """Give the scan of a cylinder beside the axis, in a cone beam, rays averaged over pixels."""
    angles = np.arange(720) * 2 * math.pi / 720
    panel = FlatPanel(4, 200, 1.5, 1.5 * COLUMN_MM)
    geometry = ConeBeamGeometry(1000.0, 1500.0, angles, panel)
    beside_mm = BESIDE_MM / math.sqrt(2)
    radius_mm = RADIUS_COLUMNS * COLUMN_MM
    cylinder = Ellipsoid(WATER_PER_MM, (radius_mm, radius_mm, 1e5), (beside_mm, beside_mm, 0.0))
    spacing_mm = panel.column_spacing_mm / RAYS
    rays = replace(panel, n_columns=panel.n_columns * RAYS, column_spacing_mm=spacing_mm)
    integrals = project([cylinder], replace(geometry, detector=rays))
    projections = integrals.reshape(len(angles), panel.n_rows, panel.n_columns, RAYS).mean(axis=3)
    voxel_mm = 0.5 * COLUMN_MM
    n_voxels = math.ceil(2 * (RADIUS_COLUMNS + REACH_COLUMNS + 1) * COLUMN_MM / voxel_mm)
    grid = VolumeGrid(
        (1, n_voxels, n_voxels), (COLUMN_MM, voxel_mm, voxel_mm), (0.0, beside_mm, beside_mm)
    )
    return Edge(projections, geometry, grid, cylinder)


def measured_mtf(edge: Edge, options: FDKOptions) -> Values:
    """Give the MTF at `FREQUENCIES` of what is reconstructed."""
    values = reconstruct_fdk(edge.projections, edge.geometry, edge.grid, options)[0]
    center_x, center_y, _ = edge.cylinder.center_mm
    radius_mm = np.hypot(edge.grid.y_mm[:, None] - center_y, edge.grid.x_mm - center_x)
    from_edge = (radius_mm - edge.cylinder.semi_axes_mm[0]) / COLUMN_MM
    n_bins = round(2 * REACH_COLUMNS / BIN_COLUMNS)
    bins = np.floor((from_edge + REACH_COLUMNS) / BIN_COLUMNS).astype(int)
    near = (bins >= 0) & (bins < n_bins)
    spread = np.bincount(bins[near], values[near], n_bins) / np.bincount(bins[near], None, n_bins)
    places = (np.arange(1, n_bins) - n_bins / 2) * BIN_COLUMNS
    waves = np.exp(-2j * np.pi * FREQUENCIES[:, None] * places)
    line = np.abs(waves @ -np.diff(spread))
    # a bin averages, and so does the difference of two (by the same width)
    mtf: Values = line / line[0] / np.sinc(FREQUENCIES * BIN_COLUMNS) ** 2
    return mtf


def theoretical_mtf(options: FDKOptions) -> Values:
    """Give the MTF at `FREQUENCIES`, see above."""
    repeated = np.abs(FREQUENCIES - np.round(FREQUENCIES))
    window = windows(options.filter, 2 * repeated / options.cutoff)
    ramp = np.ones_like(repeated)
    ramp[1:] = repeated[1:] / FREQUENCIES[1:]
    pixel = np.sinc(FREQUENCIES) / np.sinc(FREQUENCIES / RAYS)
    mtf: Values = pixel * ramp * window * np.sinc(FREQUENCIES) ** 2
    return mtf


def ten_percent(mtf: Values) -> float:
    """Give the frequency at which an MTF falls to 0.1, cycles per column."""
    after = int(np.argmax(mtf < 0.1))
    pair = slice(after, after - 2, -1)
    return float(np.interp(0.1, mtf[pair], FREQUENCIES[pair]))


def measured_noise(options: FDKOptions, seed: int = 0) -> float:
    """Give the standard deviation, 1/mm, in the middle of a water cylinder of Poisson counts."""
    geometry, cylinder = _noise_scan()
    transmitted = UNATTENUATED_COUNTS * np.exp(-project([cylinder], geometry).astype(np.float64))
    grid = VolumeGrid((1, 30, 30), (1.0, 0.31, 0.31))
    random = np.random.default_rng(seed)
    expected = reconstruct_fdk(np.log(UNATTENUATED_COUNTS / transmitted), geometry, grid, options)
    squares = []
    for _ in range(NOISE_SCANS):
        integrals = np.log(UNATTENUATED_COUNTS / random.poisson(transmitted))
        volume = reconstruct_fdk(integrals, geometry, grid, options)
        squares.append(float(((volume - expected).astype(np.float64) ** 2).mean()))
    return math.sqrt(float(np.mean(squares)))


def theoretical_noise(options: FDKOptions) -> float:
    """Give the standard deviation that follows from the counts, 1/mm, see above."""
    geometry, _ = _noise_scan()
    variance = math.exp(2 * NOISE_RADIUS_MM * WATER_PER_MM) / UNATTENUATED_COUNTS
    frequencies = (np.arange(20000) + 0.5) / 40000
    window = windows(options.filter, 2 * frequencies / options.cutoff)
    power = (frequencies * window) ** 2 * (2 + np.cos(2 * np.pi * frequencies)) / 3
    integral = float(power.mean())  # of both halves of a period, each half as long
    return math.pi / COLUMN_MM * math.sqrt(variance * integral / geometry.n_angles)


def _noise_scan() -> tuple[ConeBeamGeometry, Ellipsoid]:
    angles = np.arange(360) * 2 * math.pi / 360
    panel = FlatPanel(1, 120, 1.5, 1.5 * COLUMN_MM)
    cylinder = Ellipsoid(WATER_PER_MM, (NOISE_RADIUS_MM, NOISE_RADIUS_MM, 1e5))
    return ConeBeamGeometry(1000.0, 1500.0, angles, panel), cylinder
