"""Paths to attributes: a keyword or a tag, what lies in sequences, one value of several.

::

    PatientName                                  a keyword of PS3.6
    00291010                                     a tag of eight hex digits, private ones too
    AnatomicRegionSequence.CodeMeaning           of the first item of a sequence
    AnatomicRegionSequence[1].CodeMeaning        of another item; items and values count from 0
    AnatomicRegionSequence[*].CodeMeaning        of every item: a list
    ImageType[2]                                 one value of several
    PatientName.FamilyName                       a component of a person name (PS3.5 6.2.1.1)
    PatientName.Ideographic.GivenName            of another of its component groups
"""

import difflib
import re
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import (
    dictionary_VM,
    dictionary_VR,
    keyword_dict,
    keyword_for_tag,
    tag_for_keyword,
)

from pacspark.dicom.attributes import BY_KEYWORD
from pacspark.errors import QueryError

NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
NAME_COMPONENTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
MAX_PATH_CHARACTERS: Final = 1000
_TAG: Final = re.compile("[0-9A-Fa-f]{8}")
_STEP: Final = re.compile(r"([0-9A-Za-z]+)(?:\[(\*|[0-9]{1,9})\])?")


@dataclass(frozen=True, slots=True)
class Step:
    """One attribute on the way of a path.

    Attributes
    ----------
    name
        its keyword; the tag in eight hex digits where PS3.6 has none
    tag
        group and element in one integer
    vr
        of PS3.6, the first where it has several; empty for what it does not know
    multiple
        whether it can have several values
    index
        of the item or value that is meant, from 0; None where the path does not say
    every
        whether all items or values are meant
    """

    name: str
    tag: int
    vr: str
    multiple: bool
    index: int | None = None
    every: bool = False

    @property
    def json_tag(self) -> str:
        """Its name in the DICOM JSON."""
        return f"{self.tag:08X}"


@dataclass(frozen=True, slots=True)
class AttributePath:
    """A path that has been read.

    Attributes
    ----------
    steps
        from the data set to the attribute; all but the last are sequences
    name_group, name_component
        which part of a person name is meant, by place in `NAME_GROUPS` and `NAME_COMPONENTS`; None
        for all of it
    """

    steps: tuple[Step, ...]
    name_group: int | None = None
    name_component: int | None = None

    @property
    def last(self) -> Step:
        """The attribute that the path ends at."""
        return self.steps[-1]


def parse_path(text: str) -> AttributePath:
    """Read a path.

    Raises
    ------
    QueryError
        where it is none, or leads through what is no sequence

    Examples
    --------
    >>> path = parse_path("AnatomicRegionSequence[*].CodeMeaning")
    >>> [(step.json_tag, step.vr, step.every) for step in path.steps]
    [('00082218', 'SQ', True), ('00080104', 'LO', False)]
    """
    shown = text[:64] if text.isprintable() else repr(text[:64])
    if len(text) > MAX_PATH_CHARACTERS:
        message = f"{shown}...: expected at most {MAX_PATH_CHARACTERS} characters, found more"
        raise QueryError(message)
    words = text.split(".")
    steps = [_step(words[0], shown)]
    group = component = None
    for word in words[1:]:
        before = steps[-1]
        if before.vr == "PN":
            if word in NAME_COMPONENTS and component is None:
                component = NAME_COMPONENTS.index(word)
            elif word in NAME_GROUPS and group is None and component is None:
                group = NAME_GROUPS.index(word)
            else:
                parts = ", ".join((*NAME_GROUPS, *NAME_COMPONENTS))
                message = f"{shown}: expected a part of a person name, {parts}, found {word[:64]!r}"
                raise QueryError(message)
        elif before.vr in {"SQ", ""}:
            steps.append(_step(word, shown))
        else:
            message = f"{shown}: expected a sequence before a dot, found {before.name} of VR "
            raise QueryError(message + before.vr)
    if component is not None and group is None:
        group = 0
    return AttributePath(tuple(steps), group, component)


def find_tag(name: str) -> int | None:
    """Give the tag of a keyword, or of eight hex digits; None for what is neither."""
    return int(name, 16) if _TAG.fullmatch(name) else tag_for_keyword(name)


def unknown_name(name: str) -> str:
    """Say what was expected in place of a name that is no attribute's, and what is near it."""
    shown = name[:64] if name.isprintable() else repr(name[:64])
    near = [known for known in keyword_dict if known.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, BY_KEYWORD, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{shown}: expected a DICOM keyword or a tag of eight hex digits{hint}"


def _step(word: str, path: str) -> Step:
    match = _STEP.fullmatch(word)
    if match is None:
        message = f"{path}: expected keywords or tags with dots between, and [n] or [*], found "
        raise QueryError(message + repr(word[:64]))
    name, index = match.groups()
    tag = find_tag(name)
    if tag is None:
        raise QueryError(unknown_name(name))
    try:
        vr, multiple = dictionary_VR(tag).split(" or ")[0], dictionary_VM(tag) != "1"
    except KeyError:
        vr, multiple = "", True
    return Step(
        keyword_for_tag(tag) or f"{tag:08X}",
        tag,
        vr,
        multiple or vr == "SQ",
        int(index) if index not in {None, "*"} else None,
        index == "*",
    )
