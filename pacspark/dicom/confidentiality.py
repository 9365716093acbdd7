"""What happens to each attribute: Table E.1-1 of PS3.15, with the options that were chosen.

``data/confidentiality.csv`` has the table, `scripts/confidentiality_table.py` made it. A row names
the action of the Basic Profile and what each option puts in its place::

    X  remove        Z  leave empty       D  put a dummy        U  map the UID
    K  keep          C  clean

Where the standard leaves a choice (X/Z, X/D, Z/D, X/Z/D, X/Z/U*) to the type that the attribute has
in the object's IOD, the last one is taken: it is right for every type, and the object stays valid.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag

from pacspark.dicom.pixel_rules import PixelRule
from pacspark.errors import UsageError

EDITION: Final = "2026c"
RETAIN: Final = (
    "uids",
    "device",
    "institution",
    "patient-characteristics",
    "longitudinal-full",
    "longitudinal-modified",
    "safe-private",
)
CLEAN: Final = ("descriptors", "structured-content", "graphics", "pixel-data")
BURNED_IN: Final = ("refuse", "keep")
METHODS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "basic": ("113100", "Basic Application Confidentiality Profile"),
        "pixel-data": ("113101", "Clean Pixel Data Option"),
        "graphics": ("113103", "Clean Graphics Option"),
        "structured-content": ("113104", "Clean Structured Content Option"),
        "descriptors": ("113105", "Clean Descriptors Option"),
        "longitudinal-full": (
            "113106",
            "Retain Longitudinal Temporal Information Full Dates Option",
        ),
        "longitudinal-modified": (
            "113107",
            "Retain Longitudinal Temporal Information Modified Dates Option",
        ),
        "patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
        "device": ("113109", "Retain Device Identity Option"),
        "uids": ("113110", "Retain UIDs Option"),
        "safe-private": ("113111", "Retain Safe Private Option"),
        "institution": ("113112", "Retain Institution Identity Option"),
    }
)
"""CID 7050 of PS3.16: how each choice is told in the result."""


class Action(StrEnum):
    """What is done with one attribute; `CLEAN` by what it is that is cleaned."""

    KEEP = "K"
    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    MAP = "U"
    CLEAN = "C"
    SHIFT = "shift"
    CLEAN_CONTENT = "content"
    CLEAN_GRAPHICS = "graphics"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the action of the Basic Profile, and K or C by option."""

    basic: Action
    options: Mapping[str, str]


_LAST: Final = MappingProxyType(
    {
        "X/Z": Action.EMPTY,
        "X/D": Action.DUMMY,
        "Z/D": Action.DUMMY,
        "X/Z/D": Action.DUMMY,
        "X/Z/U*": Action.MAP,
    }
)
# where the last one is not right: there it may be missing, but not be empty
_CHOSEN: Final = MappingProxyType({"00081110": Action.REMOVE})  # ReferencedStudySequence: X/Z
_CURVES: Final = 0x50
_OVERLAYS: Final = 0x60

# what the table does not have although it says who, where or when
_NOT_IN_THE_TABLE: Final = frozenset(
    {
        0x00080300,  # PrivateDataElementCharacteristicsSequence: written anew for what is kept
        0x04000500,  # EncryptedAttributesSequence: the identity itself, encrypted
        0x4FFE0001,  # MACParametersSequence: of signatures that are gone
    }
)
_DATES: Final = frozenset({"DA", "DT", "TM"})
_CLASS_UIDS: Final = frozenset(
    """SOPClassUID RelatedGeneralSOPClassUID OriginalSpecializedSOPClassUID SOPClassesInStudy
    CodingSchemeUID ContextGroupExtensionCreatorUID ContextUID MappingResourceUID
    StoredInstanceTransferSyntaxUID ReferencedSOPClassUID SOPClassesSupported
    AvailableTransferSyntaxUID FlowTransferSyntaxUID MACCalculationTransferSyntaxUID
    EncryptedContentTransferSyntaxUID PertinentSOPClassesInStudy
    PertinentSOPClassesInSeries""".split()
)
FIXED: Final = frozenset(
    """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID SpecificCharacterSet PixelData
    FloatPixelData DoubleFloatPixelData PatientIdentityRemoved DeidentificationMethod
    DeidentificationMethodCodeSequence LongitudinalTemporalInformationModified Rows Columns
    NumberOfFrames BitsAllocated SamplesPerPixel PhotometricInterpretation BurnedInAnnotation
    PrivateDataElementCharacteristicsSequence""".split()
)
"""Keywords that no own rule may change: an object could not be read any more, or would lie."""


@cache
def table() -> Mapping[int, Rule]:
    """Give Table E.1-1 by tag; repeating groups have their own function, `repeating_rule`."""
    return {int(tag, 16): rule for tag, rule in _rows().items() if "X" not in tag}


@cache
def repeating_rule(tag: int) -> Rule | None:
    """Give the rule of a curve or an overlay (50xx, 60xx), or None for any other tag."""
    high = tag >> 24
    # of an overlay the table names data and comments alone; the rest would describe nothing
    return _rows()["50XXXXXX"] if high in {_CURVES, _OVERLAYS} else None


