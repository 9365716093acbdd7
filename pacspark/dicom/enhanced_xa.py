"""The Enhanced XA objects (PS3.3 A.47) that hold a scan's frames."""

import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, EnhancedXAImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from pacspark.ct.geometry import ConeBeamGeometry
from pacspark.ct.views import VECTORS
from pacspark.dicom.numbers import decimal_string
from pacspark.dicom.private import write_block
from pacspark.dicom.uids import derived_uid
from pacspark.errors import ScanDescriptionError
from pacspark.scans.description import ScanDescription

IMPLEMENTATION_CLASS_UID: Final = derived_uid("pacspark")
IMPLEMENTATION_VERSION_NAME: Final = "PACSPARK"
MANUFACTURER: Final = "pacspark"
ENCODING: Final = "import-scan 1"
"""Stands in the objects in place of the package's version, so that a scan which is imported again
after an upgrade still gives the same bytes. Whoever changes these bytes counts it up."""
UNKNOWN: Final = 0.0
"""The standard asks for a number where a scan description may know none; who knows the tube voltage
gives KVP as a subject's keyword."""

_EMPTY: Final = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber "
    "ReferringPhysicianName StudyID"
).split()
"""Type 2: present, and empty unless the subject says more."""
_TABLE: Final = (
    "TableTopVerticalPosition TableTopLongitudinalPosition TableTopLateralPosition "
    "TableHorizontalRotationAngle TableHeadTiltAngle TableCradleTiltAngle"
).split()
_OURS: Final = frozenset({0x0028, 0x7FE0, 0x0002, 0x5200})
"""Groups that describe the pixels and the file: no subject sets them."""
_OUR_KEYWORDS: Final = frozenset(
    "SOPClassUID SOPInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality ImageType "
    "InstanceNumber SpecificCharacterSet ContentDate ContentTime AcquisitionDateTime ImageComments "
    "ConcatenationUID InConcatenationNumber InConcatenationTotalNumber "
    "SOPInstanceUIDOfConcatenationSource ConcatenationFrameOffsetNumber PositionerType "
    "CArmPositionerTabletopRelationship PlanesInAcquisition PlaneIdentification "
    "PresentationLUTShape ContentQualification".split()
)
_DATES: Final = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
UNDATED: Final = datetime(1900, 1, 1)  # noqa: DTZ001 -- DICOM's times have no zone here either
"""Stands where the standard wants a date and the subject gives none. The files' dates would do
worse: a copy of a scan would be another scan."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which frames of a scan an instance holds.

    Attributes
    ----------
    role
        ``PROJECTION``, ``FLAT`` or ``DARK``.
    energy_bin
        Index of the energy bin.
    instance_number
        In the series, from 1.
    first, count
        Which of the bin's frames of this role, from 0.
    number, n_parts
        Place in the concatenation, from 0.
    n_flats, n_darks
        Of the bin, in all instances.
    """

    role: str
    energy_bin: int
    instance_number: int
    first: int
    count: int
    number: int
    n_parts: int
    n_flats: int
    n_darks: int


