"""De-identification of a data set: the Basic Profile of PS3.15 Annex E, and its options.

Every element of every depth gets the action that the `Profile` names for its tag. What a sequence
holds is gone through in one of four ways::

    plain      by the table alone: what it does not name stays
    dummy      below a sequence with the action D: what gives it its form stays, all other values
               become dummies
    content    below Content Sequence with `clean structured-content`: codes, numbers, coordinates
               and references stay, text is cleaned
    text       below a code sequence with `clean descriptors`: text is cleaned

Private elements go, unless `retain safe-private` knows them. An element that nobody can read, or
whose VR hides what it is, goes as well: what is doubtful is not kept.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from pacspark.dicom.confidentiality import EDITION, METHODS, Action, Profile, attribute_types
from pacspark.dicom.dummies import dummy_value, shifted
from pacspark.dicom.elements import UNDEFINED_LENGTH
from pacspark.dicom.plain_text import clean_text, words_of
from pacspark.dicom.pseudonyms import Pseudonyms
from pacspark.dicom.safe_private import declared_safe, safe_private

VERSION: Final = "pacspark anonymize 2"
"""Of what is made of an object; not that of the package, or an upgrade would make others."""

_TEXT_VRS: Final = frozenset({"CS", "LO", "LT", "SH", "ST", "UC", "UT"})
_BYTES_VRS: Final = frozenset({"OB", "OB or OW", "OD", "OF", "OL", "OV", "OW", "UN"}) | {
    "US or OW",
    "US or SS or OW",
}
_CODE_KEYWORDS: Final = frozenset(
    """CodeValue LongCodeValue URNCodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning
    MappingResource MappingResourceName ContextIdentifier EquivalentCodeSequence
    TemplateIdentifier""".split()
)
_STRUCTURE: Final = frozenset(
    """ValueType RelationshipType ContinuityOfContent ConceptNameCodeSequence
    MeasurementUnitsCodeSequence ContentTemplateSequence ReferencedSOPClassUID
    ReferencedFrameNumber ReferencedSegmentNumber ReferencedContentItemIdentifier GraphicType
    GraphicLayer GraphicDimensions NumberOfGraphicPoints GraphicAnnotationUnits
    BoundingBoxAnnotationUnits AnchorPointAnnotationUnits AnchorPointVisibility GraphicFilled
    BoundingBoxTextHorizontalJustification PixelOriginInterpretation TemporalRangeType
    ReferencedSOPSequence ReferencedImageSequence CompletionFlag""".split()
)
"""What gives a sequence its form: without it, its dummies would be no sequence of its kind."""
_CHARACTERISTICS: Final = frozenset("121032 121033 121034 121035".split())
_IDENTIFYING: Final = _CHARACTERISTICS | frozenset(
    """121009 121013 121016 121017 128774 128775 121020 121021 121022 121030 121031 121040 121041
    121043 121193 121196 121197 111700 111705 113870 113873 113877 113880""".split()
)
"""Concepts of TID 1001 to 1010, observers, orders, subject and specimens: what a report says of who
and where. `_CHARACTERISTICS` are sex, age, species and breed."""
_DATES_OF_CONTENT: Final = frozenset({"Date", "DateTime"})
_CHARACTERISTICS_OF_PRIVATE: Final = "PrivateDataElementCharacteristicsSequence"
_AGE: Final = re.compile(r"\d{3}[DWMY]")
_OLDEST: Final = "090Y"


class Within(Enum):
    """In which way the elements of a data set are gone through."""

    PLAIN = auto()
    DUMMY = auto()
    CONTENT = auto()
    TEXT = auto()


_INNER: Final = {
    Action.DUMMY: Within.DUMMY,
    Action.CLEAN_CONTENT: Within.CONTENT,
    Action.CLEAN_GRAPHICS: Within.CONTENT,
    Action.CLEAN: Within.TEXT,
}


@dataclass(frozen=True, slots=True)
class Deidentifier:
    """What a run does to every object.

    Attributes
    ----------
    profile
        which attributes get which action
    pseudonyms
        with the secret
    """

    profile: Profile
    pseudonyms: Pseudonyms

    def deidentify(self, dataset: Dataset, *, pixels_cleaned: bool = False) -> None:
        """Change a data set into one that identifies nobody, and that says so.

        Parameters
        ----------
        dataset
            all of the object but its pixel data, as pydicom read it
        pixels_cleaned
            whether a rule has cleaned its pixels, or found them clean
        """
        work = _Work(self, identity_of(dataset), _identifying_words(dataset))
        work.clean(dataset, Within.PLAIN, attribute_types(_text_of(dataset, "SOPClassUID")))
        self._state(dataset, work.kept_blocks, pixels_cleaned=pixels_cleaned)

    def _state(
        self, dataset: Dataset, blocks: set[tuple[int, str]], *, pixels_cleaned: bool
    ) -> None:
        """Say what was done (PS3.15 E.1.1, E.3.10)."""
        profile = self.profile
        applied = [option for option in METHODS if option in profile.retain | profile.clean]
        if not pixels_cleaned and "pixel-data" in applied:
            applied.remove("pixel-data")
        rule = f"PS3.15 {EDITION} Basic Application Confidentiality Profile"
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = [
            rule if not profile.weakened else "Own rules, weaker than those of PS3.15",
            VERSION,
        ]
        methods = applied if profile.weakened else ["basic", *applied]
        dataset.DeidentificationMethodCodeSequence = [
            code_item(METHODS[option][0], "DCM", METHODS[option][1]) for option in methods
        ] or [code_item("0", "99PACSPARK", "Own rules")]
        dataset.LongitudinalTemporalInformationModified = (
            "UNMODIFIED"
            if profile.keeps_dates
            else "MODIFIED"
            if profile.dates is Action.SHIFT
            else "REMOVED"
        )
        if pixels_cleaned:
            dataset.BurnedInAnnotation = "NO"
        if blocks:
            items = []
            for group, creator in sorted(blocks):
                item = Dataset()
                item.PrivateGroupReference = group
                item.PrivateCreatorReference = creator
                item.BlockIdentifyingInformationStatus = "SAFE"
                items.append(item)
            dataset.PrivateDataElementCharacteristicsSequence = items


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Make an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def identity_of(dataset: Dataset) -> str:
    """Tell what stands for the patient: the ID, else name and birth date, else the study."""
    for keywords in (("PatientID",), ("PatientName", "PatientBirthDate"), ("StudyInstanceUID",)):
        values = [_text_of(dataset, keyword) for keyword in keywords]
        if any(values):
            return "\0".join([keywords[0], *values])
    return ""


def _identifying_words(dataset: Dataset) -> frozenset[str]:
    """Give the words that an object uses as names and IDs: no cleaned text may keep them."""
    words: set[str] = set()
    for tag in list(dataset.keys()):
        vr = _vr(dataset, tag)
        if tag.is_private or (vr not in {"PN", "SQ"} and keyword_for_tag(tag) not in _IDENTIFIERS):
            continue
        element = _element(dataset, tag)
        if element is None:
            continue
        if element.VR == "SQ":
            words.update(*map(_identifying_words, element.value))
        else:
            words |= words_of(str(element.value))
    return frozenset(words)


_IDENTIFIERS: Final = frozenset(
    """PatientID OtherPatientIDs IssuerOfPatientID AccessionNumber StudyID InstitutionName
    InstitutionalDepartmentName InstitutionAddress StationName DeviceSerialNumber PatientAddress
    CountryOfResidence RegionOfResidence PatientTelephoneNumbers MilitaryRank BranchOfService
    Occupation AdmissionID CurrentPatientLocation ClinicalTrialSubjectID ClinicalTrialSiteName
    ClinicalTrialSponsorName""".split()
)


def _text_of(dataset: Dataset, keyword: str) -> str:
    element = _element(dataset, Tag(keyword)) if keyword in dataset else None
    value = "" if element is None or element.value is None else element.value
    return str(value).strip(" \0")


def _items(dataset: Dataset, keyword: str) -> Iterable[Dataset]:
    element = _element(dataset, Tag(keyword)) if keyword in dataset else None
    return element.value if element is not None and element.VR == "SQ" else ()


def _element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """Give an element with its value; None where it cannot be read as what it says it is."""
    raw = dataset.get_item(tag)
    try:
        element = dataset[tag]
    except Exception:  # noqa: BLE001 -- pydicom raises whatever a broken value makes it raise
        return None
    blob = isinstance(raw, RawDataElement) and raw.VR == "UN" and raw.length != UNDEFINED_LENGTH
    if blob and element.VR == "SQ":
        # bytes of defined length that a dictionary calls a sequence: nobody knows their encoding
        dataset[tag] = raw  # who asks again is told the same
        return None
    return element


@dataclass(slots=True)
class _Work:
    """One object on its way."""

    run: Deidentifier
    identity: str
    words: frozenset[str]
    kept_blocks: set[tuple[int, str]] = field(default_factory=set)
    _safe_by_itself: dict[tuple[int, str], set[int] | None] = field(default_factory=dict)

    def clean(
        self, dataset: Dataset, within: Within, types: Mapping[int, str] | None = None
    ) -> None:
        """Change one data set, or one item, in place; of `attribute_types` where they are known."""
        identifies = within in {Within.CONTENT, Within.DUMMY} and self._identifies(dataset)
        if identifies:
            within = Within.DUMMY
        if "safe-private" in self.run.profile.retain:
            self._safe_by_itself |= declared_safe(_items(dataset, _CHARACTERISTICS_OF_PRIVATE))
        patient = _text_of(dataset, "PatientID")
        identity = f"PatientID\0{patient}" if patient else self.identity
        private: list[BaseTag] = []
        for tag in list(dataset.keys()):
            if tag.is_private:
                private.append(tag)
            elif tag.element == 0 or tag.group < 8:
                del dataset[tag]  # lengths of groups, and what belongs to no data set
            elif identifies and keyword_for_tag(tag) in _DATES_OF_CONTENT:
                self._date_of_birth(dataset, tag, identity)
            else:
                attribute_type = None if types is None else types.get(tag, "")
                self._standard(dataset, tag, within, identity, attribute_type)
        self._private(dataset, private)

    def _date_of_birth(self, dataset: Dataset, tag: BaseTag, identity: str) -> None:
        """Put a dummy, whatever becomes of dates: shifted, it would still tell an age."""
        element = _element(dataset, tag)
        if element is None:
            del dataset[tag]
        else:
            self._replace(dataset, element, Action.DUMMY, identity)

    def _standard(
        self,
        dataset: Dataset,
        tag: BaseTag,
        within: Within,
        identity: str,
        attribute_type: str | None,
    ) -> None:
        vr = _vr(dataset, tag)
        action = self.run.profile.action(tag, vr, attribute_type)
        if action is Action.REMOVE:
            del dataset[tag]
            return
        keyword = keyword_for_tag(tag)
        kept_by_table = self.run.profile.is_listed(tag)
        if action is Action.KEEP and not kept_by_table:
            action = _action_within(within, keyword, vr, self.run.profile)
        if action is Action.KEEP and vr not in {"SQ", "AS"} and not _hides(dataset, tag, vr):
            return  # its bytes stay as they are
        element = _element(dataset, tag)
        if (
            element is None
            or (element.VR in _BYTES_VRS and vr not in _BYTES_VRS)
            or (vr == "SQ" and element.VR != "SQ")
        ):
            del dataset[tag]
        elif element.VR == "SQ":
            self._sequence(dataset, element, action, within)
        else:
            self._value(dataset, element, action, identity, attribute_type)

    def _sequence(
        self, dataset: Dataset, element: DataElement, action: Action, within: Within
    ) -> None:
        if action is Action.EMPTY:
            dataset[element.tag] = DataElement(element.tag, "SQ", Sequence())
            return
        inner = _INNER.get(action, within)
        if element.keyword in _STRUCTURE:
            inner = within if within is Within.PLAIN else Within.TEXT
        elif inner is Within.DUMMY and element.keyword.endswith("CodeSequence"):
            if element.value:
                element.value = Sequence([code_item("0", "99PACSPARK", "Removed")])
            return
        for item in element.value:
            self.clean(item, inner)

    def _value(
        self,
        dataset: Dataset,
        element: DataElement,
        action: Action,
        identity: str,
        attribute_type: str | None,
    ) -> None:
        profile = self.run.profile
        if action is Action.KEEP:
            if element.VR == "AS" and "patient-characteristics" in profile.retain:
                element.value = _one_or_all(_age, element.value)
            return
        if action in {Action.SHIFT, Action.CLEAN}:
            if action is Action.SHIFT and element.VR == "TM":
                return  # shifts are whole days
            value = (
                shifted(element.VR, element.value, self.run.pseudonyms.shift(identity))
                if action is Action.SHIFT
                else self._clean_text(dataset, element)
            )
            if value:
                element.value = value
                return
            action = (
                profile.basic(element.tag, attribute_type)
                if profile.is_listed(element.tag)
                else Action.DUMMY
            )
        self._replace(dataset, element, action, identity)

    def _replace(
        self, dataset: Dataset, element: DataElement, action: Action, identity: str
    ) -> None:
        tag, vr, own = element.tag, element.VR, self.run.profile.actions.get(element.tag)
        if action is Action.REMOVE:
            del dataset[tag]
        elif element.is_empty:
            return
        elif vr == "UI" and action in {Action.MAP, Action.DUMMY}:
            element.value = _one_or_all(self.run.pseudonyms.uid, element.value)
        elif element.keyword in {"PatientID", "PatientName"} and own is not Action.EMPTY:
            element.value = self.run.pseudonyms.patient(identity)
        elif action is Action.EMPTY:
            dataset[tag] = DataElement(tag, vr, None)
        else:
            value = dummy_value(element, dataset)
            if value is None:
                del dataset[tag]
            else:
                element.value = value

    def _clean_text(self, dataset: Dataset, element: DataElement) -> Any:
        if element.VR not in _TEXT_VRS or element.is_empty:
            return None
        if element.keyword == "CodeMeaning" and not _is_own_scheme(dataset):
            return element.value
        if not isinstance(element.value, str) and not hasattr(element.value, "append"):
            return None

        def cleaned(text: str) -> str:
            return clean_text(str(text), self.run.profile.allowed_words, self.words)

        found = _one_or_all(cleaned, element.value)
        texts = found if isinstance(found, list) else [found]
        return found if any(texts) else None

    def _identifies(self, item: Dataset) -> bool:
        names = [name.get("CodeValue", "") for name in _items(item, "ConceptNameCodeSequence")]
        code = str(names[0]) if names else ""
        retained = "patient-characteristics" in self.run.profile.retain
        return code in _IDENTIFYING and not (retained and code in _CHARACTERISTICS)

    # private elements

    def _private(self, dataset: Dataset, tags: list[BaseTag]) -> None:
        creators: set[BaseTag] = set()
        for tag in tags:
            if tag.element > 0xFF and "safe-private" in self.run.profile.retain:
                creator_tag = Tag(tag.group, tag.element >> 8)
                creator = _creator(dataset, creator_tag)
                if creator and self._keep_private(dataset, tag, creator):
                    creators.add(creator_tag)
                    self.kept_blocks.add((tag.group, creator))
                    continue
            if tag.element > 0xFF:
                del dataset[tag]
        for tag in tags:
            if tag.element <= 0xFF and tag not in creators:
                del dataset[tag]

    def _keep_private(self, dataset: Dataset, tag: BaseTag, creator: str) -> bool:
        declared = self._safe_by_itself.get((tag.group, creator), set())
        known = safe_private().get((tag.group, tag.element & 0xFF, creator))
        if known is None and declared is not None and (tag.element & 0xFF) not in declared:
            return False
        element = _element(dataset, tag)
        if element is None:
            return False
        if element.VR == "UN":
            # nobody can look into it: kept only where a list, not the object, says it is safe
            return known not in {None, "SQ", "UN"}
        if element.VR in {"PN", "UR"}:
            return False
        if element.VR == "SQ":
            for item in element.value:
                self.clean(item, Within.PLAIN)
        elif element.VR == "UI" and "uids" not in self.run.profile.retain:
            element.value = _one_or_all(self.run.pseudonyms.uid, element.value)
        elif element.VR in {"DA", "DT"}:
            return self._keep_private_date(element)
        return True

    def _keep_private_date(self, element: DataElement) -> bool:
        dates = self.run.profile.dates
        if dates is Action.SHIFT:
            by = self.run.pseudonyms.shift(self.identity)
            value = shifted(element.VR, element.value, by)
            if value is not None:
                element.value = value
            return value is not None
        return dates is Action.KEEP


def _creator(dataset: Dataset, tag: BaseTag) -> str:
    element = _element(dataset, tag) if tag in dataset else None
    value = element.value if element is not None else ""
    if isinstance(value, bytes):
        value = value.decode("latin_1")
    return value.strip(" \0") if isinstance(value, str) else ""


# what stands where


def _vr(dataset: Dataset, tag: BaseTag) -> str:
    """Give the VR of the dictionary, whatever the object says; its own where there is none."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        item = dataset.get_item(tag)
        return str(item.VR or "UN") if item is not None else "UN"


