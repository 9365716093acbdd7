"""Images as ITK reads them: an independent reader, in DICOM's axes L, P, S."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conftest import missing


@dataclass(frozen=True)
class ItkImage:
    """Voxels [..., z, y, x], and where they lie."""

    values: NDArray[Any]
    spacing_mm: NDArray[np.float64]
    affine_lps_mm: NDArray[np.float64]


def read_with_itk(path: Path) -> ItkImage:
    with warnings.catch_warnings():
        # SWIG's modules warn while they load: made an error, that ends the interpreter
        warnings.simplefilter("ignore")
        try:
            import itk
        except ImportError:
            missing("itk")
        image = itk.imread(str(path))
        values = np.array(itk.array_from_image(image))
        spacing = np.array(image.GetSpacing())[:3]
        direction = itk.array_from_matrix(image.GetDirection())[:3, :3]
        affine = np.eye(4)
        affine[:3, :3] = direction * spacing
        affine[:3, 3] = np.array(image.GetOrigin())[:3]
    return ItkImage(values, spacing, affine)
