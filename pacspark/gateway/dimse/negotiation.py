"""Association requests and their answers (PS3.8 9.3.2 to 9.3.4, PS3.7 D.3), by pynetdicom.

An acceptor takes, of each presentation context, the first transfer syntax that was proposed: any at
all for storage, so that objects are stored as they are sent. A requestor that wants to receive over
C-GET says so with a role, and is given it.
"""

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from pacspark.dicom.enhanced_xa import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacspark.errors import AssociationEndedError, PacsparkError, ProtocolError
from pacspark.gateway.config import Destination, Limits
from pacspark.gateway.dimse.commands import Command
from pacspark.gateway.dimse.link import (
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    ASSOCIATE_RQ,
    Link,
    usable_pdu_bytes,
)
from pacspark.gateway.dimse.services import agreed
from pacspark.tables.spool import Spool

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
REJECTED_CALLER: Final = (1, 1, 3)
"""Permanently, by the user: the calling AE title is not recognized."""
REJECTED_BUSY: Final = (2, 3, 2)
"""For now, by the provider: the local limit is exceeded."""
_REJECTIONS: Final[Mapping[tuple[int, ...], str]] = {
    (1, 3): "it does not know the AE title {calling} (calling); let it be told there",
    (1, 7): "it is not called {called}",
    (3, 1): "it is busy; try later",
    (3, 2): "it has too many associations; try later",
}
"""What a peer means by source and reason (PS3.8 9.3.4)."""
_MOST_REQUEST_BYTES: Final = 256 << 10
_MOST_CONTEXTS: Final = 128


@dataclass(frozen=True, slots=True)
class Context:
    """One accepted presentation context.

    Attributes
    ----------
    context_id, abstract_syntax, transfer_syntax
        as negotiated
    sends
        whether this side may be SCU in it
    """

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    sends: bool = True


@dataclass(slots=True)
class Association:
    """An association that has been agreed on.

    Attributes
    ----------
    link
        its connection
    calling_ae_title, called_ae_title
        as they were told
    address
        of the peer
    contexts
        accepted, by their number
    extended
        application information of the extended negotiation, by SOP class: what both sides can
    """

    link: Link
    calling_ae_title: str
    called_ae_title: str
    address: str
    contexts: dict[int, Context]
    extended: dict[str, bytes] = field(default_factory=dict)

    def sending_contexts(self, sop_class_uid: str) -> dict[str, Context]:
        """Give the contexts in which objects of a SOP class may be sent, by transfer syntax."""
        return {
            context.transfer_syntax: context
            for context in self.contexts.values()
            if context.abstract_syntax == sop_class_uid and context.sends
        }


