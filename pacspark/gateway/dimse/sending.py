"""C-STORE as SCU: objects to a peer, byte for byte where it takes their transfer syntax.

For C-GET (over the association that asked), C-MOVE and `pacspark send` (over one of their own).
"""

import logging
import ssl
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from pacspark.dicom.decode import data_set_start
from pacspark.errors import (
    AssociationEndedError,
    PacsparkError,
    ProtocolError,
    TranscodingError,
    UsageError,
)
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.commands import C_STORE, RESPONSE
from pacspark.gateway.dimse.negotiation import Association, Context, request
from pacspark.gateway.part10 import with_header
from pacspark.gateway.statuses import SUCCESS, dimse_status
from pacspark.gateway.transcoding import TARGETS, transcoded
from pacspark.tables.landing import LARGE_BYTES

LOGGER: Final = logging.getLogger(__name__)
_MOST_CONTEXTS: Final = 128
_MEDIUM_PRIORITY: Final = 0
_WARNINGS: Final = range(0xB000, 0xC000)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One object to send.

    Attributes
    ----------
    sop_instance_uid, sop_class_uid, transfer_syntax_uid
        of the object
    size_bytes
        of all of it
    pieces
        reads it, piece by piece
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    pieces: Callable[[], Iterator[bytes]]


@dataclass(slots=True)
class Sent:
    """What became of the objects of one operation (PS3.4 C.4.2.1.6 to C.4.2.1.9).

    Attributes
    ----------
    remaining, completed, warned
        numbers of objects
    failed
        UIDs of those that were not stored
    reasons
        why not, the first of each kind
    """

    remaining: int
    completed: int = 0
    warned: int = 0
    failed: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Give the elements of a response that count."""
        return {
            "NumberOfCompletedSuboperations": self.completed,
            "NumberOfFailedSuboperations": len(self.failed),
            "NumberOfWarningSuboperations": self.warned,
        }

    def took(self, status: int, one: Outgoing, why: str = "") -> None:
        """Count one object."""
        self.remaining -= 1
        if status == SUCCESS:
            self.completed += 1
        elif status in _WARNINGS:
            self.warned += 1
        else:
            why = why or f"the peer answered 0x{status:04X}"
            self.failed.append(one.sop_instance_uid)
            if why not in self.reasons and len(self.reasons) < 8:
                self.reasons.append(why)


def read_ahead(objects: Iterable[Outgoing]) -> Iterator[Outgoing]:
    """Give objects that are read while the peer still has the one before in its hands.

    A peer takes one object at a time and answers before the next, so what is done beside that is
    time that it does not wait. One object is ahead, and none of more than 8 MiB, so that peers that
    read slowly cost little memory; where reading fails, taking the object's pieces does.
    """
    with ThreadPoolExecutor(1, "pacspark-read-ahead") as reader:
        ahead: Outgoing | None = None
        for one in objects:
            begun = one
            if one.size_bytes <= LARGE_BYTES:
                first = reader.submit(_begun, one.pieces)
                begun = replace(one, pieces=partial(_pieces_of, first))
            if ahead is not None:
                yield ahead
            ahead = begun
        if ahead is not None:
            yield ahead


def _begun(pieces: Callable[[], Iterator[bytes]]) -> tuple[bytes, Iterator[bytes]]:
    left = pieces()
    return next(left), left


def _pieces_of(begun: Future[tuple[bytes, Iterator[bytes]]]) -> Iterator[bytes]:
    first, left = begun.result()
    yield first
    yield from left


def client_context(
    ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """Make the TLS context for connections to peers; their host has to be in their certificate.

    Parameters
    ----------
    ca
        PEM file of those whose certificates are believed; those of this machine unless given
    certificate, key
        PEM files of this side's own, for peers that want one

    Raises
    ------
    UsageError
        where a file is none, or the two do not belong together
    """
    path = ca
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        path = certificate
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl's own are of this kind
        expected = "a PEM file of certificates" if path is ca else "a PEM file and its key"
        message = f"tls: expected {expected}, found {path}: {error.strerror or error}"
        raise UsageError(message) from error
    return context


def send_one(
    association: Association, one: Outgoing, message_id: int, originator: Mapping[str, Any]
) -> int:
    """Send one object and wait for the answer.

    Parameters
    ----------
    association
        with a context for it, or one to transcode it for
    one
        the object
    message_id
        of the request
    originator
        command elements that tell of the C-MOVE or C-GET behind it

    Returns
    -------
    int
        the status of the answer

    Raises
    ------
    TranscodingError
        where the peer takes no transfer syntax that it can be given in
    AssociationEndedError, ProtocolError
        where the association cannot go on
    StorageError
        where its bytes cannot be read; the association is aborted if some were sent
    """
    contexts = association.sending_contexts(one.sop_class_uid)
    context = contexts.get(one.transfer_syntax_uid)
    data_set: Iterator[bytes | memoryview]
    if context is not None:
        data_set = _data_set(one.pieces())
    else:
        context = _fallback(contexts, one, association.link.peer)
        names = (one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid)
        whole = with_header(b"".join(one.pieces()), *names)
        data_set = iter([transcoded(whole, context.transfer_syntax)])
    command = {
        "AffectedSOPClassUID": one.sop_class_uid,
        "CommandField": C_STORE,
        "MessageID": message_id,
        "Priority": _MEDIUM_PRIORITY,
        "AffectedSOPInstanceUID": one.sop_instance_uid,
        **originator,
    }
    first = next(data_set, b"")  # what cannot be read is known before anything is sent
    try:
        association.link.send(command, context.context_id, chain((first,), data_set))
    except (AssociationEndedError, ProtocolError):
        raise
    except PacsparkError:
        association.link.abort()
        raise
    answer = association.link.receive(most_s=association.link.limits.idle_s)
    if answer is None:
        message = f"{association.link.peer}: expected an answer, found the association released"
        raise AssociationEndedError(message)
    if answer.command["CommandField"] != C_STORE | RESPONSE:
        association.link.abort()
        message = f"{association.link.peer}: expected the answer to C-STORE, found another message"
        raise ProtocolError(message)
    return int(answer.command.get("Status", 0xC000))


def _fallback(contexts: Mapping[str, Context], one: Outgoing, peer: str) -> Context:
    for syntax in TARGETS:
        if syntax in contexts:
            return contexts[syntax]
    message = (
        f"{peer}: expected a presentation context for {one.sop_class_uid} in "
        f"{one.transfer_syntax_uid} or a plain transfer syntax, found none"
    )
    raise TranscodingError(message)


def _data_set(pieces: Iterator[bytes]) -> Iterator[bytes | memoryview]:
    first = next(pieces)
    yield memoryview(first)[data_set_start(first) :]
    yield from pieces


def contexts_for(objects: Iterable[Outgoing]) -> list[tuple[str, list[str]]]:
    """Propose contexts: each stored transfer syntax by itself, and plain ones to transcode to."""
    stored = {(one.sop_class_uid, one.transfer_syntax_uid) for one in objects}
    proposed = [(abstract, [syntax]) for abstract, syntax in sorted(stored)]
    plain = {abstract for abstract, _ in stored} - {
        abstract for abstract, syntax in stored if syntax == TARGETS[0]
    }
    return proposed + [(abstract, list(TARGETS)) for abstract in sorted(plain)]


def send_to(
    destination: Destination,
    calling_ae_title: str,
    objects: Sequence[Outgoing],
    limits: Limits,
    tls: ssl.SSLContext | None = None,
    originator: Mapping[str, Any] | None = None,
) -> Generator[Sent, None, None]:
    """Send objects over associations of their own, as many as their contexts need.

    Parameters
    ----------
    destination
        where to
    calling_ae_title
        what to be called
    objects
        to send, in this order as far as one association goes
    limits
        of lengths and of waiting
    tls
        for a destination that wants it
    originator
        command elements that tell of the C-MOVE or C-GET behind it

    Yields
    ------
    Sent
        the same one, after each object; whoever stops iterating ends the association
    """
    sent = Sent(len(objects))
    for batch in _batches(objects):
        left = len(batch)
        try:
            association = request(destination, calling_ae_title, contexts_for(batch), limits, tls)
        except (AssociationEndedError, ProtocolError) as error:
            for one in batch:
                sent.took(dimse_status(error), one, str(error))
            yield sent
            continue
        try:
            for one in read_ahead(batch):
                send_counted(association, one, sent, originator or {})
                left -= 1
                yield sent
        except (AssociationEndedError, ProtocolError) as error:
            for other in batch[len(batch) - left :]:
                sent.took(dimse_status(error), other, str(error))
            yield sent
        finally:
            association.link.release()


def send_counted(
    association: Association,
    one: Outgoing,
    sent: Sent,
    originator: Mapping[str, Any],
    after: int = 0,
) -> None:
    """Send one object and count it; its message has the next number of those `after` one."""
    number = (after + sent.completed + sent.warned + len(sent.failed)) % 0xFFFF + 1
    try:
        sent.took(send_one(association, one, number, originator), one)
    except (AssociationEndedError, ProtocolError):
        raise
    except PacsparkError as error:
        LOGGER.warning("%s: %s", one.sop_instance_uid, error)
        sent.took(dimse_status(error), one, str(error))


def _batches(objects: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Cut objects into runs whose contexts fit into one association."""
    batch: list[Outgoing] = []
    kinds: set[tuple[str, str]] = set()
    for one in objects:
        kind = (one.sop_class_uid, one.transfer_syntax_uid)
        if kind not in kinds and len(contexts_for([*_first_of(batch), one])) > _MOST_CONTEXTS:
            yield batch
            batch, kinds = [], set()
        kinds.add(kind)
        batch.append(one)
    if batch:
        yield batch


def _first_of(objects: Iterable[Outgoing]) -> list[Outgoing]:
    return list({(one.sop_class_uid, one.transfer_syntax_uid): one for one in objects}.values())
