"""The Enhanced XA objects (PS3.3 A.47) that hold a scan's frames."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, EnhancedXAImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from pacspark import __version__
from pacspark.ct.geometry import ConeBeamGeometry
from pacspark.dicom.numbers import decimal_string
from pacspark.dicom.private import write_block
from pacspark.dicom.uids import derived_uid
from pacspark.errors import ScanDescriptionError
from pacspark.scans.description import ScanDescription

IMPLEMENTATION_CLASS_UID: Final = derived_uid("pacspark")
IMPLEMENTATION_VERSION_NAME: Final = f"PACSPARK {__version__}"[:16]
MANUFACTURER: Final = "pacspark"
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
    "InstanceNumber SpecificCharacterSet ContentDate ContentTime AcquisitionDateTime "
    "ConcatenationUID InConcatenationNumber PositionerType".split()
)


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

    @classmethod
    def of(
        cls, description: ScanDescription, digest: str, slope: float, intercept: float
    ) -> "EnhancedXASeries":
        """Check the subject's keywords, and make the series."""
        for keyword, value in description.subject.items():
            problem = _subject_problem(keyword, str(value))
            if problem:
                message = f"{description.path}: subject.{keyword}: {problem}"
                raise ScanDescriptionError(message)
        return cls(description, digest, slope, intercept)

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

    def encode(
        self,
        role: str,
        stored: NDArray[np.uint16],
        energy_bin: int,
        number: int,
        angle_start: int,
        part: int,
        n_parts: int,
    ) -> tuple[str, bytes]:
        """Return the SOP Instance UID and the Part 10 bytes of one instance.

        Parameters
        ----------
        role
            ``PROJECTION``, ``FLAT`` or ``DARK``.
        stored
            Frames ``(n, n_rows, n_columns)`` as they are stored.
        energy_bin
            Index of the energy bin.
        number
            Instance Number, from 1.
        angle_start
            Index in the scan of the first frame.
        part, n_parts
            Place in the concatenation, from 0.
        """
        uid = derived_uid("instance", self.digest, str(number))
        dataset = self._header(uid, role, number)
        self._describe_pixels(dataset, stored)
        self._describe_frames(dataset, role, len(stored), angle_start)
        if n_parts > 1:
            source = derived_uid("concatenation source", self.digest, str(energy_bin))
            dataset.ConcatenationUID = derived_uid("concatenation", self.digest, str(energy_bin))
            dataset.SOPInstanceUIDOfConcatenationSource = source
            dataset.InConcatenationNumber = part + 1
            dataset.InConcatenationTotalNumber = n_parts
            dataset.ConcatenationFrameOffsetNumber = angle_start
        write_block(dataset, self._block(role, len(stored), energy_bin, angle_start))
        dataset.PixelData = stored.tobytes() + (b"\0" if stored.nbytes % 2 else b"")
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        return uid, buffer.getvalue()

    def _header(self, uid: str, role: str, number: int) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = file_meta(EnhancedXAImageStorage, uid)
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPClassUID = EnhancedXAImageStorage
        dataset.SOPInstanceUID = uid
        for keyword in _EMPTY:
            setattr(dataset, keyword, "")
        acquired = self._acquired_at()
        dataset.Modality = "XA"
        dataset.SeriesNumber = 1
        dataset.StudyInstanceUID = self.study_instance_uid
        dataset.Manufacturer = MANUFACTURER
        dataset.ManufacturerModelName = "import-scan"
        dataset.DeviceSerialNumber = "1"
        dataset.SoftwareVersions = __version__
        for keyword, value in self.description.subject.items():
            setattr(dataset, keyword, value if isinstance(value, str) else str(value))
        dataset.SeriesInstanceUID = self.series_instance_uid
        # beyond the standard's IOD, so that results share the projections' frame of reference
        dataset.FrameOfReferenceUID = derived_uid("frame of reference", self.series_instance_uid)
        dataset.PositionReferenceIndicator = ""
        dataset.InstanceNumber = number
        dataset.ContentDate = acquired.strftime("%Y%m%d")
        dataset.ContentTime = acquired.strftime("%H%M%S")
        dataset.AcquisitionDateTime = acquired.strftime("%Y%m%d%H%M%S")
        dataset.AcquisitionNumber = 1
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "SINGLE PLANE", "NONE"]
        dataset.ImageComments = role
        dataset.AcquisitionContextSequence = DicomSequence()
        return dataset

    def _acquired_at(self) -> datetime:
        """Return when the scan was made, by the subject's dates, else by the files'."""
        subject = self.description.subject
        for date, time in (
            ("AcquisitionDate", "AcquisitionTime"),
            ("SeriesDate", "SeriesTime"),
            ("StudyDate", "StudyTime"),
        ):
            if date in subject:
                clock = f"{subject.get(time, '')!s:0<6}"[:6]
                try:
                    return datetime.strptime(f"{subject[date]}{clock}", "%Y%m%d%H%M%S")  # noqa: DTZ007
                except ValueError as error:
                    message = (
                        f"{self.description.path}: subject.{date}: expected YYYYMMDD, found "
                        f"{subject[date]!r}"
                    )
                    raise ScanDescriptionError(message) from error
        return self.description.modified_at

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
        dataset.KVP = str(self.description.subject.get("KVP", 0))
        dataset.RadiationSetting = "GR"
        dataset.RadiationMode = "CONTINUOUS"
        dataset.ExposureInmAs = UNKNOWN
        dataset.AveragePulseWidth = UNKNOWN
        dataset.AcquisitionDuration = UNKNOWN
        dataset.DistanceReceptorPlaneToDetectorHousing = None
        dataset.AcquiredImageAreaDoseProduct = None
        dataset.PositionerType = "CARM"
        dataset.CArmPositionerTabletopRelationship = "NO"

    def _describe_frames(
        self, dataset: Dataset, role: str, n_frames: int, angle_start: int
    ) -> None:
        geometry = self.description.geometry
        detector = geometry.detector
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
        spacing_mm = [
            decimal_string(detector.row_spacing_mm),
            decimal_string(detector.column_spacing_mm),
        ]
        shared.FramePixelDataPropertiesSequence = [
            _item(
                FrameType=list(dataset.ImageType),
                PixelIntensityRelationship="LIN" if self.description.kind == "counts" else "LOG",
                PixelIntensityRelationshipSign=1,
                GeometricalProperties="UNIFORM",
                ImagerPixelSpacing=spacing_mm,
                ImageProcessingApplied="NONE",
            )
        ]
        shared.FrameVOILUTSequence = [_window(self.description.kind)]
        shared.FrameDetectorParametersSequence = [
            _item(DetectorActiveTime=None, ImagerPixelSpacing=spacing_mm)
        ]
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
        angles = geometry.gantry_angles_rad[angle_start : angle_start + n_frames]
        if role != "PROJECTION":
            angles = np.zeros(n_frames)
        dataset.PerFrameFunctionalGroupsSequence = DicomSequence(
            _frame_item(number, float(angle), acquired)
            for number, angle in enumerate(angles, start=1)
        )

    def _block(
        self, role: str, n_frames: int, energy_bin: int, angle_start: int
    ) -> Mapping[str, Any]:
        description = self.description
        geometry, detector = description.geometry, description.geometry.detector
        cone = geometry if isinstance(geometry, ConeBeamGeometry) else None
        angles = geometry.gantry_angles_rad[angle_start : angle_start + n_frames]
        return {
            "frame_role": role,
            "kind": description.kind.upper(),
            "beam": "CONE" if cone else "PARALLEL",
            "gantry_angles_rad": _floats(angles) if role == "PROJECTION" else None,
            "source_to_isocenter_mm": cone.source_to_isocenter_mm if cone else None,
            "source_to_detector_mm": cone.source_to_detector_mm if cone else None,
            "detector_spacing_mm": [detector.row_spacing_mm, detector.column_spacing_mm],
            "detector_offset_mm": [detector.offset_u_mm, detector.offset_v_mm],
            "row_order": detector.row_order.upper(),
            "rescale": [self.slope, self.intercept],
            "energy_bin": energy_bin,
            "energy_bin_edges_kev": _floats(description.energy_bin_edges_kev),
            "water_mu_per_mm": description.water_mu_per_mm,
            "unattenuated_counts": description.unattenuated_counts,
            "n_angles": geometry.n_angles,
            "first_angle": angle_start,
            "n_energy_bins": description.n_energy_bins,
        }


def _subject_problem(keyword: str, value: str) -> str:
    """Say what is wrong with a keyword of the subject or its value; nothing where all is well."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        return "expected a DICOM keyword, found none of PS3.6"
    vr = dictionary_VR(tag)
    if tag >> 16 in _OURS or keyword in _OUR_KEYWORDS or vr in {"SQ", "OB", "OW", "UN", "AT"}:
        return (
            "expected a keyword of patient, study or series with a plain value, found one that the "
            "scan itself sets"
        )
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
