"""A scan as DICOM: projections, flats and darks as Enhanced X-Ray Angiographic images.

One series holds a scan. Its instances are multi-frame, one role each (projections, flats, darks)
and one energy bin each, and bounded in size: a long scan is a concatenation (PS3.3 C.7.6.16.2.2.4).
What the standard has no attribute for stands in the private block of `dicom.private`.

Everything is derived from the content, so the same scan always gives the same bytes and UIDs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
)
from pacspark.ct.preprocess import Kind
from pacspark.dicom.enhanced_xa import EnhancedXASeries
from pacspark.dicom.private import read_block
from pacspark.errors import ProjectionDataError, SeriesNotFoundError
from pacspark.scans.description import ScanDescription

INSTANCE_BYTES: Final = 32 << 20
"""Pixels of one instance, at most, but for a single frame that is larger."""
INSTANCE_FRAMES: Final = 4096
BLOCK_BYTES: Final = 64 << 20
LARGEST_STORED: Final = 65535


class Frames(Protocol):
    """What `encode_scan` reads: `scans.readers.FrameSource` is one."""

    @property
    def n_angles(self) -> int:
        """Number of views."""

    @property
    def n_energy_bins(self) -> int:
        """Energy bins, one for a scan without."""

    def read(self, angle_start: int, angle_stop: int, energy_bin: int = 0) -> NDArray[np.generic]:
        """Return the views ``angle_start..angle_stop``, ``[angle, row, column]``."""

    def flats(self, energy_bin: int = 0) -> NDArray[np.generic] | None:
        """Return the frames without object."""

    def darks(self, energy_bin: int = 0) -> NDArray[np.generic] | None:
        """Return the frames without beam."""


@dataclass(frozen=True, slots=True)
class EncodedInstance:
    """One DICOM object, ready to be stored."""

    sop_instance_uid: str
    series_instance_uid: str
    data: bytes


@dataclass(frozen=True, slots=True)
class FrameRun:
    """Consecutive frames of one instance.

    Attributes
    ----------
    sop_instance_uid
        The instance.
    frame_start, count
        Where in the instance, from 0.
    angle_start
        Index in the scan of the first frame; of flats and darks, 0.
    energy_bin
        Index of the energy bin.
    slope, intercept
        ``value = stored * slope + intercept``.
    n_rows, n_columns
        Size of a frame.
    """

    sop_instance_uid: str
    frame_start: int
    count: int
    angle_start: int
    energy_bin: int
    slope: float
    intercept: float
    n_rows: int
    n_columns: int

    def cut(self, start: int, stop: int) -> "FrameRun":
        """Return the frames ``start..stop`` of this run."""
        return FrameRun(
            self.sop_instance_uid,
            self.frame_start + start,
            stop - start,
            self.angle_start + start,
            self.energy_bin,
            self.slope,
            self.intercept,
            self.n_rows,
            self.n_columns,
        )


@dataclass(frozen=True, slots=True)
class StoredScan:
    """A scan as the archive holds it: its geometry, and where its frames lie.

    Attributes
    ----------
    projections, flats, darks
        Runs of frames, by energy bin and angle.
    header
        DICOM JSON of one of its instances: patient, study and frame of reference.
    """

    series_instance_uid: str
    kind: Kind
    geometry: Geometry
    n_energy_bins: int
    energy_bin_edges_kev: tuple[float, ...]
    water_mu_per_mm: float | None
    unattenuated_counts: float | None
    projections: tuple[FrameRun, ...]
    flats: tuple[FrameRun, ...]
    darks: tuple[FrameRun, ...]
    header: str

    @property
    def instance_uids(self) -> tuple[str, ...]:
        """SOP Instance UIDs of the projections, in order."""
        return tuple(dict.fromkeys(run.sop_instance_uid for run in self.projections))


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a first pass over all frames tells: nothing is encoded before it is done."""

    digest: str
    slope: float
    intercept: float


