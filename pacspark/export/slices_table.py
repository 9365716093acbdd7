"""A series as a Parquet file: a row per slice, its place in space and its pixels.

Any engine can then ask for slices by place or compute over pixels without knowing DICOM. Slices
may be uneven or tilted, and a series may have several parts: each row says where it lies.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pacspark.progress import Progress
from pacspark.volume import Volume
from pacspark.wholes import whole_file

_PLACES: Final = pa.list_(pa.float64())
SCHEMA: Final = pa.schema(
    [
        pa.field("series_instance_uid", pa.string()),
        pa.field("sop_instance_uid", pa.string()),
        pa.field("frame", pa.int32(), metadata={"comment": "of the object, from 0"}),
        pa.field("part", pa.int32(), metadata={"comment": "of the series, from 0"}),
        pa.field("z", pa.int32(), metadata={"comment": "place of the slice in its part, from 0"}),
        pa.field("z_mm", pa.float64(), metadata={"comment": "position along the normal"}),
        pa.field("position_lps_mm", _PLACES, metadata={"comment": "centre of the first pixel"}),
        pa.field("row_direction_lps", _PLACES, metadata={"comment": "in which columns count"}),
        pa.field("column_direction_lps", _PLACES, metadata={"comment": "in which rows count"}),
        pa.field("row_spacing_mm", pa.float64()),
        pa.field("column_spacing_mm", pa.float64()),
        pa.field("rows", pa.int32()),
        pa.field("columns", pa.int32()),
        pa.field("unit", pa.string()),
        pa.field("voxel_type", pa.string(), metadata={"comment": "NumPy's name, little endian"}),
        pa.field("pixels", pa.binary(), metadata={"comment": "rescaled, row by row"}),
    ]
)
ROW_GROUP_BYTES: Final = 16 << 20


def write_slices(path: Path, parts: Sequence[Volume], progress: Progress) -> None:
    """Write every slice of all parts of a series."""
    n_slices = sum(len(volume) for volume in parts)
    with (
        progress.stage("export", n_slices, "slices") as stage,
        whole_file(path) as temporary,
        pq.ParquetWriter(
            temporary,
            SCHEMA,
            compression="zstd",
            use_dictionary=[name for name in SCHEMA.names if name != "pixels"],
            write_statistics=[name for name in SCHEMA.names if name != "pixels"],
        ) as writer,
    ):
        rows: list[dict[str, Any]] = []
        held = 0
        for part, volume in enumerate(parts):
            for z in range(len(volume)):
                row = _row(part, volume, z)
                rows.append(row)
                held += len(row["pixels"])
                if held >= ROW_GROUP_BYTES:
                    writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                    rows, held = [], 0
                stage.advance()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def _row(part: int, volume: Volume, z: int) -> dict[str, Any]:
    image = volume.images[z]
    _, n_y, n_x = volume.shape
    _, dy, dx = volume.voxel_mm
    values = volume.rows(z, 0, n_y)
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return {
        "series_instance_uid": volume.series_uid,
        "sop_instance_uid": image["sop_instance_uid"],
        "frame": image["frame"],
        "part": part,
        "z": z,
        "z_mm": float(volume.z_mm[z]),
        "position_lps_mm": list(map(float, image["image_position_patient"])),
        "row_direction_lps": volume.axes_lps[0].tolist(),
        "column_direction_lps": volume.axes_lps[1].tolist(),
        "row_spacing_mm": dy,
        "column_spacing_mm": dx,
        "rows": n_y,
        "columns": n_x,
        "unit": volume.unit,
        "voxel_type": values.dtype.name,
        "pixels": little.tobytes(),
    }
