"""Classes of subjects that can be planned for without a scan, from a stone to a whole body."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid
from pacspark.dicom.encode import MAX_EDGE, MAX_PIXEL_BYTES
from pacspark.errors import UsageError
from pacspark.spark.cluster import Cluster
from pacspark.spark.partition import ReconstructionPlan, plan_reconstruction


@dataclass(frozen=True, slots=True)
class Subject:
    """A class of subjects that a plan can be made for without a scan.

    Parameters
    ----------
    size_cm
        Extent along x, y and the rotation axis z.
    n_angles
        Views of the full circle.
    data_bytes
        All uncompressed projections; with float32 samples this fixes the sampling distance.
    """

    size_cm: tuple[float, float, float]
    n_angles: int
    data_bytes: float


SUBJECTS: Mapping[str, Subject] = MappingProxyType(
    {
        "stone": Subject((1, 1, 3), 360, 12e9),
        "arteria": Subject((3, 5, 5), 360, 60e9),
        "thorax": Subject((20, 20, 30), 360, 2.5e12),
        "thorax-720": Subject((20, 20, 30), 720, 5e12),
        "full-body": Subject((80, 80, 210), 720, 150e12),
    }
)


def subject_scan(subject: Subject) -> tuple[ConeBeamGeometry, VolumeGrid]:
    """Geometry and grid of a subject's scan.

    The scanner is scaled to the subject: the source four times its width from the axis,
    magnification 1.5, a detector that just covers its shadow; one sample is the square root of
    shadow area x angles x 4 bytes / data. Voxels are as fine as samples, or coarser by the
    whole number that lets a slice be one DICOM object.
    """
    width_mm = 10 * math.hypot(subject.size_cm[0], subject.size_cm[1])
    height_mm = 10 * subject.size_cm[2]
    sample_mm = math.sqrt(width_mm * height_mm * 4 * subject.n_angles / subject.data_bytes)
    magnification = 1.5
    n_columns = math.ceil(width_mm / sample_mm)
    n_rows = math.ceil(height_mm / sample_mm)
    detector = FlatPanel(
        n_rows=n_rows,
        n_columns=n_columns,
        row_spacing_mm=sample_mm * magnification,
        column_spacing_mm=sample_mm * magnification,
    )
    angles = np.arange(subject.n_angles) * 2 * math.pi / subject.n_angles
    geometry = ConeBeamGeometry(
        source_to_isocenter_mm=4 * width_mm,
        source_to_detector_mm=4 * width_mm * magnification,
        gantry_angles_rad=angles,
        detector=detector,
    )
    shape = (n_rows, *(math.ceil(10 * size / sample_mm) for size in reversed(subject.size_cm[:2])))
    # voxels of one sample, or of as many as let a slice be one DICOM object
    per_voxel = math.ceil(
        max(max(shape[1:]) / MAX_EDGE, math.sqrt(2 * shape[1] * shape[2] / MAX_PIXEL_BYTES))
    )
    n_z, n_y, n_x = (math.ceil(count / per_voxel) for count in shape)
    return geometry, VolumeGrid((n_z, n_y, n_x), (per_voxel * sample_mm,) * 3)


def plan_preset(name: str, cluster: Cluster) -> ReconstructionPlan:
    """Plan a class of subjects without a scan.

    Raises
    ------
    UsageError
        When there is no such preset.
    """
    if name not in SUBJECTS:
        message = f"preset: expected one of {', '.join(SUBJECTS)}, found {name!r}"
        raise UsageError(message)
    geometry, grid = subject_scan(SUBJECTS[name])
    return plan_reconstruction(geometry, grid, cluster)
