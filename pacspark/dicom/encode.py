"""Reconstructed slices as CT images (PS3.3 A.3).

The axes of the patient (L, P, S) are the scanner's x, y, z: rows of an image run along x, columns
along y, slices along z. Values are Hounsfield units where the attenuation of water is known; else a
linear map, whose slope and intercept give attenuation in 1/m: the Rescale Type says so, though the
standard has no term for it.

Objects derive from the run alone, without clock or chance: the same run gives the same bytes.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage

from pacspark import __version__
from pacspark.ct.coverage import length_unit
from pacspark.ct.geometry import VolumeGrid
from pacspark.dicom.enhanced_xa import MANUFACTURER, file_meta
from pacspark.dicom.numbers import decimal_string
from pacspark.dicom.scan import StoredScan
from pacspark.dicom.uids import derived_uid
from pacspark.errors import GeometryError

HU_INTERCEPT: Final = -1024
PER_M: Final = "1/m"
"""The unit of attenuation in objects; everywhere else it is 1/mm."""
MM_PER_M: Final = 1000
MAX_EDGE: Final = 65535
MOST_WATER_MU_PER_MM: Final = 500.0
"""Of rays of 1 keV water takes 408 (NIST, X-Ray Mass Attenuation Coefficients); with more, all
there is would be air."""
MAX_PIXEL_BYTES: Final = 2**32 - 2
"""Pixel data of one object (PS3.5 7.1): the length has 32 bits, and all ones mean another thing."""
LENGTHS_IN_PIXELS: Final = "lengths are in pixels of the detector, of which the scan says no size"
"""Ends the Derivation Description of such a series, where the standard has only mm."""

_COPIED: Final = (
    "SpecificCharacterSet PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex "
    "PatientAge PatientWeight PatientSpeciesDescription StudyInstanceUID StudyDate StudyTime "
    "AccessionNumber ReferringPhysicianName StudyID StudyDescription FrameOfReferenceUID "
    "PositionReferenceIndicator BodyPartExamined InstitutionName AcquisitionDateTime"
).split()
_COPIED_TAGS: Final = tuple(f"{tag_for_keyword(keyword):08X}" for keyword in _COPIED)
_REQUIRED_EMPTY: Final = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber "
    "ReferringPhysicianName StudyID PositionReferenceIndicator KVP AcquisitionNumber"
).split()


@dataclass(frozen=True, slots=True)
class ValueMap:
    """How attenuation is stored in 16 bits.

    Attributes
    ----------
    unit
        ``HU`` or ``1/m``: what ``stored * slope + intercept`` is in.
    slope, intercept
        As written, decimal strings that PS3.5 permits.
    signed
        Whether pixels are signed.
    water_mu_per_mm
        For HU.
    window_center, window_width
        What a viewer shows first, in `unit`.
    """

    unit: str
    slope: str
    intercept: str
    signed: bool
    water_mu_per_mm: float
    window_center: str
    window_width: str

    @classmethod
    def hounsfield(cls, water_mu_per_mm: float) -> "ValueMap":
        """Map to Hounsfield units: 1000 (mu / mu_water - 1), whole numbers."""
        if not 0 < water_mu_per_mm <= MOST_WATER_MU_PER_MM:
            message = (
                f"water_mu_per_mm: expected a number > 0, at most {MOST_WATER_MU_PER_MM:g}, found "
                f"{water_mu_per_mm!r}"
            )
            raise GeometryError(message)
        return cls("HU", "1", str(HU_INTERCEPT), True, water_mu_per_mm, "0", "2000")

    @classmethod
    def linear(cls, lowest: float, highest: float, headroom: float) -> "ValueMap":
        """Map a range of 1/mm, widened by `headroom` of its span at both ends, to 0..65535.

        What is written is in 1/m: tissue is about 20 then, and viewers whose windows are whole
        numbers and not narrower than 1, as that of LINEAR is, show it (PS3.3 C.11.2.1.2).
        """
        span = highest - lowest if highest > lowest else max(abs(highest), 1e-6)
        per_mm = (
            (1 + 2 * headroom) * span / MAX_EDGE,
            lowest - headroom * span,
            (lowest + highest) / 2,
            span,
        )
        slope, intercept, center, width = (decimal_string(value * MM_PER_M) for value in per_mm)
        return cls(PER_M, slope, intercept, False, 0.0, center, width)

    def stored(self, values: NDArray[np.float32]) -> NDArray[np.integer[Any]]:
        """Return 16-bit pixels of attenuation values in 1/mm; what does not fit is clamped."""
        scaled, limits = self._scaled(values), self._limits
        return np.clip(np.rint(scaled), *limits).astype("<i2" if self.signed else "<u2")

    def clamped(self, values: NDArray[np.float32]) -> int:
        """Count the values that do not fit."""
        scaled, (lowest, highest) = self._scaled(values), self._limits
        return int(np.count_nonzero((scaled < lowest - 0.5) | (scaled > highest + 0.5)))

    @property
    def _limits(self) -> tuple[int, int]:
        return (-32768, 32767) if self.signed else (0, 65535)

    def _scaled(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        wide = values.astype(np.float64)
        if self.unit == "HU":
            wide = 1000 * (wide / self.water_mu_per_mm - 1)
        else:
            wide *= MM_PER_M
        return (wide - float(self.intercept)) / float(self.slope)


@dataclass(frozen=True, slots=True)
class CTSeries:
    """Encodes the slices of one reconstruction.

    Attributes
    ----------
    run_id
        What all UIDs derive from.
    header
        DICOM JSON: patient, study and frame of reference of the source.
    source_series_uid
        What was reconstructed.
    grid
        Where the voxels are.
    values
        How they are stored.
    derivation
        What was done, for people.
    series_description
        Of the new series.
    """

    run_id: str
    header: str
    source_series_uid: str
    grid: VolumeGrid
    values: ValueMap
    derivation: str
    series_description: str
    series_number: int = 100

    @classmethod
    def of_scan(
        cls,
        scan: StoredScan,
        run_id: str,
        grid: VolumeGrid,
        values: ValueMap,
        energy_bin: int,
        how: str,
    ) -> "CTSeries":
        """Make the series of a reconstruction of a stored scan; `how` it was filtered, in words."""
        if max(grid.shape[1:]) > MAX_EDGE:
            message = (
                f"grid.shape: expected at most {MAX_EDGE} rows and columns, found {grid.shape}"
            )
            raise GeometryError(message)
        if 2 * math.prod(grid.shape[1:]) > MAX_PIXEL_BYTES:
            message = (
                f"grid.shape: expected slices of at most {MAX_PIXEL_BYTES // 2} voxels, which are "
                f"4 GiB of pixels, found {grid.shape}; give larger voxels"
            )
            raise GeometryError(message)
        edges = scan.energy_bin_edges_kev
        energies = f", {edges[energy_bin]:g}-{edges[energy_bin + 1]:g} keV" if edges else ""
        header = json.loads(scan.header)
        given = header.get("0008103E", {}).get("Value", [""])[0]
        # what slices take over and no more: every task of the reconstruction carries it
        copied = {tag: header[tag] for tag in _COPIED_TAGS if tag in header}
        return cls(
            run_id=run_id,
            header=json.dumps(copied),
            source_series_uid=scan.series_instance_uid,
            grid=grid,
            values=values,
            derivation=(
                f"FDK reconstruction, filter {how}, of {scan.geometry.n_angles} views of "
                f"series {scan.series_instance_uid}{energies} by pacspark {__version__}"
                + (f"; {LENGTHS_IN_PIXELS}" if length_unit(scan.geometry) == "pixels" else "")
            ),
            series_description=f"{given or 'scan'}, FDK {how}{energies}"[:64],
            series_number=100 + energy_bin,
        )

    @property
    def series_instance_uid(self) -> str:
        """Derived from the run."""
        return ct_series_uid(self.run_id)

    def encode_slab(self, slab: Iterable[NDArray[np.float32]], z_start: int) -> Iterator[bytes]:
        """Encode a slab's slices.

        Parameters
        ----------
        slab
            Slices ``(n_y, n_x)`` of attenuation in 1/mm.
        z_start
            Index in the grid of its first slice.

        Yields
        ------
        bytes
            One Part 10 object per slice.
        """
        for header, values in zip(self.headers(z_start), slab, strict=False):
            yield header + self.values.stored(values).tobytes()

    def headers(self, z_start: int) -> Iterator[bytes]:
        """Give what stands before the pixels of each slice from one on, their length included.

        The pixels, 16 bits each, are the rest of the object.
        """
        header = _SliceHeader(self._template())
        z_mm, y_mm, x_mm = self.grid.z_mm, self.grid.y_mm, self.grid.x_mm
        for z in range(z_start, self.grid.shape[0]):
            uid = derived_uid("ct slice", self.run_id, str(z))
            position = [decimal_string(mm) for mm in (x_mm[0], y_mm[0], z_mm[z])]
            yield header.encode(uid, z + 1, position, self.pixel_bytes)

    @property
    def pixel_bytes(self) -> int:
        """Length of a slice's pixel data, always even."""
        return 2 * math.prod(self.grid.shape[1:])

    def _template(self) -> Dataset:
        dataset = Dataset()
        source = Dataset.from_json(self.header)
        for keyword in _REQUIRED_EMPTY:
            setattr(dataset, keyword, "" if keyword != "KVP" else None)
        for keyword in _COPIED:
            if keyword in source:
                dataset[keyword] = source[keyword]
        dz_mm, dy_mm, dx_mm = self.grid.voxel_mm
        signed = self.values.signed
        dataset.SOPClassUID = CTImageStorage
        dataset.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
        dataset.Modality = "CT"
        dataset.Manufacturer = MANUFACTURER
        dataset.SoftwareVersions = __version__
        dataset.SeriesDescription = self.series_description
        dataset.SeriesInstanceUID = self.series_instance_uid
        dataset.SeriesNumber = self.series_number
        dataset.PatientPosition = "HFS"
        dataset.SliceThickness = decimal_string(dz_mm)
        dataset.SpacingBetweenSlices = decimal_string(dz_mm)
        dataset.PixelSpacing = [decimal_string(dy_mm), decimal_string(dx_mm)]
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        dataset.Rows, dataset.Columns = self.grid.shape[1:]
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = int(signed)
        dataset.RescaleSlope = self.values.slope
        dataset.RescaleIntercept = self.values.intercept
        dataset.RescaleType = self.values.unit
        dataset.WindowCenter = self.values.window_center
        dataset.WindowWidth = self.values.window_width
        dataset.VOILUTFunction = "LINEAR_EXACT"  # LINEAR shows half a unit beside
        dataset.BurnedInAnnotation = "NO"
        dataset.LossyImageCompression = "00"
        dataset.DerivationDescription = self.derivation
        dataset.ContributingEquipmentSequence = [_processing_equipment()]
        dataset.RelatedSeriesSequence = [self._source_series(source.StudyInstanceUID)]
        if "BodyPartExamined" not in dataset:
            dataset.Laterality = ""
        return dataset

    def _source_series(self, study_instance_uid: str) -> Dataset:
        """Return the reference to the projections.

        By series, not by instance: it is one item however many instances a scan has, and a series
        that is looked at alone refers to nothing that is missing.
        """
        purpose = Dataset()
        purpose.CodeValue = "121322"
        purpose.CodingSchemeDesignator = "DCM"
        purpose.CodeMeaning = "Source image for image processing operation"
        item = Dataset()
        item.StudyInstanceUID = study_instance_uid
        item.SeriesInstanceUID = self.source_series_uid
        item.PurposeOfReferenceCodeSequence = [purpose]
        return item


