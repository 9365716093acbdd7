"""Storage commitment, push model (PS3.4 J): what a peer may delete, since the archive has it.

The answer to N-ACTION says that the request was understood; what is committed follows as an
N-EVENT-REPORT: at once over the same association, or, where that is gone, over one to the
destination that has the peer's AE title, tried again for some minutes.
"""

import logging
import ssl
import threading
from collections.abc import Sequence
from time import sleep
from typing import Any, Final

from pacspark.dicom.uids import is_uid
from pacspark.errors import AssociationEndedError, ProtocolError, QueryError
from pacspark.gateway import statuses
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.commands import N_EVENT_REPORT, Command
from pacspark.gateway.dimse.identifiers import Elements, text_of, write_identifier
from pacspark.gateway.dimse.link import Message
from pacspark.gateway.dimse.negotiation import request
from pacspark.gateway.dimse.services import (
    PLAIN_SYNTAXES,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
)
from pacspark.gateway.dimse.session import Session
from pacspark.gateway.storing import Store

LOGGER: Final = logging.getLogger(__name__)
_REQUEST_COMMITMENT: Final = 1
_ALL_COMMITTED, _SOME_FAILED = 1, 2
_TRANSACTION: Final = 0x00081195
_REFERENCED: Final = 0x00081199
_FAILED: Final = 0x00081198
_CLASS_TAG, _INSTANCE_TAG, _REASON_TAG = "00081150", "00081155", "00081197"
_CLASS_CONFLICT: Final = 0x0119
_MOST_REFERENCES: Final = 65535
_PAUSES_S: Final = (0, 5, 30, 120, 300)
_ANSWER_S: Final = 10.0
MOST_REPORTS: Final = 16
"""That wait for one destination: each is a thread until it is taken, or given up."""


def commit(session: Session, message: Message) -> None:
    """Answer N-ACTION, then report what is committed."""
    command = message.command
    instance_uid = command.get("RequestedSOPInstanceUID")
    told: Command = {
        "AffectedSOPInstanceUID": instance_uid,
        "ActionTypeID": command.get("ActionTypeID"),
    }
    if command.get("ActionTypeID") != _REQUEST_COMMITMENT:
        session.answer(message, statuses.NO_SUCH_ACTION, **told)
        return
    if instance_uid != STORAGE_COMMITMENT_INSTANCE:
        session.answer(message, statuses.NO_SUCH_INSTANCE, **told)
        return
    elements = session.identifier(message)
    transaction = text_of(elements.get(f"{_TRANSACTION:08X}"))
    references = _references(elements)
    if not is_uid(transaction) or not references:
        text = "a transaction UID and references, found one of them missing"
        session.record("commit", f"failed: {text}")
        session.answer(message, statuses.INVALID_ARGUMENT, **told)
        return
    session.store.index.refresh()  # who may delete now relies on what other writers left
    session.answer(message, statuses.SUCCESS, **told)
    event, data = report(session.store, session.config.ae_title, transaction, references)
    session.record(
        "commit",
        "success" if event == _ALL_COMMITTED else "some failed",
        uid=transaction,
        references=len(references),
    )
    try:
        _send_here(session, message, event, data)
    except (AssociationEndedError, ProtocolError):
        _send_later(session, event, data)
        raise


def _references(elements: Elements) -> list[tuple[str, str]]:
    items = elements.get(f"{_REFERENCED:08X}", {}).get("Value", ())
    if len(items) > _MOST_REFERENCES:
        message = f"ReferencedSOPSequence: expected at most {_MOST_REFERENCES} items, found more"
        raise QueryError(message)
    return [(text_of(item.get(_CLASS_TAG)), text_of(item.get(_INSTANCE_TAG))) for item in items]


