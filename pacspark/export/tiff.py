"""A volume as OME-TIFF: one BigTIFF of uncompressed pages, which can be mapped into memory.

OME's XML says the size of a voxel in millimetres and the place of each plane along the normal; the
resolution tags say the size of a pixel to those that read no XML.
"""

import json
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from pacspark.errors import MissingDependencyError
from pacspark.export.volumes import Voxels
from pacspark.progress import Progress, Stage
from pacspark.wholes import whole_file

MM_PER_CENTIMETER: Final = 10.0


def write_tiff(path: Path, volume: Voxels, progress: Progress) -> None:
    """Write a volume, slice by slice.

    Raises
    ------
    MissingDependencyError
        Without tifffile.
    """
    try:
        tifffile: Any = import_module("tifffile")
    except ImportError as error:
        message = "TIFF needs tifffile: pip install 'pacspark[export]'"
        raise MissingDependencyError(message) from error
    _, dy, dx = volume.voxel_mm
    with (
        progress.stage("export", volume.shape[0], "slices") as stage,
        whole_file(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=True, ome=True, byteorder="<") as writer,
    ):
        writer.write(
            _slices(volume, stage),
            shape=volume.shape,
            dtype=volume.voxel_type,
            photometric="minisblack",
            software="pacspark",
            resolution=(MM_PER_CENTIMETER / dx, MM_PER_CENTIMETER / dy),
            resolutionunit="CENTIMETER" if volume.length_unit == "mm" else "NONE",
            metadata=_metadata(volume),
        )


def _slices(volume: Voxels, stage: Stage) -> Iterator[NDArray[Any]]:
    for z in range(volume.shape[0]):
        yield volume.rows(z, 0, volume.shape[1])
        stage.advance()


def _metadata(volume: Voxels) -> dict[str, Any]:
    n_z = volume.shape[0]
    dz, dy, dx = volume.voxel_mm
    unit = "mm" if volume.length_unit == "mm" else "pixel"
    first_mm = float(volume.axes_lps[2] @ volume.affine_lps_mm[:3, 3])
    place = json.dumps(
        {
            "series_instance_uid": volume.series_uid,
            "unit": volume.unit,
            "affine_lps_mm": volume.affine_lps_mm.tolist(),
        }
    )
    return {
        "axes": "ZYX",
        # tifffile would draw one
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, volume.series_uid)),
        # XML has no control characters, whatever a device wrote
        "Name": "".join(c if c.isprintable() else "\ufffd" for c in volume.description),
        "Description": place,
        **{f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (dz, dy, dx), strict=True)},
        **{f"PhysicalSize{axis}Unit": unit for axis in "ZYX"},
        "Plane": {
            "PositionZ": [first_mm + z * dz for z in range(n_z)],
            "PositionZUnit": [unit] * n_z,
        },
    }
