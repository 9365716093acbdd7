"""How the images of a series lie in space: sorted along their normal, evenly or not, tilted or not.

Images are single-frame objects or the frames of enhanced ones; only headers are read. What a stack
of slices cannot be is refused with what was found; what is merely unusual is told in notes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.dicom.encode import LENGTHS_IN_PIXELS, MM_PER_M, PER_M
from pacspark.dicom.enhanced_xa import MANUFACTURER
from pacspark.dicom.functional_groups import frame_attributes
from pacspark.dicom.pixels import NATIVE_BITS, holds_floats
from pacspark.errors import UsageError
from pacspark.pictures import Window
from pacspark.tables.catalog import Catalog
from pacspark.tables.schema import FRAME_COLUMNS, LOCATION_COLUMNS

HEADER_COLUMNS: Final = (
    *("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "modality"),
    *("series_description", "rows", "columns", "number_of_frames", "samples_per_pixel"),
    *("photometric_interpretation", "bits_allocated", "bits_stored", "high_bit"),
    *("pixel_representation", "pixel_spacing", "slice_thickness", "spacing_between_slices"),
    *("image_position_patient", "image_orientation_patient", "rescale_slope"),
    *("rescale_intercept", "rescale_type", "window_center", "window_width", "manufacturer"),
    *("derivation_description", "image_type", "acquisition_number", "instance_number"),
    *("temporal_position_identifier", "echo_time", "acquisition_time", "content_time"),
    *FRAME_COLUMNS,
    *LOCATION_COLUMNS,
)
EVEN_SPACING_TOLERANCE: Final = 0.02
"""Slices are evenly spaced when no distance differs by more than this part of their mean: positions
in headers are rounded decimals."""
SAME_PLACE_MM: Final = 1e-4
TILT_TOLERANCE_DEG: Final = 0.1
ORTHONORMAL_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class SliceStack:
    """The images of a series, sorted along their normal.

    Attributes
    ----------
    series_uid, description
        of the series
    rows
        columns `HEADER_COLUMNS` of each image and its ``frame``, in the order of z
    shape
        (n_z, n_y, n_x)
    voxel_mm
        (dz, dy, dx); dz is a mean
    z_mm
        (n_z,), position of each image along the normal
    axes_lps
        unit vectors of x (along a row), y (down a column) and z (the normal) in the patient's
        L, P, S
    affine_lps_mm
        (4, 4), from voxel indices (x, y, z, 1) to L, P, S
    unit
        of the rescaled values
    length_unit
        ``mm``, or ``pixels`` where the reconstructed scan says no pixel size
    window
        the middle image's own, None where it has none
    is_even
        whether neighbouring images are equally far apart, on one line
    is_tilted
        whether that line is not their normal
    voxel_type
        the smallest type that holds all rescaled values
    notes
        what is unusual
    """

    series_uid: str
    description: str
    rows: tuple[dict[str, Any], ...]
    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    z_mm: NDArray[np.float64]
    axes_lps: NDArray[np.float64]
    affine_lps_mm: NDArray[np.float64]
    unit: str
    length_unit: str
    window: Window | None
    is_even: bool
    is_tilted: bool
    voxel_type: np.dtype[Any]
    notes: tuple[str, ...]

    @property
    def is_axial(self) -> bool:
        """Whether the images are transverse planes with rows from right to left."""
        return bool(np.allclose(self.axes_lps, np.eye(3), atol=0.05))


def read_images(catalog: Catalog, series_uid: str) -> list[dict[str, Any]]:
    """Read the headers of a series: a row for each single-frame image, and for each frame.

    Returns
    -------
    list
        columns `HEADER_COLUMNS`, what the functional groups of a frame say laid over them, and
        ``frame``, counted from 0; what the rescale has in 1/m is in 1/mm

    Raises
    ------
    SeriesNotFoundError
        When the archive does not hold it.
    UsageError
        When there is something else than grey images with a place among them.
    """
    images: list[dict[str, Any]] = []
    for row in catalog.instances_of(series_uid, HEADER_COLUMNS).to_pylist():
        frames: list[dict[str, Any]] = []
        # a scan's frames are views: its functional groups are long, and say no place
        if row["number_of_frames"] is not None and row["modality"] != "XA":
            uid = row["sop_instance_uid"]
            dicom_json = catalog.instance(uid, ["dicom_json"])["dicom_json"]
            frames = frame_attributes(dicom_json, row["number_of_frames"])
        if not frames and (row["number_of_frames"] or 1) == 1:
            frames = [{}]
        if not frames:
            raise _no_places(series_uid, row)
        images += [row | frame | {"frame": number} for number, frame in enumerate(frames)]
    for image in images:
        _require_image(series_uid, image)
    return [_in_per_mm(image) if image["rescale_type"] == PER_M else image for image in images]


def _in_per_mm(image: dict[str, Any]) -> dict[str, Any]:
    """Scale what makes values of stored pixels; attenuation is in 1/m in objects alone."""
    scaled: dict[str, Any] = {
        name: None if image[name] is None else image[name] / MM_PER_M
        for name in ("rescale_slope", "rescale_intercept")
    }
    for name in ("window_center", "window_width"):
        scaled[name] = [value / MM_PER_M for value in image[name] or ()]
    return image | scaled


def _no_places(series_uid: str, row: Mapping[str, Any]) -> UsageError:
    found = f"{row['number_of_frames']} frames without a place in {row['sop_instance_uid']}"
    if row["modality"] == "XA":
        found += " (of a scan: give the CT series that `reconstruct` made of it)"
    return _refuse(series_uid, "images with a place in space", found)


def stack_slices(series_uid: str, rows: Sequence[dict[str, Any]]) -> SliceStack:
    """Lay images out in space.

    Parameters
    ----------
    series_uid
        for messages
    rows
        of `read_images`, at least one, in any order

    Raises
    ------
    UsageError
        When its images are no stack.
    """
    first = rows[0]
    in_pixels = LENGTHS_IN_PIXELS in (first["derivation_description"] or "")
    n_y, n_x = first["rows"], first["columns"]
    _require_same(series_uid, "size", [(row["rows"], row["columns"]) for row in rows])
    _require_same(series_uid, "PixelSpacing", [tuple(row["pixel_spacing"]) for row in rows])
    _require_same(
        series_uid,
        "ImageOrientationPatient",
        [tuple(np.round(row["image_orientation_patient"], 3).tolist()) for row in rows],
    )
    x_axis, y_axis, normal = _axes(series_uid, first["image_orientation_patient"])
    positions = np.array([row["image_position_patient"] for row in rows], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    positions, z_mm = positions[order], (positions @ normal)[order]
    dz, uneven = _spacing(series_uid, rows[int(order[0])], z_mm)
    step = normal * dz if len(rows) == 1 else (positions[-1] - positions[0]) / (len(rows) - 1)
    beside = _beside_notes(positions, step, normal)
    dy, dx = (float(value) for value in first["pixel_spacing"])
    tilt = _tilt_notes(step, normal)
    affine = np.eye(4)
    affine[:3] = np.column_stack([x_axis * dx, y_axis * dy, step, positions[0]])
    sorted_rows = tuple(rows[int(place)] for place in order)
    return SliceStack(
        series_uid=series_uid,
        description=first["series_description"] or "",
        rows=sorted_rows,
        shape=(len(rows), n_y, n_x),
        voxel_mm=(dz, dy, dx),
        z_mm=z_mm,
        axes_lps=np.stack([x_axis, y_axis, normal]),
        affine_lps_mm=affine,
        unit=_unit(series_uid, sorted_rows, "1/pixel" if in_pixels else "1/mm"),
        length_unit="pixels" if in_pixels else "mm",
        window=_window(sorted_rows[len(rows) // 2]),
        is_even=not beside and (not uneven or len(rows) == 1),
        is_tilted=bool(tilt),
        voxel_type=_voxel_type(rows),
        notes=(*uneven, *tilt, *beside),
    )


def patient_letters(direction: NDArray[np.float64]) -> tuple[str, str]:
    """Name where a line comes from and where it goes to, in the patient (PS3.3 C.7.6.1.1.1).

    >>> patient_letters(np.array([0.0, 0.9, -0.4]))
    ('A', 'P')
    """
    axis = int(np.argmax(np.abs(direction)))
    negative, positive = (("R", "L"), ("A", "P"), ("F", "H"))[axis]
    return (negative, positive) if direction[axis] > 0 else (positive, negative)


def _refuse(series_uid: str, expected: str, found: object) -> UsageError:
    message = f"series {series_uid}: expected {expected}, found {found}"
    return UsageError(message)


def _require_image(series_uid: str, row: Mapping[str, Any]) -> None:
    uid = row["sop_instance_uid"]
    if not row["rows"] or not row["columns"] or row["frame_kind"] == "none":
        raise _refuse(series_uid, "images", f"{row['modality']} without pixels ({uid})")
    photometric = str(row["photometric_interpretation"])
    if row["samples_per_pixel"] not in {None, 1} or not photometric.startswith("MONOCHROME"):
        found = f"{photometric} ({uid}); colour is exported as dicom"
        raise _refuse(series_uid, "MONOCHROME images", found)
    if row["bits_allocated"] not in NATIVE_BITS:
        found = f"{row['bits_allocated']} bits per pixel ({uid})"
        raise _refuse(series_uid, "pixels of 8, 16, 32 or 64 bits", found)
    lengths = {"image_position_patient": 3, "image_orientation_patient": 6, "pixel_spacing": 2}
    for column, length in lengths.items():
        value = row[column]
        numbers = np.array(value or [], dtype=np.float64)
        if numbers.shape != (length,) or not np.isfinite(numbers).all():
            raise _refuse(series_uid, f"{length} numbers as {column}", f"{value} ({uid})")
    if min(row["pixel_spacing"]) <= 0:
        raise _refuse(series_uid, "positive pixel_spacing", f"{row['pixel_spacing']} ({uid})")


def _require_same(series_uid: str, name: str, values: Sequence[tuple[float, ...]]) -> None:
    counts = Counter(values)
    if len(counts) > 1:
        found = ", ".join(f"{count} x {value}" for value, count in counts.most_common(4))
        raise _refuse(series_uid, f"images of one {name}", found)


def _axes(
    series_uid: str, orientation: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    x_axis, y_axis = np.array(orientation, dtype=np.float64).reshape(2, 3)
    gram = np.array([x_axis @ x_axis, y_axis @ y_axis, 1 + x_axis @ y_axis])
    if not np.allclose(gram, 1.0, atol=ORTHONORMAL_TOLERANCE):
        expected = "two perpendicular unit vectors as ImageOrientationPatient"
        raise _refuse(series_uid, expected, list(orientation))
    return x_axis, y_axis, np.cross(x_axis, y_axis)


def _spacing(
    series_uid: str, first: Mapping[str, Any], z_mm: NDArray[np.float64]
) -> tuple[float, list[str]]:
    """Give the mean distance of slices, and a note where they are uneven."""
    if len(z_mm) == 1:
        known = [first[name] for name in ("slice_thickness", "spacing_between_slices")]
        thickness = next((float(value) for value in known if value and value > 0), None)
        if thickness is None:
            return 1.0, ["one slice of unknown thickness, drawn as 1 mm"]
        return thickness, []
    distances = np.diff(z_mm)
    if distances.min() < SAME_PLACE_MM:
        same = int((distances < SAME_PLACE_MM).sum())
        raise _refuse(series_uid, "one image at each place", f"{same} more at the place of another")
    mean = float(distances.mean())
    if np.abs(distances - mean).max() <= EVEN_SPACING_TOLERANCE * mean:
        return mean, []
    span = f"{distances.min():.4g} to {distances.max():.4g} mm apart"
    return mean, [f"uneven slices: {span}, drawn as {mean:.4g} mm"]


def _tilt_notes(step: NDArray[np.float64], normal: NDArray[np.float64]) -> list[str]:
    """Note slices that do not lie above each other, as a tilted gantry makes them."""
    sideways = step - (step @ normal) * normal
    tilt_deg = float(np.rad2deg(np.arctan2(np.linalg.norm(sideways), step @ normal)))
    if tilt_deg <= TILT_TOLERANCE_DEG:
        return []
    return [f"tilted by {tilt_deg:.1f}°: slices are drawn above each other as they are stored"]


def _beside_notes(
    positions: NDArray[np.float64], step: NDArray[np.float64], normal: NDArray[np.float64]
) -> list[str]:
    """Note slices whose corners lie beside the line of the others."""
    along = (positions - positions[0]) @ normal
    on_line = positions[0] + np.outer(along / (step @ normal), step)
    apart_mm = float(np.linalg.norm(positions - on_line, axis=1).max())
    if apart_mm <= max(0.01, 0.1 * float(step @ normal)):
        return []
    return [f"slices lie up to {apart_mm:.3g} mm beside the line of the others"]


def _unit(series_uid: str, rows: Sequence[Mapping[str, Any]], attenuation: str) -> str:
    """Give the unit of rescaled values (PS3.3 C.11.1.1.2).

    CT that has no type is in HU. The standard has no name for the unit of attenuation: pacspark's
    own series say 1/m, and those of before "unspecified" for 1/mm.
    """
    types = {row["rescale_type"] for row in rows}
    if len(types) > 1:
        raise _refuse(series_uid, "images of one RescaleType", sorted(map(str, types)))
    (rescale_type,) = types
    if rescale_type in {None, ""}:
        return "HU" if rows[0]["modality"] == "CT" else ""
    if rescale_type == PER_M:
        return attenuation
    if rescale_type == "US":
        return attenuation if rows[0]["manufacturer"] == MANUFACTURER else ""
    return str(rescale_type)


def _window(row: Mapping[str, Any]) -> Window | None:
    centers, widths = row["window_center"], row["window_width"]
    if not centers or not widths or not np.isfinite([centers[0], widths[0]]).all():
        return None
    return Window(float(centers[0]), float(widths[0])) if widths[0] > 0 else None


def _voxel_type(rows: Sequence[Mapping[str, Any]]) -> np.dtype[Any]:
    """Choose the smallest type that holds every value that rescaled pixels can have, exactly."""
    lowest, highest = np.inf, -np.inf
    for row in rows:
        slope = 1.0 if row["rescale_slope"] is None else row["rescale_slope"]
        intercept = 0.0 if row["rescale_intercept"] is None else row["rescale_intercept"]
        if holds_floats(row) or slope % 1 or intercept % 1:
            return np.dtype(np.float32)
        bits = row["bits_stored"] or row["bits_allocated"]
        first = -(2 ** (bits - 1)) if row["pixel_representation"] == 1 else 0
        ends = [stored * slope + intercept for stored in (first, first + 2**bits - 1)]
        lowest, highest = min(lowest, *ends), max(highest, *ends)
    for whole in (np.int16, np.uint16):
        if np.iinfo(whole).min <= lowest and highest <= np.iinfo(whole).max:
            return np.dtype(whole)
    return np.dtype(np.float32)