@dataclass(frozen=True)
class EnhancedXASeries:
    """Encodes the instances of one scan; all identifiers derive from the scan's digest.

    Attributes
    ----------
    description
        The scan.
    digest
        Of the description and all frames.
    slope, intercept
        ``value = stored * slope + intercept``, for every instance.
    """

    description: ScanDescription
    digest: str
    slope: float
    intercept: float

    @property
    def series_instance_uid(self) -> str:
        """Derived from the digest."""
        return derived_uid("series", self.digest)

    @property
    def study_instance_uid(self) -> str:
        """Given, or one for all scans of a patient in the same study, or one for this scan."""
        subject = self.description.subject
        if "StudyInstanceUID" in subject:
            return str(subject["StudyInstanceUID"])
        if "PatientID" not in subject:
            return derived_uid("study", self.digest)
        names = ("PatientID", "StudyID", "StudyDate", "AccessionNumber")
        return derived_uid("study", *(str(subject.get(name, "")) for name in names))

    def encode(self, stored: NDArray[np.uint16], part: Part) -> tuple[str, bytes]:
        """Return the SOP Instance UID and the Part 10 bytes of one instance.

        Parameters
        ----------
        stored
            Its frames ``(n, n_rows, n_columns)`` as they are stored.
        part
            Which frames they are.
        """
        uid = derived_uid("instance", self.digest, str(part.instance_number))
        dataset = self._header(uid, part)
        self._describe_pixels(dataset, stored)
        for keyword, value in self.description.subject.items():
            setattr(dataset, keyword, value if isinstance(value, str) else str(value))
        self._describe_frames(dataset, part)
        if part.n_parts > 1:
            whole = (self.digest, part.role, str(part.energy_bin))
            dataset.ConcatenationUID = derived_uid("concatenation", *whole)
            dataset.SOPInstanceUIDOfConcatenationSource = derived_uid("concatenated", *whole)
            dataset.InConcatenationNumber = part.number + 1
            dataset.InConcatenationTotalNumber = part.n_parts
            dataset.ConcatenationFrameOffsetNumber = part.first
        write_block(dataset, self._block(part))
        dataset.PixelData = stored.tobytes()  # 16 bits each: always of even length
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        return uid, buffer.getvalue()

    def _header(self, uid: str, part: Part) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = file_meta(EnhancedXAImageStorage, uid)
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPClassUID = EnhancedXAImageStorage
        dataset.SOPInstanceUID = uid
        for keyword in _EMPTY:
            setattr(dataset, keyword, "")
        acquired = acquired_at(self.description)
        dataset.Modality = "XA"
        dataset.SeriesNumber = 1
        dataset.StudyInstanceUID = self.study_instance_uid
        dataset.Manufacturer = MANUFACTURER
        dataset.ManufacturerModelName = "import-scan"
        dataset.DeviceSerialNumber = "1"
        dataset.SoftwareVersions = ENCODING
        dataset.SeriesInstanceUID = self.series_instance_uid
        # beyond the standard's IOD, so that results share the projections' frame of reference
        dataset.FrameOfReferenceUID = derived_uid("frame of reference", self.series_instance_uid)
        dataset.PositionReferenceIndicator = ""
        dataset.InstanceNumber = part.instance_number
        dataset.ContentDate = acquired.strftime("%Y%m%d")
        dataset.ContentTime = acquired.strftime("%H%M%S")
        dataset.AcquisitionDateTime = acquired.strftime("%Y%m%d%H%M%S")
        dataset.AcquisitionNumber = 1
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "SINGLE PLANE", "NONE"]
        dataset.ImageComments = part.role
        dataset.AcquisitionContextSequence = DicomSequence()
        return dataset

    def _describe_pixels(self, dataset: Dataset, stored: NDArray[np.uint16]) -> None:
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns = stored.shape
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = 0
        dataset.BurnedInAnnotation = "NO"
        dataset.LossyImageCompression = "00"
        dataset.PresentationLUTShape = "IDENTITY"
        dataset.ContentQualification = "RESEARCH"
        dataset.PlanesInAcquisition = "SINGLE PLANE"
        dataset.PlaneIdentification = "MONOPLANE"
        dataset.KVP = "0"
        dataset.RadiationSetting = "GR"
        dataset.RadiationMode = "CONTINUOUS"
        dataset.ExposureInmAs = UNKNOWN
        dataset.AveragePulseWidth = UNKNOWN
        dataset.AcquisitionDuration = UNKNOWN
        dataset.DistanceReceptorPlaneToDetectorHousing = None
        dataset.AcquiredImageAreaDoseProduct = None
        dataset.PositionerType = "CARM"
        dataset.CArmPositionerTabletopRelationship = "NO"

    def _describe_frames(self, dataset: Dataset, part: Part) -> None:
        geometry, detector = self.description.geometry, self.description.detector
        shared = Dataset()
        shared.FrameAnatomySequence = [
            _item(
                FrameLaterality="U",
                AnatomicRegionSequence=[
                    _item(
                        CodeValue="38266002",
                        CodingSchemeDesignator="SCT",
                        CodeMeaning="Entire body",
                    )
                ],
            )
        ]
        attenuation = self.description.kind == "line_integrals"
        spacing_mm = [
            decimal_string(detector.row_spacing_mm),
            decimal_string(detector.column_spacing_mm),
        ]
        shared.FramePixelDataPropertiesSequence = [
            _item(
                FrameType=list(dataset.ImageType),
                # LOG would ask for a look-up table back to intensities (C.8.19.6.4.1.1)
                PixelIntensityRelationship="OTHER" if attenuation else "LIN",
                PixelIntensityRelationshipSign=-1 if attenuation else 1,
                GeometricalProperties="UNIFORM",
                ImagerPixelSpacing=spacing_mm,
                ImageProcessingApplied="NONE",
            )
        ]
        shared.FrameVOILUTSequence = [_window(self.description.kind)]
        shared.FrameDetectorParametersSequence = [_item(DetectorActiveTime=None)]
        shared.TablePositionSequence = [_item(**dict.fromkeys(_TABLE, 0.0))]
        shared.CollimatorShapeSequence = [
            _item(
                CollimatorShape="RECTANGULAR",
                CollimatorLeftVerticalEdge=0,
                CollimatorRightVerticalEdge=detector.n_columns + 1,
                CollimatorUpperHorizontalEdge=0,
                CollimatorLowerHorizontalEdge=detector.n_rows + 1,
            )
        ]
        shared.IrradiationEventIdentificationSequence = [
            _item(IrradiationEventUID=derived_uid("irradiation event", self.digest))
        ]
        if isinstance(geometry, ConeBeamGeometry):
            shared.XRayGeometrySequence = [
                _item(
                    DistanceSourceToIsocenter=geometry.source_to_isocenter_mm,
                    DistanceSourceToDetector=decimal_string(geometry.source_to_detector_mm),
                )
            ]
        dataset.SharedFunctionalGroupsSequence = [shared]
        acquired = dataset.AcquisitionDateTime
        angles = self._angles_rad(part)
        if angles is None:
            angles = np.zeros(part.count)
        dataset.PerFrameFunctionalGroupsSequence = DicomSequence(
            _frame_item(number, float(angle), acquired)
            for number, angle in enumerate(angles, start=1)
        )

    def _angles_rad(self, part: Part) -> NDArray[np.float64] | None:
        """Return the gantry angle of each frame; of flats and darks, None."""
        if part.role != "PROJECTION":
            return None
        return self.description.geometry.gantry_angles_rad[part.first : part.first + part.count]

    def _block(self, part: Part) -> Mapping[str, Any]:
        description = self.description
        geometry, detector = description.geometry, description.detector
        cone = geometry if isinstance(geometry, ConeBeamGeometry) else None
        # views say where source and panel are: whoever does not know them is to miss the distances
        meant = cone if description.views is None else None
        angles = self._angles_rad(part)
        frames = slice(part.first, part.first + part.count)
        views = per_view(description) if part.role == "PROJECTION" else {}
        return {
            "frame_role": part.role,
            "kind": description.kind.upper(),
            "beam": "CONE" if cone else "PARALLEL",
            "gantry_angles_rad": None if angles is None else _floats(angles),
            "source_to_isocenter_mm": meant.source_to_isocenter_mm if meant else None,
            "source_to_detector_mm": meant.source_to_detector_mm if meant else None,
            "detector_spacing_mm": [detector.row_spacing_mm, detector.column_spacing_mm],
            "detector_offset_mm": [detector.offset_u_mm, detector.offset_v_mm],
            "row_order": detector.row_order.upper(),
            "rescale": [self.slope, self.intercept],
            "energy_bin": part.energy_bin,
            "energy_bin_edges_kev": _floats(description.energy_bin_edges_kev),
            "water_mu_per_mm": description.water_mu_per_mm,
            "unattenuated_counts": description.unattenuated_counts,
            "n_angles": geometry.n_angles,
            "first_frame": part.first,
            "n_energy_bins": description.n_energy_bins,
            "n_flats": part.n_flats,
            "n_darks": part.n_darks,
        } | {name: _floats(values[frames].ravel()) for name, values in views.items()}


