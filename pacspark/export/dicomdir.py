"""DICOMDIR: the table of contents of a file-set (PS3.10 8.6, PS3.3 Annex F).

Records lie one after the other as a tree is walked, and point at each other by their place in the
file; each is encoded once, to a few hundred bytes. pydicom's own file-set would read and encode
every object anew, so that bytes out were no longer bytes in; it is asked for the kinds of records.
"""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.fileset import DIRECTORY_RECORDERS, _four_level_record_type
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage, RTDoseStorage

from pacspark.dicom.uids import derived_uid
from pacspark.errors import UsageError

RECORD_COLUMNS: Final = (
    *("specific_character_set", "patient_id", "patient_name", "study_instance_uid", "study_date"),
    *("study_time", "study_description", "study_id", "accession_number", "series_instance_uid"),
    *("modality", "series_number", "series_date", "acquisition_date", "content_date"),
    *("content_time", "received_at", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid"),
    *("instance_number", "frame_kind"),
)
"""What the records of an object are made of; of objects that are no images also its data set."""
FILE_SET_ID: Final = "PACSPARK"
IN_USE: Final = 0xFFFF
_ITEM: Final = bytes.fromhex("feff00e0")
_ITEM_HEADER_BYTES: Final = 8
# after the header of the item: (0004,1400) UL, (0004,1410) US, (0004,1420) UL
_NEXT_AT: Final = _ITEM_HEADER_BYTES + 8
_LOWER_AT: Final = _ITEM_HEADER_BYTES + 12 + 10 + 8
MOST_BYTES: Final = 0xFFFFFFFE


@dataclass(slots=True)
class _Record:
    """A directory record, encoded, with those below it."""

    content: bytearray
    below: dict[str, "_Record"] = field(default_factory=dict)
    offset: int = 0


class DirectoryBuilder:
    """Takes objects in, one after the other, and gives the DICOMDIR that lists them."""

    def __init__(self) -> None:
        self._patients: dict[str, _Record] = {}
        self._uids: list[str] = []

    def add(self, row: Mapping[str, Any], file_id: Sequence[str], dicom_json: str = "") -> None:
        """Add an object.

        Parameters
        ----------
        row
            its columns `RECORD_COLUMNS`
        file_id
            the names of its folders and of its file, below that of the DICOMDIR
        dicom_json
            its data set, of what `is_image` does not call an image

        Raises
        ------
        UsageError
            When it lacks what its kind of record must say.
        """
        patient_id = row["patient_id"] or "unknown"
        patient = _below(self._patients, patient_id, lambda: _patient(row, patient_id))
        studies = patient.below
        study = _below(studies, row["study_instance_uid"], lambda: _study(row, len(studies) + 1))
        all_series = study.below
        series = _below(
            all_series, row["series_instance_uid"], lambda: _series(row, len(all_series) + 1)
        )
        number = row["instance_number"]
        if number is None:
            number = len(series.below) + 1
        series.below[row["sop_instance_uid"]] = _leaf(row, number, file_id, dicom_json)
        self._uids.append(row["sop_instance_uid"])

    def content(self) -> bytes:
        """Encode the DICOMDIR.

        Raises
        ------
        UsageError
            When it would pass 4 GiB.
        """
        start = len(self._header(0, 0)) + 12  # the sequence's tag, VR and length
        records = list(_walk(self._patients.values()))
        for record in records:
            record.offset = start
            start += len(record.content)
        if start > MOST_BYTES:
            message = f"DICOMDIR: expected at most {MOST_BYTES} bytes, found {start}"
            raise UsageError(message)
        _link(list(self._patients.values()))
        patients = list(self._patients.values())
        ends = [record.offset for record in (*patients[:1], *patients[-1:])] or [0, 0]
        body = b"".join(bytes(record.content) for record in records)
        sequence = bytes.fromhex("04002012") + b"SQ\0\0" + len(body).to_bytes(4, "little")
        return self._header(*ends) + sequence + body

    def _header(self, first: int, last: int) -> bytes:
        directory = Dataset()
        directory.file_meta = FileMetaDataset()
        directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        directory.file_meta.MediaStorageSOPInstanceUID = UID(derived_uid("DICOMDIR", *self._uids))
        directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        directory.FileSetID = FILE_SET_ID
        directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = first
        directory.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = last
        directory.FileSetConsistencyFlag = 0
        buffer = io.BytesIO()
        directory.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def is_image(row: Mapping[str, Any]) -> bool:
    """Tell whether columns are enough for the record of an object."""
    return bool(row["frame_kind"] != "none" and row["sop_class_uid"] != RTDoseStorage)


def _below(records: dict[str, _Record], key: str, make: Any) -> _Record:
    if key not in records:
        records[key] = make()
    return records[key]


def _patient(row: Mapping[str, Any], patient_id: str) -> _Record:
    keys = Dataset()
    keys.PatientName = row["patient_name"] or ""
    keys.PatientID = patient_id
    return _record("PATIENT", keys)


def _study(row: Mapping[str, Any], number: int) -> _Record:
    keys = Dataset()
    keys.StudyDate, keys.StudyTime = _date(row), row["study_time"] or "000000"
    keys.StudyDescription = row["study_description"] or ""
    keys.StudyInstanceUID = row["study_instance_uid"]
    keys.StudyID = row["study_id"] or str(number)
    keys.AccessionNumber = row["accession_number"] or ""
    return _record("STUDY", keys)


def _date(row: Mapping[str, Any]) -> str:
    """Give the date of a study, which must have one here: at worst the day that it came in."""
    known = [row[f"{what}_date"] for what in ("study", "series", "acquisition", "content")]
    return next(filter(None, known), None) or f"{row['received_at']:%Y%m%d}"


def _series(row: Mapping[str, Any], number: int) -> _Record:
    keys = Dataset()
    keys.Modality = row["modality"] or "OT"
    keys.SeriesInstanceUID = row["series_instance_uid"]
    keys.SeriesNumber = number if row["series_number"] is None else row["series_number"]
    return _record("SERIES", keys)


def _leaf(row: Mapping[str, Any], number: int, file_id: Sequence[str], dicom_json: str) -> _Record:
    kind, keys = "IMAGE", Dataset()
    if is_image(row):
        keys.InstanceNumber = number
    else:
        whole = Dataset.from_json(dicom_json)
        for keyword, value in (
            ("InstanceNumber", number),
            ("ContentDate", _date(row)),
            ("ContentTime", row["content_time"] or row["study_time"] or "000000"),
        ):
            if whole.get(keyword) in {None, ""}:
                setattr(whole, keyword, value)
        kind = _kind(whole)
        try:
            keys = DIRECTORY_RECORDERS[kind](whole)
        except ValueError as error:
            message = f"DICOMDIR: {row['sop_instance_uid']}: {kind}: {error}"
            raise UsageError(message) from error
    keys.ReferencedFileID = list(file_id)
    keys.ReferencedSOPClassUIDInFile = row["sop_class_uid"]
    keys.ReferencedSOPInstanceUIDInFile = row["sop_instance_uid"]
    keys.ReferencedTransferSyntaxUIDInFile = row["transfer_syntax_uid"]
    return _record(kind, keys)


def _kind(whole: Dataset) -> str:
    # bulk data is not in the data set that is kept, so its kind shows in its class
    if "EncapsulatedDocument" not in whole and whole.SOPClassUID.keyword.startswith("Encapsulated"):
        return "ENCAP DOC"
    return _four_level_record_type(whole)


def _record(kind: str, keys: Dataset) -> _Record:
    record = Dataset()
    record.OffsetOfTheNextDirectoryRecord = 0
    record.RecordInUseFlag = IN_USE
    record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    record.DirectoryRecordType = kind
    record.SpecificCharacterSet = "ISO_IR 192"
    record.update(keys)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, record)
    encoded = buffer.getvalue()
    return _Record(bytearray(_ITEM + len(encoded).to_bytes(4, "little") + encoded))


def _walk(records: Iterable[_Record]) -> Iterable[_Record]:
    for record in records:
        yield record
        yield from _walk(record.below.values())


def _link(siblings: Sequence[_Record]) -> None:
    """Write into each record where the next of its siblings is, and the first one below it."""
    for record, after in itertools.zip_longest(siblings, siblings[1:]):
        below = list(record.below.values())
        for place, pointed in ((_NEXT_AT, after), (_LOWER_AT, below[0] if below else None)):
            offset = 0 if pointed is None else pointed.offset
            record.content[place : place + 4] = offset.to_bytes(4, "little")
        _link(below)
