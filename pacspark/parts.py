"""The parts of a series, each of them one stack: time points, echoes, a localizer beside the scan.

Images of one size and orientation belong together. Where several lie at one place, an attribute
that tells them apart into stacks makes the parts: a temporal position, an echo time, an acquisition
number. Where none does, their order at each place does, if each place has as many.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pacspark.errors import UsageError
from pacspark.stack import SAME_PLACE_MM, SliceStack, patient_letters, read_images, stack_slices
from pacspark.tables.catalog import Catalog

TELLING: Final = (
    *("temporal_position_index", "temporal_position_identifier", "effective_echo_time"),
    *("echo_time", "diffusion_b_value", "frame_type", "image_type", "acquisition_number"),
    *("stack_id", "sop_instance_uid", "acquisition_time", "content_time"),
)
"""What can tell images at one place apart; the first that does is taken."""
MOST_LISTED: Final = 6


@dataclass(frozen=True, slots=True)
class Part:
    """One stack of a series.

    Attributes
    ----------
    stack
        its images in space
    name
        what tells it from the others, empty where there are none
    """

    stack: SliceStack
    name: str


def read_parts(catalog: Catalog, series_uid: str) -> list[Part]:
    """Read the headers of a series and lay its images out in space.

    Raises
    ------
    SeriesNotFoundError
        When the archive does not hold it.
    UsageError
        When its images are no stacks.
    """
    return parts_of(series_uid, read_images(catalog, series_uid))


def parts_of(series_uid: str, images: Sequence[dict[str, Any]]) -> list[Part]:
    """Split the images of a series, of `read_images`, into stacks."""
    layouts: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
    for image in images:
        layouts[_layout(image)].append(image)
    parts = []
    for alike in layouts.values():
        for name, members in _split_by_place(alike):
            stack = stack_slices(series_uid, members)
            layout = _layout_name(stack) if len(layouts) > 1 else ""
            parts.append(Part(stack, ", ".join(filter(None, [layout, name]))))
    return parts


def choose_part(parts: Sequence[Part], number: int | None) -> SliceStack:
    """Give the stack of one part.

    Parameters
    ----------
    parts
        of `read_parts`
    number
        which, from 0; None: the only one

    Raises
    ------
    UsageError
        When there is no such part, or a choice and none given; the message lists them.
    """
    if number is None and len(parts) == 1:
        return parts[0].stack
    if number is not None and 0 <= number < len(parts):
        return parts[number].stack
    series_uid = parts[0].stack.series_uid
    if len(parts) == 1:
        message = f"series {series_uid}: expected part 0, the only one, found {number}"
        raise UsageError(message)
    listed = "; ".join(f"{i}: {part.name}" for i, part in enumerate(parts[:MOST_LISTED]))
    more = f"; ... {len(parts) - 1}" if len(parts) > MOST_LISTED else ""
    asked = _difference(parts) if number is None else f"a part that is there, found {number}"
    message = f"series {series_uid}: expected {asked}; choose a part (--part) of {listed}{more}"
    raise UsageError(message)


def _layout_name(stack: SliceStack) -> str:
    n_z, n_y, n_x = stack.shape
    return f"{n_z} of {n_y} x {n_x} from {' to '.join(patient_letters(stack.axes_lps[2]))}"


def _difference(parts: Sequence[Part]) -> str:
    first = parts[0].stack
    for what, values in (
        ("size", {part.stack.shape[1:] for part in parts}),
        ("PixelSpacing", {part.stack.voxel_mm[1:] for part in parts}),
        (
            "ImageOrientationPatient",
            {tuple(np.round(part.stack.axes_lps, 3).ravel().tolist()) for part in parts},
        ),
    ):
        if len(values) > 1:
            return f"images of one {what}, found {len(values)}"
    same = sum(part.stack.shape[0] for part in parts) - first.shape[0]
    return f"one image at each place, found {same} more at the place of another"


def _layout(image: dict[str, Any]) -> Hashable:
    return (
        image["rows"],
        image["columns"],
        tuple(image["pixel_spacing"]),
        tuple((np.round(image["image_orientation_patient"], 3) + 0.0).tolist()),
    )


def _split_by_place(images: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Split images of one layout so that each part has one at each place, with its name."""
    places = _places(images)
    counts = np.bincount(places)
    most = int(counts.max())
    if most == 1:
        return [("", images)]
    for column in TELLING:
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            groups[_hashable(image.get(column))].append(number)
        if len(groups) == most and all(
            len(set(places[members])) == len(members) for members in groups.values()
        ):
            ordered = sorted(groups.items(), key=lambda item: _rank(item, images))
            return [
                (f"{column} {_text(value)}", [images[i] for i in members])
                for value, members in ordered
            ]
    if not (counts == most).all():
        # a part that has two images at a place is refused when it is laid out, with what it has
        return [("", images)]
    order = sorted(range(len(images)), key=lambda i: (places[i], *_age(images[i])))
    return [(f"number {k} at its place", [images[i] for i in order[k::most]]) for k in range(most)]


def _places(images: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
    """Give each image the number of its place along the normal."""
    x_axis, y_axis = np.array(images[0]["image_orientation_patient"]).reshape(2, 3)
    positions = np.array([image["image_position_patient"] for image in images])
    along = positions @ np.cross(x_axis, y_axis)
    order = np.argsort(along, kind="stable")
    numbers = np.zeros(len(images), np.int64)
    numbers[order[1:]] = np.cumsum(np.diff(along[order]) >= SAME_PLACE_MM)
    return numbers


def _age(image: dict[str, Any]) -> tuple[int, str, int]:
    return (image["instance_number"] or 0, image["sop_instance_uid"], image["frame"])


def _rank(item: tuple[Hashable, list[int]], images: list[dict[str, Any]]) -> tuple[Any, ...]:
    value, members = item
    number = value if isinstance(value, int | float) else 0
    return (number, *min(_age(images[i]) for i in members))


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def _text(value: Hashable) -> str:
    if isinstance(value, tuple):
        return "\\".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
