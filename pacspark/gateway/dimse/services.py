"""What a gateway is asked for over DIMSE: SOP classes, and which service each belongs to."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacspark.dicom.attributes import Level

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
MODALITY_WORKLIST: Final = "1.2.840.10008.5.1.4.31"
PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY = (
    "1.2.840.10008.5.1.4.1.2.1",
    "1.2.840.10008.5.1.4.1.2.2",
    "1.2.840.10008.5.1.4.1.2.3",
)
_NOT_STORED: Final = ("Storage Commitment", "Directory")

STORAGE_CLASSES: Final = frozenset(
    uid
    for uid, (name, kind, *_rest) in UID_dictionary.items()
    if kind == "SOP Class" and "Storage" in name and not any(part in name for part in _NOT_STORED)
)
"""Every storage SOP class of the dictionary, retired ones too: archives outlive them."""

_STORAGE_ARC: Final = "1.2.840.10008.5.1.4.1.1."


def is_storage_class(uid: str) -> bool:
    """Tell whether a UID is that of a storage class: a known one, or one of a later standard."""
    return uid in STORAGE_CLASSES or (uid.startswith(_STORAGE_ARC) and uid not in UID_dictionary)


LEVELS_OF_MODEL: Final[Mapping[str, tuple[Level, ...]]] = MappingProxyType(
    {
        PATIENT_ROOT: ("patient", "study", "series", "instance"),
        STUDY_ROOT: ("study", "series", "instance"),
        PATIENT_STUDY_ONLY: ("patient", "study"),
    }
)
"""The query levels of each information model, from the top (PS3.4 C.6)."""

_SERVICE_OF_SUFFIX: Final = {"1": "find", "2": "move", "3": "get"}

SERVICE_OF_CLASS: Final[Mapping[str, str]] = MappingProxyType(
    {
        VERIFICATION: "echo",
        STORAGE_COMMITMENT: "commit",
        MODALITY_WORKLIST: "worklist",
    }
    | {
        f"{model}.{suffix}": service
        for model in LEVELS_OF_MODEL
        for suffix, service in _SERVICE_OF_SUFFIX.items()
    }
)
"""The service that a caller needs the right to, of each class that is no storage class."""

PLAIN_SYNTAXES: Final = (
    str(ExplicitVRLittleEndian),
    str(ImplicitVRLittleEndian),
    str(ExplicitVRBigEndian),
)
"""Transfer syntaxes of identifiers."""


def model_of(sop_class_uid: str) -> str:
    """Give the information model of a query or retrieve class: its UID without the service."""
    return sop_class_uid.rpartition(".")[0]


def agreed(sop_class_uid: str, proposed: bytes) -> bytes:
    """Answer what the extended negotiation of a class proposes, as far as it is done here.

    Queries (PS3.4 C.5.1.1): relational ones, combined dates and times, fuzzy person names, empty
    values and several values; no adjusted time zones, no converted multi-frame images. Retrieval
    (C.5.2, C.5.3): relational. Worklists (K.5.1): fuzzy person names. Storage (B.3.1): all of an
    object is kept, its digital signatures too, and no element is changed.

    Returns
    -------
    bytes
        none where there is nothing to say
    """
    if sop_class_uid not in SERVICE_OF_CLASS:
        return _STORED_AS_IT_IS[: len(proposed)]
    done = _DONE.get(SERVICE_OF_CLASS[sop_class_uid], b"")
    return bytes(wanted and own for wanted, own in zip(map(bool, proposed), done, strict=False))


_STORED_AS_IT_IS: Final = bytes([2, 0, 3, 0, 0])
_DONE: Final[Mapping[str, bytes]] = {
    "find": bytes([1, 1, 1, 0, 0, 1, 1]),
    "move": bytes([1, 0]),
    "get": bytes([1, 0]),
    "worklist": bytes([1, 1, 1, 0]),
}
