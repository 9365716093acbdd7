"""The private block of a projection series: what the standard has no attribute for.

``docs/design/projections-in-dicom.md`` has the same table for people. Elements are private to the
creator `CREATOR` in group `GROUP`; numbers are FD, so that every float comes back bit for bit.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydicom.dataset import Dataset

GROUP: Final = 0x0019
CREATOR: Final = "PACSPARK SCAN 1"
_CREATOR_ELEMENTS: Final = range(0x10, 0x100)
"""Where a creator may stand (PS3.5 7.8.1): systems that store an object anew may move a block."""

ELEMENTS: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "frame_role": (0x02, "CS"),  # PROJECTION, FLAT or DARK
        "kind": (0x03, "CS"),  # COUNTS, TRANSMISSION or LINE_INTEGRALS
        "beam": (0x04, "CS"),  # CONE or PARALLEL
        "gantry_angles_rad": (0x05, "FD"),  # one per frame of a PROJECTION instance
        "source_to_isocenter_mm": (0x06, "FD"),
        "source_to_detector_mm": (0x07, "FD"),
        "detector_spacing_mm": (0x08, "FD"),  # of rows, of columns
        "detector_offset_mm": (0x09, "FD"),  # along u, along v
        "row_order": (0x0A, "CS"),  # TOP_DOWN or BOTTOM_UP
        "rescale": (0x0B, "FD"),  # value = stored * slope + intercept
        "energy_bin": (0x0C, "US"),  # index of this instance's bin
        "energy_bin_edges_kev": (0x0D, "FD"),
        "water_mu_per_mm": (0x0E, "FD"),
        "unattenuated_counts": (0x0F, "FD"),
        "n_angles": (0x10, "UL"),  # of the whole scan
        "first_frame": (0x11, "UL"),  # of this instance, among the bin's frames of its role
        "n_energy_bins": (0x12, "US"),
        "n_flats": (0x13, "UL"),  # of this energy bin, in all instances
        "n_darks": (0x14, "UL"),
        # of frames of a PROJECTION instance: of sources off their circle, two each
        "source_shifts_mm": (0x15, "FD"),  # further from the axis, above z = 0
        # and of panels that do not stand upright, x, y, z each, as `ct.views` has them
        "sources_mm": (0x16, "FD"),
        "centers_mm": (0x17, "FD"),
        "u_axes": (0x18, "FD"),
        "v_axes": (0x19, "FD"),
    }
)
"""Element number in the block and VR, by name."""


def write_block(dataset: Dataset, values: Mapping[str, Any]) -> None:
    """Add the private block to a data set; values of None or without length are left out."""
    block = dataset.private_block(GROUP, CREATOR, create=True)
    for name, value in values.items():
        if value is None or (hasattr(value, "__len__") and not len(value)):
            continue
        element, vr = ELEMENTS[name]
        block.add_new(element, vr, value)


def read_block(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Read the private block from a data set in DICOM JSON; empty where there is none.

    Single values come as they are, several as lists.
    """
    for place in _CREATOR_ELEMENTS:
        if _values(attributes, place) == [CREATOR]:
            break
    else:
        return {}
    found = {}
    for name, (element, _) in ELEMENTS.items():
        if value := _values(attributes, place << 8 | element):
            found[name] = value[0] if len(value) == 1 else value
    return found


def _values(attributes: Mapping[str, Any], element: int) -> list[Any]:
    values: list[Any] = attributes.get(f"{GROUP:04X}{element:04X}", {}).get("Value", [])
    return values