def per_view(description: ScanDescription) -> dict[str, NDArray[np.float64]]:
    """Return what the private block has of each view besides its angle, ``(n_angles, ...)``."""
    geometry, views = description.geometry, description.views
    if views is not None:
        return {name: getattr(views, name) for name in VECTORS}
    if isinstance(geometry, ConeBeamGeometry) and geometry.source_shifts_mm is not None:
        return {"source_shifts_mm": geometry.source_shifts_mm}
    return {}


def require_subject(description: ScanDescription) -> None:
    """Refuse keywords that are not the subject's, and values that they cannot have.

    Raises
    ------
    ScanDescriptionError
        Naming the keyword.
    """
    for keyword, value in description.subject.items():
        problem = _subject_problem(keyword, str(value))
        if problem:
            message = f"{description.path}: subject.{keyword}: {problem}"
            raise ScanDescriptionError(message)
    acquired_at(description)


def acquired_at(description: ScanDescription) -> datetime:
    """Return when a scan was made, by the subject's dates; `UNDATED` where it has none."""
    subject = description.subject
    for date, time in _DATES:
        if date in subject:
            clock = f"{subject.get(time, '')!s:0<6}"[:6]
            try:
                return datetime.strptime(f"{subject[date]}{clock}", "%Y%m%d%H%M%S")  # noqa: DTZ007
            except ValueError as error:
                message = (
                    f"{description.path}: subject.{date}: expected YYYYMMDD, found "
                    f"{subject[date]!r}"
                )
                raise ScanDescriptionError(message) from error
    return UNDATED


