"""Every error that pacspark raises on purpose, in one hierarchy.

Each class also inherits the builtin that a caller would catch, and is built from ``args`` only, so
that it pickles through Spark. A message says what was expected, what was found, and where::

    PacsparkError
    ├── GeometryError(ValueError)             a scanner, a detector or a grid that cannot be
    ├── ProjectionDataError(ValueError)       pixels that cannot be: shape, NaN, empty flats
    ├── ScanDescriptionError(ValueError)      SCAN.toml or the files it names
    ├── DicomDecodeError(ValueError)          bytes that are not readable DICOM
    │   ├── NotDicomError                     bytes of something else
    │   ├── InstanceMismatchError             an object that is another than was announced
    │   └── DeidentificationError             an object that cannot be made to identify nobody
    ├── TranscodingError(ValueError)          pixels that cannot be decoded for a peer
    ├── QueryError(ValueError)                a query that nobody can answer
    ├── QueryTooLargeError(RuntimeError)      a query that would read more than it may
    ├── RequestTooLargeError(RuntimeError)    a request that would take more than it may
    ├── UnacceptableError(ValueError)         a form of an object that cannot be had
    ├── UsageError(ValueError)                arguments that do not go together
    ├── MemoryBudgetError(MemoryError)        a plan that does not fit its memory
    ├── ArchiveNotFoundError(FileNotFoundError)
    ├── StorageError(OSError)                 a disk, HDFS or S3 that fails
    │   ├── ObjectChangedError                an object that is not the same when it is read again
    │   └── LandingFullError                  no room where received objects are kept first
    ├── NotInArchiveError(LookupError)        a UID or a run that the archive does not hold
    │   ├── InstanceNotFoundError
    │   ├── SeriesNotFoundError
    │   └── RunNotFoundError
    ├── HeldError(PermissionError)            a study that a legal hold keeps
    ├── CommitConflictError(RuntimeError)     other writers won every attempt
    ├── ProtocolError(RuntimeError)           a peer that does not keep to DICOM's protocol
    ├── AssociationEndedError(ConnectionError) an association that ended before its work did
    ├── JobError(RuntimeError)                Spark, or a task of it, that failed otherwise
    └── MissingDependencyError(ImportError)   an optional package or program
"""


class PacsparkError(Exception):
    """Base of all errors that pacspark raises on purpose."""


class GeometryError(PacsparkError, ValueError):
    """A scanner, a detector or a grid that cannot be."""


class ProjectionDataError(PacsparkError, ValueError):
    """Projection pixels that contradict their geometry: shape, NaN, empty flats."""


class ScanDescriptionError(PacsparkError, ValueError):
    """A ``SCAN.toml`` that cannot be followed, or files that are not as it says."""

    def __init__(self, message: str) -> None:
        # keys, values and names of files are anybody's: escaped, they steer no terminal
        super().__init__(
            "".join(
                letter if letter.isprintable() else letter.encode("unicode_escape").decode()
                for letter in message
            )
        )


class DicomDecodeError(PacsparkError, ValueError):
    """Bytes that are not readable DICOM."""


class NotDicomError(DicomDecodeError):
    """Bytes that nobody meant to be DICOM."""


class InstanceMismatchError(DicomDecodeError):
    """An object whose UIDs are not those under which its sender announced it."""


class DeidentificationError(DicomDecodeError):
    """An object that cannot be made to identify nobody; the message holds no value of it."""


class TranscodingError(PacsparkError, ValueError):
    """An object that cannot be given in another transfer syntax."""


class QueryError(PacsparkError, ValueError):
    """A keyword or a value that no query can hold."""


class QueryTooLargeError(PacsparkError, RuntimeError):
    """A query whose answer would need more reading than one query may have."""


class RequestTooLargeError(PacsparkError, RuntimeError):
    """A request whose body or whose answer would take more than one request may."""


class UnacceptableError(PacsparkError, ValueError):
    """A form of an object, a media type or transfer syntax, that it cannot be given in."""


class UsageError(PacsparkError, ValueError):
    """Arguments that do not go together."""


class MemoryBudgetError(PacsparkError, MemoryError):
    """A plan that does not fit its memory; the message names the smallest budget that would do."""


class ArchiveNotFoundError(PacsparkError, FileNotFoundError):
    """No archive at the given root."""


class StorageError(PacsparkError, OSError):
    """A disk, HDFS or S3 that does not do what was asked."""


class ObjectChangedError(StorageError):
    """An object whose bytes are others, or are gone, when they are read a second time."""


class LandingFullError(StorageError):
    """No room on the disk where received objects are kept before the tables have them."""


class NotInArchiveError(PacsparkError, LookupError):
    """A UID that the archive does not hold."""


class InstanceNotFoundError(NotInArchiveError):
    """A SOP Instance UID that the archive does not hold."""


class SeriesNotFoundError(NotInArchiveError):
    """A Series Instance UID that the archive does not hold."""


class RunNotFoundError(NotInArchiveError):
    """A run that the table `runs` does not have."""


class HeldError(PacsparkError, PermissionError):
    """A study that a legal hold keeps from being deleted."""


class CommitConflictError(PacsparkError, RuntimeError):
    """Other writers won every attempt to commit."""


class ProtocolError(PacsparkError, RuntimeError):
    """A peer that does not keep to the protocol of DICOM, or to what it may ask for."""


class AssociationEndedError(PacsparkError, ConnectionError):
    """An association that was aborted, refused or lost, or whose peer fell silent."""


class JobError(PacsparkError, RuntimeError):
    """Spark ended, or a task of it in an error that is none of pacspark's."""


class MissingDependencyError(PacsparkError, ImportError):
    """An optional package or program is missing; the message names the line that installs it."""
