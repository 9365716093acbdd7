"""C-FIND: queries of the patient root and study root models (PS3.4 C.4.1, C.6)."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacspark.dicom.attributes import COUNTS, UNIQUE_KEYS, Level
from pacspark.dicom.conditions import Query, QueryKey
from pacspark.dicom.matching import parse_query
from pacspark.errors import QueryError
from pacspark.gateway import statuses
from pacspark.gateway.dimse.identifiers import (
    LEVEL_TAG,
    Elements,
    is_key,
    keys_inside,
    plain_value,
    shown,
    text_of,
    write_identifier,
)
from pacspark.gateway.dimse.link import Message
from pacspark.gateway.dimse.services import LEVELS_OF_MODEL, model_of
from pacspark.gateway.dimse.session import Session
from pacspark.gateway.searching import answers, fuzzy_keys, search

_RETRIEVE_AE_TITLE: Final = 0x00080054
_AVAILABILITY: Final = 0x00080056
_OFFSET: Final = "00080201"
_ANSWERED_ANYWAY: Final = frozenset({"00080054", "00080056"})
_COMPUTED: Final = _ANSWERED_ANYWAY | {
    f"{tag_for_keyword(keyword):08X}" for counts in COUNTS.values() for keyword in counts
}
LEVEL_NAMES: Final[Mapping[str, Level]] = {
    "PATIENT": "patient",
    "STUDY": "study",
    "SERIES": "series",
    "IMAGE": "instance",
}
_NAMES_OF_LEVELS: Final = {level: name for name, level in LEVEL_NAMES.items()}


def find(session: Session, message: Message) -> None:
    """Answer a C-FIND: one pending response per match, until none is left or it is cancelled."""
    context = session.context(message)
    elements = session.identifier(message)
    level = level_of(elements, context.abstract_syntax)
    relational, combined, fuzzy, *_ = session.agreed(message)
    if not relational:
        require_hierarchy(elements, level, context.abstract_syntax)
    keys, passed_over = _keys(elements)
    query = parse_query(fuzzy_keys(keys) if fuzzy else keys, level, combined_date_time=combined)
    requested = tuple(key for key in query.requested if not key.sequences)
    index = session.store.index
    matches = search(index, query)
    most = session.config.limits.answers
    message_id = message.command.get("MessageID", 0)
    status = statuses.PENDING_WITH_WARNING if passed_over else statuses.PENDING
    sent = 0
    for answer in answers(index, islice(matches, most), requested):
        if session.association.link.is_cancelled(message_id):
            session.record("find", "cancelled", level=level, matches=sent)
            session.answer(message, statuses.CANCELLED)
            return
        identifier = write_identifier(
            _answer_elements(session, query, elements, answer), context.transfer_syntax
        )
        session.answer(message, status, identifier)
        sent += 1
    status, text, outcome = statuses.SUCCESS, None, "success"
    if len(matches) > most:
        status = statuses.OUT_OF_RESOURCES
        text = f"expected at most {most} matches, found {len(matches)}"
        outcome = f"failed: {text}"
    session.record("find", outcome, level=level, matches=sent, keys=len(query.conditions))
    session.answer(message, status, ErrorComment=text)


def level_of(elements: Elements, sop_class_uid: str) -> Level:
    """Give the query level of an identifier, which its information model has to have.

    Raises
    ------
    QueryError
        where it has none, or another
    """
    name = text_of(elements.get(LEVEL_TAG)).strip().upper()
    level = LEVEL_NAMES.get(name)
    levels = LEVELS_OF_MODEL[model_of(sop_class_uid)]
    if level is None or level not in levels:
        expected = ", ".join(_NAMES_OF_LEVELS[one] for one in levels)
        message = f"QueryRetrieveLevel: expected one of {expected}, found {name[:64]!r}"
        raise QueryError(message)
    return level


def require_hierarchy(elements: Elements, level: Level, sop_class_uid: str) -> None:
    """Check that the unique keys of all levels above are given, each as one value (C.4.1.2.1).

    Raises
    ------
    QueryError
        where one is missing, or is a wildcard or a list
    """
    levels = LEVELS_OF_MODEL[model_of(sop_class_uid)]
    for above in levels[: levels.index(level)]:
        key = UNIQUE_KEYS[above]
        value = text_of(elements.get(f"{key.tag:08X}"))
        if not value or any(letter in value for letter in "*?\\"):
            message = (
                f"{key.keyword}: expected one value, as the level {_NAMES_OF_LEVELS[level]} needs "
                f"without relational queries, found {value[:64]!r}"
            )
            raise QueryError(message)


def _keys(elements: Elements) -> tuple[dict[str, str], bool]:
    """Give what is asked by tag and path, and whether some of it has values that are passed over.

    Those are what is computed for the answer, and binary values (PS3.4 C.2.2.1.3).
    """
    keys: dict[str, str] = {}
    passed_over = False
    for tag, element in elements.items():
        if not is_key(tag):
            continue
        if element["vr"] == "SQ":
            keys |= {tag: "", **dict(keys_inside(tag, element))}
            continue
        text = text_of(element)
        if tag in _COMPUTED or "Value" not in element:
            passed_over |= len(element) > 1 and text != "*"
            text = ""
        if tag not in _ANSWERED_ANYWAY:
            keys[tag] = text
    keys[_OFFSET] = ""  # no key, but times are of its zone (C.4.1.1.3.2)
    return keys, passed_over


def _answer_elements(
    session: Session, query: Query, asked: Elements, answer: Mapping[str, Any]
) -> Iterator[tuple[int, str, Any]]:
    yield int(LEVEL_TAG, 16), "CS", _NAMES_OF_LEVELS[query.level]
    yield _RETRIEVE_AE_TITLE, "AE", session.config.ae_title
    yield _AVAILABILITY, "CS", "ONLINE"
    for key in query.requested:
        if key.sequences or (key.json_tag == _OFFSET and answer[key.keyword] is None):
            continue
        value = answer[key.keyword]
        if isinstance(value, Mapping):
            if value["vr"] == "SQ":
                value = _asked_items(query, key.json_tag, asked, value)
            yield key.tag, value["vr"], plain_value(value)
        else:
            yield key.tag, _vr(key), value


def _asked_items(
    query: Query, tag: str, asked: Elements, found: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Keep the items of a sequence that match, and what was asked for of them (C.2.2.2.6)."""
    conditions = [one for one in query.conditions if one.operator == "item"
                  and one.key.json_tag == tag]  # fmt: skip
    items = [
        item
        for item in found.get("Value", ())
        for alone in [{tag: {"vr": "SQ", "Value": [item]}}]
        if all(one.matches({"dicom_json": alone}) for one in conditions)
    ]
    return shown({tag: asked[tag]}, {tag: {"vr": "SQ", "Value": items}})[tag]


def _vr(key: QueryKey) -> str:
    if key.column is not None:
        return key.vr
    tag = tag_for_keyword(key.keyword)
    return "LO" if tag is None else dictionary_VR(tag).split(" or ")[0]