@cache
def _rows() -> Mapping[str, Rule]:
    text = files("pacspark.dicom").joinpath("data/confidentiality.csv").read_text("utf-8")
    rows = {}
    for row in csv.DictReader(text.splitlines()):
        tag, _, basic = row.pop("tag"), row.pop("keyword"), row.pop("basic")
        action = _CHOSEN.get(tag) or (_LAST[basic] if "/" in basic else Action(basic))
        rows[tag] = Rule(action, {option: cell for option, cell in row.items() if cell})
    return rows


@dataclass(frozen=True)
class Profile:
    """The Basic Profile with options, own rules and rules about pixels.

    Parameters
    ----------
    retain, clean
        of `RETAIN` and `CLEAN`
    actions
        own rules: tag -> action
    allowed_words
        what cleaned descriptors may keep besides plain words, in small letters
    burned_in
        of `BURNED_IN`: what becomes of an object that says that its pixels identify somebody and
        that no rule about pixels speaks of
    pixel_rules
        which rectangles to blank in which objects

    Raises
    ------
    UsageError
        where the choices contradict each other
    """

    retain: frozenset[str] = frozenset()
    clean: frozenset[str] = frozenset()
    actions: Mapping[int, Action] = field(default_factory=dict)
    allowed_words: frozenset[str] = frozenset()
    burned_in: str = "refuse"
    pixel_rules: tuple[PixelRule, ...] = ()

    def __post_init__(self) -> None:
        _require_known("retain", self.retain, RETAIN)
        _require_known("clean", self.clean, CLEAN)
        if {"longitudinal-full", "longitudinal-modified"} <= self.retain:
            message = "retain: expected longitudinal-full or longitudinal-modified, found both"
            raise UsageError(message)
        if "pixel-data" in self.clean and not self.pixel_rules:
            message = "clean pixel-data: expected a profile with [[pixels]], found no rule in it"
            raise UsageError(message)

    def action(self, tag: int, vr: str) -> Action:
        """Tell what is done with a standard attribute."""
        own = self.actions.get(tag)
        if own is not None:
            return own
        found = self._actions.get(tag)
        if found is not None:
            return found
        repeating = repeating_rule(tag)
        if repeating is not None:
            # bitmaps may be handwriting: there is no cleaning them, whatever was asked for
            return repeating.basic
        return self._unlisted(tag, vr)

    def basic(self, tag: int) -> Action:
        """Tell what the Basic Profile does with an attribute; removed where it does not say."""
        rule = table().get(tag)
        return Action.REMOVE if rule is None else rule.basic

    def is_listed(self, tag: int) -> bool:
        """Tell whether the table, or an own rule, names an attribute."""
        return tag in self.actions or tag in table()

    @cached_property
    def weakened(self) -> bool:
        """Whether an own rule keeps what the Basic Profile does not."""
        weak = {Action.KEEP, Action.CLEAN}
        return any(action in weak and tag in table() for tag, action in self.actions.items())

    @property
    def dates(self) -> Action:
        """What is done with dates and times."""
        if "longitudinal-full" in self.retain:
            return Action.KEEP
        return Action.SHIFT if "longitudinal-modified" in self.retain else Action.REMOVE

    @property
    def keeps_dates(self) -> bool:
        """Whether any date stays as it was, of an option or an own rule."""
        own = (tag for tag, action in self.actions.items() if action is Action.KEEP)
        return self.dates is Action.KEEP or any(dictionary_VR(tag) in _DATES for tag in own)

    @cached_property
    def _actions(self) -> Mapping[int, Action]:
        return {tag: self._resolve(rule) for tag, rule in table().items()}

    def _resolve(self, rule: Rule) -> Action:
        chosen = {
            option: cell
            for option, cell in rule.options.items()
            if option in self.retain or option in self.clean
        }
        if "K" in chosen.values():
            return Action.KEEP
        for option, action in _CLEANING.items():
            if option in chosen:
                return action
        return rule.basic

    def _unlisted(self, tag: int, vr: str) -> Action:
        keyword = keyword_for_tag(tag)
        if tag in _NOT_IN_THE_TABLE or not dictionary_has_tag(tag) or tag < 0x00080000:
            return Action.REMOVE
        if vr in _DATES:
            return self.dates
        if vr == "UI" and keyword not in _CLASS_UIDS:
            return Action.KEEP if "uids" in self.retain else Action.MAP
        return Action.REMOVE if vr in {"PN", "UR", "UN"} else Action.KEEP


_CLEANING: Final = MappingProxyType(
    {
        "longitudinal-modified": Action.SHIFT,
        "structured-content": Action.CLEAN_CONTENT,
        "graphics": Action.CLEAN_GRAPHICS,
        "descriptors": Action.CLEAN,
        "device": Action.CLEAN,
        "patient-characteristics": Action.CLEAN,
    }
)


def _require_known(name: str, given: frozenset[str], known: tuple[str, ...]) -> None:
    unknown = sorted(given - set(known))
    if unknown:
        message = f"{name}: expected of {', '.join(known)}, found {unknown[0]!r:.80}"
        raise UsageError(message)
