"""The DIMSE server: connections in, one thread each, requests to their handlers.

::

    connection ── limits ── TLS ── association request ── allow-list ── contexts
                                                             │
              C-ECHO  C-STORE  C-FIND  C-GET  C-MOVE  N-ACTION ── one handler each ── responses
"""

import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock, Thread
from time import monotonic
from typing import Final

from pacspark.dicom.decode import InstanceIndex
from pacspark.dicom.uids import is_uid
from pacspark.errors import (
    AssociationEndedError,
    InstanceMismatchError,
    PacsparkError,
    ProtocolError,
    UsageError,
)
from pacspark.gateway import statuses
from pacspark.gateway.audit import AuditLog
from pacspark.gateway.config import GatewayConfig, cannot_listen
from pacspark.gateway.dimse.commands import (
    C_ECHO,
    C_FIND,
    C_GET,
    C_MOVE,
    C_STORE,
    N_ACTION,
    RESPONSE,
    Command,
)
from pacspark.gateway.dimse.commitment import commit
from pacspark.gateway.dimse.finding import find
from pacspark.gateway.dimse.link import Link, Message
from pacspark.gateway.dimse.negotiation import (
    REJECTED_BUSY,
    REJECTED_CALLER,
    Association,
    accept,
)
from pacspark.gateway.dimse.retrieving import get, move
from pacspark.gateway.dimse.services import (
    PLAIN_SYNTAXES,
    SERVICE_OF_CLASS,
    is_storage_class,
)
from pacspark.gateway.dimse.session import Session
from pacspark.gateway.dimse.worklist import find_worklist, worklist_of
from pacspark.gateway.limits import Doorkeeper
from pacspark.gateway.part10 import file_header
from pacspark.gateway.storing import Store
from pacspark.tables.spool import Spool

LOGGER: Final = logging.getLogger(__name__)
_BACKLOG: Final = 128
_ACCEPT_S: Final = 0.5
_TLS_TROUBLES: Final = {
    "WRONG_VERSION_NUMBER": "the peer does not speak it, and this port wants it",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate, which client_ca wants",
    "CERTIFICATE_VERIFY_FAILED": "the peer's certificate is none of client_ca",
}
"""What OpenSSL's reasons mean to whoever runs the gateway."""

Handler = Callable[[Session, Message], None]