def _subject_problem(keyword: str, value: str) -> str:
    """Say what is wrong with a keyword of the subject or its value; nothing where all is well."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        near = get_close_matches(keyword, keyword_dict, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"expected a DICOM keyword, found none of PS3.6{hint}"
    vr = dictionary_VR(tag)
    if tag >> 16 in _OURS or keyword in _OUR_KEYWORDS or vr in {"SQ", "OB", "OW", "UN", "AT"}:
        return (
            "expected a keyword of patient, study or series with a plain value, found one that the "
            "scan itself sets"
        )
    # text is UTF-8: no value needs the escape sequences of PS3.5 6.1.2.5
    allowed = "\t\n\f\r" if vr in {"LT", "ST", "UT"} else ""
    if any(unicodedata.category(letter) == "Cc" and letter not in allowed for letter in value):
        return f"expected text without control characters, found {value[:64]!r}"
    try:
        for part in [value] if vr in {"LT", "ST", "UT"} else value.split("\\"):
            validate_value(vr, part, RAISE)
    except (ValueError, TypeError) as error:
        return f"expected a value of VR {vr}, found {value[:64]!r}: {error}"
    return ""


def file_meta(sop_class_uid: str, sop_instance_uid: str) -> FileMetaDataset:
    """Return the file meta information of an uncompressed object of ours."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _window(kind: str) -> Dataset:
    """Return a window over all stored values; the private block's rescale says what they are."""
    return _item(
        WindowCenter="32768",
        WindowWidth="65536",
        WindowCenterWidthExplanation=kind.replace("_", " "),
    )


def _frame_item(number: int, angle_rad: float, acquired: str) -> Dataset:
    turned = math.remainder(math.degrees(angle_rad), 360.0)
    return _item(
        FrameContentSequence=[
            _item(
                FrameAcquisitionNumber=number,
                FrameReferenceDateTime=acquired,
                FrameAcquisitionDateTime=acquired,
                FrameAcquisitionDuration=UNKNOWN,
            )
        ],
        PositionerPositionSequence=[
            _item(PositionerPrimaryAngle=decimal_string(turned), PositionerSecondaryAngle="0")
        ],
    )


def _floats(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    return [float(value) for value in values]
