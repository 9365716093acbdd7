"""What the handler of one DIMSE request has at hand: the association, the archive, the rules."""

import ssl
from dataclasses import dataclass
from typing import Any, Protocol

from pacspark.gateway.audit import AuditLog
from pacspark.gateway.config import GatewayConfig
from pacspark.gateway.dimse.commands import Command, response
from pacspark.gateway.dimse.identifiers import Elements, read_identifier
from pacspark.gateway.dimse.link import Message
from pacspark.gateway.dimse.negotiation import Association, Context
from pacspark.gateway.dimse.sending import client_context
from pacspark.gateway.storing import Store

_MOST_EXTENSIONS = 8


class Entries(Protocol):
    """A modality worklist."""

    def entries(self) -> list[Elements]:
        """Give all entries, each with one scheduled procedure step, as they are now."""


@dataclass(slots=True)
class Session:
    """One association that is being served.

    Attributes
    ----------
    association
        with the peer
    store
        the archive
    config
        what the gateway was told
    audit
        takes a row for each access
    worklist
        the modality worklist, where there is one
    """

    association: Association
    store: Store
    config: GatewayConfig
    audit: AuditLog
    worklist: Entries | None = None

    @property
    def client_tls(self) -> ssl.SSLContext | None:
        """The TLS context for destinations that want one."""
        tls = self.config.tls
        return None if tls is None else client_context(tls.client_ca, tls.certificate, tls.key)

    @property
    def services(self) -> frozenset[str]:
        """What the caller may use."""
        return self.config.services_of(self.association.calling_ae_title, self.association.address)

    @property
    def peer(self) -> str:
        """The peer, for the tables and for people."""
        return f"dimse://{self.association.calling_ae_title}@{self.association.address}"

    def context(self, message: Message) -> Context:
        """Give the presentation context of a message, which has one."""
        return self.association.contexts[message.context_id]

    def agreed(self, message: Message) -> tuple[bool, ...]:
        """Tell what the extended negotiation of a message's class agreed on, byte by byte."""
        told = self.association.extended.get(self.context(message).abstract_syntax, b"")
        return tuple(map(bool, told.ljust(_MOST_EXTENSIONS, b"\0")))

    def answer(
        self,
        message: Message,
        status: int,
        data_set: bytes | None = None,
        **more: Any,
    ) -> None:
        """Send a response."""
        command: Command = response(message.command, status, **more)
        self.association.link.send(command, message.context_id, data_set)

    def record(
        self,
        action: str,
        outcome: str,
        *,
        level: str | None = None,
        uid: str | None = None,
        **detail: Any,
    ) -> None:
        """Write an audit row."""
        self.audit.record(
            self.association.calling_ae_title,
            self.association.address,
            action,
            outcome,
            level=level,
            uid=uid,
            detail=detail or None,
        )

    def identifier(self, message: Message) -> Elements:
        """Read the identifier of a request.

        Raises
        ------
        QueryError
            where it is none, or nested or long beyond bounds
        """
        return read_identifier(
            message.identifier(),
            self.context(message).transfer_syntax,
            self.config.limits.identifier_depth,
        )