def accept(
    link: Link,
    address: str,
    limits: Limits,
    accepted_syntaxes: Callable[[str, str, Sequence[str]], Sequence[str]],
    is_welcome: Callable[[str], tuple[int, int, int] | None],
) -> Association:
    """Read an association request and answer it.

    Parameters
    ----------
    link
        of the peer, from which nothing has been read
    address
        of the peer
    limits
        what the peer is told, and how long it may take
    accepted_syntaxes
        gives, for a calling AE title, an abstract syntax and proposed transfer syntaxes, those that
        are taken, also where none of them was proposed; none for a service that is not offered
    is_welcome
        gives, for a calling AE title, None or result, source and reason of a rejection

    Raises
    ------
    AssociationEndedError
        where the request was rejected, or the peer is gone
    ProtocolError
        where it is no request
    """
    kind, body = link.read_pdu(limits.negotiate_s, limits.negotiate_s)
    if kind != ASSOCIATE_RQ or len(body) > _MOST_REQUEST_BYTES:
        link.abort(2)
        message = f"{link.peer}: expected an association request, found a PDU of type {kind}"
        raise ProtocolError(message)
    request = _decoded(link, A_ASSOCIATE_RQ, kind, body)
    calling = request.calling_ae_title.strip()
    rejection = is_welcome(calling)
    if rejection is not None:
        reject(link, *rejection)
        why = "it may not call" if rejection == REJECTED_CALLER else "too many associations"
        message = f"{calling}: rejected: {why}"
        raise AssociationEndedError(message)
    with _of_peer(link):
        proposed = request.presentation_context_definition_list[:_MOST_CONTEXTS]
        told = _Told.of(request.user_information)
        results: list[PresentationContext] = []
        roles: dict[UID | None, Any] = {}
        offered: set[str] = set()
        for context in proposed:  # each alone, so that its own first transfer syntax is taken
            abstract = str(context.abstract_syntax)
            syntaxes = accepted_syntaxes(
                calling, abstract, [str(s) for s in context.transfer_syntax]
            )
            own = _context(1, abstract, syntaxes)
            own.scu_role = own.scp_role = True
            answers, items = negotiate_as_acceptor([context], [own] if syntaxes else [], told.roles)
            results += answers
            roles |= {item.sop_class_uid: item for item in items}
            offered |= {abstract} if syntaxes else set()
        extended = {
            uid: done
            for uid, info in told.extended.items()
            if uid in offered and (done := agreed(uid, info))
        }
        reply = A_ASSOCIATE()
        reply.application_context_name = UID(APPLICATION_CONTEXT)
        reply.calling_ae_title, reply.called_ae_title = (
            request.calling_ae_title,
            request.called_ae_title,
        )
        reply.result, reply.result_source = 0, 1
        reply.presentation_context_definition_results_list = results
        reply.user_information = [
            *_own_information(limits),
            *roles.values(),
            *_extended_items(extended),
        ]
        encoded = A_ASSOCIATE_AC(reply).encode()
    link.peer_pdu_bytes = usable_pdu_bytes(told.pdu_bytes)
    link.send_pdu(ASSOCIATE_AC, encoded[6:])
    contexts = {
        context.context_id: Context(
            context.context_id,
            str(context.abstract_syntax),
            str(context.transfer_syntax[0]),
            bool(context.as_scu),
        )
        for context in results
        if context.result == 0 and context.context_id is not None
    }
    called = request.called_ae_title.strip()
    return Association(link, calling, called, address, contexts, extended)


def reject(link: Link, result: int, source: int, reason: int) -> None:
    """Send a rejection and close the connection."""
    pdu = A_ASSOCIATE_RJ()
    pdu.result, pdu.source, pdu.reason_diagnostic = result, source, reason
    with suppress(AssociationEndedError):
        link.send_pdu(ASSOCIATE_RJ, pdu.encode()[6:])
    link.close()


def request(
    destination: Destination,
    calling_ae_title: str,
    contexts: Iterable[tuple[str, Sequence[str]]],
    limits: Limits,
    tls: ssl.SSLContext | None = None,
    scp_roles: Sequence[str] = (),
) -> Association:
    """Connect to an application entity and agree on an association.

    Parameters
    ----------
    destination
        whom to call
    calling_ae_title
        what to be called
    contexts
        abstract syntax and transfer syntaxes of each presentation context, at most 128
    limits
        of lengths and of waiting
    tls
        for a destination that wants it
    scp_roles
        SOP classes for which this side wants to be SCP

    Raises
    ------
    AssociationEndedError
        where nobody answers, or the answer is no
    """
    peer = f"{destination.ae_title}@{destination.host}:{destination.port}"
    try:
        connection = socket.create_connection(
            (destination.host, destination.port), limits.negotiate_s
        )
        if destination.tls:
            context = tls or ssl.create_default_context()
            try:
                connection = context.wrap_socket(connection, server_hostname=destination.host)
            except BaseException:
                connection.close()
                raise
    except ssl.SSLCertVerificationError as error:
        message = (
            f"{peer}: cannot connect: certificate verify failed: {error.verify_message}; "
            "--tls-ca, of a gateway client_ca, says whose are believed"
        )
        raise AssociationEndedError(message) from error
    except OSError as error:
        message = f"{peer}: cannot connect: {error.strerror or error}"
        raise AssociationEndedError(message) from error
    link = Link(connection, limits, peer)
    link.begin_object = _taking(link, frozenset(scp_roles))
    try:
        return _request(link, destination, calling_ae_title, contexts, limits, scp_roles)
    except BaseException:
        link.close()
        raise


