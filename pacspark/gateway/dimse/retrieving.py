"""C-GET and C-MOVE (PS3.4 C.4.2, C.4.3): what is asked for, sent object by object and counted."""

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

from pacspark.dicom.attributes import LEVELS, UNIQUE_KEYS
from pacspark.dicom.matching import parse_query
from pacspark.errors import AssociationEndedError, ProtocolError, QueryError
from pacspark.gateway import statuses
from pacspark.gateway.dimse.finding import level_of, require_hierarchy
from pacspark.gateway.dimse.identifiers import text_of, write_identifier
from pacspark.gateway.dimse.link import Message
from pacspark.gateway.dimse.sending import Outgoing, Sent, read_ahead, send_counted, send_to
from pacspark.gateway.dimse.session import Session
from pacspark.gateway.groups import StoredInstance
from pacspark.gateway.searching import search
from pacspark.gateway.storing import Store

_LOCATED_AT_ONCE = 256
_MOST_SUBOPERATIONS = 0xFFFF
_FAILED_UIDS = 0x00080058
_MEDIUM = 0
_PRIORITIES = (_MEDIUM, 1, 2)
"""And high and low (PS3.7 E.1)."""
TOLD_EVERY_S = 0.1
"""No oftener are counts told: each pending answer wakes the peer beside the object it takes."""


def get(session: Session, message: Message) -> None:
    """Answer C-GET: sub-operations go over the same association."""
    instances = _wanted(session, message)
    message_id = message.command.get("MessageID", 0)
    sent, told_s = Sent(len(instances)), 0.0
    link, priority = session.association.link, _priority(message)
    try:
        for one in read_ahead(outgoing(session.store, instances)):
            if link.is_cancelled(message_id):
                _finish(session, message, "get", sent, cancelled=True)
                return
            send_counted(session.association, one, sent, priority, message_id)
            told_s = _tell(session, message, sent, told_s)
    except (AssociationEndedError, ProtocolError) as error:
        session.record("get", f"failed: {error}", **sent.counts())
        raise
    _finish(session, message, "get", sent)


def move(session: Session, message: Message) -> None:
    """Answer C-MOVE: sub-operations go over an association to a destination that is configured."""
    instances = _wanted(session, message)
    ae_title = message.command.get("MoveDestination", "")
    destination = session.config.destinations.get(ae_title)
    if destination is None:
        text = f"no [[destinations]] has the AE title {ae_title[:16]}"
        session.record("move", f"failed: {text}")
        session.answer(message, statuses.UNKNOWN_DESTINATION, ErrorComment=text)
        return
    message_id = message.command.get("MessageID", 0)
    originator = {
        "MoveOriginatorApplicationEntityTitle": session.association.calling_ae_title,
        "MoveOriginatorMessageID": message_id,
        **_priority(message),
    }
    sent, told_s = Sent(len(instances)), 0.0
    steps = send_to(
        destination,
        session.config.ae_title,
        list(outgoing(session.store, instances)),
        session.config.limits,
        session.client_tls,
        originator,
    )
    try:
        for sent in steps:
            if session.association.link.is_cancelled(message_id):
                _finish(session, message, "move", sent, cancelled=True)
                return
            if sent.remaining:
                told_s = _tell(session, message, sent, told_s)
    except (AssociationEndedError, ProtocolError) as error:
        session.record("move", f"failed: {error}", **sent.counts())
        raise
    finally:
        steps.close()
    _finish(session, message, "move", sent)


def _priority(message: Message) -> dict[str, Any]:
    """Give the priority of a request, which its sub-operations have too (C.4.2.1.3, C.4.3.1.3)."""
    priority = message.command.get("Priority", _MEDIUM)
    return {"Priority": priority if priority in _PRIORITIES else _MEDIUM}


def outgoing(store: Store, instances: Sequence[StoredInstance]) -> Iterator[Outgoing]:
    """Make instances ready to be sent; where they are is looked up for many at once."""
    for start in range(0, len(instances), _LOCATED_AT_ONCE):
        some = instances[start : start + _LOCATED_AT_ONCE]
        stored = [one for one in some if one.landed is None]
        rows = store.locate(stored)
        for one in some:
            yield _outgoing(store, one, rows.get(one.sop_instance_uid))


def _outgoing(store: Store, instance: StoredInstance, row: dict[str, Any] | None) -> Outgoing:
    return Outgoing(
        instance.sop_instance_uid,
        instance.sop_class_uid,
        instance.transfer_syntax_uid,
        instance.size_bytes,
        lambda: store.stream(instance, row),
    )


def _wanted(session: Session, message: Message) -> list[StoredInstance]:
    """Find the instances that the identifier of a request names by its unique keys (C.4.2.2.1)."""
    context = session.context(message)
    elements = session.identifier(message)
    level = level_of(elements, context.abstract_syntax)
    if not session.agreed(message)[0]:
        require_hierarchy(elements, level, context.abstract_syntax)
    keys: dict[str, str] = {}
    for one in LEVELS[: LEVELS.index(level) + 1]:
        key = UNIQUE_KEYS[one]
        value = text_of(elements.get(f"{key.tag:08X}"))
        if any(letter in value for letter in "*?"):
            text = f"{key.keyword}: expected values without wildcards, found {value[:64]!r}"
            raise QueryError(text)
        if value:
            keys[key.keyword] = value
    if UNIQUE_KEYS[level].keyword not in keys:
        text = f"{UNIQUE_KEYS[level].keyword}: expected the unique key of the level, found none"
        raise QueryError(text)
    matches = search(session.store.index, parse_query(keys, "instance"))
    if len(matches) > _MOST_SUBOPERATIONS:
        text = f"expected at most {_MOST_SUBOPERATIONS} objects, found {len(matches)}"
        raise QueryError(text)
    return [match.instance for match in matches if match.instance is not None]


def _tell(session: Session, message: Message, sent: Sent, told_s: float) -> float:
    """Tell how far an operation is, unless that was just told; give when it was told last."""
    if monotonic() - told_s < TOLD_EVERY_S:
        return told_s
    session.answer(
        message,
        statuses.PENDING,
        NumberOfRemainingSuboperations=sent.remaining,
        **sent.counts(),
    )
    return monotonic()


def _finish(
    session: Session, message: Message, action: str, sent: Sent, *, cancelled: bool = False
) -> None:
    remaining = {}
    if cancelled:
        status, remaining = (
            statuses.CANCELLED,
            {"NumberOfRemainingSuboperations": sent.remaining},
        )
    elif not sent.failed and not sent.warned:
        status = statuses.SUCCESS
    elif sent.completed or sent.warned:
        status = statuses.SUBOPERATIONS_FAILED
    else:
        status = statuses.NO_SUBOPERATION_WORKED
    identifier = None
    if status != statuses.SUCCESS:
        syntax = session.context(message).transfer_syntax
        identifier = write_identifier([(_FAILED_UIDS, "UI", sent.failed or None)], syntax)
    comment = sent.reasons[0] if sent.reasons else None
    outcome = "success" if status == statuses.SUCCESS else f"0x{status:04X}"
    session.record(action, outcome, **sent.counts(), reasons=sent.reasons[:2])
    session.answer(message, status, identifier, **remaining, **sent.counts(), ErrorComment=comment)
