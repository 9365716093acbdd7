"""Volumes as NIfTI: int16 where the values are whole numbers that fit, else float32; streamed.

NIfTI's x and y point to the right and to the front, DICOM's to the left and to the back (PS3.3
C.7.6.2.1.1): the matrix from voxels to the patient has these two rows negated, the voxels stay as
they are.
"""

import gzip
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from pacspark.errors import MissingDependencyError
from pacspark.export.volumes import Voxels
from pacspark.progress import Progress
from pacspark.wholes import whole_file

LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
LONGEST_NIFTI1_AXIS: Final = 32767
DESCRIPTION_BYTES: Final = 79


def write_nifti(path: Path, volumes: Sequence[Voxels], progress: Progress) -> None:
    """Write volumes of one grid into one file: several are its fourth axis.

    Parameters
    ----------
    path
        ends in ``.nii.gz``
    volumes
        at least one
    progress
        told of slices

    Raises
    ------
    MissingDependencyError
        Without nibabel.
    """
    header = _header(volumes)
    kind = header.get_data_dtype()
    n_slices = len(volumes) * volumes[0].shape[0]
    with (
        progress.stage("export", n_slices, "slices") as stage,
        whole_file(path) as temporary,
        temporary.open("xb") as file,
        # no time and no name inside, so that the same volume makes the same file
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
    ):
        _write_header(packed, header)
        for volume in volumes:
            for z in range(volume.shape[0]):
                packed.write(volume.rows(z, 0, volume.shape[1]).astype(kind).tobytes())
                stage.advance()


def _header(volumes: Sequence[Voxels]) -> Any:
    try:
        nibabel: Any = import_module("nibabel")
    except ImportError as error:
        message = "NIfTI needs nibabel: pip install 'pacspark[export]'"
        raise MissingDependencyError(message) from error
    first = volumes[0]
    n_z, n_y, n_x = first.shape
    sizes = [n_x, n_y, n_z] if len(volumes) == 1 else [n_x, n_y, n_z, len(volumes)]
    fits = max(sizes) <= LONGEST_NIFTI1_AXIS
    header = (nibabel.Nifti1Header if fits else nibabel.Nifti2Header)(endianness="<")
    kinds = {volume.voxel_type for volume in volumes}
    header.set_data_dtype(kinds.pop() if len(kinds) == 1 else np.float32)
    header.set_data_shape(sizes)
    affine = LPS_TO_RAS @ first.affine_lps_mm
    header.set_qform(affine, code=1)  # 1: scanner coordinates
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm" if first.length_unit == "mm" else "unknown")
    header["descrip"] = first.description.encode()[:DESCRIPTION_BYTES]
    header.set_slope_inter(1.0, 0.0)
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    return header


def _write_header(file: BinaryIO | gzip.GzipFile, header: Any) -> None:
    content = header.binaryblock
    # four bytes say that no extension follows
    file.write(content + bytes(int(header["vox_offset"]) - len(content)))
