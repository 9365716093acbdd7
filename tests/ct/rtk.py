"""Itk-rtk, the CPU reference of the field, to be run in a process of its own.

Where an interpreter has many other extensions loaded, itk's wrappers crash as it ends.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, VolumeGrid

Volume = NDArray[np.float32]


class Rtk:
    """Itk-rtk in our terms: ``(n_angles, n_rows, n_columns)`` in, ``(n_z, n_y, n_x)`` out.

    Its rotation axis is y, its source starts on +z, and its rows rise with v.
    """

    def __init__(self, n_threads: int = 2) -> None:
        import itk

        self.itk: Any = itk
        self.rtk: Any = itk.RTK
        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(n_threads)
        self.image: Any = itk.Image[itk.F, 3]

    def geometry(self, geometry: ConeBeamGeometry, *, offsets: bool = False) -> Any:
        """Give its geometry object; `offsets`: with the detector's, else they are in the image."""
        made = self.rtk.ThreeDCircularProjectionGeometry.New()
        detector = geometry.detector
        for angle in geometry.gantry_angles_rad:
            made.AddProjection(
                geometry.source_to_isocenter_mm,
                geometry.source_to_detector_mm,
                math.degrees(angle),
                detector.offset_u_mm if offsets else 0.0,
                detector.offset_v_mm if offsets else 0.0,
            )
        return made

    def stack(self, projections: Volume, detector: FlatPanel) -> Any:
        """Give an image of the projections whose origin holds the offsets."""
        rising = projections if detector.row_order == "bottom_up" else projections[:, ::-1]
        image = self.itk.image_from_array(np.ascontiguousarray(rising))
        image.SetOrigin([float(detector.u_mm.min()), float(detector.v_mm.min()), 0.0])
        image.SetSpacing([detector.column_spacing_mm, detector.row_spacing_mm, 1.0])
        return image

    def source(self, grid: VolumeGrid) -> Any:
        """Give zeros on a grid."""
        constant = self.rtk.ConstantImageSource[self.image].New()
        (dz, dy, dx), (n_z, n_y, n_x) = grid.voxel_mm, grid.shape
        constant.SetOrigin([float(grid.y_mm[0]), float(grid.z_mm[0]), float(grid.x_mm[0])])
        constant.SetSpacing([dy, dz, dx])
        constant.SetSize([n_y, n_z, n_x])
        constant.SetConstant(0.0)
        return constant

    def array(self, volume: Any) -> Volume:
        """Give a volume in our order of axes."""
        turned: Volume = self.itk.array_from_image(volume).transpose(1, 2, 0)
        return turned

    def fdk(
        self, projections: Volume, geometry: ConeBeamGeometry, grid: VolumeGrid
    ) -> tuple[Volume, float]:
        """Give its reconstruction, with the plain ramp, and the seconds it took.

        Its weights of rays seen twice come first.
        """
        zeros = self.source(grid)
        circle = self.geometry(geometry)
        half_fan = self.rtk.DisplacedDetectorImageFilter[self.image].New()
        half_fan.SetInput(self.stack(projections, geometry.detector))
        half_fan.SetGeometry(circle)
        short_scan = self.rtk.ParkerShortScanImageFilter[self.image].New()
        short_scan.SetInput(half_fan.GetOutput())
        short_scan.SetGeometry(circle)
        fdk = self.rtk.FDKConeBeamReconstructionFilter[self.image].New()
        fdk.SetInput(0, zeros.GetOutput())
        fdk.SetInput(1, short_scan.GetOutput())
        fdk.SetGeometry(circle)
        fdk.GetRampFilter().SetTruncationCorrection(0.0)
        fdk.GetRampFilter().SetHannCutFrequency(0.0)
        short_scan.Update()  # not what is timed
        start = time.perf_counter()
        fdk.Update()
        seconds = time.perf_counter() - start
        return self.array(fdk.GetOutput()), seconds

    def written(self, path: str, views: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
        """Have it write a geometry; give its matrices, ``(n_angles, 3, 4)``."""
        made = self.of_views(views)
        writer = self.rtk.ThreeDCircularProjectionGeometryXMLFileWriter.New()
        writer.SetObject(made)
        writer.SetFilename(path)
        writer.WriteFile()
        return np.array(
            [self.itk.array_from_matrix(made.GetMatrix(view)) for view in range(len(views))]
        )

    def of_views(self, views: Sequence[tuple[float, ...]]) -> Any:
        """Give its geometry object of what `AddProjection` takes."""
        made = self.rtk.ThreeDCircularProjectionGeometry.New()
        for view in views:
            made.AddProjection(*view)
        return made

    def shepp_logan(self, geometry: ConeBeamGeometry, grid: VolumeGrid) -> tuple[Volume, Volume]:
        """Give its phantom as projections (spacing 4 mm) and as a volume."""
        detector = geometry.detector
        shape = (geometry.n_angles, detector.n_rows, detector.n_columns)
        drawn = self.drawn(self.geometry(geometry, offsets=True), shape)
        return drawn[:, ::-1], self.phantom(grid)

    def drawn(self, geometry: Any, shape: tuple[int, int, int]) -> Volume:
        """Give projections of its phantom as it stores them, spacing 4 mm, around the origin."""
        _, n_rows, n_columns = shape
        blank = self.itk.image_from_array(np.zeros(shape, np.float32))
        blank.SetOrigin([-2.0 * (n_columns - 1), -2.0 * (n_rows - 1), 0.0])
        blank.SetSpacing([4.0, 4.0, 1.0])
        drawing = self.rtk.SheppLoganPhantomFilter[self.image, self.image].New()
        drawing.SetInput(blank)
        drawing.SetGeometry(geometry)
        drawing.SetPhantomScale(116.0)
        drawing.Update()
        projections: Volume = self.itk.array_from_image(drawing.GetOutput())
        return projections

    def phantom(self, grid: VolumeGrid) -> Volume:
        """Give its phantom as a volume."""
        zeros = self.source(grid)
        phantom = self.rtk.DrawSheppLoganFilter[self.image, self.image].New()
        phantom.SetInput(zeros.GetOutput())
        phantom.SetPhantomScale(116.0)
        phantom.Update()
        return self.array(phantom.GetOutput())


def fdk(projections: Volume, geometry: ConeBeamGeometry, grid: VolumeGrid) -> Volume:
    """Give what itk-rtk reconstructs."""
    return Rtk().fdk(projections, geometry, grid)[0]


def best_fdk(
    projections: Volume, geometry: ConeBeamGeometry, grid: VolumeGrid, n_threads: int, repeats: int
) -> tuple[Volume, float]:
    """Give what itk-rtk reconstructs, and the seconds of its fastest run."""
    runs = [Rtk(n_threads).fdk(projections, geometry, grid) for _ in range(repeats)]
    return runs[0][0], min(seconds for _, seconds in runs)


def shepp_logan(geometry: ConeBeamGeometry, grid: VolumeGrid) -> tuple[Volume, Volume]:
    """Give itk-rtk's own phantom: projections, volume."""
    return Rtk().shepp_logan(geometry, grid)


def written(path: str, views: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
    """Have itk-rtk write a geometry; give its matrices."""
    return Rtk().written(path, views)


def scanned(
    views: Sequence[tuple[float, ...]], shape: tuple[int, int, int], grid: VolumeGrid
) -> tuple[Volume, Volume]:
    """Give itk-rtk's phantom in its own order of rows, as any views see it, and as a volume."""
    rtk = Rtk()
    return rtk.drawn(rtk.of_views(views), shape), rtk.phantom(grid)
