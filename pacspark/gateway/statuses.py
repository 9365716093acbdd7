"""One table: what each error of pacspark is to a DIMSE peer and to an HTTP client.

DIMSE statuses are those of PS3.4 B.2.3 (C-STORE), C.4 (C-FIND, C-MOVE, C-GET) and PS3.7 C.
"""

from typing import Final

from pacspark.errors import (
    AssociationEndedError,
    CommitConflictError,
    DicomDecodeError,
    GeometryError,
    HeldError,
    InstanceMismatchError,
    LandingFullError,
    MissingDependencyError,
    NotInArchiveError,
    ProjectionDataError,
    ProtocolError,
    QueryError,
    QueryTooLargeError,
    RequestTooLargeError,
    StorageError,
    TranscodingError,
    UnacceptableError,
    UsageError,
)

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
PENDING_WITH_WARNING: Final = 0xFF01
"""Matches go on; not every optional key was supported."""
CANCELLED: Final = 0xFE00
SUBOPERATIONS_FAILED: Final = 0xB000
"""Some of the sub-operations failed or warned."""
NO_SUBOPERATION_WORKED: Final = 0xA702
OUT_OF_RESOURCES: Final = 0xA700
UNKNOWN_DESTINATION: Final = 0xA801
DOES_NOT_MATCH: Final = 0xA900
"""Data set or identifier does not match the SOP class."""
CANNOT_UNDERSTAND: Final = 0xC000
UNABLE_TO_PROCESS: Final = 0xC001
DUPLICATE_INSTANCE: Final = 0x0111
"""The archive has other bytes under this UID; the newcomer is in `rejects`."""
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORIZED: Final = 0x0124
UNRECOGNIZED_OPERATION: Final = 0x0211
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_ACTION: Final = 0x0123
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_INSTANCE: Final = 0x0112

_TABLE: Final[tuple[tuple[type[Exception], int, int], ...]] = (
    # from the most special to the most general: the first that fits counts
    (LandingFullError, OUT_OF_RESOURCES, 507),
    (InstanceMismatchError, DOES_NOT_MATCH, 409),
    (DicomDecodeError, CANNOT_UNDERSTAND, 409),
    (TranscodingError, UNABLE_TO_PROCESS, 406),
    (QueryTooLargeError, OUT_OF_RESOURCES, 413),
    (RequestTooLargeError, OUT_OF_RESOURCES, 413),
    (QueryError, DOES_NOT_MATCH, 400),
    (UnacceptableError, UNABLE_TO_PROCESS, 406),
    (HeldError, NOT_AUTHORIZED, 409),
    (UsageError, DOES_NOT_MATCH, 400),
    (GeometryError, DOES_NOT_MATCH, 400),
    (ProjectionDataError, CANNOT_UNDERSTAND, 409),
    (NotInArchiveError, NO_SUCH_INSTANCE, 404),
    (MissingDependencyError, UNABLE_TO_PROCESS, 501),
    (CommitConflictError, OUT_OF_RESOURCES, 503),
    (StorageError, OUT_OF_RESOURCES, 503),
    (ProtocolError, UNABLE_TO_PROCESS, 400),
    (AssociationEndedError, UNABLE_TO_PROCESS, 502),
)


def dimse_status(error: Exception) -> int:
    """Give the DIMSE status of an error."""
    return next((dimse for kind, dimse, _ in _TABLE if isinstance(error, kind)), PROCESSING_FAILURE)


def http_status(error: Exception) -> int:
    """Give the HTTP status of an error."""
    return next((http for kind, _, http in _TABLE if isinstance(error, kind)), 500)