def report(
    store: Store, ae_title: str, transaction: str, references: Sequence[tuple[str, str]]
) -> tuple[int, list[tuple[int, str, Any]]]:
    """Tell what of some references (class and instance) the archive has for good.

    Returns
    -------
    tuple
        the event type, and the elements of its data set
    """
    committed, failed = [], []
    for sop_class, uid in references:
        found = store.index.lookup(uid)
        item = {
            _CLASS_TAG: {"vr": "UI", "Value": [sop_class]},
            _INSTANCE_TAG: {"vr": "UI", "Value": [uid]},
        }
        if found is not None and found.sop_class_uid == sop_class:
            committed.append(item)
            continue
        reason = statuses.NO_SUCH_INSTANCE if found is None else _CLASS_CONFLICT
        failed.append(item | {_REASON_TAG: {"vr": "US", "Value": [reason]}})
    elements: list[tuple[int, str, Any]] = [
        (0x00080054, "AE", ae_title),
        (_TRANSACTION, "UI", transaction),
    ]
    if committed:
        elements.append((_REFERENCED, "SQ", committed))
    if failed:
        elements.append((_FAILED, "SQ", failed))
    return (_SOME_FAILED if failed else _ALL_COMMITTED), elements


def _event(event: int) -> Command:
    return {
        "AffectedSOPClassUID": STORAGE_COMMITMENT,
        "CommandField": N_EVENT_REPORT,
        "MessageID": 1,
        "AffectedSOPInstanceUID": STORAGE_COMMITMENT_INSTANCE,
        "EventTypeID": event,
    }


def _send_here(
    session: Session, message: Message, event: int, data: list[tuple[int, str, Any]]
) -> None:
    link = session.association.link
    syntax = session.context(message).transfer_syntax
    link.poll()
    if link.released:  # it did not wait
        _send_later(session, event, data)
        return
    link.send(_event(event), message.context_id, write_identifier(data, syntax))
    if link.answer_to(N_EVENT_REPORT, _ANSWER_S) is None:
        _send_later(session, event, data)


def _send_later(session: Session, event: int, data: list[tuple[int, str, Any]]) -> None:
    peer = session.association.calling_ae_title
    destination = session.config.destinations.get(peer)
    if destination is None:
        session.record("commit", f"not reported: no [[destinations]] has the AE title {peer}")
        return
    name = f"pacspark-commitment {destination.ae_title}"
    if sum(thread.name == name for thread in threading.enumerate()) >= MOST_REPORTS:
        LOGGER.warning("%s: %d reports wait for %s already", session.peer, MOST_REPORTS, peer)
        session.record("commit", "not reported: too many reports wait")
        return
    threading.Thread(
        target=_send_there,
        args=(destination, session.config.ae_title, session.config.limits, session.client_tls,
              event, data),
        name=name,
        daemon=True,
    ).start()  # fmt: skip


def _send_there(
    destination: Destination,
    ae_title: str,
    limits: Limits,
    tls: ssl.SSLContext | None,
    event: int,
    data: list[tuple[int, str, Any]],
) -> None:
    for pause_s in _PAUSES_S:
        sleep(pause_s)
        try:
            # the archive is SCP here too, although it calls (PS3.4 J.3.3)
            association = request(
                destination,
                ae_title,
                [(STORAGE_COMMITMENT, PLAIN_SYNTAXES)],
                limits,
                tls,
                scp_roles=[STORAGE_COMMITMENT],
            )
            contexts = list(association.contexts.values())
            if not contexts:
                association.link.release()
                continue
            encoded = write_identifier(data, contexts[0].transfer_syntax)
            association.link.send(_event(event), contexts[0].context_id, encoded)
            answer = association.link.receive(most_s=limits.idle_s)
            association.link.release()
        except (AssociationEndedError, ProtocolError) as error:
            LOGGER.warning("storage commitment: %s", error)
            continue
        if answer is not None and answer.command.get("Status") == statuses.SUCCESS:
            return
    LOGGER.warning("storage commitment: %s did not take the report", destination.ae_title)