def _request(
    link: Link,
    destination: Destination,
    calling_ae_title: str,
    contexts: Iterable[tuple[str, Sequence[str]]],
    limits: Limits,
    scp_roles: Sequence[str],
) -> Association:
    proposed = {
        2 * number + 1: _context(2 * number + 1, abstract, syntaxes)
        for number, (abstract, syntaxes) in enumerate(contexts)
    }
    asked = A_ASSOCIATE()
    asked.application_context_name = UID(APPLICATION_CONTEXT)
    asked.calling_ae_title, asked.called_ae_title = calling_ae_title, destination.ae_title
    asked.presentation_context_definition_list = list(proposed.values())
    asked.user_information = [*_own_information(limits), *(_role(uid) for uid in scp_roles)]
    link.send_pdu(ASSOCIATE_RQ, A_ASSOCIATE_RQ(asked).encode()[6:])
    kind, body = link.read_pdu(limits.negotiate_s)
    if kind != ASSOCIATE_AC:
        found = f"a PDU of type {kind}"
        if kind == ASSOCIATE_RJ:
            numbers = tuple(body[1:4])
            found = _REJECTIONS.get(numbers[1:], f"result, source, reason {numbers}")
            found = found.format(calling=calling_ae_title, called=destination.ae_title)
        message = f"{link.peer}: the association was refused: {found}"
        raise AssociationEndedError(message)
    answer = _decoded(link, A_ASSOCIATE_AC, kind, body)
    with _of_peer(link):
        link.peer_pdu_bytes = usable_pdu_bytes(_Told.of(answer.user_information).pdu_bytes)
        accepted = {
            int(context.context_id): Context(
                int(context.context_id),
                str(proposed[context.context_id].abstract_syntax),
                str(context.transfer_syntax[0]),
            )
            for context in answer.presentation_context_definition_results_list
            if context.result == 0 and context.context_id in proposed
        }
    return Association(link, calling_ae_title, destination.ae_title, destination.host, accepted)


def _taking(link: Link, scp_roles: frozenset[str]) -> Callable[[Command, int], Spool]:
    """Take objects of those classes alone that this side asked to be given."""

    def begin(command: Command, _context_id: int) -> Spool:
        sop_class = command.get("AffectedSOPClassUID", "")
        if sop_class not in scp_roles:
            message = f"{link.peer}: expected answers, found a C-STORE of {sop_class[:64]!r}"
            raise ProtocolError(message)
        return Spool()

    return begin


def _decoded(link: Link, pdu_class: type, kind: int, body: bytes | bytearray) -> Any:
    """Decode an association PDU."""
    pdu = pdu_class()
    with _of_peer(link):
        pdu.decode(bytes([kind, 0]) + len(body).to_bytes(4, "big") + body)
        primitive = pdu.to_primitive()
        _ = primitive.user_information, primitive.calling_ae_title
    return primitive


@contextmanager
def _of_peer(link: Link) -> Iterator[None]:
    """Have what pynetdicom makes of hostile bytes, whatever that is, be one error."""
    try:
        yield
    except PacsparkError:
        raise
    except Exception as error:
        link.abort(6)
        message = f"{link.peer}: expected association PDU, found bytes that are none: {error}"
        raise ProtocolError(message) from error


@dataclass(slots=True)
class _Told:
    """What a peer told of itself."""

    pdu_bytes: int | None
    roles: dict[UID, tuple[bool | None, bool | None]]
    extended: dict[str, bytes]

    @classmethod
    def of(cls, items: Iterable[Any]) -> "_Told":
        told = cls(None, {}, {})
        for item in items:
            if isinstance(item, MaximumLengthNotification):
                told.pdu_bytes = item.maximum_length_received
            elif isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid:
                told.roles[item.sop_class_uid] = (bool(item.scu_role), bool(item.scp_role))
            elif isinstance(item, SOPClassExtendedNegotiation) and item.sop_class_uid:
                info = item.service_class_application_information or b""
                told.extended[str(item.sop_class_uid)] = info[:8]
        return told


def _own_information(limits: Limits) -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = limits.pdu_bytes
    uid = ImplementationClassUIDNotification()
    uid.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    name = ImplementationVersionNameNotification()
    name.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, uid, name]


def _extended_items(extended: Mapping[str, bytes]) -> list[Any]:
    items = []
    for uid, info in extended.items():
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = UID(uid), info
        items.append(item)
    return items


def _role(uid: str) -> Any:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = UID(uid), False, True
    return role


def _context(number: int, abstract: str, syntaxes: Sequence[str]) -> PresentationContext:
    context = PresentationContext()
    context.context_id, context.abstract_syntax = number, UID(abstract)
    context.transfer_syntax = [UID(syntax) for syntax in syntaxes]
    return context