class _SliceHeader:
    """The header that all slices share, written once, and cut where they differ.

    Slice by slice, pydicom would take most of the time of a slice's encoding.

    Parameters
    ----------
    template
        All attributes of a slice; those that differ get stand-ins.
    """

    def __init__(self, template: Dataset) -> None:
        first = self._own_elements("1.2", 1, ["1", "1", "1"])
        template.SOPInstanceUID = "1.2"
        template.InstanceNumber = 1
        template.ImagePositionPatient = ["1", "1", "1"]
        template.SliceLocation = "1"
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, template)
        rest = buffer.getvalue()
        self._shared: list[bytes] = []
        for element in first:
            before, found, rest = rest.partition(element)
            assert found, element  # noqa: S101 -- written just above
            self._shared.append(before)
        self._shared.append(rest)

    def encode(
        self, uid: str, instance_number: int, position_mm: list[str], pixel_bytes: int
    ) -> bytes:
        """Return the Part 10 object of one slice up to its pixels."""
        meta = DicomBytesIO()
        meta.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(meta, file_meta(CTImageStorage, uid))
        parts = [meta.getvalue()]
        own = self._own_elements(uid, instance_number, position_mm)
        for shared, element in zip(self._shared, own, strict=False):
            parts += [shared, element]
        parts += [self._shared[-1], _PIXEL_DATA, struct.pack("<I", pixel_bytes)]
        return b"".join(parts)

    @staticmethod
    def _own_elements(uid: str, instance_number: int, position_mm: list[str]) -> list[bytes]:
        """Return the elements that differ from slice to slice, in the order of their tags."""
        return [
            _element("SOPInstanceUID", uid, b"\0"),
            _element("InstanceNumber", str(instance_number)),
            _element("ImagePositionPatient", "\\".join(position_mm)),
            _element("SliceLocation", position_mm[2]),
        ]


_PIXEL_DATA: Final = struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OW", 0)


def _element(keyword: str, value: str, padding: bytes = b" ") -> bytes:
    """Return a short element in Explicit VR Little Endian (PS3.5 7.1.2)."""
    tag = Tag(keyword)
    data = value.encode("ascii")
    data += padding * (len(data) % 2)
    vr = dictionary_VR(tag).encode("ascii")
    return struct.pack("<HH2sH", tag.group, tag.element, vr, len(data)) + data


def ct_series_uid(run_id: str) -> str:
    """Return the Series Instance UID of a run's result."""
    return derived_uid("ct series", run_id)


def _processing_equipment() -> Dataset:
    purpose = Dataset()
    purpose.CodeValue = "109102"
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = "pacspark"
    item.SoftwareVersions = __version__
    item.ContributionDescription = "FDK reconstruction"
    return item