class DimseServer:
    """Listens for associations; a thread of its own, and one for each association.

    Parameters
    ----------
    store
        the archive
    config
        what the gateway was told
    audit
        takes a row for each access
    """

    def __init__(self, store: Store, config: GatewayConfig, audit: AuditLog) -> None:
        self._store, self._config, self._audit = store, config, audit
        self._private_classes = frozenset(config.private_sop_classes)
        self._worklist = None if config.worklist is None else worklist_of(config.worklist)
        self._doorkeeper = Doorkeeper(config.limits)
        self._tls = None if config.tls is None else server_context(config)
        self._closing = Event()
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        try:
            self._listener = socket.create_server(
                (config.host, config.dimse_port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            raise cannot_listen("dimse_port", config.dimse_port, config.host, error) from error
        self._listener.settimeout(_ACCEPT_S)
        self._links: dict[Link, Thread] = {}
        self._busy: set[Link] = set()
        self._lock = Lock()
        self._thread = Thread(target=self._listen, name="pacspark-dimse", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self, drain_s: float = 10.0) -> None:
        """Stop listening; running requests may end within a time, all else is aborted at once."""
        self._closing.set()
        self._thread.join()
        deadline = monotonic() + drain_s
        with self._lock:
            idle = [link for link in self._links if link not in self._busy]
        for link in idle:
            link.abort()
        for thread in list(self._links.values()):
            thread.join(max(0.0, deadline - monotonic()))
        with self._lock:
            left = list(self._links.items())
        for link, _ in left:
            link.abort()
        for _, thread in left:
            thread.join(1.0)

    def _listen(self) -> None:
        with self._listener:
            while not self._closing.is_set():
                try:
                    connection, address = self._listener.accept()
                except TimeoutError:
                    continue
                except OSError as error:  # no file descriptors left, say
                    LOGGER.warning("cannot accept a connection: %s", error)
                    self._closing.wait(_ACCEPT_S)
                    continue
                self._begin(connection, str(address[0]))

    def _begin(self, connection: socket.socket, address: str) -> None:
        link = Link(connection, self._config.limits, address)
        if not self._doorkeeper.lets_in(link, address):
            link.close()
            LOGGER.warning("%s: too many connections; closed", address)
            return
        thread = Thread(
            target=self._serve, args=(link, connection, address), name="pacspark-dimse", daemon=True
        )
        with self._lock:
            self._links[link] = thread
        try:
            thread.start()
        except RuntimeError as error:  # no threads left
            LOGGER.warning("%s: %s", address, error)
            self._end(link)

    def _end(self, link: Link) -> None:
        link.close()
        link.discard()
        self._doorkeeper.lets_out(link)
        with self._lock:
            self._links.pop(link, None)
            self._busy.discard(link)

    def _serve(self, link: Link, connection: socket.socket, address: str) -> None:
        started, said = monotonic(), "no association"
        requests: Counter[str] = Counter()
        denied: set[str] = set()
        try:
            if self._tls is not None:
                connection.settimeout(self._config.limits.negotiate_s)
                link.secure(self._tls)
            association = accept(
                link,
                address,
                self._config.limits,
                self._syntaxes(address, denied),
                self._welcome(link, address),
            )
            said = f"{association.calling_ae_title} -> {association.called_ae_title}"
            session = Session(association, self._store, self._config, self._audit, self._worklist)
            link.begin_object = _beginning_of(association, self._store)
            while (message := link.receive()) is not None:
                with self._lock:
                    self._busy.add(link)
                requests[self._handle(session, message)] += 1
                with self._lock:
                    self._busy.discard(link)
                if self._closing.is_set():
                    link.abort()
                    break
            end = "released" if link.released else "aborted: the gateway ends"
        except ssl.SSLError as error:
            end = f"no TLS: {_TLS_TROUBLES.get(error.reason or '', error.reason or error)}"
        except (AssociationEndedError, ProtocolError, OSError) as error:
            end = str(error)
        except Exception:
            LOGGER.exception("%s: an error of the gateway", address)
            link.abort()
            end = "aborted: an error of the gateway"
        finally:
            self._end(link)
        if denied:
            end += f"; asked for {', '.join(sorted(denied))} too, which [[callers]] does not give"
        asked = ", ".join(f"{count} {service}" for service, count in requests.items())
        LOGGER.info(
            "%s: %s: %s in %.1f s: %s", address, said, asked or "no request",
            monotonic() - started, end,
        )  # fmt: skip

    def _welcome(self, link: Link, address: str) -> Callable[[str], tuple[int, int, int] | None]:
        def welcome(ae_title: str) -> tuple[int, int, int] | None:
            if not self._config.services_of(ae_title, address):
                why = "rejected: no [[callers]] has this AE title and address"
                self._audit.record(ae_title, address, "associate", why)
                return REJECTED_CALLER
            return None if self._doorkeeper.associates(link, address) else REJECTED_BUSY

        return welcome

    def _syntaxes(
        self, address: str, denied: set[str]
    ) -> Callable[[str, str, Sequence[str]], Sequence[str]]:
        def syntaxes(ae_title: str, abstract: str, proposed: Sequence[str]) -> Sequence[str]:
            allowed = self._config.services_of(ae_title, address)
            if is_storage_class(abstract) or abstract in self._private_classes:
                if not {"store", "get"} & allowed:
                    denied.add("store")
                    return ()
                return [one for one in proposed if is_uid(one)]
            service = SERVICE_OF_CLASS.get(abstract)
            if service not in allowed:
                if service is not None:
                    denied.add(service)
                return ()
            return PLAIN_SYNTAXES

        return syntaxes

    def _handle(self, session: Session, message: Message) -> str:
        """Answer a request; give the name of its service."""
        command = message.command
        context = session.association.contexts.get(message.context_id)
        field = command["CommandField"]
        if field & RESPONSE:
            return "late answer"  # nobody waits for it any more
        try:
            if context is None:
                raise _refused(
                    session, "a presentation context that was accepted", message.context_id
                )
            service = SERVICE_OF_CLASS.get(context.abstract_syntax, "store")
            handler = HANDLERS.get((field, service))
            if handler is None:
                session.answer(message, statuses.UNRECOGNIZED_OPERATION)
                return "unknown"
            try:
                handler(session, message)
            except (AssociationEndedError, ProtocolError):
                raise
            except PacsparkError as error:
                session.record(service, f"failed: {error}")
                session.answer(message, statuses.dimse_status(error), ErrorComment=str(error))
            except Exception as error:
                LOGGER.exception("%s: an error of the gateway", session.peer)
                session.record(service, f"failed: {type(error).__name__}")
                session.answer(message, statuses.PROCESSING_FAILURE)
            return service
        finally:
            session.association.link.cancelled.clear()
            if message.data_set is not None:
                message.data_set.close()


def _refused(session: Session, expected: str, found: object) -> ProtocolError:
    session.association.link.abort()
    return ProtocolError(f"{session.peer}: expected {expected}, found {found}")


def _beginning_of(association: Association, store: Store) -> Callable[[Command, int], Spool]:
    def begin(command: Command, context_id: int) -> Spool:
        context = association.contexts.get(context_id)
        sop_class = command.get("AffectedSOPClassUID", "")
        uid = command.get("AffectedSOPInstanceUID", "")
        if context is None or not is_uid(sop_class) or not is_uid(uid):
            message = f"C-STORE: expected UIDs and an accepted context, found {uid[:80]!r}"
            raise ProtocolError(message)
        spool = Spool(store.landing)
        spool.write(file_header(sop_class, uid, context.transfer_syntax))
        return spool

    return begin


def echo(session: Session, message: Message) -> None:
    """Answer C-ECHO (PS3.4 A)."""
    session.answer(message, statuses.SUCCESS)


def store(session: Session, message: Message) -> None:
    """Store the object of a C-STORE (PS3.4 B)."""
    command = message.command
    sop_class, uid = command.get("AffectedSOPClassUID"), command.get("AffectedSOPInstanceUID")
    if message.data_set is None or "store" not in session.services:
        status = statuses.NOT_AUTHORIZED if message.data_set else statuses.DOES_NOT_MATCH
        session.answer(message, status, AffectedSOPInstanceUID=uid)
        return
    if sop_class != session.context(message).abstract_syntax:
        session.answer(message, statuses.SOP_CLASS_NOT_SUPPORTED, AffectedSOPInstanceUID=uid)
        return

    def check(index: InstanceIndex) -> None:
        if (index.sop_class_uid, index.sop_instance_uid) != (sop_class, uid):
            text = f"data set: expected {sop_class} {uid}, found {index.sop_class_uid} "
            raise InstanceMismatchError(text + index.sop_instance_uid)

    status, comment = statuses.SUCCESS, None
    try:
        stored = session.store.store(message.data_set.data(), session.peer, check)
        outcome = str(stored.outcome)
        if outcome == "conflict":
            status = statuses.DUPLICATE_INSTANCE
            comment = "another object has this UID; kept in rejects"
    except PacsparkError as error:
        status, comment = statuses.dimse_status(error), str(error)
        outcome = f"failed: {error}"
    session.record("store", outcome, level="instance", uid=uid)
    session.answer(message, status, AffectedSOPInstanceUID=uid, ErrorComment=comment)


HANDLERS: Final[Mapping[tuple[int, str], Handler]] = {
    (C_ECHO, "echo"): echo,
    (C_STORE, "store"): store,
    (C_FIND, "find"): find,
    (C_GET, "get"): get,
    (C_MOVE, "move"): move,
    (C_FIND, "worklist"): find_worklist,
    (N_ACTION, "commit"): commit,
}
"""By command field and service."""


def server_context(config: GatewayConfig) -> ssl.SSLContext:
    """Make the TLS context of the gateway's ports (PS3.15 B.9: TLS 1.2 at least).

    Raises
    ------
    UsageError
        where a file is none, or certificate and key do not belong together
    """
    assert config.tls is not None  # noqa: S101 -- callers ask only then
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate, key, client_ca = config.tls.certificate, config.tls.key, config.tls.client_ca
    wanted = f"certificate: expected a PEM certificate and its key, found {certificate} and {key}"
    try:
        # without a password: nobody is there to type one
        context.load_cert_chain(certificate, key, password="")
        if client_ca is not None:
            wanted = f"client_ca: expected PEM certificates, found {client_ca}"
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl's own are of this kind
        reason = getattr(error, "reason", None) or error.strerror or error
        message = f"tls.{wanted}: {str(reason).lower().replace('_', ' ')}"
        raise UsageError(message) from error
    return context