def encode_scan(description: ScanDescription, frames: Frames) -> Iterator[EncodedInstance]:
    """Encode a described scan; the first instance comes after all frames were looked at.

    Parameters
    ----------
    description
        The scan.
    frames
        Its frames; read twice.

    Yields
    ------
    EncodedInstance
        Darks and flats, then projections by energy bin and angle.

    Raises
    ------
    ProjectionDataError
        When a value is not finite, before anything is yielded.
    """
    survey = _survey(description, frames)
    series = EnhancedXASeries.of(description, survey.digest, survey.slope, survey.intercept)
    geometry = description.geometry
    frame_bytes = 2 * geometry.detector.n_rows * geometry.detector.n_columns
    per_instance = max(1, min(INSTANCE_FRAMES, INSTANCE_BYTES // frame_bytes))
    number = 0
    for energy_bin in range(frames.n_energy_bins):
        for role, still in (
            ("DARK", frames.darks(energy_bin)),
            ("FLAT", frames.flats(energy_bin)),
        ):
            for start in range(0, 0 if still is None else len(still), per_instance):
                assert still is not None  # noqa: S101 -- an empty range otherwise
                number += 1
                stored = _stored(still[start : start + per_instance], survey)
                yield _encoded(series, role, stored, energy_bin, number)
        parts = range(0, frames.n_angles, per_instance)
        for part, start in enumerate(parts):
            number += 1
            stop = min(frames.n_angles, start + per_instance)
            stored = _stored(frames.read(start, stop, energy_bin), survey)
            yield _encoded(
                series, "PROJECTION", stored, energy_bin, number, start, part, len(parts)
            )


def _encoded(
    series: EnhancedXASeries,
    role: str,
    stored: NDArray[np.uint16],
    energy_bin: int,
    number: int,
    angle_start: int = 0,
    part: int = 0,
    n_parts: int = 1,
) -> EncodedInstance:
    uid, data = series.encode(role, stored, energy_bin, number, angle_start, part, n_parts)
    return EncodedInstance(uid, series.series_instance_uid, data)


def _survey(description: ScanDescription, frames: Frames) -> _Survey:
    digest = hashlib.sha256(_identity(description).encode())
    whole, lowest, highest = True, np.inf, -np.inf
    for where, block in _blocks(description, frames):
        values = np.asarray(block)
        if not np.isfinite(values.sum(dtype=np.float64)):
            bad = np.argwhere(~np.isfinite(values))[0]
            message = (
                f"{description.path}: projections.files: expected finite values, found "
                f"{values[tuple(bad)]} in {where} at frame, row, column {tuple(map(int, bad))}"
            )
            raise ProjectionDataError(message)
        lowest = min(lowest, float(values.min()))
        highest = max(highest, float(values.max()))
        if whole and not np.issubdtype(values.dtype, np.integer):
            whole = bool((values == np.rint(values)).all())
        digest.update(where.encode())
        digest.update(np.ascontiguousarray(values).data)
    if description.kind == "counts" and whole and lowest >= 0 and highest <= LARGEST_STORED:
        return _Survey(digest.hexdigest(), 1.0, 0.0)
    span = highest - lowest
    slope = span / LARGEST_STORED if span > 0 else 1.0
    return _Survey(digest.hexdigest(), slope, lowest)


def _blocks(
    description: ScanDescription, frames: Frames
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    detector = description.geometry.detector
    at_once = max(1, BLOCK_BYTES // (8 * detector.n_rows * detector.n_columns))
    for energy_bin in range(frames.n_energy_bins):
        for name, still in (
            ("dark", frames.darks(energy_bin)),
            ("flat", frames.flats(energy_bin)),
        ):
            if still is not None:
                yield f"{name} of energy bin {energy_bin}", still
        for start in range(0, frames.n_angles, at_once):
            stop = min(frames.n_angles, start + at_once)
            where = f"angles {start}..{stop} of energy bin {energy_bin}"
            yield where, frames.read(start, stop, energy_bin)


def _identity(description: ScanDescription) -> str:
    """Return everything that makes a scan this scan, besides its pixels."""
    geometry = description.geometry
    detector = geometry.detector
    return json.dumps(
        {
            "kind": description.kind,
            "angles": geometry.gantry_angles_rad.tobytes().hex(),
            "source": _distances(geometry),
            "detector": [getattr(detector, name) for name in FlatPanel.__slots__],
            "edges": description.energy_bin_edges_kev,
            "water": description.water_mu_per_mm,
            "unattenuated": description.unattenuated_counts,
            "subject": description.subject,
        },
        sort_keys=True,
        default=str,
    )


def _distances(geometry: Geometry) -> tuple[float, float] | None:
    if isinstance(geometry, ConeBeamGeometry):
        return geometry.source_to_isocenter_mm, geometry.source_to_detector_mm
    return None


def _stored(values: NDArray[np.generic], survey: _Survey) -> NDArray[np.uint16]:
    if (survey.slope, survey.intercept) == (1.0, 0.0):
        return np.asarray(values).astype("<u2")
    scaled = (np.asarray(values, np.float64) - survey.intercept) / survey.slope
    return np.clip(np.rint(scaled), 0, LARGEST_STORED).astype("<u2")


def decode_frames(pixels: bytes | memoryview, run: FrameRun) -> NDArray[np.float32]:
    """Return values, float32 ``(n, n_rows, n_columns)``, of the stored pixels of a run's frames."""
    stored = np.frombuffer(pixels, "<u2").reshape(-1, run.n_rows, run.n_columns)
    values = stored.astype(np.float32)
    if run.slope != 1.0:
        values *= np.float32(run.slope)
    if run.intercept != 0.0:
        values += np.float32(run.intercept)
    return values


def scan_from_headers(rows: Sequence[Mapping[str, Any]]) -> StoredScan:
    """Rebuild a scan from the rows of its series.

    Parameters
    ----------
    rows
        With at least `sop_instance_uid`, `series_instance_uid`, `modality` and `dicom_json`.

    Raises
    ------
    SeriesNotFoundError
        When the series holds no projections.
    ProjectionDataError
        When instances are missing or contradict each other.
    """
    blocks = [(row, *_header(row)) for row in rows]
    found = [(row, header, block) for row, header, block in blocks if block]
    if not found:
        series, modality = (
            (rows[0]["series_instance_uid"], rows[0]["modality"]) if rows else ("?", "nothing")
        )
        message = (
            f"series {series}: expected projections that pacspark imported, found {modality}; "
            "`pacspark find ROOT --level series` lists what is there"
        )
        raise SeriesNotFoundError(message)
    series = found[0][0]["series_instance_uid"]
    runs: dict[str, list[FrameRun]] = {"PROJECTION": [], "FLAT": [], "DARK": []}
    angles: dict[int, NDArray[np.float64]] = {}
    for row, header, block in found:
        run = _run(row["sop_instance_uid"], header, block)
        runs[block["frame_role"]].append(run)
        if block["frame_role"] == "PROJECTION":
            here = np.atleast_1d(np.asarray(block["gantry_angles_rad"], np.float64))
            whole = angles.setdefault(run.energy_bin, np.full(block["n_angles"], np.nan))
            whole[run.angle_start : run.angle_start + run.count] = here
    headers = [block for _, _, block in found if block["frame_role"] == "PROJECTION"]
    if not headers:
        message = f"series {series}: expected projections, found only flats and darks"
        raise ProjectionDataError(message)
    block = headers[0]
    n_energy_bins = int(block.get("n_energy_bins", 1))
    _require_complete(series, angles, n_energy_bins)
    projections = sorted(runs["PROJECTION"], key=lambda run: (run.energy_bin, run.angle_start))
    edges = block.get("energy_bin_edges_kev", [])
    return StoredScan(
        series_instance_uid=series,
        kind=block["kind"].lower(),
        geometry=_geometry(block, projections[0], angles[0]),
        n_energy_bins=n_energy_bins,
        energy_bin_edges_kev=tuple(float(edge) for edge in edges),
        water_mu_per_mm=block.get("water_mu_per_mm"),
        unattenuated_counts=block.get("unattenuated_counts"),
        projections=tuple(projections),
        flats=tuple(runs["FLAT"]),
        darks=tuple(runs["DARK"]),
        header=found[0][0]["dicom_json"],
    )


def _header(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    header = json.loads(row["dicom_json"])
    return header, read_block(header)


def _run(uid: str, header: Mapping[str, Any], block: Mapping[str, Any]) -> FrameRun:
    slope, intercept = block["rescale"]
    return FrameRun(
        sop_instance_uid=uid,
        frame_start=0,
        count=int(header["00280008"]["Value"][0]),
        angle_start=int(block.get("first_angle", 0)),
        energy_bin=int(block.get("energy_bin", 0)),
        slope=float(slope),
        intercept=float(intercept),
        n_rows=int(header["00280010"]["Value"][0]),
        n_columns=int(header["00280011"]["Value"][0]),
    )


def _require_complete(
    series: str, angles: Mapping[int, NDArray[np.float64]], n_energy_bins: int
) -> None:
    for energy_bin in range(n_energy_bins):
        found = angles.get(energy_bin)
        missing = [0] if found is None else np.flatnonzero(np.isnan(found)).tolist()
        if missing:
            message = (
                f"series {series}: expected every view of energy bin {energy_bin}, found none for "
                f"{len(missing)} of them, the first at index {missing[0]}; ingest the rest of the "
                "series"
            )
            raise ProjectionDataError(message)


def _geometry(block: Mapping[str, Any], run: FrameRun, angles: NDArray[np.float64]) -> Geometry:
    row_spacing_mm, column_spacing_mm = block["detector_spacing_mm"]
    offset_u_mm, offset_v_mm = block["detector_offset_mm"]
    detector = FlatPanel(
        n_rows=run.n_rows,
        n_columns=run.n_columns,
        row_spacing_mm=row_spacing_mm,
        column_spacing_mm=column_spacing_mm,
        offset_u_mm=offset_u_mm,
        offset_v_mm=offset_v_mm,
        row_order="top_down" if block["row_order"] == "TOP_DOWN" else "bottom_up",
    )
    if block["beam"] == "PARALLEL":
        return ParallelBeamGeometry(angles, detector)
    return ConeBeamGeometry(
        block["source_to_isocenter_mm"], block["source_to_detector_mm"], angles, detector
    )
