"""Brute force, in double precision: what the fast code is measured against; shares none of it."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pacspark.ct.geometry import ConeBeamGeometry, Geometry, VolumeGrid

Array = NDArray[np.float64]


def arcs_rad(angles: Array, period: float) -> Array:
    """Arc nearer to each angle than to any other, by walking to both sides; twins share theirs."""
    weights = np.empty_like(angles)
    for number, angle in enumerate(angles):
        ahead = np.mod(angles - angle, period)
        behind = np.mod(angle - angles, period)
        twins = np.isclose(ahead, 0, atol=1e-9) | np.isclose(behind, 0, atol=1e-9)
        to_next = ahead[~twins].min(initial=period)
        to_last = behind[~twins].min(initial=period)
        weights[number] = (to_next + to_last) / 2 / twins.sum()
    return weights


def share(geometry: Geometry, beta: float, u_mm: float) -> float:
    """What a ray counts, by how often the scan measures it; in the words of Parker and Wang."""
    detector = geometry.detector
    half_mm = (detector.n_columns - 1) * detector.column_spacing_mm / 2
    cone = isinstance(geometry, ConeBeamGeometry)

    def fan(u: float) -> float:
        if isinstance(geometry, ConeBeamGeometry):
            return math.atan(u / geometry.source_to_detector_mm)
        return u

    if geometry.is_half_fan:
        short_mm = half_mm - abs(detector.offset_u_mm)
        towards_long = fan(u_mm) * np.sign(detector.offset_u_mm)
        if short_mm <= 0 or towards_long >= fan(short_mm):
            return 1.0
        if towards_long <= -fan(short_mm):
            return 0.0
        return math.cos(math.pi / 4 * (1 - towards_long / fan(short_mm))) ** 2
    turned = np.sort(np.mod(geometry.gantry_angles_rad, 2 * np.pi))
    gaps = np.diff(turned, append=turned[0] + 2 * np.pi)
    if not cone or gaps.max() < max(0.35, 3 * np.pi / turned.size):
        return 0.5 if cone else 1.0
    first = turned[(gaps.argmax() + 1) % turned.size]
    turn = math.fmod(beta - first + 20 * np.pi + 1e-9, 2 * np.pi)
    delta = (2 * np.pi - gaps.max() - np.pi) / 2
    gamma = -fan(u_mm)  # Parker counts it the other way
    if turn < 2 * (delta - gamma):
        return math.sin(math.pi / 4 * turn / (delta - gamma)) ** 2
    if turn > math.pi - 2 * gamma:
        return math.sin(math.pi / 4 * (math.pi + 2 * delta - turn) / (delta + gamma)) ** 2
    return 1.0


def widened(
    projections: NDArray[np.float32], geometry: Geometry, shares: Array
) -> tuple[NDArray[np.float32], Geometry, Array]:
    """Half-fan projections on a detector that reaches equally far to both sides, zero beyond."""
    detector = geometry.detector
    count = math.ceil(2 * abs(detector.offset_u_mm) / detector.column_spacing_mm)
    sides = (count, 0) if detector.offset_u_mm > 0 else (0, count)
    shift_mm = (sides[1] - sides[0]) / 2 * detector.column_spacing_mm
    wide = replace(
        detector,
        n_columns=detector.n_columns + count,
        offset_u_mm=detector.offset_u_mm + shift_mm,
    )
    return (
        np.pad(projections, ((0, 0), (0, 0), sides)),
        replace(geometry, detector=wide),
        np.pad(shares, ((0, 0), sides)),
    )


def windows(name: str, part: Array) -> Array:
    """Apodisation at frequencies that are parts of the cut-off."""
    angle = np.pi * np.minimum(part, 1)
    factor = {
        "ram-lak": np.ones_like(angle),
        "shepp-logan": np.sinc(angle / np.pi / 2),
        "cosine": np.cos(angle / 2),
        "hamming": 0.54 + 0.46 * np.cos(angle),
        "hann": np.cos(angle / 2) ** 2,
    }[name]
    return np.where(part <= 1, factor, 0.0)


def ramp_filtered(rows: Array, spacing: float, name: str, cutoff: float, length: int) -> Array:
    """Rows convolved with the sampled ramp; windows work on `length` frequencies."""
    n_columns = rows.shape[-1]
    lag = np.arange(-(n_columns - 1), n_columns)
    if name == "ram-lak" and cutoff == 1:
        with np.errstate(divide="ignore"):
            kernel = np.where(lag % 2 == 1, -1 / (np.pi * lag * spacing) ** 2, 0.0)
        kernel[lag == 0] = 1 / (4 * spacing**2)
        matrix = kernel[np.arange(n_columns)[:, None] - np.arange(n_columns) + n_columns - 1]
        convolved: Array = rows @ matrix.T * spacing
        return convolved
    place = np.arange(length)
    signed = np.where(place > length / 2, place - length, place)
    with np.errstate(divide="ignore"):
        kernel = np.where(signed % 2 == 1, -1 / (np.pi * signed * spacing) ** 2, 0.0)
    kernel[0] = 1 / (4 * spacing**2)
    part = np.abs(np.fft.fftfreq(length)) * 2 / cutoff
    response = np.fft.fft(kernel) * windows(name, part)
    padded = np.zeros((*rows.shape[:-1], length))
    padded[..., :n_columns] = rows
    return np.fft.ifft(np.fft.fft(padded) * response).real[..., :n_columns] * spacing


def fdk(
    projections: NDArray[np.float32],
    geometry: Geometry,
    grid: VolumeGrid,
    name: str = "ram-lak",
    cutoff: float = 1.0,
    length: int | None = None,
) -> Array:
    """Reconstruct voxel by voxel: each is projected as a point in space onto the detector."""
    cone = isinstance(geometry, ConeBeamGeometry)
    period = 2 * np.pi if cone or geometry.is_half_fan else np.pi
    arcs = arcs_rad(geometry.gantry_angles_rad, period)
    shares = np.array(
        [
            [share(geometry, beta, u) for u in geometry.detector.u_mm]
            for beta in geometry.gantry_angles_rad
        ]
    )
    if geometry.is_half_fan:  # what the filter spreads beyond the short edge counts
        projections, geometry, shares = widened(projections, geometry, shares)
    detector = geometry.detector
    values = projections.astype(np.float64)
    rising = detector.row_order == "bottom_up"
    u_mm = (np.arange(detector.n_columns) - (detector.n_columns - 1) / 2) * (
        detector.column_spacing_mm
    ) + detector.offset_u_mm
    v_mm = (np.arange(detector.n_rows) - (detector.n_rows - 1) / 2) * detector.row_spacing_mm
    v_mm = (v_mm if rising else -v_mm) + detector.offset_v_mm
    spacing = detector.column_spacing_mm
    distance = isocenter = 0.0
    if isinstance(geometry, ConeBeamGeometry):
        distance, isocenter = geometry.source_to_detector_mm, geometry.source_to_isocenter_mm
        spacing *= isocenter / distance
        sources = np.zeros((geometry.n_angles, 2))
        if geometry.source_shifts_mm is not None:
            sources = geometry.source_shifts_mm
        rays = np.stack(np.broadcast_arrays(distance, u_mm[None], v_mm[:, None]), axis=-1)
        values *= distance / np.linalg.norm(rays, axis=-1)
    values *= shares[:, None]
    filtered = ramp_filtered(values, spacing, name, cutoff, length or 2 * detector.n_columns)
    z, y, x = np.meshgrid(grid.z_mm, grid.y_mm, grid.x_mm, indexing="ij")
    volume = np.zeros(grid.shape)
    for number, (view, arc) in enumerate(zip(filtered, arcs, strict=True)):
        angle = geometry.gantry_angles_rad[number]
        toward = np.array([np.cos(angle), np.sin(angle), 0.0])
        along_u = np.cross([0.0, 0.0, 1.0], toward)
        points = np.stack([x, y, z], axis=-1)
        weight = 1.0
        if cone:
            radius = isocenter + sources[number, 0]
            rays = points - radius * toward - [0, 0, sources[number, 1]]
            depth = -(rays @ toward)
            points = rays * (distance / depth)[..., None]
            weight = isocenter * radius / depth**2
        row = (points[..., 2] - v_mm[0]) / detector.row_spacing_mm
        if not rising:
            row = (v_mm[0] - points[..., 2]) / detector.row_spacing_mm
        column = (points @ along_u - u_mm[0]) / detector.column_spacing_mm
        # outside the detector is zero, and the pixel beyond the edge fades into it
        seen = ndimage.map_coordinates(view, [row, column], order=1, mode="grid-constant")
        volume += arc * weight * seen
    return volume


def chord_mm(
    source: Array, target: Array, axes: Array, center: Array, turn_rad: float, *, n_steps: int
) -> float:
    """Length of a ray inside an ellipsoid, by counting steps."""
    parts = (np.arange(n_steps) + 0.5) / n_steps
    points = source + parts[:, None] * (target - source) - center
    cosine, sine = np.cos(turn_rad), np.sin(turn_rad)
    turned = points @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
    inside = ((turned / axes) ** 2).sum(axis=1) <= 1
    return float(inside.mean() * np.linalg.norm(target - source))
