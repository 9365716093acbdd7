"""What happens to each attribute: Table E.1-1 of PS3.15, with the options that were chosen.

``data/confidentiality.csv`` has the table, `scripts/confidentiality_table.py` made it. A row names
the action of the Basic Profile and what each option puts in its place::

    X  remove        Z  leave empty       D  put a dummy        U  map the UID
    K  keep          C  clean

Where the standard leaves a choice (X/Z, X/D, Z/D, X/Z/D) to the type that the attribute has in the
object's IOD, ``data/attribute_types.csv`` knows it. Inside sequences, and in objects of classes
that it does not have, the last one is taken: it is right for every type, and the object stays
valid. X/Z/U*, sequences of references, are always mapped, so that objects stay together.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.tag import Tag

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
    """One row of the table: the choices of the Basic Profile, and K or C by option."""

    choices: tuple[Action, ...]
    options: Mapping[str, str]

    def basic(self, attribute_type: str | None) -> Action:
        """Choose an action.

        Parameters
        ----------
        attribute_type
            1, 2, or empty where the attribute need not be there; None where nobody knows
        """
        if attribute_type == "":
            return self.choices[0]
        if attribute_type == "2" and Action.EMPTY in self.choices:
            return Action.EMPTY
        return self.choices[-1]


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
def attribute_types(sop_class_uid: str) -> Mapping[int, str] | None:
    """Give the types, 1 or 2, of attributes that have to be there; None for an unknown class."""
    return _types().get(sop_class_uid)


@cache
def _types() -> Mapping[str, Mapping[int, str]]:
    return {
        row["sop_class_uid"]: {
            Tag(keyword): number for number in "12" for keyword in row[f"type_{number}"].split()
        }
        for row in read_table("attribute_types.csv")
    }


@cache
def _rows() -> Mapping[str, Rule]:
    rows = {}
    for row in read_table("confidentiality.csv"):
        tag, _, basic = row.pop("tag"), row.pop("keyword"), row.pop("basic")
        choices = ("U",) if basic == "X/Z/U*" else tuple(basic.split("/"))
        options = {option: cell for option, cell in row.items() if cell}
        rows[tag] = Rule(tuple(map(Action, choices)), options)
    return rows


def read_table(name: str) -> Iterator[dict[str, str]]:
    """Read a CSV of this package, row by row."""
    text = files("pacspark.dicom").joinpath("data", name).read_text("utf-8")
    return csv.DictReader(text.splitlines())


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

    def action(self, tag: int, vr: str, attribute_type: str | None = None) -> Action:
        """Tell what is done with a standard attribute; its type is that of `Rule.basic`."""
        own = self.actions.get(tag)
        if own is not None:
            return own
        if tag in table():
            return self._options.get(tag) or self.basic(tag, attribute_type)
        if repeating_rule(tag) is not None:
            # bitmaps may be handwriting: there is no cleaning them, whatever was asked for
            return Action.REMOVE
        return self._unlisted(tag, vr)

    def basic(self, tag: int, attribute_type: str | None) -> Action:
        """Tell what the Basic Profile does with an attribute; removed where it does not say."""
        rule = table().get(tag)
        return Action.REMOVE if rule is None else rule.basic(attribute_type)

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
    def _options(self) -> Mapping[int, Action | None]:
        """What the chosen options do; None where they say nothing."""
        return {tag: self._by_option(rule) for tag, rule in table().items()}

    def _by_option(self, rule: Rule) -> Action | None:
        chosen = {
            option: cell
            for option, cell in rule.options.items()
            if option in self.retain or option in self.clean
        }
        if "K" in chosen.values():
            return Action.KEEP
        return next((action for option, action in _CLEANING.items() if option in chosen), None)

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
