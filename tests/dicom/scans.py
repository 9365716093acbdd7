"""Scans in memory, encoded and read back, for the tests of both ways."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import (
    ConeBeamGeometry,
    FlatPanel,
    Geometry,
)
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.dicom.decode import index_instance
from pacspark.dicom.scan import (
    EncodedInstance,
    StoredScan,
    decode_frames,
)
from pacspark.scans.arrays import ArraySource
from pacspark.scans.description import ScanDescription
from pacspark.tables.schema import frame_columns


@dataclass(frozen=True)
class Memory:
    """A source of frames that are in memory, `[energy bin, angle, row, column]`."""

    frames: NDArray[Any]
    flat: NDArray[Any] | None = None
    dark: NDArray[Any] | None = None

    @property
    def n_angles(self) -> int:
        return int(self.frames.shape[1])

    @property
    def n_energy_bins(self) -> int:
        return len(self.frames)

    def read(self, angle_start: int, angle_stop: int, energy_bin: int = 0) -> NDArray[Any]:
        return self.frames[energy_bin, angle_start:angle_stop]

    def flats(self, energy_bin: int = 0) -> NDArray[Any] | None:
        return None if self.flat is None else self.flat[energy_bin]

    def darks(self, energy_bin: int = 0) -> NDArray[Any] | None:
        return None if self.dark is None else self.dark[energy_bin]


def cone(n_angles: int = 7, **panel: Any) -> ConeBeamGeometry:
    detector = FlatPanel(**({"n_rows": 4, "n_columns": 6, "row_spacing_mm": 0.3,
                             "column_spacing_mm": 0.7, "offset_u_mm": 0.03} | panel))  # fmt: skip
    return ConeBeamGeometry(
        101.7, 300.1, np.arange(n_angles) * 2 * math.pi / n_angles + 0.1, detector
    )


def wobbling() -> ConeBeamGeometry:
    """Return a scan whose source leaves its circle."""
    return replace(cone(), source_shifts_mm=np.random.default_rng(7).normal(0, 1 / 3, (7, 2)))


def tilted(geometry: ConeBeamGeometry | None = None) -> ConeBeamViews:
    """Return a scan whose panel does not stand upright, nor still."""
    return ConeBeamViews.of_circle(
        geometry or wobbling(),
        in_plane_rad=0.1 / 3,
        about_u_rad=-0.2 / 3,
        about_v_rad=0.4 / 3,
        shifts_mm=np.random.default_rng(8).normal(0, 0.1, (7, 2)),
    )


def described(geometry: Geometry | ConeBeamViews, **more: Any) -> ScanDescription:
    if isinstance(geometry, ConeBeamViews):
        more["views"] = geometry
        geometry = Rectification(geometry).geometry
    source = ArraySource("projections.files", (Path("stack.npy"),), ("angle", "row", "column"))
    fields: dict[str, Any] = {
        "path": Path("SCAN.toml"),
        "kind": "line_integrals",
        "geometry": geometry,
        "projections": source,
        "flat": None,
        "dark": None,
        "energy_bin_edges_kev": (),
        "unattenuated_counts": None,
        "water_mu_per_mm": None,
        "subject": {"PatientID": "T-1"},
    }
    return ScanDescription(**(fields | more))


def rows_of(encoded: list[EncodedInstance]) -> list[dict[str, Any]]:
    indexes = [index_instance(one.data) for one in encoded]
    return [
        index.row | {"dicom_json": index.dicom_json} | frame_columns(index.frames)
        for index in indexes
    ]


def decoded(encoded: list[EncodedInstance], scan: StoredScan, role: str) -> NDArray[np.float32]:
    by_uid = {one.sop_instance_uid: one.data for one in encoded}
    frames = []
    for run in getattr(scan, role):
        data = by_uid[run.sop_instance_uid]
        index = index_instance(data).frames
        start = index.pixel_data_offset
        assert start is not None
        size = 2 * run.count * run.n_rows * run.n_columns
        frames.append(decode_frames(data[start : start + size], run))
    return np.concatenate(frames)


ONES = Memory(np.ones((1, 7, 4, 6)))