def _hides(dataset: Dataset, tag: BaseTag, vr: str) -> bool:
    """Tell whether an element says to be of a VR that may hide anything."""
    item = dataset.get_item(tag)
    stated = str(item.VR or vr) if item is not None else vr
    return stated == "SQ" or (stated in _BYTES_VRS and vr not in _BYTES_VRS)


def _action_within(within: Within, keyword: str, vr: str, profile: Profile) -> Action:
    """Tell what is done, inside a sequence that is not plain, with what the table does not name."""
    if within is Within.PLAIN:
        return Action.KEEP
    text = Action.CLEAN if "descriptors" in profile.clean else Action.DUMMY
    if keyword in _STRUCTURE:
        return Action.KEEP
    if within is Within.DUMMY:
        return Action.DUMMY
    if keyword in _CODE_KEYWORDS:
        return Action.CLEAN if keyword == "CodeMeaning" else Action.KEEP
    if vr not in _TEXT_VRS - {"CS"}:
        return Action.KEEP
    # text that the standard has no rule for, in content: only what is asked for is looked into
    return Action.CLEAN if within is Within.TEXT else text


def _is_own_scheme(item: Dataset) -> bool:
    """Tell whether a code is of a scheme of somebody's own: its meaning may say anything."""
    scheme = str(item.get("CodingSchemeDesignator") or "99").strip().upper()
    return scheme.startswith("99") or scheme in {"L", "LOCAL"}


def _one_or_all(change: Any, value: Any) -> Any:
    if value is None or isinstance(value, str):
        return change(value or "")
    return [change(str(one)) for one in value]


def _age(text: str) -> str:
    """Give an age; above 89 years all are alike, for few people are. None of what is no age."""
    age = text.strip(" \0")
    if not _AGE.fullmatch(age):
        return ""
    return min(age, _OLDEST) if age.endswith("Y") else age
