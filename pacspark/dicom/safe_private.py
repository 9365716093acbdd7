"""Which private elements are known to be safe: by the standard's list, or by the object's word."""

from collections.abc import Iterable
from functools import cache

from pydicom.dataset import Dataset

from pacspark.dicom.confidentiality import read_table
from pacspark.dicom.private import CREATOR, ELEMENTS, GROUP


@cache
def safe_private() -> dict[tuple[int, int, str], str]:
    """Give what Table E.3.10-1 of PS3.15 calls safe, and our own block, with the VRs."""
    known = {
        (int(row["group"], 16), int(row["element"], 16), row["creator"]): row["vr"]
        for row in read_table("safe_private.csv")
    }
    return known | {(GROUP, element, CREATOR): vr for element, vr in ELEMENTS.values()}


def declared_safe(items: Iterable[Dataset]) -> dict[tuple[int, str], set[int] | None]:
    """Read which private elements an object itself calls safe; None: all of a block.

    Parameters
    ----------
    items
        of Private Data Element Characteristics Sequence (PS3.3 C.12.1.1.7)
    """
    declared: dict[tuple[int, str], set[int] | None] = {}
    for item in items:
        group, creator = item.get("PrivateGroupReference"), item.get("PrivateCreatorReference")
        status = item.get("BlockIdentifyingInformationStatus")
        if not isinstance(group, int) or not isinstance(creator, str):
            continue
        if status == "SAFE":
            declared[group, creator.strip()] = None
        elif status == "MIXED":
            listed = item.get("NonidentifyingPrivateElements")
            numbers = [listed] if isinstance(listed, int) else list(listed or ())
            declared[group, creator.strip()] = {number & 0xFF for number in numbers}
    return declared
