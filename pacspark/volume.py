"""A CT series of the archive as a volume: lazy, in the unit of its rescale, with pictures.

`read_parts` finds out, from headers alone, how the images of a series lie in space; `Volume` reads
voxels, and only those that are asked for.
"""

import base64
import html
import operator
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from pacspark.dicom.pixels import compressed_pixels, native_pixels, object_pixels
from pacspark.errors import DicomDecodeError, UsageError
from pacspark.parts import choose_part, read_parts
from pacspark.pictures import Drawable, ImagePlane, Picture, Window, draw_panels
from pacspark.stack import SliceStack, patient_letters
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import frame_index


class Volume(Drawable):
    """A CT series: voxels ``[z, y, x]``, read when they are asked for.

    x runs along the rows of the images and y down their columns, as they are stored; z runs along
    the normal of the images, from the first slice to the last. For a series that pacspark made
    these are the axes of the scanner.

    Parameters
    ----------
    catalog
        The archive.
    series_uid
        A series of images of one size and orientation at distinct places: single-frame objects, or
        frames of enhanced ones.
    part
        Which of its parts, from 0, where a series has several: time points, echoes, orientations.

    Raises
    ------
    SeriesNotFoundError
        When the archive does not hold it.
    UsageError
        When it is no stack of images; the message says what it is instead.

    Examples
    --------
    >>> volume = Volume(catalog, series_uid)                          # doctest: +SKIP
    >>> volume.slice(100).show(); volume[100:110].mean()              # doctest: +SKIP
    """

    def __init__(self, catalog: Catalog, series_uid: str, part: int | None = None) -> None:
        self._catalog = catalog
        self._stack = choose_part(read_parts(catalog, series_uid), part)

    @classmethod
    def of_stack(cls, catalog: Catalog, stack: SliceStack) -> Self:
        """Make a volume of a stack that is laid out already."""
        volume = cls.__new__(cls)
        volume._catalog, volume._stack = catalog, stack  # noqa: SLF001 -- its own
        return volume

    @property
    def series_uid(self) -> str:
        """The Series Instance UID."""
        return self._stack.series_uid

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (n_z, n_y, n_x)."""
        return self._stack.shape

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Distances of neighbouring voxels (dz, dy, dx); dz is the mean where slices are uneven."""
        return self._stack.voxel_mm

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """Position of each slice along the normal of the images."""
        return self._stack.z_mm

    @property
    def affine_lps_mm(self) -> NDArray[np.float64]:
        """The (4, 4) matrix from voxel indices (x, y, z, 1) to the patient's L, P, S."""
        return self._stack.affine_lps_mm

    @property
    def unit(self) -> str:
        """Of the values: ``HU``, ``1/mm``, what else the rescale says; empty where nothing does."""
        return self._stack.unit

    @property
    def length_unit(self) -> str:
        """Of everything called mm: ``mm``, or ``pixels`` where the scan says no pixel size."""
        return self._stack.length_unit

    @property
    def is_even(self) -> bool:
        """Whether the slices are equally far apart, so that `affine_lps_mm` holds for all."""
        return self._stack.is_even

    @property
    def is_tilted(self) -> bool:
        """Whether the slices do not lie above each other, as a tilted gantry makes them."""
        return self._stack.is_tilted

    @property
    def voxel_type(self) -> np.dtype[Any]:
        """Of values as `rows` gives them: int16 or uint16 where these hold all, else float32."""
        return self._stack.voxel_type

    @property
    def window(self) -> Window | None:
        """The window of the middle image, None where it has none."""
        return self._stack.window

    @property
    def axes_lps(self) -> NDArray[np.float64]:
        """Unit vectors of x, y and z in the patient's L, P, S, one a row."""
        return self._stack.axes_lps

    @property
    def images(self) -> tuple[dict[str, Any], ...]:
        """Columns of `instances` of each slice's image, and its ``frame``."""
        return self._stack.rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual: uneven slices, a tilt. Empty for an ordinary series."""
        return self._stack.notes

    @property
    def description(self) -> str:
        """The Series Description."""
        return self._stack.description

    def __repr__(self) -> str:
        n_z, n_y, n_x = self.shape
        dz, dy, dx = self.voxel_mm
        notes = "".join(f"; {note}" for note in self.notes)
        return (
            f"Volume({self.description!r}, {n_z} x {n_y} x {n_x} voxels (z, y, x) of "
            f"{dz:.4g} x {dy:.4g} x {dx:.4g} {self.length_unit}, "
            f"unit {self.unit or 'unknown'!r}{notes})"
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, z: Any) -> NDArray[np.float32]:
        """Read slices as an array does: ``volume[30]`` is [y, x], ``volume[30:40]`` [z, y, x]."""
        places = np.arange(len(self))[z]
        values = np.empty((places.size, *self.shape[1:]), np.float32)
        for number, place in enumerate(np.atleast_1d(places)):
            values[number] = self._read_rows(int(place), 0, self.shape[1])
        return values.reshape(*places.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            message = "volume: expected copy=None or True, found False: voxels are read when asked"
            raise ValueError(message)
        return self.to_numpy().astype(dtype or np.float32, copy=False)

    def to_numpy(self, z_start: int = 0, z_stop: int | None = None) -> NDArray[np.float32]:
        """Read the slices ``z_start..z_stop`` (all, unless given) as float32 (n_z, n_y, n_x)."""
        stop = self.shape[0] if z_stop is None else z_stop
        if not 0 <= z_start < stop <= self.shape[0]:
            message = (
                f"slices: expected 0 <= start < stop <= {self.shape[0]}, found {z_start}, {stop}"
            )
            raise UsageError(message)
        return self[z_start:stop]

    def slice(
        self,
        z: int | None = None,
        *,
        y: int | None = None,
        x: int | None = None,
        window: Window | tuple[float, float] | None = None,
    ) -> ImagePlane:
        """Read one plane: ``z=`` across the axis, ``y=`` or ``x=`` along it.

        The plane at z is an array [y, x] and drawn as it is stored; those at y and x are [z, x] and
        [z, y], drawn with z upwards. Letters at the edges are DICOM's axes of the patient, whatever
        was scanned: x from R to L, y from A to P, z from F to H.

        Parameters
        ----------
        z, y, x
            exactly one index, from 0; negative ones count from the end
        window
            of the picture, or its center and width; None: the series' own, else chosen from the
            values
        """
        asked = {
            axis: index for axis, index in zip("zyx", (z, y, x), strict=True) if index is not None
        }
        if len(asked) != 1:
            message = f"slice: expected one of z, y, x, found {', '.join(asked) or 'none'}"
            raise UsageError(message)
        ((axis, index),) = asked.items()
        place = self._index(axis, index)
        return self._plane(axis, place, self._values(axis, place), Window.given(window))

    def view(
        self,
        *,
        z: int | None = None,
        y: int | None = None,
        x: int | None = None,
        window: Window | tuple[float, float] | None = None,
    ) -> Picture:
        """Draw the three orthogonal planes through a voxel, the middle one unless given."""
        given = {"z": z, "y": y, "x": x}
        place = {
            axis: self._index(axis, count // 2 if given[axis] is None else given[axis])
            for axis, count in zip("zyx", self.shape, strict=True)
        }
        if self.shape[0] == 1:
            return draw_panels([[self.slice(place["z"], window=window)]], self._title())
        values = {axis: self._values(axis, place[axis]) for axis in "zyx"}
        drawn = np.concatenate([plane.ravel() for plane in values.values()])
        common = Window.given(window) or self._stack.window or Window.of(drawn)
        planes = [self._plane(axis, place[axis], values[axis], common) for axis in "zyx"]
        return draw_panels([planes], self._title())

    def picture(self) -> Picture:
        """Draw the middle slice."""
        return self.slice(z=self.shape[0] // 2).picture()

    def _repr_html_(self) -> str:
        png = base64.b64encode(self.picture().to_png()).decode()
        return (
            f"<div><code>{html.escape(repr(self))}</code><br>"
            '<img alt="middle slice" style="max-width: 480px" '
            f'src="data:image/png;base64,{png}"></div>'
        )

    def _title(self) -> str:
        return "; ".join([self.description or "CT series", *self.notes])

    def _index(self, axis: str, index: object) -> int:
        count = self.shape["zyx".index(axis)]
        if not isinstance(index, SupportsIndex) or not -count <= operator.index(index) < count:
            message = f"slice: expected {axis} from 0 to {count - 1}, found {index}"
            raise UsageError(message)
        return operator.index(index) % count

    def _values(self, axis: str, place: int) -> NDArray[np.float32]:
        n_z, n_y, _ = self.shape
        if axis == "z":
            return self._read_rows(place, 0, n_y)
        if axis == "y":
            return np.concatenate([self._read_rows(z, place, place + 1) for z in range(n_z)])
        return np.stack([self._read_rows(z, 0, n_y)[:, place] for z in range(n_z)])

    def _plane(
        self, axis: str, place: int, values: NDArray[np.float32], window: Window | None
    ) -> ImagePlane:
        dz, dy, dx = self.voxel_mm
        x_axis, y_axis, z_axis = (patient_letters(axis) for axis in self._stack.axes_lps)
        # sums of voxels miss 0 by rounding
        position = f"{round(self._position_mm(axis, place), 6) + 0.0:+.4g} {self.length_unit}"
        names = {"z": "axial", "y": "coronal", "x": "sagittal"} if self._stack.is_axial else {}
        across = x_axis if axis in "zy" else y_axis
        # y grows downwards in an image, z is drawn upwards
        upright = (y_axis[0], y_axis[1]) if axis == "z" else (z_axis[1], z_axis[0])
        return ImagePlane(
            values=values,
            pixel_mm={"z": (dy, dx), "y": (dz, dx), "x": (dz, dy)}[axis],
            unit=self.unit,
            length_unit=self.length_unit,
            title=f"{names.get(axis, 'plane')}, {axis} = {place} ({position})",
            left=across[0],
            right=across[1],
            top=upright[0],
            bottom=upright[1],
            rows_upwards=axis != "z",
            window=window or self._stack.window,
        )

    def _position_mm(self, axis: str, place: int) -> float:
        """Give the position of a plane along its own axis, from the frame of reference's origin."""
        if axis == "z":
            return float(self.z_mm[place])
        number = "xy".index(axis)
        first_mm = self._stack.axes_lps[number] @ self.affine_lps_mm[:3, 3]
        return float(first_mm + place * self.voxel_mm[2 - number])

    def rows(self, z: int, start: int, stop: int) -> NDArray[Any]:
        """Read the rows ``start..stop`` of slice `z`, rescaled, as `voxel_type`.

        A range read where the pixels are native; a compressed frame is decoded whole.
        """
        if self.voxel_type == np.float32:
            return self._read_rows(z, start, stop)
        stored, slope, intercept = self._stored_rows(z, start, stop)
        values = stored.astype(np.int32) * int(slope) + int(intercept)
        kept = values.astype(self.voxel_type)
        if not np.array_equal(kept, values):  # what a decoder gives is not held to the header
            uid = self._stack.rows[z]["sop_instance_uid"]
            message = f"{uid}: expected pixels of BitsStored bits, found others"
            raise DicomDecodeError(message)
        return kept

    def _read_rows(self, z: int, start: int, stop: int) -> NDArray[np.float32]:
        stored, slope, intercept = self._stored_rows(z, start, stop)
        return (stored * slope + intercept).astype(np.float32)

    def _stored_rows(self, z: int, start: int, stop: int) -> tuple[NDArray[Any], float, float]:
        """Read rows of one image as they are stored, with slope and intercept."""
        image = self._stack.rows[z]
        n_x = self.shape[2]
        index, frame = frame_index(image), image["frame"]
        placed = frame < index.count
        # without a place for its frame, the pixel data contradict the header: a decoder says how
        if index.kind == "native" and placed:
            row_bytes = n_x * image["bits_allocated"] // 8
            ((first_byte, _),) = index.ranges(frame)
            pixels = self._catalog.read_range(
                image, first_byte + start * row_bytes, (stop - start) * row_bytes
            )
            stored = native_pixels(pixels, image).reshape(stop - start, n_x)
        elif index.kind == "encapsulated" and placed:
            pieces = [self._catalog.read_range(image, *piece) for piece in index.ranges(frame)]
            stored = compressed_pixels(b"".join(pieces), image)[start:stop]
        else:
            stored = object_pixels(self._catalog.read_object(image), image, frame)[start:stop]
        slope = 1.0 if image["rescale_slope"] is None else image["rescale_slope"]
        intercept = 0.0 if image["rescale_intercept"] is None else image["rescale_intercept"]
        return stored, slope, intercept
