"""A scan as DICOM: projections, flats and darks as Enhanced X-Ray Angiographic images.

One series holds a scan. Its instances are multi-frame, one role each (projections, flats, darks)
and one energy bin each, and bounded in size: a long scan is a concatenation (PS3.3 C.7.6.16.2.2.4).
What the standard has no attribute for stands in the private block of `dicom.private`.

Everything is derived from the content, so the same scan always gives the same bytes and UIDs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
    ParallelBeamGeometry,
)
from pacspark.ct.preprocess import KINDS, Kind
from pacspark.ct.views import VECTORS, ConeBeamViews, Rectification
from pacspark.dicom.enhanced_xa import (
    EnhancedXASeries,
    Part,
    per_view,
    require_subject,
)
from pacspark.dicom.private import CREATOR, ELEMENTS, read_block
from pacspark.dicom.survey import LARGEST_STORED, Frames, Survey, survey_frames
from pacspark.errors import PacsparkError, ProjectionDataError, SeriesNotFoundError, UsageError
from pacspark.scans.description import ScanDescription

INSTANCE_BYTES: Final = 32 << 20
"""Pixels of one instance, at most, but for a single frame that is larger."""
INSTANCE_FRAMES: Final = 4096
_PER_INSTANCE: Final = frozenset(
    "frame_role gantry_angles_rad energy_bin first_frame n_flats n_darks source_shifts_mm "
    "sources_mm centers_mm u_axes v_axes".split()
)
_READABLE_SYNTAXES: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_KINDS_STORED: Final = tuple(kind.upper() for kind in KINDS)
_PER_VIEW: Final = {"gantry_angles_rad": 0, "source_shifts_mm": 2} | dict.fromkeys(VECTORS, 3)
"""Numbers of each frame, by name; 0: one, along no axis of its own."""
_PER_SCAN: Final = tuple(name for name in ELEMENTS if name not in _PER_INSTANCE)


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
        Index in the scan of the first frame; of flats and darks, among those of the energy bin.
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
    geometry
        Of panels that did not stand upright, that of the rectified frames.
    projections, flats, darks
        Runs of frames, by energy bin and angle.
    header
        DICOM JSON of one of its instances: patient, study and frame of reference.
    views
        Source and panel of each view as they were, where panels did not stand upright; else None.
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
    views: ConeBeamViews | None = None

    def require_energy_bin(self, energy_bin: int) -> None:
        """Refuse an energy bin that the scan has not.

        Raises
        ------
        UsageError
            When it is out of range.
        """
        if not 0 <= energy_bin < self.n_energy_bins:
            message = f"energy bin: expected 0 to {self.n_energy_bins - 1}, found {energy_bin}"
            raise UsageError(message)


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
    ScanDescriptionError
        When a keyword of the subject is not the subject's, before a frame is read.
    ProjectionDataError
        When a value is not finite, or beyond float32, before anything is yielded.
    """
    require_subject(description)
    survey = survey_frames(description, frames)
    series = EnhancedXASeries(description, survey.digest, survey.slope, survey.intercept)
    frame_bytes = 2 * description.detector.n_rows * description.detector.n_columns
    # three numbers of each view are less than the 64 KiB of an element then
    most = INSTANCE_FRAMES // 2 if per_view(description) else INSTANCE_FRAMES
    per_instance = max(1, min(most, INSTANCE_BYTES // frame_bytes))
    instance_number = 0
    for energy_bin in range(frames.n_energy_bins):
        calibration = {
            "DARK": _frames_or_empty(frames.darks(energy_bin)),
            "FLAT": _frames_or_empty(frames.flats(energy_bin)),
        }
        counts = {role: len(values) for role, values in calibration.items()}
        for role, count in (*counts.items(), ("PROJECTION", frames.n_angles)):
            starts = range(0, count, per_instance)
            for number, start in enumerate(starts):
                stop = min(count, start + per_instance)
                if role == "PROJECTION":
                    values = frames.read(start, stop, energy_bin)
                else:
                    values = calibration[role][start:stop]
                instance_number += 1
                part = Part(
                    role=role,
                    energy_bin=energy_bin,
                    instance_number=instance_number,
                    first=start,
                    count=stop - start,
                    number=number,
                    n_parts=len(starts),
                    n_flats=counts["FLAT"],
                    n_darks=counts["DARK"],
                )
                uid, data = series.encode(_stored(values, survey), part)
                yield EncodedInstance(uid, series.series_instance_uid, data)


def _frames_or_empty(frames: NDArray[np.generic] | None) -> NDArray[np.generic]:
    return np.empty((0, 0, 0)) if frames is None else frames


def _stored(values: NDArray[np.generic], survey: Survey) -> NDArray[np.uint16]:
    if values.dtype.kind in "ui" and (survey.slope, survey.intercept) == (1.0, 0.0):
        return values.astype("<u2")
    stored = np.empty(values.shape, "<u2")
    for frame, into in zip(values, stored, strict=True):  # in double precision, one at a time
        scaled = (frame.astype(np.float64) - survey.intercept) / survey.slope
        into[:] = np.clip(np.rint(scaled), 0, LARGEST_STORED)
    return stored


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
        With at least `sop_instance_uid`, `series_instance_uid`, `modality`, `transfer_syntax_uid`,
        `dicom_json` and the frame index.

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
    series = str(found[0][0]["series_instance_uid"])
    try:
        # whatever order the rows come in, the scan is the same
        found.sort(key=lambda instance: str(instance[0]["sop_instance_uid"]))
        return _stored_scan(series, found)
    except PacsparkError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = (
            f"series {series}: expected the private block {CREATOR} as it was written, found "
            f"{type(error).__name__}: {error}"
        )
        raise ProjectionDataError(message) from error


_Instance = tuple[Mapping[str, Any], dict[str, Any], dict[str, Any]]
"""A row, its header, and the private block in it."""


def _header(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    header = json.loads(row["dicom_json"])
    return header, read_block(header)


def _stored_scan(series: str, instances: Sequence[_Instance]) -> StoredScan:
    runs: dict[str, dict[int, list[FrameRun]]] = {"PROJECTION": {}, "FLAT": {}, "DARK": {}}
    blocks = {}
    for row, header, block in instances:
        run = _run(row["sop_instance_uid"], header, block)
        _require_readable(series, row, header, run)
        blocks[run.sop_instance_uid] = block
        runs[block["frame_role"]].setdefault(run.energy_bin, []).append(run)
    if not runs["PROJECTION"]:
        message = f"series {series}: expected projections, found only flats and darks"
        raise ProjectionDataError(message)
    first = _require_agreement(series, instances)
    n_energy_bins = int(first.get("n_energy_bins", 1))
    ordered: dict[str, list[FrameRun]] = {role: [] for role in runs}
    per_bin: list[dict[str, NDArray[np.float64]]] = []
    for energy_bin in range(n_energy_bins):
        here = {role: sorted(runs[role].get(energy_bin, []), key=_place) for role in runs}
        views = here["PROJECTION"]
        _require_complete(series, "view", energy_bin, views, int(first["n_angles"]))
        own = blocks[views[0].sop_instance_uid]
        _require_complete(series, "flat", energy_bin, here["FLAT"], int(own["n_flats"]))
        _require_complete(series, "dark", energy_bin, here["DARK"], int(own["n_darks"]))
        per_bin.append(_per_view(views, blocks))
        for name, values in per_bin[0].items():
            if not np.array_equal(values, per_bin[-1].get(name, np.empty(0))):
                what = "angles" if name == "gantry_angles_rad" else name
                message = (
                    f"series {series}: expected the same {what} in every energy bin, found others "
                    f"in bin {energy_bin}"
                )
                raise ProjectionDataError(message)
        for role, those in here.items():
            ordered[role].extend(those)
    edges = first.get("energy_bin_edges_kev", [])
    geometry, raw = _geometry(first, ordered["PROJECTION"][0], per_bin[0])
    return StoredScan(
        series_instance_uid=series,
        kind=KINDS[_KINDS_STORED.index(first["kind"])],
        geometry=geometry,
        views=raw,
        n_energy_bins=n_energy_bins,
        energy_bin_edges_kev=tuple(float(edge) for edge in edges),
        water_mu_per_mm=first.get("water_mu_per_mm"),
        unattenuated_counts=first.get("unattenuated_counts"),
        projections=tuple(ordered["PROJECTION"]),
        flats=tuple(ordered["FLAT"]),
        darks=tuple(ordered["DARK"]),
        header=instances[0][0]["dicom_json"],
    )


def _place(run: FrameRun) -> int:
    return run.angle_start


def _run(uid: str, header: Mapping[str, Any], block: Mapping[str, Any]) -> FrameRun:
    slope, intercept = block["rescale"]
    return FrameRun(
        sop_instance_uid=uid,
        frame_start=0,
        count=int(header["00280008"]["Value"][0]),
        angle_start=int(block["first_frame"]),
        energy_bin=int(block["energy_bin"]),
        slope=float(slope),
        intercept=float(intercept),
        n_rows=int(header["00280010"]["Value"][0]),
        n_columns=int(header["00280011"]["Value"][0]),
    )


def _require_readable(
    series: str, row: Mapping[str, Any], header: Mapping[str, Any], run: FrameRun
) -> None:
    """Refuse pixels that others stored anew: compressed, swapped, cut, of another size."""
    for name, allowed, found in (
        ("pixels", ["native"], row["frame_kind"]),
        ("TransferSyntaxUID", _READABLE_SYNTAXES, row["transfer_syntax_uid"]),
        ("BitsAllocated", [[16]], header.get("00280100", {}).get("Value")),
        ("frames within the pixel data", [run.count], row["frame_count"]),
        ("bits of a frame", [16 * run.n_rows * run.n_columns], row["frame_size_bits"]),
    ):
        if found not in allowed:
            message = (
                f"series {series}: {name}: expected {' or '.join(map(str, allowed))}, found "
                f"{found} in {run.sop_instance_uid}; ingest the series as pacspark wrote it"
            )
            raise ProjectionDataError(message)


def _per_view(
    runs: Sequence[FrameRun], blocks: Mapping[str, Mapping[str, Any]]
) -> dict[str, NDArray[np.float64]]:
    """Return what the instances say of each view, ``(n_angles,)`` or ``(n_angles, ...)``."""
    found = {}
    for name, count in _PER_VIEW.items():
        those = [(run, blocks[run.sop_instance_uid].get(name)) for run in runs]
        if count and all(values is None for _, values in those):
            continue
        parts = []
        for run, values in those:
            numbers = np.atleast_1d(np.asarray(values, np.float64))
            if numbers.shape != (run.count * max(count, 1),):
                message = f"{numbers.size} {name} for {run.count} frames in {run.sop_instance_uid}"
                raise ValueError(message)
            parts.append(numbers.reshape(run.count, count) if count else numbers)
        found[name] = np.concatenate(parts)
    return found


def _require_agreement(series: str, instances: Sequence[_Instance]) -> dict[str, Any]:
    """Return the block of the first instance; all others must say the same about the scan."""
    _, first_header, first = instances[0]
    for row, header, block in instances:
        pairs = [(name, first.get(name), block.get(name)) for name in _PER_SCAN]
        pairs += [
            (name, first_header[tag], header[tag])
            for name, tag in (("Rows", "00280010"), ("Columns", "00280011"))
        ]
        for name, expected, found in pairs:
            if expected != found:
                message = (
                    f"series {series}: {name}: expected {expected} in every instance, found "
                    f"{found} in {row['sop_instance_uid']}"
                )
                raise ProjectionDataError(message)
    return first


def _require_complete(
    series: str, name: str, energy_bin: int, runs: Sequence[FrameRun], n_frames: int
) -> None:
    """Refuse runs that leave a frame out, or hold one twice."""
    at, missing = 0, []
    for run in runs:
        if run.angle_start < at or run.angle_start + run.count > n_frames:
            message = (
                f"series {series}: expected every {name} of energy bin {energy_bin} once, of "
                f"{n_frames}, found {run.angle_start}..{run.angle_start + run.count} in "
                f"{run.sop_instance_uid} after {at} others"
            )
            raise ProjectionDataError(message)
        if run.angle_start > at:
            missing.append((at, run.angle_start))
        at = run.angle_start + run.count
    if at < n_frames:
        missing.append((at, n_frames))
    if missing:
        message = (
            f"series {series}: expected every {name} of energy bin {energy_bin}, found none for "
            f"{sum(stop - start for start, stop in missing)} of them, the first at index "
            f"{missing[0][0]}; ingest the rest of the series"
        )
        raise ProjectionDataError(message)


def _geometry(
    block: Mapping[str, Any], run: FrameRun, per_view: Mapping[str, NDArray[np.float64]]
) -> tuple[Geometry, ConeBeamViews | None]:
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
    if any(name in per_view for name in VECTORS):
        views = ConeBeamViews(**{name: per_view[name] for name in VECTORS}, detector=detector)
        return Rectification(views).geometry, views
    angles = per_view["gantry_angles_rad"]
    if block["beam"] == "PARALLEL":
        return ParallelBeamGeometry(angles, detector), None
    return ConeBeamGeometry(
        block["source_to_isocenter_mm"],
        block["source_to_detector_mm"],
        angles,
        detector,
        per_view.get("source_shifts_mm"),
    ), None
