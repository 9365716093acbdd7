"""The promoted attributes: keyword, tag, VR, query level and column, each written once.

A promoted attribute is a column of the ``instances`` table; every other attribute is reached
through the DICOM JSON of its object. The list holds what PS3.4 C.6 requires or commonly returns at
the four query levels and what viewers and the reconstruction ask of each object.

How a value looks in its column, by VR:

========================  ===========  =====================================================
VR                        ``kind``     notes
========================  ===========  =====================================================
IS US UL SS SL            ``int64``
DS FD FL                  ``double``
everything else           ``string``   dates and times as received, person names whole
========================  ===========  =====================================================

An attribute whose value multiplicity can pass 1 (``multiple``) is a list of that kind. Dates and
times stay strings so that their matching and order are DICOM's (PS3.4 C.2.2.2.5) and nothing is
lost.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

Level = Literal["patient", "study", "series", "instance"]
Kind = Literal["string", "int64", "double"]

LEVELS: Final[tuple[Level, ...]] = ("patient", "study", "series", "instance")
"""The query levels of the patient root model, from the top."""

_INTEGER_VRS: Final = frozenset({"IS", "US", "UL", "SS", "SL"})
_FLOAT_VRS: Final = frozenset({"DS", "FD", "FL"})

_PROMOTED_KEYWORDS: Final[dict[Level, str]] = {
    "patient": """
        PatientName PatientID IssuerOfPatientID TypeOfPatientID PatientBirthDate PatientBirthTime
        PatientSex OtherPatientIDs OtherPatientNames EthnicGroup PatientSpeciesDescription
        PatientBreedDescription ResponsiblePerson PatientComments PatientIdentityRemoved
    """,
    "study": """
        StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID StudyDescription
        ReferringPhysicianName NameOfPhysiciansReadingStudy PhysiciansOfRecord
        AdmittingDiagnosesDescription PatientAge PatientSize PatientWeight Occupation
        AdditionalPatientHistory OtherStudyNumbers TimezoneOffsetFromUTC
    """,
    "series": """
        SeriesInstanceUID Modality SeriesNumber SeriesDate SeriesTime SeriesDescription
        BodyPartExamined Laterality ProtocolName PatientPosition ViewPosition
        PerformingPhysicianName OperatorsName PerformedProcedureStepID
        PerformedProcedureStepStartDate PerformedProcedureStepStartTime
        PerformedProcedureStepDescription Manufacturer ManufacturerModelName StationName
        DeviceSerialNumber SoftwareVersions InstitutionName InstitutionalDepartmentName
        FrameOfReferenceUID PositionReferenceIndicator SynchronizationFrameOfReferenceUID
        PresentationIntentType
    """,
    "instance": """
        SOPInstanceUID SOPClassUID TransferSyntaxUID SpecificCharacterSet InstanceNumber ImageType
        InstanceCreationDate InstanceCreationTime ContentDate ContentTime AcquisitionDate
        AcquisitionTime AcquisitionDateTime AcquisitionNumber AcquisitionUID
        Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration
        BitsAllocated BitsStored HighBit PixelRepresentation
        PixelSpacing ImagerPixelSpacing SliceThickness SpacingBetweenSlices SliceLocation
        ImagePositionPatient ImageOrientationPatient ImageLaterality
        WindowCenter WindowWidth RescaleIntercept RescaleSlope RescaleType
        KVP XRayTubeCurrent ExposureTime Exposure ConvolutionKernel ScanOptions GantryDetectorTilt
        ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient
        ContrastBolusAgent TemporalPositionIdentifier EchoTime RepetitionTime
        LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
        BurnedInAnnotation QualityControlImage ImageComments DerivationDescription
        ContentLabel ContentDescription ContentCreatorName CompletionFlag VerificationFlag
        DocumentTitle MIMETypeOfEncapsulatedDocument
        ConcatenationUID InConcatenationNumber InConcatenationTotalNumber
        ConcatenationFrameOffsetNumber SOPInstanceUIDOfConcatenationSource
    """,
}


def column_name(keyword: str) -> str:
    """Give the column of a DICOM keyword: its words in lower case, joined by underscores.

    A word starts at a capital letter; a run of capitals is one word, with the ``s`` of its plural,
    up to the capital that starts the next one.

    Parameters
    ----------
    keyword
        a keyword of PS3.6, in CamelCase

    Examples
    --------
    >>> [column_name(keyword) for keyword in ("SOPInstanceUID", "OtherPatientIDs", "KVP")]
    ['sop_instance_uid', 'other_patient_ids', 'kvp']
    """
    word = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z](?!s(?![a-z]))[a-z])"
    return re.sub(word, "_", keyword).lower()


def kind_of_vr(vr: str) -> Kind:
    """Give the type that values of a VR have in a column, as the table of this module says."""
    if vr in _INTEGER_VRS:
        return "int64"
    return "double" if vr in _FLOAT_VRS else "string"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One promoted DICOM attribute.

    Attributes
    ----------
    keyword
        as in PS3.6
    tag
        group and element in one integer, ``0xGGGGEEEE``
    vr
        the value representation of PS3.6
    level
        the query level whose objects share its value
    column
        its column in the ``instances`` table, by :func:`column_name`
    multiple
        whether its value multiplicity can pass 1, which makes the column a list
    """

    keyword: str
    tag: int
    vr: str
    level: Level
    column: str
    multiple: bool

    @property
    def kind(self) -> Kind:
        """The type of one value in the column."""
        return kind_of_vr(self.vr)


def _attribute(keyword: str, level: Level) -> Attribute:
    tag = tag_for_keyword(keyword)
    if tag is None:
        message = f"{keyword} is no keyword of the DICOM dictionary"
        raise LookupError(message)
    multiple = dictionary_VM(tag) != "1"
    return Attribute(keyword, tag, dictionary_VR(tag), level, column_name(keyword), multiple)


PROMOTED: Final[tuple[Attribute, ...]] = tuple(
    _attribute(keyword, level)
    for level, keywords in _PROMOTED_KEYWORDS.items()
    for keyword in keywords.split()
)
"""Every promoted attribute, from patient to instance."""

BY_KEYWORD: Final = MappingProxyType({attribute.keyword: attribute for attribute in PROMOTED})
BY_TAG: Final = MappingProxyType({attribute.tag: attribute for attribute in PROMOTED})

UNIQUE_KEYS: Final = MappingProxyType(
    {
        "patient": BY_KEYWORD["PatientID"],
        "study": BY_KEYWORD["StudyInstanceUID"],
        "series": BY_KEYWORD["SeriesInstanceUID"],
        "instance": BY_KEYWORD["SOPInstanceUID"],
    }
)
"""The unique key of each query level (PS3.4 C.6.1.1)."""

COUNTS: Final[Mapping[Level, Mapping[str, Level]]] = MappingProxyType(
    {
        "patient": {
            "NumberOfPatientRelatedStudies": "study",
            "NumberOfPatientRelatedSeries": "series",
            "NumberOfPatientRelatedInstances": "instance",
        },
        "study": {
            "NumberOfStudyRelatedSeries": "series",
            "NumberOfStudyRelatedInstances": "instance",
        },
        "series": {"NumberOfSeriesRelatedInstances": "instance"},
        "instance": {},
    }
)
"""What is counted for the answer at each query level: keyword, and the level that it counts."""

STUDY_LISTS: Final = MappingProxyType(
    {"ModalitiesInStudy": BY_KEYWORD["Modality"], "SOPClassesInStudy": BY_KEYWORD["SOPClassUID"]}
)
"""Attributes of a study that list those of its objects."""
